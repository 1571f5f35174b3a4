"""The network for unseen people: one command for its trainings, what is given to others of it, and longer test mixtures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from shell_helpers import ROOT, bash, calls, copy_recipe
from tiny_corpus import FPS, RATE_HZ, make_corpus

from utils.data.experiments import open_experiment
from utils.data.mouths import read_mouths
from utils.embedding.frontends import store_name
from utils.embedding.kinds import load_kind
from utils.errors import UserError
from utils.mixing.levels import sir_db
from utils.tools import joined_clips
from utils.training.experiment import load_model


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), frames=20)


def call(monkeypatch: pytest.MonkeyPatch, tool, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", [tool.__name__, *map(str, words)])
    return tool.main()


def test_the_command_trains_and_tunes_each_from_where_the_one_before_ended(tmp_path: Path) -> None:
    recipe = copy_recipe(tmp_path / "recipe")
    (recipe / "egs/several").mkdir()
    for name in ("prepare.py", "unseen.sh"):
        (recipe / "egs/several" / name).write_bytes((ROOT / "egs/several" / name).read_bytes())
    for name in ("glips", "my noise", "rooms"):
        (recipe / name).mkdir()
    (recipe / "lips.pth").touch()
    (recipe / "exp/unseen_frontend").mkdir(parents=True)
    (recipe / "exp/unseen_frontend/frontend.pth").touch()  # as the tuning, which does not run here, would make it
    words = ("--corpus_dir", "glips", "--frontend_weights", "lips.pth", "--noise_dir", "my noise", "--rir_dir", "rooms")
    result = bash(
        "bash", "egs/several/unseen.sh", *words, "--train_args", "--epochs 2", "--tune_args", "--epochs 3", cwd=recipe
    )
    assert result.returncode == 0, result.stderr
    made = calls(recipe)
    trained = [call for call in made if "utils.stages.train" in call]
    assert [call.partition("--conf=")[2].split()[0] for call in trained] == [
        f"conf/av_tfdprnn_{name}.yml" for name in ("pretrain", "longer", "match", "match")
    ]
    assert [call.partition("--exp_dir=")[2].split()[0] for call in trained] == [f"exp/unseen_{k}" for k in (1, 2, 3, 4)]
    starts = [call.partition("--init_exp_dir=")[2].split(" ")[0] for call in trained]
    assert starts == ["", "exp/unseen_1", "exp/unseen_2", "exp/unseen_frontend"]
    lips = [call.partition("--frontend_weights=")[2].split(" ")[0] for call in trained]
    assert lips == ["lips.pth"] * 3 + ["exp/unseen_frontend/frontend.pth"]
    (tuned,) = [call for call in made if "utils.tools.tune_frontend" in call]
    assert "--exp_dir=exp/unseen_3 --out_dir=exp/unseen_frontend --frontend_weights=lips.pth" in tuned and "--epochs 3" in tuned
    assert all("--noise_dir my\\ noise" in call and "--rir_dir rooms" in call and "--epochs 2" in call for call in trained)
    assert "--exp_dir=exp/unseen_4 --out_dir=exp/unseen" in made[-1] and "utils.tools.publish" in made[-1]


def test_the_network_of_the_recipe_comes_with_the_frontend_that_it_was_trained_with() -> None:
    folder = ROOT / "egs/own_video/pretrained"
    experiment = open_experiment(folder.relative_to(ROOT))
    dim = 0
    for kind, record in experiment.frontends.items():
        frontend = load_kind(kind, ROOT / record.weights if kind == "lips" else record.weights)
        assert store_name(frontend, record.view, record.precision) == record.store_name
        dim += frontend.dim
    assert Path(experiment.frontends["lips"].weights) == folder.relative_to(ROOT) / "frontend.pth"
    network = load_model(experiment.network_path)
    assert network.config.visual_dim == dim and network.matcher is not None
    assert sum(path.stat().st_size for path in folder.glob("*.pth")) < 6e6


def test_clips_of_a_speaker_follow_each_other_in_sound_and_mouths(tmp_path, monkeypatch) -> None:
    root = tmp_path / "corpus"
    manifest = make_corpus(root, frames=20, n_utterances=9, n_mixtures=9)["val"]
    rng = np.random.default_rng(0)
    for path in sorted({path for item in manifest.items for path in item.mouth_paths}):
        (root / path).parent.mkdir(exist_ok=True)
        np.savez(root / path, data=rng.integers(0, 256, (20, 96, 96), dtype=np.uint8))
    words = ("--data_dir", root / "data", "--split", "val", "--n_clips", "3", "--n_mixtures", "4")
    assert call(monkeypatch, joined_clips, *words, "--out_dir", tmp_path / "joined") == 0
    crops = {np.load(root / f"mouths/{k:04d}.npz")["data"].tobytes(): k for k in range(9)}
    mixtures = sorted((tmp_path / "joined/audio/mix").iterdir())
    assert len(mixtures) == 4
    for path in mixtures:
        read = [soundfile.read(path.parent.parent / part / path.name, dtype="float32")[0] for part in ("mix", "s1", "s2")]
        np.testing.assert_allclose(read[0], read[1] + read[2], atol=1e-6)
        assert abs(sir_db(*read[1:])) <= 5.01 and len(read[0]) == 60 * RATE_HZ // FPS
        for name, source in zip(path.stem.split("_"), read[1:], strict=True):
            mouths = read_mouths(tmp_path / f"joined/mouths/{name}.npz").reshape(3, 20, 96, 96)
            clips = [crops[part.tobytes()] for part in mouths]
            assert len(set(clips)) == 3 and len({clip % 3 for clip in clips}) == 1  # of one speaker, none twice
            parts = [soundfile.read(root / f"audio/{clip:04d}.wav", dtype="float32")[0] for clip in clips]
            joined = np.concatenate([part / part.std() for part in parts])
            places = np.split(np.arange(len(joined)), 3)
            assert all(np.corrcoef(source[place], joined[place])[0, 1] > 0.999 for place in places)
    with pytest.raises(UserError, match="choose a smaller --n_clips"):
        call(monkeypatch, joined_clips, *words[:5], "9", "--out_dir", tmp_path / "none")
