"""The arguments of the separation networks, with what they may be: one dataclass for each network, without torch.

A field's type says which values are allowed (`Annotated` with a `Range`, `Literal`), its docstring what it means.
`problems` of a class adds what fields must fulfil together. Confs (`model:`), `--train_args` and the constructors all
read these classes.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """Allowed numbers: from `low` to `high`, both included unless `above` leaves `low` out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        above_low = value > self.low if self.above else value >= self.low
        return abs(value) < math.inf and above_low and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"from {self.low:g} to {self.high:g}"
        if self.low == -math.inf:
            return "a finite number"
        return f"above {self.low:g}" if self.above else f"{self.low:g} or more"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Finite = Annotated[float, Range()]
Probability = Annotated[float, Range(0, 1)]
Cues = Literal["lips", "shape", "face", "lips+shape", "lips+face", "lips+shape+face"]


def value_problem(hint: Any, value: Any) -> str:
    """Say what the value of a field must be, "" where it is right.

    Args:
        hint: the field's type, as `typing.get_type_hints(..., include_extras=True)` gives it.
        value: plain Python.
    """
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        return "" if value in allowed else f"one of: {', '.join(map(str, allowed))}"
    kind, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if type(value) is not kind and not (kind is float and type(value) is int):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        return names.get(kind, kind.__name__)
    return next((str(limit) for limit in limits if value not in limit), "")


class Checked:
    """Base of dataclasses whose values are checked when they are made.

    Raises:
        ValueError: a value that its field does not allow, or values that do not go together.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            problem = value_problem(hint, getattr(self, name))
            if problem:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {problem}")
        for problem in self.problems():
            raise ValueError(problem)

    def problems(self) -> Iterator[str]:
        """Name values that do not go together, a line for each problem."""
        return iter(())

    def to_dict(self) -> dict[str, Any]:
        """The values by name, plain types."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SeparatorConfig(Checked):
    """Arguments that all separation networks have."""

    n_src: Count = 2
    """Sources to estimate; with visual embeddings the number of faces in training, and any other number works too."""
    n_faces: CountOrZero = 2
    """Faces for each mixture: n_src for separation, 1 with n_src 1 for target-speaker extraction, 0 for the audio-only
    baseline, which is trained with PIT."""
    sample_rate: Count = 16000
    """Hz."""
    fit_to_mixture: bool = True
    """Scale the estimates so that together they come nearest to the mixture: for losses that are blind to scale."""
    n_filters: Count = 256
    """Filters of the filterbank."""
    kernel_size: Count = 40
    """Samples of a filter."""
    stride: Count = 20
    """Samples from one frame of the filterbank to the next."""
    cues: Cues = "lips"
    """What visual embeddings are of: mouth crops (lips), the landmarks of the lips (shape), whole faces (face), or several
    of them beside each other."""
    visual_dim: Count = 512
    """Numbers of a visual embedding; the visual frontends decide."""
    face_dim: CountOrZero = 0
    """Numbers of a visual embedding, the last ones, that are of the whole face; the frontends decide."""
    shape_dim: CountOrZero = 0
    """Numbers of a visual embedding, those before the face's, that are of the lips' shape; the frontends decide."""
    visual_chan: Count = 256
    """Channels that the visual branch gives."""
    visual_hid: Count = 512
    """Channels inside a block of the visual branch."""
    visual_blocks: CountOrZero = 5
    """Blocks of the visual branch."""
    match_chan: CountOrZero = 0
    """Numbers in which each frame of a face and of an estimate are compared, to tell whose voice an estimate is
    (`local_models/matching.py`); 0: the estimates are in the order of the streams that the faces steer."""
    match_hid: Count = 96
    """Channels inside that comparison."""
    visual_dropout: Probability = 0.0
    """Dropout of whole channels of the visual embeddings, in training."""
    video_fps: Positive = 25.0
    """Video frames for each second."""

    def problems(self) -> Iterator[str]:
        if self.n_faces not in (0, self.n_src):
            yield f"n_faces is {self.n_faces} with n_src {self.n_src}; it is n_src (a face each) or 0 (audio-only)"
        if self.n_src == 1 and self.n_faces == 0:
            yield "n_src is 1 with n_faces 0: nothing tells which voice is wanted; set n_faces to 1, or n_src to 2"
        if self.kernel_size % self.stride:
            yield f"kernel_size ({self.kernel_size}) must be a multiple of stride ({self.stride})"
        if self.face_dim + self.shape_dim > self.visual_dim:
            parts = f"face_dim ({self.face_dim}) and shape_dim ({self.shape_dim})"
            yield f"{parts} are parts of visual_dim ({self.visual_dim}) and cannot be more"


@dataclass(frozen=True)
class TFDPRNNConfig(SeparatorConfig):
    """What the default model and its causal form have in common: a dual-path RNN over bands and frames of an STFT."""

    fit_to_mixture: bool = False
    """As above; this network is trained on SNR, for which level counts."""
    n_filters: Count = 512
    """Points of the FFT."""
    kernel_size: Count = 512
    """Samples of a window."""
    stride: Count = 256
    """Samples from one spectral frame to the next."""
    visual_chan: Count = 64
    visual_hid: Count = 128
    visual_blocks: CountOrZero = 3
    bands: str = "8x4 4x8 2x32 2x64"
    """Number x bins, from low to high frequencies; bins are even."""
    grid_stride: Count = 2
    """Spectral frames from one frame of the grid to the next; 1 or even."""
    bn_chan: Count = 48
    """Channels of the grid."""
    hid_size: Count = 48
    """Hidden size of the recurrent layers, in each direction."""
    n_repeats: Count = 4
    """Dual-path blocks."""
    n_audio_repeats: CountOrZero = 2
    """Blocks, the first ones, that run on the mixture before there is a stream for each face."""
    fuse_every_block: bool = True
    """Fuse the visual embeddings before every block of a stream instead of before its first one only."""
    exchange: bool = True
    """Streams exchange information before every block but their first, and get each other's visual embeddings."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _spectrum_problems(self)
        if self.n_audio_repeats >= self.n_repeats:
            yield f"n_audio_repeats ({self.n_audio_repeats}) must be below n_repeats ({self.n_repeats})"
        if self.grid_stride > 1 and self.grid_stride % 2:
            yield f"grid_stride is {self.grid_stride}; 1 or an even number"
        try:
            parse_bands(self.bands, self.n_filters // 2 + 1)
        except ValueError as error:
            yield str(error)


@dataclass(frozen=True)
class AVTFDPRNNConfig(TFDPRNNConfig):
    """The default model."""

    attention_heads: CountOrZero = 0
    """Heads of an attention over the frames after each block; 0: none."""
    norm_type: Literal["gLN", "cLN"] = "gLN"
    rnn_type: Literal["LSTM", "GRU", "RNN"] = "LSTM"
    bidirectional: bool = True

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.attention_heads and self.bn_chan % self.attention_heads:
            yield f"attention_heads ({self.attention_heads}) must divide bn_chan ({self.bn_chan})"


@dataclass(frozen=True)
class CausalTFDPRNNConfig(TFDPRNNConfig):
    """The default model's causal form: a frame of the grid is a video frame, and each estimate is known a little later."""

    kernel_size: Count = 480
    stride: Count = 160
    grid_stride: Count = 4
    """As above; together these are the samples of one video frame."""
    lookahead_frames: CountOrZero = 0
    """Video frames (40 ms each at 25 fps) of what comes after it that each estimate may depend on, besides the window."""
    visual_delay_frames: CountOrZero = 0
    """Video frames by which visual embeddings come late, at least what the visual frontends need of what comes after."""
    level_frames: Positive = 50.0
    """Video frames over which the mixture's level is averaged, exponentially."""

    @property
    def step(self) -> int:
        """Samples of a frame of the grid."""
        return self.stride * self.grid_stride

    @property
    def latency(self) -> int:
        """Samples from one of the mixture to the moment at which its estimate is known, at most."""
        return self.delay + self.step

    @property
    def delay(self) -> int:
        """Samples by which the estimates are later than the mixture."""
        return self.lookahead_frames * self.step + self.kernel_size - self.stride

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.grid_stride == 1:
            yield "grid_stride is 1; an even number"
        if abs(self.step * self.video_fps - self.sample_rate) > 1e-6 * self.sample_rate:
            yield (
                f"stride ({self.stride}) times grid_stride ({self.grid_stride}) must be the samples of a video frame, "
                f"{self.sample_rate / self.video_fps:g}"
            )


@dataclass(frozen=True)
class AVDPRNNConfig(SeparatorConfig):
    """The time-domain dual-path RNN, in the proportions of SEANet's AV-DPRNN."""

    bn_chan: Count = 64
    hid_size: Count = 128
    chunk_size: Count = 100
    """Encoder frames of a chunk."""
    hop_size: Count = 50
    """Encoder frames from one chunk to the next."""
    n_repeats: Count = 6
    fuse_every_block: bool = False
    """Fuse the visual embeddings before each dual-path block instead of before the first one only."""
    norm_type: Literal["gLN", "cLN"] = "gLN"
    rnn_type: Literal["LSTM", "GRU", "RNN"] = "LSTM"
    bidirectional: bool = True

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.hop_size > self.chunk_size or self.chunk_size % self.hop_size:
            yield f"chunk_size ({self.chunk_size}) must be a multiple of hop_size ({self.hop_size})"


@dataclass(frozen=True)
class AVConvTasNetConfig(SeparatorConfig):
    """Asteroid's temporal convolutional network with faces."""

    bn_chan: Count = 128
    hid_chan: Count = 256
    skip_chan: Count = 128
    n_blocks: Count = 8
    n_repeats: Count = 3
    n_audio_repeats: CountOrZero = 1
    """Repeats, the first ones, that run on the mixture before the visual embeddings are fused."""
    norm_type: Literal["gLN", "cLN", "cgLN"] = "gLN"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.n_audio_repeats >= self.n_repeats:
            yield f"n_audio_repeats ({self.n_audio_repeats}) must be below n_repeats ({self.n_repeats})"


@dataclass(frozen=True)
class LookingToListenConfig(SeparatorConfig):
    """Looking to Listen: dilated convolutions and a BLSTM over the mixture and all faces."""

    cues: Cues = "face"
    """As above; the published network sees whole faces."""
    fit_to_mixture: bool = False
    """As above; this network is trained on spectra, for which level counts."""
    n_filters: Count = 512
    """Points of the FFT."""
    kernel_size: Count = 480
    """Samples of a window."""
    stride: Count = 160
    """Samples from one spectral frame to the next."""
    audio_chan: Count = 96
    """Filters of the convolutions over the spectrogram."""
    visual_chan: Count = 256
    """Filters of the convolutions over a face."""
    hid_size: Count = 400
    """Hidden size of the BLSTM, in each direction."""
    fc_size: Count = 600
    """Units of the three layers after it."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _spectrum_problems(self)
        if self.match_chan:
            yield f"match_chan is {self.match_chan}; it is for networks whose streams are alike, set it to 0"


@dataclass(frozen=True)
class VisualVoiceConfig(SeparatorConfig):
    """VisualVoice: a U-Net over the spectrogram with lip motion and facial attributes."""

    cues: Cues = "lips+face"
    fit_to_mixture: bool = False
    """As above; this network is trained on masks, for which level counts."""
    n_filters: Count = 512
    """Points of the FFT; a power of two."""
    kernel_size: Count = 480
    """Samples of a window."""
    stride: Count = 160
    """Samples from one spectral frame to the next."""
    unet_chan: Count = 64
    """Channels of the first layer."""
    visual_chan: Count = 512
    """Channels of the lips' motion."""
    visual_hid: Count = 256
    visual_blocks: CountOrZero = 3
    attribute_chan: Count = 128
    """Attributes of a face, and of a voice."""
    num_identity_frames: CountOrZero = 1
    """Frames, random ones in training, over which a face's embedding is averaged; 0: all."""
    attention: Literal["none", "self", "lips_to_face"] = "none"
    """self: the frames of the bottleneck attend to each other; lips_to_face: those of the lips to those of the face."""
    with_context: bool = False
    """A face's stream gets the mean of what is seen of the other faces too."""
    mask_limit: Positive = 5.0
    """A mask's real and imaginary parts lie between -mask_limit and mask_limit."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from _spectrum_problems(self)
        if self.n_filters & (self.n_filters - 1) or self.n_filters < 32:
            yield f"n_filters is {self.n_filters}; a power of two from 32 on, as its bins are halved down to one"
        if self.attention == "lips_to_face" and self.cues != "lips+face":
            yield f"attention lips_to_face needs cues lips+face, not {self.cues}"
        if self.match_chan:
            yield f"match_chan is {self.match_chan}; faces steer this network, set it to 0"


def _spectrum_problems(config: SeparatorConfig) -> Iterator[str]:
    if config.n_filters < config.kernel_size or config.n_filters % 2:
        least = config.kernel_size
        yield f"n_filters ({config.n_filters}) of an STFT must be even and not below kernel_size ({least})"


@dataclass(frozen=True)
class VoiceToMouthConfig(Checked):
    """From a voice to what a camera would see of the mouth, frame by frame."""

    target: Literal["keypoints", "lips"] = "keypoints"
    """What is predicted: the landmarks of the face, or the embeddings of a visual frontend."""
    sample_rate: Count = 16000
    """Hz."""
    video_fps: Positive = 25.0
    """Frames of the targets, each second; a trained network gives any other rate, too."""
    features: Literal["mel", "mfcc", "wav2vec2"] = "mel"
    """Of the voice: log mel energies or their cepstrum, 100 each second, or what a pretrained wav2vec 2.0 gives, 50."""
    n_features: Count = 64
    """Mel bands, or coefficients of the cepstrum; a wav2vec 2.0 has its own number."""
    wav2vec2_dir: str = ""
    """Folder of a pretrained wav2vec 2.0 as transformers saves it (config.json, model.safetensors); frozen."""
    encoder: Literal["conv_blstm", "conv_attention", "lstm"] = "conv_blstm"
    """Convolutions over time and a BLSTM, the same with attention in its place, or an LSTM alone that has heard the past."""
    hid_chan: Count = 128
    """Channels of the convolutions, twice those of the BLSTM's directions, and of the LSTM."""
    n_blocks: CountOrZero = 4
    """Convolutions, each over five frames."""
    n_layers: Count = 2
    """Layers of the LSTM or of attention."""
    dropout: Probability = 0.2
    visual_dim: Count = 136
    """Numbers of a target; the visual frontend decides."""

    def problems(self) -> Iterator[str]:
        if self.hid_chan % 8:
            yield f"hid_chan is {self.hid_chan}; it must be a multiple of 8, for two directions and four heads"
        if (self.features == "wav2vec2") != bool(self.wav2vec2_dir):
            yield "features wav2vec2 and wav2vec2_dir, the folder of a pretrained network, go together; set both or neither"


NETWORK_CONFIGS: dict[str, type[SeparatorConfig | VoiceToMouthConfig]] = {
    "av_tfdprnn": AVTFDPRNNConfig,
    "av_tfdprnn_causal": CausalTFDPRNNConfig,
    "av_dprnn": AVDPRNNConfig,
    "av_convtasnet": AVConvTasNetConfig,
    "looking_to_listen": LookingToListenConfig,
    "visualvoice": VisualVoiceConfig,
    "voice_to_mouth": VoiceToMouthConfig,
}
DEFAULT_NETWORK = "av_tfdprnn"


def parse_bands(bands: str, n_bins: int) -> list[tuple[int, int]]:
    """Read a list of bands: `"8x4 2x32"` -> [(8, 4), (2, 32)], number and bins, from low to high frequencies.

    Args:
        bands: the list; the widths are even.
        n_bins: bins that the bands must cover; the uppermost band reaches half its width above its end.

    Raises:
        ValueError: it is not of that form, or covers another number of bins.
    """
    words = [re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word) for word in bands.split()]
    sizes = [(int(word[1]), int(word[2])) for word in words if word]
    if not sizes or not all(words) or any(width % 2 for _, width in sizes):
        wanted = "a list such as '8x4 4x8 2x32 2x64' is expected: bands x bins, bins even"
        raise ValueError(f"bands is '{bands}' where {wanted}")
    covered = sum(count * width for count, width in sizes)
    if not covered <= n_bins <= covered + sizes[-1][1] // 2:
        raise ValueError(f"bands '{bands}' covers {covered} bins where the spectrum has {n_bins}; make it {n_bins - 1}")
    return sizes
