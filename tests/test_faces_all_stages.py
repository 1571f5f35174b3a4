"""Looking to Listen and VisualVoice through every stage: on a miniature of the demo corpus, on mouth crops alone, on videos."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from recipe_helpers import WEIGHTS, Recipe

from utils.data.faces import FaceFile
from utils.data.files import read_json
from utils.training.experiment import load_model

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
