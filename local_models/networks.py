"""The networks by name, registered with Asteroid so that its `from_pretrained` finds them."""

from asteroid.models import register_model

from local_models.av_convtasnet import AVConvTasNet
from local_models.av_dprnn import AVDPRNN
from local_models.av_tfdprnn import AVTFDPRNN
from local_models.causal import CausalTFDPRNN
from local_models.configs import SeparatorConfig, VoiceToMouthConfig
from local_models.looking_to_listen import LookingToListen
from local_models.separator import AVSeparator
from local_models.visualvoice import VisualVoice
from local_models.voice_to_mouth import VoiceToMouth

AnyNetwork = AVSeparator | VoiceToMouth
NETWORKS: dict[str, type[AnyNetwork]] = {
    "av_tfdprnn": AVTFDPRNN,
    "av_tfdprnn_causal": CausalTFDPRNN,
    "av_dprnn": AVDPRNN,
    "av_convtasnet": AVConvTasNet,
    "looking_to_listen": LookingToListen,
    "visualvoice": VisualVoice,
    "voice_to_mouth": VoiceToMouth,
}

for _network in NETWORKS.values():
    register_model(_network)


def build_network(config: SeparatorConfig | VoiceToMouthConfig) -> AnyNetwork:
    """Make the network that a config describes, with random weights."""
    return next(network for network in NETWORKS.values() if network.config_type is type(config))(config)
