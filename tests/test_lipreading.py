"""The lip-reading TCN family against what is published about its checkpoints: keys, shapes, parameter counts, order."""

import io
import json

import pytest
import torch
from torch.nn import functional

from local_models.lipreading import Lipreading
from local_models.lipreading.layers import Chomp, make_activation
from local_models.lipreading.shufflenet import ShuffleUnit
from local_models.lipreading.tcn import BranchConv

ZOO = {  # name -> entries of the state dict, millions of parameters, values a frame of the trunk and of the TCN
    "lrw_resnet18_mstcn": (298, 36.36, 512, 768),
    "lrw_resnet18_mstcn_prelu": (343, 36.38, 512, 768),
    "lrw_resnet18_dctcn": (752, 52.55, 512, 1664),
    "lrw_resnet18_dctcn_boundary": (752, 52.55, 512, 1664),
    "lrw_snv1x_dsmstcn3x": (634, 9.26, 1024, 768),
    "lrw_snv1x_tcn2x": (473, 9.14, 1024, 512),
    "lrw_snv1x_tcn1x": (473, 3.82, 1024, 256),
    "lrw_snv05x_tcn2x": (473, 8.23, 1024, 512),
    "lrw_snv05x_tcn1x": (473, 2.91, 1024, 256),
}
TRUNK_MILLIONS = {"resnet": {1.0: 11.18}, "shufflenet": {1.0: 1.26, 0.5: 0.35}}  # 3-D front end and trunk


@pytest.fixture(scope="module")
def confs(repo_root) -> dict[str, dict]:
    return {file.stem: json.loads(file.read_text()) for file in (repo_root / "conf" / "lipreading").glob("*.json")}


def build(conf: dict, num_classes: int = 500) -> Lipreading:
    """The network without its memory: enough for keys, shapes and counts."""
    with torch.device("meta"):
        return Lipreading(conf, num_classes)


def shapes(model: torch.nn.Module) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def tiny(confs, **changes) -> dict:
    """A configuration small enough to run in a test."""
    return {**confs["demo_snv05x"], "tcn_width_mult": 0.0625, "tcn_num_layers": 2, **changes}


def tiny_dense(**changes) -> dict:
    conf = {
        "backbone_type": "shufflenet",
        "relu_type": "swish",
        "width_mult": 0.5,
        "densetcn_block_config": [2, 1],
        "densetcn_growth_rate_set": [8, 8],
        "densetcn_reduced_size": 16,
        "densetcn_kernel_size_set": [3, 5],
        "densetcn_dilation_size_set": [1, 2],
        "densetcn_se": True,
        "densetcn_dropout": 0.2,
        "use_boundary": False,
    }
    return {**conf, **changes}


def scramble(module: torch.nn.Module) -> torch.nn.Module:
    """Random statistics and affine parameters in every normalisation, so that no step of it can go unseen."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def test_the_configurations_are_the_zoo_and_the_demo(confs):
    assert set(confs) == {*ZOO, "demo_snv05x"}


@pytest.mark.parametrize("name", ZOO)
def test_entries_parameters_and_widths_are_the_published_ones(confs, name):
    entries, millions, trunk_dim, tcn_dim = ZOO[name]
    model = build(confs[name])
    assert len(model.state_dict()) == entries
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    front = [*model.frontend3D.parameters(), *model.trunk.parameters()]
    expected = TRUNK_MILLIONS[confs[name]["backbone_type"]][confs[name]["width_mult"]]
    assert sum(p.numel() for p in front) / 1e6 == pytest.approx(expected, abs=0.01)
    assert model.layer_dims == {"trunk": trunk_dim, "tcn": tcn_dim}
    assert shapes(model)["tcn.tcn_output.weight"] == (500, tcn_dim)


@pytest.mark.parametrize(("name", "channels"), [("lrw_resnet18_mstcn", 64), ("lrw_snv05x_tcn1x", 24)])
def test_the_front_end_is_a_3d_convolution_with_normalisation_and_activation(confs, name, channels):
    found = shapes(build(confs[name]))
    assert found["frontend3D.0.weight"] == (channels, 1, 5, 7, 7)
    assert "frontend3D.0.bias" not in found
    assert found["frontend3D.1.running_var"] == (channels,)
    assert found.get("frontend3D.2.weight") == ((channels,) if confs[name]["relu_type"] == "prelu" else None)


def test_resnet_shrinks_only_in_the_first_block_of_its_last_three_stages(confs):
    found = shapes(build(confs["lrw_resnet18_mstcn_prelu"]))
    downsampled = {key.split(".downsample")[0] for key in found if key.startswith("trunk.") and ".downsample." in key}
    assert downsampled == {"trunk.layer2.0", "trunk.layer3.0", "trunk.layer4.0"}
    assert found["trunk.layer4.0.conv1.weight"] == (512, 256, 3, 3)
    assert found["trunk.layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert found["trunk.layer3.1.relu2.weight"] == (256,)
    assert not any(key.startswith(("trunk.conv1", "trunk.bn1", "trunk.fc")) for key in found)


def test_shufflenet_spells_banch_and_has_the_first_only_where_a_stage_begins(confs):
    found = shapes(build(confs["lrw_snv1x_tcn1x"]))
    units = {key.split(".")[2] for key in found if ".banch1." in key}
    assert units == {"0", "4", "12"}
    assert {key.split(".")[2] for key in found if ".banch2." in key} == {str(unit) for unit in range(16)}
    assert {key.split(".")[4] for key in found if key.startswith("trunk.0.0.banch1.")} == {"0", "1", "2", "3"}
    assert {key.split(".")[4] for key in found if key.startswith("trunk.0.0.banch2.")} == {"0", "1", "3", "4", "5", "6"}
    assert found["trunk.0.4.banch1.0.weight"] == (116, 1, 3, 3)
    assert found["trunk.1.0.weight"] == (1024, 464, 1, 1)


def test_ms_tcn_has_a_downsampling_convolution_in_every_block(confs):
    found = shapes(build(confs["lrw_resnet18_mstcn"]))
    widths = [found[f"tcn.mb_ms_tcn.network.{block}.downsample.weight"] for block in range(4)]
    assert widths == [(768, 512, 1)] + [(768, 768, 1)] * 3
    assert found["tcn.mb_ms_tcn.network.1.cbcr0_2.conv.weight"] == (256, 768, 7)
    assert not any("non_lin" in key or "relu_final" in key for key in found)
    with_slopes = shapes(build(confs["lrw_resnet18_mstcn_prelu"]))
    assert with_slopes["tcn.mb_ms_tcn.network.0.cbcr1_0.non_lin.weight"] == (256,)
    assert with_slopes["tcn.mb_ms_tcn.network.3.relu_final.weight"] == (768,)


def test_separable_branches_have_no_depthwise_bias_and_never_swish(confs):
    found = shapes(build(confs["lrw_snv1x_dsmstcn3x"]))
    indices = {key.split(".")[6] for key in found if key.startswith("tcn.mb_ms_tcn.network.0.cbcr0_1.conv.")}
    assert indices == {"0", "1", "4", "5"}
    assert found["tcn.mb_ms_tcn.network.0.cbcr0_1.conv.0.weight"] == (1024, 1, 5)
    assert "tcn.mb_ms_tcn.network.0.cbcr0_1.conv.0.bias" not in found
    branch = BranchConv(4, 4, 3, 1, "swish", dwpw=True)
    assert not any(isinstance(layer, torch.nn.SiLU) for layer in branch.modules())


def test_tcn_layers_are_registered_twice_as_in_the_public_files(confs):
    model = Lipreading(tiny(confs), 3)
    state = model.state_dict()
    block = "tcn.tcn_trunk.network.0."
    for name, index in (("conv1", 0), ("batchnorm1", 1), ("relu1", 3), ("conv2", 5), ("batchnorm2", 6), ("relu2", 8)):
        assert state[f"{block}{name}.weight"].data_ptr() == state[f"{block}net.{index}.weight"].data_ptr()
    assert f"{block}downsample.weight" in state
    assert "tcn.tcn_trunk.network.1.downsample.weight" not in state


@pytest.mark.parametrize(("name", "inputs"), [("lrw_resnet18_dctcn", 512), ("lrw_resnet18_dctcn_boundary", 513)])
def test_dc_tcn_begins_with_a_prelu_and_reads_one_more_value_with_boundaries(confs, name, inputs):
    found = shapes(build(confs[name]))
    trunk = "tcn.tcn_trunk.features."
    assert found[f"{trunk}transition0.conv.weight"] == (512, inputs, 1)
    assert [key for key in found if "prelu" in key] == [f"{trunk}transition0.prelu.weight"]
    assert found[f"{trunk}transition0.prelu.weight"] == (512,)
    assert found[f"{trunk}denseblock2.denselayer3.cbcr0_se_1.fc.0.weight"] == (80, 1280)
    assert found[f"{trunk}denseblock2.denselayer3.cbcr0_2.net.0.weight"] == (128, 1280, 7)
    assert found[f"{trunk}denseblock4.denselayer1.downsample.weight"] == (384, 512, 1)
    assert found[f"{trunk}transition3.norm.weight"] == (512,)
    assert found[f"{trunk}norm5.weight"] == (1664,)
    dilations = [layer.cbcr1_0.net[0].dilation[0] for layer in build(confs[name]).tcn.tcn_trunk.features.denseblock3]
    assert dilations == [1, 2, 5]


def test_the_demo_network_is_a_file_of_less_than_6_mb(confs):
    buffer = io.BytesIO()
    torch.save({"model_state_dict": Lipreading(confs["demo_snv05x"], 60).state_dict()}, buffer)
    assert buffer.tell() < 6e6


def test_the_folded_front_end_equals_the_3d_convolution(confs):
    model = scramble(Lipreading(tiny(confs), 3))
    clips = torch.randn(2, 6, 88, 88)
    plain = model.frontend3D(clips[:, None]).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(model._front(functional.pad(clips, (0, 0, 0, 0, 2, 2))), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padded_kernel", [(3, 1), (5, 4)])
def test_a_branch_convolves_normalises_cuts_and_activates_in_this_order(padded_kernel):
    kernel, dilation = padded_kernel
    branch = scramble(BranchConv(6, 4, kernel, dilation, "swish", dwpw=False))
    x = torch.randn(2, 6, 20)
    same = functional.conv1d(x, branch.conv.weight, branch.conv.bias, padding=(kernel - 1) * dilation // 2, dilation=dilation)
    expected = branch.batchnorm(same)
    torch.testing.assert_close(branch(x), expected * torch.sigmoid(expected))


def test_cutting_is_symmetric():
    assert Chomp(4)(torch.arange(10.0)[None, None]).tolist() == [[[2, 3, 4, 5, 6, 7]]]
    with pytest.raises(ValueError, match="odd"):
        Chomp(3)


def test_a_shuffle_unit_interleaves_what_it_kept_and_what_it_worked_on():
    unit = scramble(ShuffleUnit(8, 8, first_of_stage=False))
    x = torch.randn(2, 8, 5, 5)
    out = unit(x)
    torch.testing.assert_close(out[:, 0::2], x[:, :4])
    torch.testing.assert_close(out[:, 1::2], unit.banch2(x[:, 4:]))


def test_features_have_one_vector_a_frame_whatever_the_layer(confs):
    for conf in (tiny(confs), tiny(confs, tcn_kernel_size=[3, 5], relu_type="swish"), tiny_dense()):
        model = Lipreading(conf, 3).eval()
        clips = torch.randn(2, 5, 88, 88)
        for layer, dim in model.layer_dims.items():
            vectors = model.features(clips, layer)
            assert vectors.shape == (2, 5, dim)
            assert torch.isfinite(vectors).all()
        assert model(clips).shape == (2, 3)
        with pytest.raises(ValueError, match="layer 'top'"):
            model.features(clips, "top")


def test_the_word_is_read_from_the_mean_over_each_clips_own_frames(confs):
    model = scramble(Lipreading(tiny(confs), 3))
    clips = torch.randn(2, 6, 88, 88)
    features = model.features(clips, "tcn")
    means = torch.stack((features[0, :4].mean(dim=0), features[1].mean(dim=0)))
    torch.testing.assert_close(model(clips, torch.tensor([4, 6])), model.tcn.tcn_output(means))
    torch.testing.assert_close(model(clips)[1], model(clips, torch.tensor([4, 6]))[1])


def test_word_boundaries_are_needed_and_read_where_the_network_has_them(confs):
    clips, inside = torch.randn(1, 5, 88, 88), torch.tensor([[0.0, 1, 1, 0, 0]])
    model = Lipreading(tiny_dense(use_boundary=True), 3).eval()
    assert not torch.equal(model(clips, boundaries=inside), model(clips, boundaries=1 - inside))
    assert model.features(clips).shape == (1, 5, 1024)
    with pytest.raises(ValueError, match="boundaries"):
        model(clips)
    with pytest.raises(ValueError, match="boundaries"):
        Lipreading(tiny(confs), 3)(clips, boundaries=inside)


def test_training_reaches_every_parameter(confs):
    for conf in (tiny(confs), tiny(confs, tcn_kernel_size=[3, 5], tcn_dwpw=True), tiny_dense()):
        model = Lipreading(conf, 3)
        functional.cross_entropy(model(torch.randn(2, 4, 88, 88)), torch.tensor([0, 2])).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_swish_is_the_input_times_its_sigmoid():
    x = torch.randn(5)
    torch.testing.assert_close(make_activation("swish", 5)(x), x * torch.sigmoid(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone_type": "vgg"}, "backbone_type 'vgg'"),
        ({"relu_type": "gelu"}, "relu_type 'gelu'"),
        ({"width_mult": 0.75}, "width_mult 0.75"),
        ({"tcn_layers": 3}, "tcn_layers is unknown"),
        ({"densetcn_se": True}, "densetcn_block_config is missing"),
        ({"tcn_dwpw": True}, "tcn_dwpw"),
        ({"use_boundary": True}, "use_boundary"),
        ({"tcn_kernel_size": [4]}, "odd"),
    ],
)
def test_a_configuration_that_builds_no_network_is_refused_by_field(confs, changes, message):
    with pytest.raises(ValueError, match=message):
        build(tiny(confs, **changes))
