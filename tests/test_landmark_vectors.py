"""Landmarks: kept with the crops, moved with them, embeddings of each view; the lips' shape beside others in the comparison."""

import numpy as np
import pytest
import torch
from test_video_alignment import talking

from local_models.matching import FaceVoiceMatcher
from utils.corpora.joined import clips_by_speaker, write_joined_mouths
from utils.data.constants import ALIGNMENTS
from utils.data.crops import write_shifted
from utils.data.manifest import Mixture, write_manifest
from utils.data.mouths import MouthFile, MouthWriter
from utils.embedding.frontends import geometry_of, load_frontend, vary
from utils.embedding.landmarks import FaceKeypoints, LipShapes
from utils.errors import UserError
from utils.video.alignment import _MEAN_FACE, mean_face_transforms, mouth_transforms, moved, on_mean_face


def some_points(n_frames: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-60, 60, (n_frames, 68, 2)).astype(np.float16)


def write(path, n_frames: int, points: np.ndarray | None):
    with MouthWriter(path, n_frames) as writer:
        for frame in range(n_frames):
            writer.add(np.full((96, 96), frame, np.uint8), frame != 2)
        if points is not None:
            writer.extra["points"] = points
    return path


def test_landmarks_are_kept_with_the_crops_and_move_with_them(tmp_path):
    points = some_points(6)
    path = write(tmp_path / "a.npz", 6, points)
    file = MouthFile(path)
    np.testing.assert_array_equal(file.points, points.astype(np.float32))
    without = MouthFile(write(tmp_path / "b.npz", 6, None))
    assert without.extra == {} and without.points.shape == (6, 68, 2) and np.isnan(without.points).all()
    write_shifted(file, MouthWriter(path, 6), 2)
    moved = MouthFile(path)
    np.testing.assert_array_equal(moved.points[:4], points[2:].astype(np.float32))
    assert np.isnan(moved.points[4:]).all() and moved.mask.tolist() == [False, True, True, True, False, False]


def test_a_damaged_array_of_landmarks_is_named(tmp_path):
    for points in (np.zeros((5, 68, 2), np.float32), np.zeros((6, 68, 2), np.int32)):
        np.savez(tmp_path / "a.npz", data=np.zeros((6, 96, 96), np.uint8), points=points)
        with pytest.raises(UserError, match=r"`points` is .* where float \(6, 68, 2\) is expected"):
            MouthFile(tmp_path / "a.npz")


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_landmarks_lie_where_the_crop_shows_them_and_find_back_into_the_picture(alignment):
    seen = np.arange(9), talking(9), 9
    transforms, corners = mean_face_transforms(*seen, alignment)
    points, to_picture = on_mean_face(*seen, transforms)
    np.testing.assert_allclose(moved(points, to_picture), seen[1], atol=1e-6)
    in_crop = moved(seen[1], mouth_transforms(*seen, alignment))
    np.testing.assert_allclose(points + 128 - corners[:, None], in_crop, atol=1e-6)
    if alignment == "centred8":  # the other follows the frames to come
        assert np.abs(points[:, list(_MEAN_FACE)] + 128 - list(_MEAN_FACE.values())).mean() < 3
    once = np.array([0]), seen[1][:1], 40
    points, to_picture = on_mean_face(*once, mean_face_transforms(*once, alignment)[0])
    assert np.isfinite(points[0]).all() and np.isnan(points[20:]).all() and np.isnan(to_picture[20:]).all()


def test_shapes_are_blind_to_where_the_mouth_is_and_zeros_where_it_is_not_seen(tmp_path):
    points = some_points(4)  # frame 2 is marked as unseen
    points[3] = np.nan
    shapes, elsewhere = (LipShapes().read(write(tmp_path / f"{k}.npz", 4, points + np.float16(k)), 4, False) for k in (0, 4))
    assert shapes.shape == (4, 40) and shapes[:2].all() and not shapes[2:].any() and np.isfinite(shapes).all()
    np.testing.assert_allclose(shapes, elsewhere, atol=0.01)
    faces = FaceKeypoints().read(tmp_path / "4.npz", 4, False)
    np.testing.assert_allclose(faces[0], (points[0].astype(np.float32).ravel() + 4) / 10, atol=0.01)
    assert faces.shape == (4, 136) and not faces[2:].any()
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
    path = write(tmp_path / "a.npz", 2, some_points(2))
    still, turned = (FaceKeypoints().read(path, 2, False, each).reshape(2, 68, 2) for each in ("centre", view))
    order = [*range(16, -1, -1)] if geometry_of(view).mirror < 0 else [*range(17)]  # the jaw from ear to ear
    np.testing.assert_allclose(turned[:, :17], still[:, order] @ geometry_of(view).matrix.T, atol=1e-5)
    lips = LipShapes().read(path, 2, False, view).reshape(2, 20, 2)
    np.testing.assert_allclose(lips, turned[:, 48:] - turned[:, 48:].mean(axis=1, keepdims=True), atol=1e-5)


def test_mirrored_twice_landmarks_are_as_they_were(tmp_path):
    points, mirror = some_points(3).astype(np.float64), geometry_of("flip")
    faces = FaceKeypoints()
    once = faces.vectors(points, mirror).reshape(3, 68, 2) * 10
    np.testing.assert_allclose(faces.vectors(once, mirror), faces.vectors(points), atol=1e-5)


def test_an_unknown_view_is_refused():
    with pytest.raises(UserError, match="--views"):
        LipShapes().describe("upside_down")


def test_joined_clips_keep_their_landmarks(tmp_path):
    points = some_points(6)
    write(tmp_path / "a.npz", 6, points)
    write(tmp_path / "b.npz", 6, None)
    item = Mixture("m", "m.wav", ("a.wav", "b.wav"), "", 3840, ("a.npz", "b.npz"), 6, 25.0, ("x", "x"), 0.0, "")
    manifest = write_manifest(
        tmp_path / "test.csv", corpus="c", split="test", data_root=tmp_path, sample_rate=16000, n_src=2, items=[item]
    )
    write_joined_mouths(manifest, clips_by_speaker(manifest)["x"], [5, 6], tmp_path / "joined.npz")
    found = MouthFile(tmp_path / "joined.npz").points
    np.testing.assert_array_equal(found[:5], points[:5].astype(np.float32))
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
