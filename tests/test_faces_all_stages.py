"""Looking to Listen and VisualVoice through every stage: on a miniature of the demo corpus, on mouth crops alone, on videos."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from corpora_helpers import encode_clip
from recipe_helpers import WEIGHTS, Recipe, sound_of
from separation_helpers import wake

from utils.data.faces import FaceFile
from utils.data.files import read_json
from utils.embedding.joined import JoinedStore
from utils.embedding.store import EmbeddingStore
from utils.separation.overlap_add import separate_long
from utils.training.experiment import load_model, save_model
from utils.video.decoding import read_pictures

LEARNING = "--epochs 1 --epoch_size 4 --batch_size 2 --num_workers 0 --segment_sec 0.6 --warmup_steps 0"
SMALL = {
    "looking_to_listen": f"{LEARNING} --audio_chan 2 --visual_chan 4 --hid_size 8 --fc_size 8",
    "visualvoice": f"{LEARNING} --unet_chan 2 --visual_chan 8 --visual_hid 8 --visual_blocks 1 --attribute_chan 4",
}


def run(recipe: Recipe, name: str, *more: object, args: str = "") -> str:
    conf = ["--conf", f"conf/demo_{name}.yml", "--train_args", f"{SMALL[name]} {args}", "--id", "cpu"]
    return recipe.run(["./run.sh", "--corpus", recipe.corpus, *conf], *more)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Recipe:
    return Recipe(tmp_path_factory.mktemp("demo"), "demo")


@pytest.mark.parametrize("name", SMALL)
def test_the_demo_corpus_goes_through_all_stages_from_nothing(demo: Recipe, name: str) -> None:
    sizes = ("--corpus_args", f"--n_train 8 --n_val 4 --n_test 4 --raw_dir {demo.dump}/raw", "--tag", name)
    demo.exp = demo.home / "exp" / name
    said = run(demo, name, *sizes)
    assert "| all, unprocessed" in said and "SAR" in said
    faces = sorted((demo.data / "faces/150").glob("*.npz"))
    assert len(faces) == 16 and FaceFile(faces[0]).frame_shape == (150, 150, 3)
    record = read_json(demo.exp / "face_frontend.json")
    assert record["weights"] == "dlib" and (demo.exp / "frontend.json").is_file() == (name == "visualvoice")
    network = load_model(demo.exp / "best_model.pth")
    assert (network.config.face_dim, network.config.visual_dim) == (128, 128 if name == "looking_to_listen" else 128 + 1024)
    results = demo.exp / "results/demo_test"
    assert len((results / "eval.txt").read_text().splitlines()) == 4 + 7
    means = json.loads((results / "final_metrics.json").read_text())["overall"]["metrics"]
    assert np.isfinite([means[key]["mean"] for key in ("si_snr_imp", "sir", "sar", "stoi")]).all()
    again = run(demo, name, *sizes)
    assert all(f"stage {number}: up to date" in again for number in (0, 1, 2, 3, 4, 5))


def test_the_mean_over_identity_frames_counts_at_separation_in_each_window(tmp_path: Path, demo: Recipe) -> None:
    """A network that was trained with one frame and is told to take ten separates otherwise, as it does by itself."""
    trained, estimates = demo.home / "exp/visualvoice", {}
    torch.manual_seed(0)
    network = load_model(trained / "best_model.pth")
    network = wake(type(network)(network.config))  # one that looks: the trained one has learned nothing
    network.visual_net.face_net.weight.data *= 1e4  # drawn faces differ little from frame to frame
    mixture = demo.test.items[0]
    sound = torch.from_numpy(soundfile.read(demo.test.resolve(mixture.mixture_path), dtype="float32")[0])
    for n_frames in (1, 10):
        exp = tmp_path / f"frames{n_frames}"
        exp.mkdir()
        for name in ("conf.yml", "frontend.json", "face_frontend.json"):
            shutil.copy(trained / name, exp / name)
        changed = type(network)(replace(network.config, num_identity_frames=n_frames))
        changed.load_state_dict(network.state_dict())
        save_model(exp / "best_model.pth", changed, {})
        words = ["utils/stages/4_separate.sh", "--exp_dir", exp, "--test_dir", demo.data / "test.csv", "--id", "cpu"]
        demo.command([*words, "--dump_dir", demo.dump, "--window_sec", 1.0, "--hop_sec", 0.6])
        paths = [exp / f"separated/demo_test/s{k}/{mixture.mixture_id}.wav" for k in (1, 2)]
        found = torch.from_numpy(np.stack([soundfile.read(path, dtype="float32")[0] for path in paths]))
        visual = torch.from_numpy(np.stack([_seen(demo, exp, path) for path in mixture.mouth_paths]))
        windows = {"window_sec": 1.0, "hop_sec": 0.6, "sample_rate": 16000, "fps": 25.0}
        wanted = separate_long(changed.eval(), sound, visual, **windows)
        assert len(sound) >= 2 * 16000  # several windows
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        estimates[n_frames] = found
    assert (estimates[1] - estimates[10]).abs().max() > 1e-3


def _seen(recipe: Recipe, exp: Path, mouth_path: str) -> np.ndarray:
    """The embeddings of a clip, lips and face."""
    stores = [read_json(exp / f"{name}.json")["store_name"] for name in ("frontend", "face_frontend")]
    return JoinedStore([EmbeddingStore(recipe.dump / "embeddings" / name / "demo") for name in stores]).get(mouth_path)


def test_a_corpus_of_mouth_crops_is_told_and_goes_by_its_lips(tmp_path: Path, demo: Recipe) -> None:
    recipe = Recipe(tmp_path, "dla")
    (tmp_path / "raw").mkdir()
    for folder in ("audio", "mouths"):
        shutil.copytree(demo.data / folder, tmp_path / "raw" / folder)
    there = ("--corpus_dir", tmp_path / "raw", "--frontend_weights", WEIGHTS)
    with pytest.raises(AssertionError, match="this corpus ships crops of mouths"):
        run(recipe, "visualvoice", *there)
    lips = "--cues lips --crossmodal_weight 0 --coseparation_weight 0 --shared_speaker false --dynamic false"
    said = run(recipe, "visualvoice", *there, args=lips)
    assert "| all, unprocessed" in said and not (recipe.exp / "face_frontend.json").exists()


def test_a_video_is_separated_by_its_faces(tmp_path: Path, demo: Recipe, shared_data: Path) -> None:
    """Stage 4 cuts the faces that the network wants; of a network that has learned nothing only the form counts."""
    exp = demo.home / "exp" / "visualvoice"
    words = ["./separate.sh", shared_data / "grid_video/g2brbk7n.mpg", "--exp_dir", exp, "--out_dir", tmp_path / "tracks"]
    demo.command([*words, "--nj", 1, "--id", "cpu"])
    (found,) = (tmp_path / "tracks").rglob("tracks.json")
    assert [track["name"] for track in read_json(found)["tracks"]] == ["face1"]


def test_more_people_than_a_network_sees_together_are_refused(tmp_path: Path, demo: Recipe, shared_data: Path) -> None:
    """Three people; Looking to Listen that was trained for two. With --people 2 it takes two of them."""
    names = ("g2brbk7n", "g3lbax4n", "g4lbbc2a")
    videos = [shared_data / f"grid_video/{name}.mpg" for name in names]
    shown = [[picture for _, picture in read_pictures(video, 50)] for video in videos]
    pictures = [np.concatenate(side_by_side, axis=1) for side_by_side in zip(*shown, strict=True)]
    sound = sum(sound_of(video)[: 2 * 16000] for video in videos)
    encode_clip(tmp_path / "three.mp4", sound, 16000, Fraction(25), pictures)
    exp = demo.home / "exp/looking_to_listen"
    words = ["./separate.sh", tmp_path / "three.mp4", "--exp_dir", exp, "--nj", 1, "--id", "cpu"]
    with pytest.raises(AssertionError, match=r"3 people where looking_to_listen separates 2: take those .* --people 2"):
        demo.command([*words, "--out_dir", tmp_path / "tracks"])
    demo.command([*words, "--out_dir", tmp_path / "tracks", "--people", 2])
    (found,) = (tmp_path / "tracks").rglob("tracks.json")
    assert len(read_json(found)["tracks"]) == 2
