"""Mouth files with unseen frames, and long ones, through a front end: in pieces as in one, and zeros where nothing was seen."""

import numpy as np
import pytest
import torch
from separation_helpers import make_lips

from local_models.lr_asd import LRASDVisual
from utils.data.manifest import Manifest, Utterance, write_manifest
from utils.data.mouths import MouthFile
from utils.embedding import embed as embedding
from utils.embedding.embed import MouthClip, embed_file, embed_manifests, forward_batch
from utils.embedding.frontends import Frontend, load_frontend


@pytest.fixture(scope="module")
def frontend(tmp_path_factory) -> Frontend:
    return load_frontend(make_lips(tmp_path_factory.mktemp("lips") / "lips.pth"))


def write_corpus(root, items: list[Utterance]) -> Manifest:
    how = {"corpus": "tiny", "split": "utterances", "data_root": root, "sample_rate": 16000, "n_src": 1}
    return write_manifest(root / "utterances.csv", items=items, **how)


@pytest.mark.parametrize("network", ["lr_asd", "lipreading"])
@pytest.mark.parametrize("unseen", [(), (slice(0, 7),), (slice(30, 45), slice(50, 52), slice(119, 120))])
def test_a_long_clip_goes_through_in_pieces_without_a_seam(tmp_path, monkeypatch, frontend, network, unseen):
    torch.manual_seed(0)
    if network == "lr_asd":
        frontend = Frontend(LRASDVisual(), "lr_asd", 128, (0.4, 0.2), {"layer": "trunk"})
    mask = np.ones(120, bool)
    for stretch in unseen:
        mask[stretch] = False
    crops = np.random.default_rng(0).integers(0, 256, (120, 96, 96), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", data=crops, mask=mask)
    clip = MouthClip("a.npz", tmp_path / "a.npz", 120, 2, "a")

    def embed() -> torch.Tensor:
        (batch,), problems = embedding.load_group([clip], frontend, "centre")
        assert not problems
        return forward_batch(frontend, batch)[0]

    whole = embed()
    monkeypatch.setattr(embedding, "_LONG_FRAMES", 40)
    monkeypatch.setattr(embedding, "_PIECE_FRAMES", 40)
    pieces = embed()
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
    assert torch.equal(whole.any(dim=1), torch.from_numpy(mask)), "zeros where no mouth was seen, and only there"
    assert torch.equal(embed_file(frontend, MouthFile(clip.path)), pieces)


def test_a_long_clip_that_ends_too_early_is_listed_and_the_others_are_embedded(tmp_path, frontend, monkeypatch):
    items = [Utterance(name, "s", f"{name}.wav", f"{name}.npz", 80 * 640, 80, 25.0) for name in ("good", "spoilt")]
    for item in items:
        np.savez(tmp_path / item.mouth_path, data=np.random.default_rng(0).integers(0, 256, (80, 96, 96), dtype=np.uint8))
    content = bytearray((tmp_path / "spoilt.npz").read_bytes())
    content[600_000] ^= 255
    (tmp_path / "spoilt.npz").write_bytes(content)
    monkeypatch.setattr(embedding, "_LONG_FRAMES", 40)
    store, problems = embed_manifests([write_corpus(tmp_path, items)], frontend, tmp_path / "dump")
    assert [problem.item_id for problem in problems] == ["spoilt"] and "damaged npz" in problems[0].reason
    assert store.keys() == {"good.npz"}
