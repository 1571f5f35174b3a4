"""Networks and trainings with faces as cues: identity over frames, attention, losses by hand, mixtures that share a speaker."""

import numpy as np
import pytest
import torch
from separation_helpers import wake
from tiny_corpus import make_corpus

from local_models.looking_to_listen import LookingToListen
from local_models.separator import AVSeparator
from local_models.visualvoice import TimeAttention, VisualVoice, VoiceAttributes
from utils.embedding.store import EmbeddingStore
from utils.errors import UserError
from utils.training.attributes import coseparation_loss, crossmodal_loss
from utils.training.config import DataConfig, read_config
from utils.training.datasets import DynamicMixtureDataset, EpochSampler
from utils.training.losses import SeparationLoss
from utils.training.separation import AVSystem

SMALL = {"n_filters": 64, "kernel_size": 64, "stride": 16, "visual_chan": 8}
BOTH = {"cues": "lips+face", "visual_dim": 9, "face_dim": 3, "unet_chan": 4, "attribute_chan": 5, "visual_hid": 8}


def visualvoice(**changes) -> VisualVoice:
    torch.manual_seed(0)
    return wake(VisualVoice(**{**SMALL, **BOTH, **changes})).eval()


def test_the_mean_over_frames_of_a_face_acts_in_training_and_at_separation():
    mixture, visual = torch.randn(1, 8000), torch.randn(1, 2, 13, 9)
    one, ten = visualvoice(num_identity_frames=1), visualvoice(num_identity_frames=10)
    ten.load_state_dict(one.state_dict())
    assert (one.visual_net.attributes(visual) - ten.visual_net.attributes(visual)).abs().max() > 0.05
    assert (one(mixture, visual) - ten(mixture, visual)).abs().max() > 1e-4
    torch.testing.assert_close(ten(mixture, visual), ten(mixture, visual))  # nothing is left to chance at separation
    every = visualvoice(num_identity_frames=0)
    every.load_state_dict(one.state_dict())
    wanted = one.visual_net.face_net(visual[..., 6:].mean(dim=2))
    torch.testing.assert_close(every.visual_net.attributes(visual), wanted)
    found = torch.stack([one.train().visual_net.attributes(visual)[0, 0] for _ in range(20)])
    choices = one.visual_net.face_net(visual[0, 0, :, 6:])
    assert len(found.round(decimals=4).unique(dim=0)) > 5  # random frames in training, each one of the clip
    assert torch.cdist(found, choices).min(dim=1).values.max() < 1e-4


def test_frames_on_which_no_face_is_seen_do_not_count():
    network, visual = visualvoice(num_identity_frames=0), torch.randn(1, 2, 13, 9)
    shorter = visual.clone()
    visual[:, :, 5:] = 0
    torch.testing.assert_close(network.visual_net.attributes(visual), network.visual_net.attributes(shorter[:, :, :5]))
    visual[0, 1] = 0
    assert network.visual_net.seen_faces(visual).tolist() == [[True, False]]


def test_attention_starts_as_identity_and_knows_where_frames_are():
    torch.manual_seed(0)
    attention, frames = TimeAttention(6, 4), torch.randn(2, 6, 11)
    torch.testing.assert_close(attention(frames, torch.randn(2, 4, 11)), frames)
    attention = wake(TimeAttention(6))
    order = torch.randperm(11)
    moved = attention(frames[..., order])
    assert (moved - attention(frames)[..., order]).abs().max() > 1e-3


def test_attention_passes_by_frames_without_a_face():
    torch.manual_seed(0)
    attention, frames, others = wake(TimeAttention(6, 4)), torch.randn(2, 6, 11), torch.randn(2, 4, 11)
    seen = torch.arange(11).expand(2, -1) < torch.tensor([[5], [0]])
    found, elsewhere = attention(frames, others, seen), others.clone()
    elsewhere[..., 5:] += 1.0
    torch.testing.assert_close(found, attention(frames, elsewhere, seen))
    torch.testing.assert_close(found[1], frames[1])  # no face at all
    assert (found[0] - attention(frames, others)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["self", "lips_to_face"])
def test_attention_trains(attention):
    network = wake(VisualVoice(**{**SMALL, **BOTH, "attention": attention}))
    network(torch.randn(2, 4000), torch.randn(2, 2, 7, 9)).square().mean().backward()
    found = network.masker.attention if attention == "self" else network.visual_net.attention
    assert found.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [LookingToListen, VisualVoice])
@pytest.mark.parametrize("n_faces", [0, 2])
def test_estimates_start_as_an_equal_share_of_the_mixture(kind: type[AVSeparator], n_faces: int):
    more = {"cues": "lips"} if kind is VisualVoice else {}
    network, mixture = kind(**SMALL, **more, n_faces=n_faces, visual_dim=9).eval(), torch.randn(2, 4000)
    estimates = network(mixture, torch.randn(2, 2, 7, 9) if n_faces else None)
    torch.testing.assert_close(estimates, mixture[:, None].expand(2, 2, -1) / 2, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [LookingToListen, VisualVoice])
def test_masks_of_one_give_the_mixture_back(kind: type[AVSeparator]):
    network, mixture = kind(visual_dim=4, n_src=1, n_faces=1), torch.randn(2, 7001)
    encoded = network._encode(mixture)
    ones = torch.cat([torch.ones_like(encoded[:, :257]), torch.zeros_like(encoded[:, 257:])], dim=1).unsqueeze(1)
    found = network._decoded(ones, encoded, mixture, torch.ones(2, 1))[:, 0]
    torch.testing.assert_close(found, mixture, rtol=0, atol=1e-5)


@pytest.mark.parametrize("loss", ["spectra", "masks"])
def test_true_sources_have_the_least_loss_at_any_level(loss):
    torch.manual_seed(0)
    sources, nobody = torch.randn(3, 2, 8000), torch.zeros(3, 2, dtype=torch.bool)
    mixture = sources.sum(dim=1)
    separation = SeparationLoss(loss)
    best = separation(sources, sources, mixture, nobody)[0]
    for other in (sources.flip(1), 0.5 * mixture.unsqueeze(1).expand_as(sources), 0.3 * sources, torch.zeros_like(sources)):
        assert separation(other, sources, mixture, nobody)[0] > best + 0.1
    torch.testing.assert_close(separation(7 * sources, 7 * sources, 7 * mixture, nobody)[0], best)
    torch.testing.assert_close(separation(sources.flip(1), sources, mixture, ~nobody)[0], best)  # the best order
    if loss == "masks":
        assert best < 1e-6


def test_the_discriminative_term_is_the_error_against_the_other_source():
    torch.manual_seed(0)
    estimates, sources, nobody = torch.randn(2, 2, 8000), torch.randn(2, 2, 8000), torch.zeros(2, 2, dtype=torch.bool)
    mixture = sources.sum(dim=1)
    plain = SeparationLoss("spectra", 0.0)
    own, other = (plain(given, sources, mixture, nobody)[0] for given in (estimates, estimates.flip(1)))
    found = SeparationLoss("spectra", 0.25)(estimates, sources, mixture, nobody)[0]
    torch.testing.assert_close(found, own - 0.25 * other)


def test_a_silent_source_is_learned_as_silence():
    torch.manual_seed(0)
    sources, nobody = torch.randn(1, 2, 8000), torch.zeros(1, 2, dtype=torch.bool)
    sources[0, 1] = 0
    for loss in ("spectra", "masks"):
        separation = SeparationLoss(loss)
        assert (
            separation(sources, sources, sources[:, 0], nobody)[0]
            < separation(sources + 0.1 * torch.randn_like(sources), sources, sources[:, 0], nobody)[0]
        )


def test_attribute_losses_by_hand():
    a, b, c = torch.eye(3)
    voices, faces = torch.stack([a, b])[None], torch.stack([b, b])[None]
    # voice 0: distance 1 to its own face, 1 to the other: margin; voice 1: 0 and 0: margin
    assert crossmodal_loss(voices, faces, torch.tensor([[0, 1]]), 0.5).item() == pytest.approx(0.5)
    assert crossmodal_loss(voices, voices, torch.tensor([[0, 1]]), 0.5).item() == 0  # nearer by 1
    assert crossmodal_loss(voices, faces, torch.tensor([[0, 0]]), 0.5).item() == 0  # the same person: nothing to compare
    assert crossmodal_loss(voices, faces, torch.tensor([[0, -1]]), 0.5).item() == 0
    two = torch.stack([torch.stack([a, b]), torch.stack([a, c])])  # person 0 sounds alike in both
    assert coseparation_loss(two, torch.tensor([[0, 1], [0, 2]]), 0.5).item() == 0
    two = torch.stack([torch.stack([a, b]), torch.stack([b, c])])
    # anchor a: positive b at 1; others b at 1 and c at 1: 0.5 each; anchor b: positive a at 1, others b at 0, c at 1: 1.5, 0.5
    assert coseparation_loss(two, torch.tensor([[0, 1], [0, 2]]), 0.5).item() == pytest.approx((0.5 + 0.5 + 1.5 + 0.5) / 4)
    assert coseparation_loss(two, torch.tensor([[0, 1], [3, 2]]), 0.5).item() == 0


def test_attributes_of_a_voice_do_not_depend_on_its_level():
    torch.manual_seed(0)
    network, signals = VoiceAttributes(4).eval(), torch.randn(3, 4000)
    torch.testing.assert_close(network(signals), network(20 * signals), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(network(signals).norm(dim=1), torch.ones(3))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), n_utterances=12)


def dataset_of(corpus, **data) -> DynamicMixtureDataset:
    config = DataConfig(**{"segment_sec": 0.4, "epoch_size": 12, **data})
    return DynamicMixtureDataset(corpus["utterances"], [EmbeddingStore(corpus["store"])], config, n_src=2, face_dim=2)


def test_mixtures_in_twos_share_a_speaker_and_stay_together(corpus):
    dataset = dataset_of(corpus, shared_speaker=True)
    for epoch in range(2):
        for index in range(0, 12, 2):
            one, other = dataset[epoch, index], dataset[epoch, index + 1]
            shared = set(one["speakers"].tolist()) & set(other["speakers"].tolist())
            assert shared and len(set(one["speakers"].tolist())) == 2
            first, second = (
                example["sources"][example["speakers"].tolist().index(next(iter(shared)))] for example in (one, other)
            )
            assert not torch.equal(first / first.norm(), second / second.norm())
    for rank in (0, 1):
        sampler = EpochSampler(12, 0, rank, 2, batch_size=2, n_together=2)
        indices = [index for _, index in sampler]
        assert len(indices) == len(sampler) == 6
        assert all(indices[i] % 2 == 0 and indices[i + 1] == indices[i] + 1 for i in range(0, 6, 2))


@pytest.mark.parametrize("how", [{"shared_speaker": True}, {"curriculum_epochs": 2}])
def test_mixtures_of_one_voice_are_as_many_as_asked_for(corpus, how):
    dataset = dataset_of(corpus, same_speaker_prob=0.5, epoch_size=100, **how)
    same = sum(len(set(dataset[0, index]["speakers"].tolist())) == 1 for index in range(100))
    assert 35 < same < 65


def test_a_voice_whose_estimate_nobody_knows_has_no_part_in_the_losses_on_attributes():
    config = read_config("conf/visualvoice.yml", ["--unet_chan", "4", "--kernel_size", "320"])
    config = config.with_visual_dim(9, 3)
    torch.manual_seed(0)
    system = AVSystem(VisualVoice(config.model), config.loss, config.optim, lambda step: 0.0, 0)
    batch = {
        "sources": torch.randn(2, 2, 4000), "visual": torch.randn(2, 2, 7, 9), "speakers": torch.tensor([[0, 1], [0, 2]])
    }  # fmt: skip
    estimates = torch.randn(2, 2, 4000)
    assert system._attribute_loss(batch, estimates) > 0
    batch["visual"] = torch.zeros(2, 2, 7, 9)
    assert system._attribute_loss(batch, estimates) == 0


def test_a_curriculum_begins_with_faces_that_are_unlike_and_ends_with_any(corpus):
    dataset = dataset_of(corpus, curriculum_epochs=2, epoch_size=60)
    identities = {"spk0": (0.0, 0.0), "spk1": (0.1, 0.0), "spk2": (5.0, 5.0)}
    assert set(dataset.pool.identities) == set(identities)
    dataset.pool.identities = {name: np.array(place) for name, place in identities.items()}
    pairs = {epoch: [frozenset(dataset[epoch, index]["speakers"].tolist()) for index in range(60)] for epoch in (0, 2)}
    alike = {epoch: pairs[epoch].count(frozenset({0, 1})) for epoch in pairs}
    assert alike[0] == 0 and alike[2] > 5


NO_ATTRIBUTES = "--crossmodal_weight 0 --coseparation_weight 0"


@pytest.mark.parametrize(
    ("conf", "words", "said"),
    [
        ("av_tfdprnn", "--crossmodal_weight 0.1", "are for visualvoice with faces"),
        ("visualvoice", "--cues lips", "are for visualvoice with faces"),
        ("visualvoice", "--shared_speaker false", "set data.shared_speaker to true"),
        ("visualvoice", "--batch_size 3", "needs an even one"),
        ("visualvoice", f"--cues lips {NO_ATTRIBUTES} --curriculum_epochs 3", "needs faces"),
        ("visualvoice", "--dynamic false", "data.shared_speaker needs data.dynamic true"),
        ("visualvoice", "--cues mouth", "one of: lips, shape, face"),
        ("visualvoice", "--extra_speaker_prob 0.1", "parts"),
        ("visualvoice", "--dynamic false --shared_speaker false --coseparation_weight 0", "must know who speaks"),
        ("visualvoice", "--no_visual_prob 1", "need faces"),
        ("demo_visualvoice", f"--no_visual_prob 1 {NO_ATTRIBUTES} --curriculum_epochs 3", "needs faces"),
        ("visualvoice", "--faceless_prob 0.1", "knows none"),
        ("visualvoice", "--n_src 1 --n_faces 1 --crossmodal_weight 0", "for networks of several sources"),
        ("looking_to_listen", "--extra_speaker_prob 1", "more faces than"),
    ],
)
def test_confs_that_do_not_go_together_are_refused(conf, words, said):
    with pytest.raises(UserError, match=said):
        read_config(f"conf/{conf}.yml", words.split())


def test_what_a_conf_asks_for_is_known_without_torch():
    kinds = {
        name: read_config(f"conf/{name}.yml").kinds_of_frontends for name in ("av_tfdprnn", "looking_to_listen", "visualvoice")
    }
    assert kinds == {"av_tfdprnn": ("lips",), "looking_to_listen": ("face",), "visualvoice": ("lips", "face")}
    assert read_config("conf/visualvoice_audio_only.yml").kinds_of_frontends == ()
