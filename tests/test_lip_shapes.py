"""The shape of the lips: kept with the crops, moved with them, as embeddings of every view, beside others in the comparison."""

import numpy as np
import pytest
import torch

from local_models.matching import FaceVoiceMatcher
from utils.corpora.joined import clips_by_speaker, write_joined_mouths
from utils.data.crops import write_shifted
from utils.data.manifest import Mixture, write_manifest
from utils.data.mouths import MouthFile, MouthWriter
from utils.embedding.frontends import geometry_of, load_frontend, vary
from utils.embedding.lip_shapes import LipShapes
from utils.errors import UserError
from utils.video.alignment import lips_in_crops, mouth_transforms


def some_lips(n_frames: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(20, 76, (n_frames, 20, 2)).astype(np.float16)


def write(path, n_frames: int, lips: np.ndarray | None):
    with MouthWriter(path, n_frames) as writer:
        for frame in range(n_frames):
            writer.add(np.full((96, 96), frame, np.uint8), frame != 2)
        if lips is not None:
            writer.extra["lips"] = lips
    return path


def test_landmarks_are_kept_with_the_crops_and_move_with_them(tmp_path):
    lips = some_lips(6)
    path = write(tmp_path / "a.npz", 6, lips)
    file = MouthFile(path)
    np.testing.assert_array_equal(file.extra["lips"], lips.astype(np.float32))
    assert MouthFile(write(tmp_path / "b.npz", 6, None)).extra == {}
    write_shifted(file, MouthWriter(path, 6), 2)
    moved = MouthFile(path)
    np.testing.assert_array_equal(moved.extra["lips"][:4], lips[2:].astype(np.float32))
    assert np.isnan(moved.extra["lips"][4:]).all() and moved.mask.tolist() == [False, True, True, True, False, False]


def test_a_damaged_array_of_landmarks_is_named(tmp_path):
    for lips in (np.zeros((5, 20, 2), np.float32), np.zeros((6, 20, 2), np.int32)):
        np.savez(tmp_path / "a.npz", data=np.zeros((6, 96, 96), np.uint8), lips=lips)
        with pytest.raises(UserError, match=r"`lips` is .* where float \(6, 20, 2\) is expected"):
            MouthFile(tmp_path / "a.npz")


def test_landmarks_lie_where_the_crop_shows_them():
    points = np.random.default_rng(0).normal(0, 1, (9, 68, 2)) + np.random.default_rng(1).uniform(0, 200, (68, 2))
    transforms = mouth_transforms(np.arange(9), points, 9, "centred8")
    lips = lips_in_crops(np.arange(9), points, 9, transforms)
    wanted = points[4, 48:68] @ transforms[4, :, :2].T + transforms[4, :, 2]
    np.testing.assert_allclose(lips[4], wanted)
    assert np.isnan(
        lips_in_crops(np.array([0]), points[:1], 40, mouth_transforms(np.array([0]), points[:1], 40, "centred8"))[20:]
    ).all()


def test_shapes_are_blind_to_where_the_mouth_is_and_zeros_where_it_is_not_seen(tmp_path):
    lips = some_lips(4)
    lips[2] = np.nan
    shapes, moved = (LipShapes().read(write(tmp_path / f"{k}.npz", 4, lips + np.float16(k)), 4, False) for k in (0, 4))
    assert shapes.shape == (4, 40) and not shapes[2].any() and np.isfinite(shapes).all()
    np.testing.assert_allclose(shapes, moved, atol=0.01)
    assert not LipShapes().read(write(tmp_path / "none.npz", 4, None), 4, False).any()


@pytest.mark.parametrize("view", ["flip", "varied1", "varied2", "varied5"])
def test_a_view_does_to_landmarks_what_it_does_to_the_picture(view, tmp_path):
    """A bright dot on black is moved as a landmark is, up to the shift."""
    dots = np.array([[30.0, 60.0], [66.0, 60.0], [48.0, 30.0]])
    found = []
    for x, y in dots:
        picture = np.zeros((1, 96, 96), np.uint8)
        picture[0, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
        if view == "flip":
            shown = torch.tensor(picture[:, :, ::-1].copy()).float()
        else:
            shown = vary(picture, 96, np.random.default_rng(int(view.removeprefix("varied"))))
        weights = (shown[0] - shown[0].median()).clamp(min=0).numpy()
        weights[weights < weights.max() / 2] = 0
        rows, columns = np.mgrid[:96, :96]
        found.append([(columns * weights).sum() / weights.sum(), (rows * weights).sum() / weights.sum()])
    sides, wanted = np.diff(found, axis=0), np.diff(dots, axis=0) @ geometry_of(view).matrix.T
    np.testing.assert_allclose(sides, wanted, atol=0.6)
    lips = np.tile(np.linspace(20, 70, 20)[None, :, None], (2, 1, 2)).astype(np.float16)
    shapes = LipShapes().read(write(tmp_path / "a.npz", 2, lips), 2, False, view)
    assert np.linalg.norm(shapes) > 1


def test_an_unknown_view_is_refused():
    with pytest.raises(UserError, match="--views"):
        LipShapes().describe("upside_down")


def test_joined_clips_keep_their_landmarks(tmp_path):
    lips = some_lips(6)
    write(tmp_path / "a.npz", 6, lips)
    write(tmp_path / "b.npz", 6, None)
    item = Mixture("m", "m.wav", ("a.wav", "b.wav"), "", 3840, ("a.npz", "b.npz"), 6, 25.0, ("x", "x"), 0.0, "")
    manifest = write_manifest(
        tmp_path / "test.csv", corpus="c", split="test", data_root=tmp_path, sample_rate=16000, n_src=2, items=[item]
    )
    write_joined_mouths(manifest, clips_by_speaker(manifest)["x"], [5, 6], tmp_path / "joined.npz")
    found = MouthFile(tmp_path / "joined.npz").extra["lips"]
    np.testing.assert_array_equal(found[:5], lips[:5].astype(np.float32))
    assert len(found) == 11 and np.isnan(found[5:]).all()


def matcher(**changes) -> FaceVoiceMatcher:
    torch.manual_seed(0)
    return FaceVoiceMatcher(**{"visual_dim": 6, "chan": 8, "hid_chan": 16, "sample_rate": 16000, "video_fps": 25.0, **changes})


def test_a_comparison_starts_as_it_was_without_the_shape_and_learns_it():
    before, after = matcher().eval(), matcher(shape_dim=4).eval()
    after.load_state_dict(before.state_dict(), strict=False)
    visual = torch.randn(3, 20, 10)
    torch.testing.assert_close(after.faces(visual), before.faces(visual[..., :6]))
    after.train().faces(visual).square().sum().backward()
    assert after.shape_in[0].weight.grad.abs().sum() > 0


def test_faces_are_compared_by_shape_alone_and_by_lips_alone():
    both = matcher(shape_dim=4).eval()
    torch.nn.init.normal_(both.shape_in[0].weight)
    visual = torch.randn(1, 20, 10)
    without_lips, without_shape = visual.clone(), visual.clone()
    without_lips[..., :6], without_shape[..., 6:] = 0, 0
    found = [both.faces(each) for each in (visual, without_lips, without_shape)]
    assert all(torch.isfinite(each).all() and each.abs().sum() > 0 for each in found)
    assert matcher(visual_dim=0, shape_dim=4).faces(visual[..., :4]).shape == (1, 20, 8)
    visual[:, 5:] = 0
    assert not both.faces(visual)[:, 5:].any()
    with pytest.raises(UserError, match="is a face network|no such weights"):
        load_frontend("landmarks")
