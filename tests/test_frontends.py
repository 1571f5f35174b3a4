"""Front ends: what a weights file is and is not, strict loading, preprocessing, frozen networks, fingerprints."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from local_models.lipreading import Lipreading
from local_models.lr_asd import LRASDVisual
from utils.embedding.checkpoints import read_lipreading_conf
from utils.embedding.frontends import frontend_fingerprint, load_frontend, store_name
from utils.errors import UserError

TINY = {**read_lipreading_conf("demo_snv05x"), "tcn_width_mult": 0.0625, "tcn_num_layers": 1}
TINY_DENSE = {
    "backbone_type": "shufflenet",
    "relu_type": "swish",
    "width_mult": 0.5,
    "densetcn_block_config": [1],
    "densetcn_growth_rate_set": [8],
    "densetcn_reduced_size": 16,
    "densetcn_kernel_size_set": [3, 5],
    "densetcn_dilation_size_set": [1],
    "densetcn_se": True,
    "densetcn_dropout": 0.2,
    "use_boundary": False,
}


def state_of(conf: dict, num_classes: int = 4) -> dict:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Lipreading(conf, num_classes).state_dict()


def lr_asd_state() -> dict:
    visual = {f"model.visualEncoder.{key}": value for key, value in LRASDVisual().state_dict().items()}
    return {**visual, "lossAV.FC.weight": torch.zeros(2, 2)}


@pytest.fixture(scope="module")
def demo_state() -> dict:
    return state_of(read_lipreading_conf("demo_snv05x"), 7)


@pytest.fixture(scope="module")
def demo_file(demo_state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "demo.pth.tar"
    torch.save({"model_state_dict": demo_state, "config": "demo_snv05x"}, path)
    return path


@pytest.fixture
def saved(tmp_path):
    """Save something as a weights file."""

    def save(content, name: str = "weights.pth.tar", **options) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def conf_file(tmp_path):
    """Write a configuration file."""

    def write(content, name: str = "own.json") -> Path:
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return write


def refusal(weights: Path, *args, **kwargs) -> str:
    """The one line with which a file is refused; it begins with what the user has to look at."""
    with pytest.raises(UserError) as caught:
        load_frontend(weights, *args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert str(weights) in message
    return message


def mouths(frames: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 96, 96), dtype=np.uint8)


# what is accepted


def test_a_file_names_its_own_configuration(demo_file):
    trunk, tcn = load_frontend(demo_file), load_frontend(demo_file, layer="tcn")
    assert (trunk.name, trunk.dim, tcn.dim) == ("demo_snv05x", 1024, 128)
    clips = trunk.preprocess(mouths())[None]
    assert trunk(clips).shape == (1, 3, 1024)
    assert tcn(clips).shape == (1, 3, 128)


@pytest.mark.parametrize("form", ["bare", "optimizer", "data_parallel", "legacy", "half"])
def test_every_usual_form_of_a_checkpoint_gives_the_same_vectors(demo_file, demo_state, saved, form):
    training = {"epoch_idx": 3, "best_prec": np.float64(0.5), "optimizer_state_dict": {"state": {0: torch.zeros(2)}}}
    path = {
        "bare": lambda: saved(demo_state),
        "optimizer": lambda: saved({"model_state_dict": demo_state, **training}),
        "data_parallel": lambda: saved({"model_state_dict": {f"module.{k}": v for k, v in demo_state.items()}}),
        "legacy": lambda: saved({"model_state_dict": demo_state}, _use_new_zipfile_serialization=False),
        "half": lambda: saved({k: v.half() if v.is_floating_point() else v for k, v in demo_state.items()}),
    }[form]()
    frontend = load_frontend(path)
    assert frontend.name == "demo_snv05x"
    clips = frontend.preprocess(mouths())[None]
    tolerance = 2e-2 if form == "half" else 0.0
    torch.testing.assert_close(frontend(clips), load_frontend(demo_file)(clips), atol=tolerance, rtol=tolerance)


def test_a_configuration_may_be_in_the_file_or_beside_it(saved, conf_file):
    inside = load_frontend(saved({"model_state_dict": state_of(TINY), "config": TINY}, "mine.pth"))
    assert (inside.name, inside.dim) == ("mine", 1024)
    beside = load_frontend(saved(state_of(TINY)), conf_file(TINY), layer="tcn")
    assert (beside.name, beside.dim) == ("own", 16)


def test_a_boundary_network_gives_trunk_features(saved, conf_file):
    conf = {**TINY_DENSE, "use_boundary": True}
    weights, conf = saved(state_of(conf)), conf_file(conf)
    assert load_frontend(weights, conf).dim == 1024
    assert "--frontend_layer trunk" in refusal(weights, conf, layer="tcn")


def test_loading_leaves_the_random_numbers_alone(demo_file):
    before = torch.get_rng_state()
    load_frontend(demo_file)
    assert torch.equal(before, torch.get_rng_state())


# what is refused, and how it is named


@pytest.mark.parametrize(("in_file", "in_conf"), [("prelu", "swish"), ("swish", "prelu"), ("relu", "prelu")])
def test_an_activation_mismatch_is_named(saved, conf_file, in_file, in_conf):
    message = refusal(saved(state_of({**TINY, "relu_type": in_file})), conf_file({**TINY, "relu_type": in_conf}))
    assert "relu_type" in message
    assert f"file's relu_type is {'prelu' if in_file == 'prelu' else 'relu or swish'}" in message
    assert f"the configuration's {in_conf}" in message


@pytest.mark.parametrize("in_file", [True, False])
def test_a_boundary_mismatch_is_named_with_its_inputs(saved, conf_file, in_file):
    weights = saved(state_of({**TINY_DENSE, "use_boundary": in_file}))
    message = refusal(weights, conf_file({**TINY_DENSE, "use_boundary": not in_file}))
    assert f"{1024 + in_file} inputs ({'with' if in_file else 'without'} word boundary)" in message
    assert f"configuration's {1024 + (not in_file)}" in message


def test_a_mismatch_names_the_zoo_configuration_that_fits(demo_file, repo_root):
    message = refusal(demo_file, repo_root / "conf" / "lipreading" / "lrw_snv05x_tcn1x.json")
    assert "entries of another shape" in message
    assert "conf/lipreading/demo_snv05x.json" in message


def test_another_backbone_is_named(demo_file, repo_root):
    message = refusal(demo_file, repo_root / "conf" / "lipreading" / "lrw_resnet18_mstcn.json")
    assert "backbone_type is shufflenet, the configuration's resnet" in message


def test_nothing_is_loaded_in_part(demo_state, saved, repo_root):
    conf = repo_root / "conf" / "lipreading" / "demo_snv05x.json"
    lost = "trunk.0.3.banch2.0.weight"
    fewer = {key: value for key, value in demo_state.items() if key != lost}
    assert f"1 entries missing, 0 too many ({lost} is missing)" in refusal(saved(fewer), conf)
    assert "none of conf/lipreading fits" in refusal(saved(fewer), None)
    more = {**demo_state, "extra.weight": torch.zeros(1)}
    assert "1 too many (extra.weight has no place)" in refusal(saved(more), conf)
    headless = {key: value for key, value in demo_state.items() if not key.startswith("tcn.tcn_output")}
    assert "tcn.tcn_output.weight is missing" in refusal(saved(headless))


def test_an_unknown_name_or_a_bad_configuration_in_the_file_is_named(saved):
    assert "names 'lrw_big'" in refusal(saved({"model_state_dict": state_of(TINY), "config": "lrw_big"}))
    bad = {**TINY, "width_mult": 0.3}
    assert "width_mult 0.3" in refusal(saved({"model_state_dict": state_of(TINY), "config": bad}))


def test_a_bad_configuration_file_is_named(demo_file, conf_file, tmp_path):
    for path, reason in (
        (tmp_path / "absent.json", "no such visual frontend configuration"),
        (conf_file([1, 2], "list.json"), "JSON object"),
        (conf_file({**TINY, "relu_type": 3}, "relu.json"), "relu_type '3'"),
        (conf_file({**TINY, "tcn_kernel_size": 3}, "kernel.json"), "no network can be built"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            load_frontend(demo_file, path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["frontend3D.0.weight", "resnet.layer0.0.conv1a.weight"], "deep_avsr"),
        (["trunk.conv1.weight", "tcn.tcn_output.weight"], "an audio or partial network"),
        (["frontend3D.0.weight", "trunk.layer1.0.conv1.weight"], "the front half of a visual frontend"),
        (["encoder.weight"], "a network unknown here: encoder.weight"),
    ],
)
def test_another_network_is_recognised(saved, keys, what):
    assert what in refusal(saved({key: torch.zeros(1) for key in keys}))


def test_lr_asd_is_recognised_and_its_visual_half_loaded_strictly(saved):
    state = lr_asd_state()
    assert load_frontend(saved(state)).dim == 128
    assert "one form and one layer" in refusal(saved(state), "any.json")
    assert "one form and one layer" in refusal(saved(state), layer="tcn")
    state.pop("model.visualEncoder.block2.t_1.weight")
    assert "71 entries for 72; model.visualEncoder.block2.t_1.weight differs" in refusal(saved(state))
    state["model.visualEncoder.block2.t_1.weight"] = torch.zeros(1)
    assert "block2.t_1.weight differs" in refusal(saved(state))


class RunsCode:
    """Makes a folder when it is unpickled the ordinary way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return (Path.mkdir, (self.folder,))


def test_a_file_that_would_run_code_is_refused_unread(saved, demo_state, tmp_path):
    trap = tmp_path / "trap"
    weights = saved({"model_state_dict": demo_state, "config": RunsCode(trap)})
    assert "run code" in refusal(weights)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(RunsCode(trap), protocol=2))
    assert "run code" in refusal(tmp_path / "plain.pkl")
    assert "run code" in refusal(saved(torch.nn.Linear(2, 2), "whole.pth"))
    assert not trap.exists()


def test_what_is_no_checkpoint_is_named(saved, tmp_path):
    whole = saved({"a.b": torch.zeros(3)}).read_bytes()
    for name, content, what in (
        ("page.pth", b"\n<!DOCTYPE html><html>quota</html>", "is a web page"),
        ("text.pth", b"hello\n", "not a torch checkpoint"),
        ("bytes.pth", bytes(range(200, 256)) * 5, "not a torch checkpoint"),
        ("empty.pth", b"", r"\(0 bytes\)"),
        ("cut.pth", whole[: len(whole) // 2], "cut short"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=what):
            load_frontend(tmp_path / name)
    assert "holds a list" in refusal(saved([1, 2]))
    assert "its entries: epoch, net" in refusal(saved({"epoch": 1, "net": "x"}))
    assert "no such weights file" in refusal(tmp_path / "absent.pth")
    (tmp_path / "folder").mkdir()
    assert "holds no ID.npy; give a checkpoint, or a folder of features" in refusal(tmp_path / "folder")


def test_unknown_choices_are_named(demo_file):
    with pytest.raises(UserError, match="--frontend_layer 'top'"):
        load_frontend(demo_file, layer="top")
    frontend = load_frontend(demo_file)
    with pytest.raises(UserError, match="--views 'left'"):
        frontend.preprocess(mouths(), view="left")
    with pytest.raises(UserError, match="--embedding_dtype 'int8'"):
        frontend.describe(precision="int8")


# what a visual frontend does


@pytest.mark.parametrize(("family", "mean", "std"), [("lipreading", 0.421, 0.165), ("lr_asd", 0.4161, 0.1688)])
def test_preprocessing_scales_crops_and_normalises(demo_file, saved, family, mean, std):
    frontend = load_frontend(demo_file if family == "lipreading" else saved(lr_asd_state()))
    pictures = mouths()
    expected = ((pictures / 255)[:, 4:92, 4:92] - mean) / std
    clip = frontend.preprocess(pictures)
    assert (clip.dtype, clip.shape) == (torch.float32, (3, 88, 88))
    np.testing.assert_allclose(clip.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(frontend.preprocess(pictures, "flip").numpy(), expected[:, :, ::-1], atol=1e-6)
    for wrong in (pictures.astype(np.float32), pictures[:, :88, :88], pictures[0]):
        with pytest.raises(ValueError, match="uint8"):
            frontend.preprocess(wrong)


def test_varied_views_are_other_pictures_of_the_same_always_in_the_same_way(demo_file):
    frontend = load_frontend(demo_file)
    gradient = np.tile(np.arange(96, dtype=np.uint8) * 2, (5, 96, 1))
    pictures = [frontend.preprocess(gradient, f"varied{number}") for number in range(1, 10)]
    assert all(each.shape == (5, 88, 88) and torch.equal(each[0], each[4]) for each in pictures)
    assert torch.equal(frontend.preprocess(gradient[:2], "varied3"), pictures[2][:2])
    rising = [float((each[0, :, -1] - each[0, :, 0]).mean()) > 0 for each in pictures]
    assert 0 < sum(rising) < 9  # some are mirrored
    differences = [float((a - b).abs().mean()) for a, b in zip(pictures, pictures[1:], strict=False)]
    assert min(differences) > 0.01
    with pytest.raises(UserError, match="--views 'varied10'"):
        frontend.preprocess(gradient, "varied10")


def test_a_front_end_stays_frozen_inside_a_model_that_trains(demo_file):
    frontend = load_frontend(demo_file)
    before = {key: value.clone() for key, value in frontend.state_dict().items()}
    torch.nn.ModuleDict({"frontend": frontend}).train()
    assert not any(module.training for module in frontend.modules())
    assert not any(parameter.requires_grad for parameter in frontend.parameters())
    vectors = frontend(torch.randn(2, 3, 88, 88, requires_grad=True))
    assert not vectors.requires_grad
    assert all(torch.equal(before[key], value) for key, value in frontend.state_dict().items())


@pytest.mark.parametrize("family", ["lipreading trunk", "lipreading tcn", "lr_asd"])
def test_vectors_do_not_depend_on_the_batch_and_repeat_exactly(demo_file, saved, family):
    layer = "tcn" if family.endswith("tcn") else "trunk"
    frontend = load_frontend(saved(lr_asd_state()) if family == "lr_asd" else demo_file, layer=layer)
    clips = torch.randn(3, 6, 88, 88)
    together = frontend(clips)
    assert torch.equal(together, frontend(clips))
    torch.testing.assert_close(together, torch.cat([frontend(clip[None]) for clip in clips]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_the_fingerprint_covers_all_that_the_vectors_depend_on(demo_file, demo_state, saved):
    changed = {key: value.clone() for key, value in demo_state.items()}
    changed["frontend3D.0.weight"][0, 0, 0, 0, 0] += 1e-3
    trunk = load_frontend(demo_file)
    descriptions = [
        trunk.describe(),
        trunk.describe(view="flip"),
        trunk.describe(precision="float32"),
        load_frontend(demo_file, layer="tcn").describe(),
        load_frontend(saved({"model_state_dict": changed, "config": "demo_snv05x"})).describe(),
        load_frontend(saved(lr_asd_state())).describe(),
    ]
    prints = [frontend_fingerprint(description) for description in descriptions]
    assert len(set(prints)) == len(prints)
    assert json.loads(json.dumps(descriptions[0])) == descriptions[0]
    assert descriptions[0]["preprocessing"]["crop_size"] == 88
    assert frontend_fingerprint(dict(reversed(descriptions[0].items()))) == prints[0]
    assert store_name(trunk, "centre", "float16") == f"demo_snv05x-{prints[0]}"


def test_the_fingerprint_of_a_description_never_changes():
    assert frontend_fingerprint({"view": "centre", "network": "lr_asd", "version": 1}) == "a2304a81edf5"
