"""A network is published, pushed to a hub, fetched from there and used; the hub is a stand-in, its client the real one."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hub_stand_in import TOKEN, Hub, Repository, serve
from huggingface_hub import constants
from separation_helpers import Stage, make_experiment, make_folder, make_lips, rows_of, state_of
from shell_helpers import ROOT, bash, calls, copy_recipe

from local_models.lr_asd import LRASDVisual
from utils.data.experiments import open_experiment
from utils.data.files import read_json, write_json
from utils.data.hub import experiment_folder, push
from utils.embedding.checkpoints import LR_ASD_PREFIX
from utils.embedding.frontends import load_frontend, store_name
from utils.errors import UserError
from utils.stages import score
from utils.tools import complexity, publish
from utils.tools.model_card import read_terms
from utils.training.config import read_config
from utils.training.experiment import load_model


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A network and its audio-only baseline, both scored on the folder `strangers`."""
    root = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    state = {f"{LR_ASD_PREFIX}{name}": tensor.half() for name, tensor in LRASDVisual().state_dict().items()}
    torch.save(state | {"model.audioEncoder.x": torch.zeros(9)}, root / "private.pth")
    make_experiment(root / "exp/net", root / "private.pth")
    make_experiment(root / "exp/alone", None)
    noisy = yaml.safe_load((root / "exp/net/conf.yml").read_text())
    noisy["data"] |= {"noise_dir": str(root / "secret/noise"), "noise_prob": 0.5}
    (root / "exp/net/conf.yml").write_text(yaml.safe_dump(noisy))
    make_folder(root / "strangers")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("net", "alone"):
            Stage(root, patch)(root / "exp" / name, root / "strangers")
            score_of(patch, root / "exp" / name)
    return root


@pytest.fixture(autouse=True)
def short_count(monkeypatch):
    """Operations are counted layer by layer and step by step, in Python."""
    monkeypatch.setattr(complexity, "MIXTURE_SEC", 0.08)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, a login, and an empty cache; the current folder is an empty recipe's."""
    with serve() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield hub


def score_of(patch: pytest.MonkeyPatch, exp_dir: object) -> None:
    patch.setattr(sys, "argv", ["score", "--exp_dir", str(exp_dir), "--test_name", "strangers", "--nj", "1"])
    assert score.main() == 0


def published(monkeypatch: pytest.MonkeyPatch, home: Path, out_dir: Path, *words: object) -> Path:
    arguments = ["publish", "--exp_dir", home / "exp/net", "--out_dir", out_dir, *words]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    assert publish.main() == 0
    return out_dir


def given(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_given_to_others_is_the_same_network_and_names_no_folder_of_this_machine(home, tmp_path, monkeypatch) -> None:
    folder = published(monkeypatch, home, tmp_path / "out")
    ours, theirs = load_model(home / "exp/net/best_model.pth"), load_model(folder / "model.safetensors")
    assert theirs.config == ours.config and type(theirs) is type(ours)
    for name, weights in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], weights, rtol=1e-3, atol=1e-6)
    assert (folder / "model.safetensors").stat().st_size < 0.75 * (home / "exp/net/best_model.pth").stat().st_size
    assert read_config(folder / "conf.yml").data.noise_dir == "noise"
    record = open_experiment(folder).frontends["lips"]
    assert record.weights == str(folder / "frontend.safetensors")
    theirs, ours = (load_frontend(path) for path in (record.weights, home / "private.pth"))
    assert store_name(theirs, "centre", "float32") == record.store_name
    clip = torch.randn(1, 3, 88, 88)
    assert torch.equal(theirs(clip), ours(clip))
    assert "LICENSE-LR-ASD" in given(folder)
    for data in given(folder).values():
        assert str(home).encode() not in data and b"secret" not in data and b"audioEncoder" not in data


def test_the_card_has_the_scores_that_stage_5_found_beside_the_baselines(home, tmp_path, monkeypatch) -> None:
    (tmp_path / "limits.md").write_text("It separates no cats.\n")
    words = ("--baseline_exp_dir", home / "exp/alone", "--notes", tmp_path / "limits.md")
    words += ("--corpora", "grid,glips", "--licence", "cc-by-nc-4.0")
    card = (published(monkeypatch, home, tmp_path / "out", *words) / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["pipeline_tag"]) == ("cc-by-nc-4.0", "audio-to-audio")
    assert front["datasets"] == ["grid", "glips"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| strangers")]
    finals = [read_json(home / f"exp/{name}/results/strangers/final_metrics.json")["overall"] for name in ("net", "alone")]
    assert rows[0][3:] == [
        f"{entry['mean'] + 0.0:.2f} ± {entry['standard_error']:.2f}"
        for entry in (final["metrics"]["si_snr_imp"] for final in finals)
    ]
    assert rows[1][:4] == ["strangers", "all", "this network", "3"]
    assert rows[1][7] == f"{finals[0]['metrics']['pesq_wb']['mean']:.2f}"
    assert "It separates no cats." in card and "noise in 50%" in card and "For research" in card.split("## Data")[1]
    bare = published(monkeypatch, home / "nothing", tmp_path / "bare", "--exp_dir", make_experiment(tmp_path / "exp", None))
    assert "has not been scored" in (bare / "README.md").read_text()
    assert not (bare / "frontend.json").exists() and "separate.sh" not in (bare / "README.md").read_text()


def test_what_must_not_be_given_away_is_refused(home, tmp_path, monkeypatch) -> None:
    def refused(said: str, *words: object) -> None:
        with pytest.raises(UserError, match=said):
            published(monkeypatch, home, tmp_path / "out", *words)
        assert not (tmp_path / "out").exists()

    lips = make_experiment(tmp_path / "exp", make_lips(tmp_path / "lips.pth"))
    refused("lips.pth: no LR-ASD, which alone is given away", "--exp_dir", lips)
    refused("glips is restricted .egs/glips/README.md.", "--corpora", "grid,glips", "--licence", "mit")
    refused("name the folders of egs/ .*: .*grid", "--corpora", "cats")
    refused("say what others may do with it", "--push", "me/net")
    refused("limits.md: cannot be read", "--notes", tmp_path / "limits.md")
    write_json(lips / "face_frontend.json", read_json(lips / "frontend.json") | {"weights": "/private/facenet.pt"})
    refused("face_frontend.json: its weights are a file", "--exp_dir", lips, "--frontend_weights", "dump/weights/lips.pth")
    (lips / "face_frontend.json").unlink()
    out = published(monkeypatch, home, tmp_path / "out", "--exp_dir", lips, "--frontend_weights", "dump/weights/lips.pth")
    assert read_json(out / "frontend.json")["weights"] == "dump/weights/lips.pth"
    assert not (out / "frontend.safetensors").exists()
    (tmp_path / "out/best_model.pth").touch()
    with pytest.raises(UserError, match="of a training; give another folder"):
        published(monkeypatch, home, tmp_path / "out")
    (tmp_path / "out/best_model.pth").unlink()
    with pytest.raises(UserError, match="is --exp_dir itself; give another folder"):
        published(monkeypatch, home, tmp_path / "out", "--exp_dir", tmp_path / "out")


def test_corpora_are_restricted_where_their_pages_say_so() -> None:
    def is_restricted(name: str) -> bool:
        try:
            return not read_terms([name], "mit")
        except UserError as error:
            return "is restricted" in str(error)

    names = {path.parent.name for path in ROOT.glob("egs/*/README.md")} - {"several"}
    assert {name for name in names if is_restricted(name)} == {"dla", "glips", "lrs2", "lrs3", "tcd_timit", "voxceleb2"}


def test_a_network_goes_to_the_hub_and_separates_from_there(home, hub: Hub, tmp_path, monkeypatch, caplog) -> None:
    rights = ("--corpora", "grid", "--licence", "cc-by-4.0", "--push", "me/net", "--private", "true")
    folder = published(monkeypatch, home, tmp_path / "out", *rights)
    repository = hub.repositories["me/net"]
    assert repository.private and repository.commits[repository.main] == given(folder)
    assert "--exp_dir hf://me/net" in (folder / "README.md").read_text()
    repository.commits[repository.main] |= {"run_me.py": b"import os", "shape_frontend.json": b"stale"}
    stage = Stage(tmp_path, monkeypatch)
    push(folder, "me/net", private=False)
    files = repository.commits[repository.main]
    assert "shape_frontend.json" not in files and repository.private
    with caplog.at_level("INFO"):
        stage(_Address("hf://me/net"), home / "strangers")
    assert f"commit {repository.main}" in caplog.text
    theirs = Path("exp/hub/me/net")
    assert not (theirs / "run_me.py").exists()
    ours = stage(folder, home / "strangers")
    assert levels(theirs / "separated/strangers") == levels(ours) and len(levels(ours)) == 6
    name = f"hf://me/net@{repository.main[:12]}"
    assert {row["separated_by"] for row in rows_of(theirs / "separated/strangers/separated.csv")} == {name}
    score_of(monkeypatch, "hf://me/net")
    assert read_json(theirs / "results/strangers/final_metrics.json")["experiment"]["experiment"] == name
    before = state_of(theirs)
    stage(_Address("hf://me/net"), home / "strangers")
    assert state_of(theirs) == before


class _Address(str):
    """An address that `Stage` may look for outputs in."""

    def __truediv__(self, name: str) -> Path:
        return Path(self) / name


def levels(folder: Path) -> list[float]:
    return [np.abs(soundfile.read(path)[0]).sum() for path in sorted(folder.glob("s*/*.wav"))]


def test_a_revision_has_a_folder_of_its_own_and_a_new_commit_replaces_all_of_the_old_one(hub: Hub) -> None:
    repository = hub.repositories["me/net"] = Repository()
    first = repository.commit({"model.safetensors": b"1", "shape_frontend.json": b"{}", "conf.yml": b"a: 1"})
    folder = experiment_folder("hf://me/net")
    assert set(given(folder)) == {"model.safetensors", "shape_frontend.json", "conf.yml", "hub.json", ".lock"}
    repository.commit({"model.safetensors": b"2", "conf.yml": b"a: 2"})
    (folder / "separated").mkdir()
    assert experiment_folder("hf://me/net") == folder
    assert not (folder / "shape_frontend.json").exists() and (folder / "conf.yml").read_bytes() == b"a: 2"
    assert read_json(folder / "hub.json")["commit"] == repository.main and (folder / "separated").is_dir()
    old = experiment_folder(f"hf://me/net@{first}")
    assert old != folder and (old / "conf.yml").read_bytes() == b"a: 1"
    hub.asked.clear()
    experiment_folder("hf://me/net")
    assert not any("resolve" in line for line in hub.asked)  # nothing is downloaded twice


def test_without_a_network_the_cache_is_used_and_what_it_lacks_is_one_line(hub: Hub, monkeypatch) -> None:
    repository = hub.repositories["me/net"] = Repository()
    repository.commit({"model.safetensors": b"1"})
    folder = experiment_folder("hf://me/net")
    (folder / "model.safetensors").unlink()  # the copy goes, the cache stays
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert (experiment_folder("hf://me/net") / "model.safetensors").read_bytes() == b"1"
    with pytest.raises(UserError, match=r"hf://me/other: the hub cannot be reached .* fetch it once with a network"):
        experiment_folder("hf://me/other")
    with pytest.raises(UserError, match=r"--push me/net: the hub cannot be reached \(.*refused"):
        push(folder, "me/net", private=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert experiment_folder("hf://me/net") == folder


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path, monkeypatch) -> None:
    hub.repositories |= {"me/net": Repository(), "me/hidden": Repository(private=True), "me/asked": Repository(gated=True)}
    for repository in hub.repositories.values():
        repository.commit({"model.safetensors": b"1"})
    hub.repositories["me/other"] = Repository()
    hub.repositories["me/other"].commit({"pytorch_model.bin": b"1"})
    with pytest.raises(UserError, match="--push others/net: the login has no right"):
        push(tmp_path, "others/net", private=False)
    monkeypatch.delenv("HF_TOKEN")
    for address, said in {
        "hf://me/none": "no such repository, or a private one",
        "hf://me/hidden": "no such repository, or a private one",
        "hf://me/asked": "gives access on request",
        "hf://me/net@v9": "no such revision",
        "hf://me/other": "holds no model.safetensors",
        "hf://net": "is hf://USER/NAME",
        "hf://../net": "is hf://USER/NAME",
        "hf://me/net@../x": "is hf://USER/NAME",
    }.items():
        with pytest.raises(UserError, match=f"^{re.escape(address)}: .*{said}") as caught:
            experiment_folder(address)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exp/hub/me/net@v9").exists()
    with pytest.raises(UserError, match="--push me/net: not logged in to the hub"):
        push(tmp_path, "me/net", private=False)


def test_damaged_weights_and_foreign_ones_are_one_line(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}      ", json.dumps({"a": 1}).encode()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a model of this recipe"):
            load_model(path)
        with pytest.raises(UserError, match="model.safetensors"):
            load_frontend(path)


def test_the_scripts_fetch_first_and_then_know_a_folder(hub: Hub, tmp_path) -> None:
    repository = hub.repositories["me/net"] = Repository()
    repository.commit({"model.safetensors": b"1"})
    recipe = copy_recipe(tmp_path / "recipe")
    (recipe / "separate.sh").write_bytes((ROOT / "separate.sh").read_bytes())
    (tmp_path / "talk.mkv").touch()
    (tmp_path / "set").mkdir()
    there = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}

    def run(*words: object, **more: str):
        return bash("bash", *words, cwd=tmp_path, **there | more)

    done = run(recipe / "separate.sh", "talk.mkv", "--exp_dir", "hf://me/net")
    assert done.returncode == 0, done.stderr
    assert "--exp_dir=exp/hub/me/net " in calls(recipe)[-1]
    assert f"--out_dir={recipe}/exp/hub/me/net/separated/talk" in calls(recipe)[-1]  # as the caller can open it
    assert (recipe / "exp/hub/me/net/model.safetensors").read_bytes() == b"1"
    done = run(recipe / "run.sh", "--stage", "4", "--exp_dir", "hf://me/net", "--test_dir", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert ["--exp_dir=exp/hub/me/net " in line for line in calls(recipe)[-2:]] == [True, True]
    n_calls = len(calls(recipe))
    done = run(recipe / "run.sh", "--stage", "4", "--exp_dir", "hf://me/none", "--test_dir", tmp_path / "set")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: hf://me/none: no such repository")
    done = run(recipe / "separate.sh", "talk.mkv", "--exp_dir", "hf://me/none", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: hf://me/none: the hub cannot be reached")
    done = run(recipe / "run.sh", "--exp_dir", "hf://me/net")
    assert done.returncode == 2 and "can be used (--stage 4), not trained here" in done.stderr
    assert len(calls(recipe)) == n_calls
