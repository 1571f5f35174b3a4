"""Face frontends: public checkpoints by their entries, what each is not, vectors by picture, stores beside each other."""

import numpy as np
import pytest
import torch

from local_models.identity_resnet import IdentityResNet
from local_models.inception_resnet import InceptionResnetV1
from local_models.lr_asd import LRASDVisual
from utils.data.faces import FaceFile, FaceWriter
from utils.embedding.embed import embed_file
from utils.embedding.face_frontends import FaceFrontend, face_size, load_face_frontend
from utils.embedding.frontends import load_frontend, store_name
from utils.embedding.joined import JoinedStore
from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    """The two public networks with random weights, with the entries that the public files have besides."""
    torch.manual_seed(0)
    facenet = InceptionResnetV1().state_dict() | {"logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}
    identity = IdentityResNet().state_dict()
    return {"facenet": facenet, "identity": identity | {"conv1.weight": identity["feature_extraction.0.weight"]}}


@pytest.mark.parametrize(("name", "size", "dim", "n_entries"), [("facenet", 160, 512, 714), ("identity", 224, 128, 122)])
def test_a_public_checkpoint_is_recognised_and_loaded_strictly(states, tmp_path, name, size, dim, n_entries):
    path = tmp_path / "face.pt"
    torch.save(states[name], path)
    frontend = load_face_frontend(path)
    assert (frontend.name, frontend.dim, frontend.kind.size, face_size(str(path))) == (name, dim, size, size)
    assert len(frontend.network.state_dict()) == n_entries
    key = "last_linear.weight" if name == "facenet" else "fc.weight"
    torch.save({**states[name], key: torch.zeros(2, 2)}, path)
    with pytest.raises(UserError, match=r"not the public \w+ .*differs.*give the public checkpoint") as caught:
        load_face_frontend(path)
    assert "\n" not in str(caught.value)


def test_frontends_for_lips_and_for_faces_are_not_mixed_up(states, tmp_path):
    torch.save(states["identity"], tmp_path / "face.pth")
    with pytest.raises(UserError, match=r"is a face network \(identity\); give it as --face_weights"):
        load_frontend(tmp_path / "face.pth")
    lips = {f"model.visualEncoder.{key}": value for key, value in LRASDVisual().state_dict().items()}
    torch.save(lips, tmp_path / "lips.pth")
    for load in (load_face_frontend, face_size):
        with pytest.raises(UserError, match="frontend for lips .lr_asd., which goes to --frontend_weights"):
            load(str(tmp_path / "lips.pth"))
    with pytest.raises(UserError, match=r"no such weights file \(--face_weights\)"):
        load_face_frontend(tmp_path / "none.pth")


class Colour(torch.nn.Module):
    """The mean colour of a picture."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean(dim=(2, 3))


def colours(n_frames: int, size: int = 150) -> np.ndarray:
    levels = np.linspace(0, 200, n_frames).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (n_frames, size, size, 3)).copy()


@pytest.mark.parametrize("n_frames", [1, 2, 16, 17, 30, 600])
def test_between_the_pictures_that_are_looked_at_vectors_are_interpolated(n_frames, tmp_path):
    frontend = FaceFrontend(Colour(), "dlib", 3, {"network": "dlib", "layer": "trunk"})
    faces = colours(n_frames)
    with FaceWriter(tmp_path / "a.npz", n_frames, 150) as writer:
        for face in faces:
            writer.add(face, True)
    found = embed_file(frontend, FaceFile(tmp_path / "a.npz")).numpy()  # the longest one goes in pieces
    looked_at = sorted({*range(0, n_frames, 16), n_frames - 1})
    wanted = np.interp(np.arange(n_frames), looked_at, faces[looked_at, 0, 0, 0])
    np.testing.assert_allclose(found, np.repeat(wanted[:, None], 3, axis=1), atol=0.02)
    assert store_name(frontend, "centre", "float16") != store_name(frontend, "centre", "float32")
    with pytest.raises(UserError, match="one view"):
        frontend.describe("flip")


def test_vectors_do_not_depend_on_the_batch_and_other_sizes_are_resized(states, tmp_path):
    torch.save(states["identity"], tmp_path / "face.pth")
    frontend = load_face_frontend(tmp_path / "face.pth")
    faces = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    whole = frontend(frontend.preprocess(faces)[None])[0]
    alone = torch.cat([frontend(frontend.preprocess(faces[i : i + 1])[None])[0] for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
    assert frontend.preprocess(faces[:, ::2, ::2]).shape == (3, 224, 224, 3)


def test_two_stores_beside_each_other_are_read_as_one(tmp_path):
    rng = np.random.default_rng(0)
    parts = {name: rng.standard_normal((10, dim)).astype(np.float32) for name, dim in (("lips", 3), ("face", 2))}
    for name, part in parts.items():
        with EmbeddingWriter(tmp_path / name, "float32") as writer:
            writer.add("mouths/a.npz", part[: 10 - (name == "face")], Source(1, 2, name))
            if name == "lips":
                writer.add("mouths/b.npz", part, Source(1, 2, "b"))
    store = JoinedStore([EmbeddingStore(tmp_path / name) for name in ("lips", "face")])
    assert (store.dim, store.frames("mouths/a.npz"), store.clip("mouths/a.npz").source_sha256) == (5, 9, "lips+face")
    assert "mouths/a.npz" in store and "mouths/b.npz" not in store
    wanted = np.concatenate([parts["lips"][2:7], parts["face"][2:7]], axis=1)
    np.testing.assert_array_equal(store.get("mouths/a.npz", 2, 5), wanted)
    assert store.get("mouths/a.npz").shape == (9, 5)
