"""The networks: structure, fidelity to the original, and strict loading of published weights."""

import math
import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from common.errors import InputError
from modeling.backbone import BACKBONES, OUTPUT_STRIDES, build_backbone
from modeling.deeplab import DeepLab
from modeling.pretrained import default_pretrained, load_pretrained
from reference.fill_state import FOLDER, filled_state, original_shapes, reference_input

ORIGINALS = ("mobilenet", "resnet", "xception", "drn")  # whose weights and logits of the original are here
ALIASES = ("backbone.low_level_features.", "backbone.high_level_features.")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """An empty torch hub folder, and no network: the download fails as on a machine without one.

    Afterwards the weights that a test wrote go, as pytest keeps its temporary folders and these are large.
    """

    def refuse(*_args, **_kwargs):
        raise URLError("no network in the tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    yield
    for file in tmp_path.rglob("*.pth"):
        file.unlink()


@pytest.fixture(
    scope="module",
    params=[(name, stride) for name in BACKBONES for stride in OUTPUT_STRIDES],
    ids="{0[0]}-{0[1]}".format,
)
def network(request):
    """(name, stride, network); a test that changes its mode or weights changes nothing that the others look at."""
    name, stride = request.param
    torch.manual_seed(0)
    return name, stride, DeepLab(num_classes=5, backbone=name, output_stride=stride)


@pytest.fixture(scope="module")
def mobilenet_state():
    return filled_state(original_shapes("mobilenet"))


def dilated_convolutions(module):
    """{name: (stride, dilation)} of all convolutions larger than 1x1 whose stride or dilation is not 1."""
    settings = {
        name: (layer.stride[0], layer.dilation[0])
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    }
    return {name: setting for name, setting in settings.items() if setting != (1, 1)}


def fill(module):
    """Give `module` reproducible random weights and norms that let signals of order one through."""
    module.load_state_dict(filled_state({name: list(value.shape) for name, value in module.state_dict().items()}))


def map_zero_below_zero(module):
    """Change the batch norms so that a zero before norm and ReLU is a zero behind it."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.bias.abs_().neg_()
                layer.running_mean.abs_()


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


# Structure, for each backbone and output stride ------------------------------------------------------------------


def test_sizes_and_channels(network):
    name, stride, model = network
    model.eval()
    expected_stride = 8 if name == "drn" else stride
    assert model.backbone.output_stride == expected_stride
    for height, width in [(64, 64), (33, 50), (1, 1)]:
        image = torch.randn(1, 3, height, width)
        with torch.no_grad():
            deep, low_level = model.backbone(image)
            logits = model(image)
        deep_size = (math.ceil(height / expected_stride), math.ceil(width / expected_stride))
        assert deep.shape == (1, model.backbone.out_channels, *deep_size)
        low_size = (math.ceil(height / 4), math.ceil(width / 4))
        assert low_level.shape == (1, model.backbone.low_level_channels, *low_size)
        assert logits.shape == (1, 5, height, width)
        assert logits.isfinite().all()


def test_dropout_acts_in_training_only(network):
    _, _, model = network
    image = torch.randn(2, 3, 17, 17)
    with torch.no_grad():
        model.eval()
        assert torch.equal(model(image), model(image))
        # Batch norms still in evaluation: what differs now is dropout.
        for layer in (*model.aspp.modules(), *model.decoder.modules()):
            if isinstance(layer, nn.Dropout):
                layer.train()
        assert not torch.equal(model(image), model(image))
    probabilities = [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert probabilities == [0.5, 0.5, 0.1]


def test_backward_reaches_every_parameter(network):
    _, _, model = network
    model.train()
    model.zero_grad()
    model(torch.randn(2, 3, 17, 17)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    model.zero_grad()


def test_parameter_groups_are_complete_and_disjoint(network):
    _, _, model = network
    groups = model.parameter_groups(head_rate=7)
    assert [group["lr_scale"] for group in groups] == [1, 7]
    backbone, head = (group["params"] for group in groups)
    identities = [id(parameter) for parameter in backbone + head]
    assert len(identities) == len(set(identities))
    assert set(identities) == {id(parameter) for parameter in model.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(names[id(parameter)].startswith("backbone.") for parameter in backbone)
    assert not any(names[id(parameter)].startswith("backbone.") for parameter in head)


def test_aspp_rates(network):
    name, stride, model = network
    dilations = [getattr(model.aspp, f"aspp{i}").atrous_conv.dilation[0] for i in range(1, 5)]
    assert dilations == ([1, 6, 12, 18] if stride == 16 and name != "drn" else [1, 12, 24, 36])


def test_initial_weights(network):
    name, _, model = network
    checked = 0
    for part, fan_in in [(model.backbone, name == "mobilenet"), (model.aspp, True), (model.decoder, True)]:
        fresh = (layer for layer in part.modules() if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 20000)
        for layer in fresh:
            fan = layer.weight[0].numel() if fan_in else layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.03)
            checked += 1
    assert checked > 20
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all((layer.weight == 1).all() and (layer.bias == 0).all() for layer in norms)
    assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-5, 0.1)}


# Strides and dilations, against the published description ---------------------------------------------------------


def expected_settings(name, stride):
    """What `dilated_convolutions` should find in the backbone, from the description of each network."""
    if name == "mobilenet":  # block 7 opens the 64-channel stage, 14 the 160-channel one, 17 the 320-channel one
        settings = {"features.0.0": (2, 1), "features.2.conv.3": (2, 1), "features.4.conv.3": (2, 1)}
        if stride == 16:
            return settings | {"features.7.conv.3": (2, 1), "features.17.conv.3": (1, 2)}
        return (
            settings | {f"features.{block}.conv.3": (1, 2) for block in range(11, 17)} | {"features.17.conv.3": (1, 4)}
        )
    if name == "resnet":
        settings = {"conv1": (2, 1), "layer2.0.conv2": (2, 1)}
        if stride == 16:
            settings["layer3.0.conv2"] = (2, 1)
        else:
            settings |= {f"layer3.{block}.conv2": (1, 2) for block in range(23)}
        last = 2 if stride == 16 else 4
        return settings | {f"layer4.{block}.conv2": (1, last * grid) for block, grid in enumerate((1, 2, 4))}
    if name == "xception":
        settings = {"conv1": (2, 1), "block1.rep.6.conv1": (2, 1), "block2.rep.6.conv1": (2, 1)}
        if stride == 16:
            settings["block3.rep.7.conv1"] = (2, 1)
        else:
            settings |= {f"block{block}.rep.{i}.conv1": (1, 2) for block in range(4, 20) for i in (1, 4, 7)}
            settings |= {"block20.rep.1.conv1": (1, 2), "block20.rep.4.conv1": (1, 2)}
        return settings | {f"conv{i}.conv1": (1, 2 if stride == 16 else 4) for i in (3, 4, 5)}
    settings = {"layer2.0": (2, 1), "layer3.0.conv2": (2, 1), "layer4.0.conv2": (2, 1), "layer7.0": (1, 2)}
    settings |= {f"layer5.{block}.conv2": (1, 2) for block in range(6)}
    return settings | {f"layer6.{block}.conv2": (1, 4) for block in range(3)}


def test_strides_and_dilations(network):
    name, stride, model = network
    assert dilated_convolutions(model.backbone) == expected_settings(name, stride)


def features_up_to(backbone, layer, image):
    """The output of the backbone's `layer` for `image`, in evaluation."""
    outputs = []
    handle = backbone.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output)
    )
    with torch.no_grad():
        backbone.eval()(image)
    handle.remove()
    return outputs[0]


@pytest.mark.parametrize("name, last", [("mobilenet", "features.17"), ("resnet", "layer4"), ("xception", "block19")])
def test_stride_8_samples_the_stride_16_function_densely(name, last):
    """A stride replaced by dilation: every second position of the finer features is the coarser ones.

    Exact where all convolutions behind the removed stride are dilated and none before it. The original deviates in a
    few layers (mobilenet does not dilate the rest of the stage whose stride goes, resnet dilates that stage's first
    block too, xception leaves the end of block20 as it is): these are set right here, or left out.
    """
    coarse, fine = build_backbone(name, 16), build_backbone(name, 8)
    fill(coarse)
    fine.load_state_dict(coarse.state_dict())
    if name == "mobilenet":
        for block in fine.features[8:11]:
            block.dilation = 2
            block.conv[3].dilation = (2, 2)
    if name == "resnet":
        fine.layer3[0].conv2.dilation = fine.layer3[0].conv2.padding = (1, 1)
    image = torch.randn(1, 3, 49, 70)
    expected = features_up_to(coarse, last, image)
    found = features_up_to(fine, last, image)[:, :, ::2, ::2]
    assert found.shape == expected.shape == (1, expected.shape[1], 4, 5)
    assert relative_error(found, expected) < 1e-4


def test_drn_runs_at_stride_8_whatever_is_asked():
    asked_16, asked_8 = (DeepLab(3, "drn", output_stride=stride).eval() for stride in (16, 8))
    asked_8.load_state_dict(asked_16.state_dict())
    image = torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        assert torch.equal(asked_16(image), asked_8(image))


# State dicts and logits of the original ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORIGINALS)
def test_original_state_dict_gives_the_original_logits(name):
    reference = np.load(next(FOLDER.glob(f"logits_{name}_os*.npz")))
    shapes = original_shapes(name)
    model = DeepLab(21, name).eval()
    # The same names in the same order: an optimizer's state goes by position.
    assert list(model.state_dict()) == [key for key in shapes if not key.startswith(ALIASES)]

    model.load_state_dict(filled_state(shapes), strict=True)
    with torch.no_grad():
        logits = model(reference_input())

    assert relative_error(logits[:, :, ::4, ::4], torch.from_numpy(reference["logits"])) < 1e-5
    assert logits.mean().item() == pytest.approx(float(reference["full_mean"]), rel=1e-3)
    assert logits.std().item() == pytest.approx(float(reference["full_std"]), rel=1e-3)


def test_mobilenet_repeated_keys_win_and_the_given_dict_stays(mobilenet_state):
    given = dict(mobilenet_state)
    model = DeepLab(21, "mobilenet")
    model.load_state_dict(given, strict=True)
    assert given.keys() == mobilenet_state.keys()
    loaded = model.state_dict()
    for layer, alias in [("0.0", "low_level"), ("3.conv.3", "low_level"), ("4.conv.0", "high_level")]:
        own, repeated = f"backbone.features.{layer}.weight", f"backbone.{alias}_features.{layer}.weight"
        assert not torch.equal(given[own], given[repeated])
        assert torch.equal(loaded[own], given[repeated])


def test_mobilenet_loads_each_naming_alone_and_under_a_prefix(mobilenet_state):
    single = {key: value for key, value in mobilenet_state.items() if not key.startswith(ALIASES)}
    repeated = {key: value for key, value in mobilenet_state.items() if not key.startswith("backbone.features.")}
    model = DeepLab(21, "mobilenet")
    for state in (single, repeated):
        model.load_state_dict(state, strict=True)
    wrapped = nn.ModuleDict({"module": model})
    wrapped.load_state_dict({f"module.{key}": value for key, value in repeated.items()}, strict=True)


@pytest.mark.parametrize("extra", ["backbone.high_level_features.99.conv.0.weight", "backbone.middle.0.weight", "foo"])
def test_mobilenet_refuses_other_keys(mobilenet_state, extra):
    model = DeepLab(21, "mobilenet")
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**mobilenet_state, extra: torch.zeros(1)}, strict=True)
    lacking = {key: value for key, value in mobilenet_state.items() if "features.5.conv.3.weight" not in key}
    with pytest.raises(RuntimeError, match="Missing key.*backbone.features.5.conv.3.weight"):
        model.load_state_dict(lacking, strict=True)


def test_only_the_classifier_depends_on_the_number_of_classes():
    few, many = DeepLab(2).state_dict(), DeepLab(21).state_dict()
    assert few.keys() == many.keys()
    assert {key for key in few if few[key].shape != many[key].shape} == set(DeepLab.classifier_keys)


# Batch norms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync_bn", [False, True])
def test_freeze_bn_holds_through_train(sync_bn):
    norm = nn.SyncBatchNorm if sync_bn else nn.BatchNorm2d

    def statistics_after_a_step(freeze_bn):
        torch.manual_seed(0)
        model = DeepLab(3, "mobilenet", sync_bn=sync_bn, freeze_bn=freeze_bn)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.eval().train()
        assert model.training and model.decoder.last_conv[3].training
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(2, 3, 33, 33)).square().mean().backward()
        optimizer.step()
        norms = {name for name, layer in model.named_modules() if isinstance(layer, norm)}
        assert norms and any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) != sync_bn
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        statistics = {f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var")}
        scales = {f"{name}.weight" for name in norms}
        return changed, statistics, scales

    changed, statistics, scales = statistics_after_a_step(freeze_bn=True)
    assert not changed & statistics
    assert changed & scales
    changed, statistics, _ = statistics_after_a_step(freeze_bn=False)
    assert statistics <= changed


# Bad arguments ----------------------------------------------------------------------------------------------------


def test_unknown_backbone_and_stride_name_what_is_supported():
    with pytest.raises(InputError, match="mobilenet, resnet, xception, drn.*'vgg'"):
        DeepLab(21, "vgg")
    with pytest.raises(InputError, match="16, 8.*32"):
        DeepLab(21, "mobilenet", output_stride=32)
    with pytest.raises(InputError, match="'vgg'"):
        default_pretrained("vgg")


# Pretrained weights -----------------------------------------------------------------------------------------------

TORCHVISION = {  # our backbone: torchvision's builder, what of it is not used, our last layer of equal geometry, theirs
    "mobilenet": (torchvision.models.mobilenet_v2, ("features.18.", "classifier."), "features.13", "features.13"),
    "resnet": (torchvision.models.resnet101, ("fc.",), "layer3", "layer3"),
}


@pytest.fixture(scope="module", params=TORCHVISION)
def published(request, tmp_path_factory):
    """(our name, torchvision's network with random weights, its file under the name of the published one)."""
    name = request.param
    network = TORCHVISION[name][0](weights=None)
    fill(network)
    map_zero_below_zero(network)  # torchvision's mobilenet pads after the expansion: this makes it the same
    path = tmp_path_factory.mktemp(name) / Path(BACKBONES[name].imagenet_url()).name
    torch.save(network.state_dict(), path)
    yield name, network, path
    path.unlink()


def place_in_hub(path):
    folder = Path(torch.hub.get_dir(), "checkpoints")
    folder.mkdir(parents=True)
    os.link(path, folder / path.name)


def test_imagenet_weights_from_the_hub_folder_are_torchvisions(published):
    name, network, path = published
    _, unused, our_layer, their_layer = TORCHVISION[name]
    place_in_hub(path)
    ours = DeepLab(21, name, pretrained="imagenet").backbone

    theirs = [(key, value) for key, value in network.state_dict().items() if not key.startswith(unused)]
    assert len(theirs) == len(ours.state_dict())
    for (their_key, their_value), (our_key, our_value) in zip(theirs, ours.state_dict().items(), strict=True):
        assert torch.equal(our_value, their_value), (our_key, their_key)

    image = torch.randn(1, 3, 65, 97)
    expected = features_up_to(network, their_layer, image)
    assert relative_error(features_up_to(ours, our_layer, image), expected) < 1e-5


def test_file_in_torchvisions_or_our_naming(published, tmp_path):
    name, _, path = published
    first, second = build_backbone(name, 16), build_backbone(name, 8)
    load_pretrained(first, path)
    own = tmp_path / "own.pth"
    torch.save(first.state_dict(), own)
    load_pretrained(second, str(own))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_files_older_than_the_batch_counters(published, tmp_path):
    name, network, _ = published
    old = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    load_pretrained(build_backbone(name, 16), tmp_path / "old.pth")


@pytest.mark.parametrize("name, classifier", [("drn", ["fc.weight", "fc.bias"]), ("xception", [])])
def test_file_for_the_other_backbones(name, classifier, tmp_path):
    source, target = build_backbone(name, 16), build_backbone(name, 16)
    weights = source.state_dict() | {key: torch.zeros(1) for key in classifier}
    torch.save(weights, tmp_path / "weights.pth")
    load_pretrained(target, tmp_path / "weights.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_default_pretrained():
    defaults = {name: default_pretrained(name) for name in ORIGINALS}
    assert defaults == {"mobilenet": "imagenet", "resnet": "imagenet", "xception": "none", "drn": "imagenet"}


@pytest.mark.parametrize("name", ["mobilenet", "resnet", "drn"])
def test_failed_download_says_so(name):
    with pytest.raises(InputError, match="could not be downloaded.*no network.*--pretrained none") as caught:
        DeepLab(21, name, pretrained=default_pretrained(name))
    assert BACKBONES[name].imagenet_url() in str(caught.value)
    assert torch.hub.get_dir() in str(caught.value)
    assert ("--pretrained bundled" in str(caught.value)) == (name == "mobilenet")
    assert "\n" not in caught.value.args[0]


def test_xception_has_no_imagenet_weights():
    with pytest.raises(InputError, match="no ImageNet weights.*'none' or the path of a file"):
        DeepLab(21, "xception", pretrained="imagenet")


class Unpickled:
    """Leaves a mark when a file is unpickled without care."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "code"])
@pytest.mark.parametrize("where", ["hub", "file"])
def test_unreadable_weights_are_refused(damage, where, tmp_path):
    name = Path(BACKBONES["mobilenet"].imagenet_url()).name
    path = tmp_path / name
    mark = tmp_path / "mark"
    torch.save(Unpickled(mark) if damage == "code" else {"a": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>", "code": content}[damage]
    )
    if where == "hub":
        place_in_hub(path)
    with pytest.raises(InputError, match="cannot be read") as caught:
        DeepLab(21, "mobilenet", pretrained="imagenet" if where == "hub" else path)
    assert name in str(caught.value) and "\n" not in caught.value.args[0]
    assert not mark.exists()


def edited(weights, edit):
    if edit == "lacking":
        return {key: value for key, value in weights.items() if key != "features.5.conv.3.weight"}
    if edit == "surplus":
        return weights | {"features.5.conv.9.weight": torch.zeros(1)}
    if edit == "other size":
        return weights | {"features.5.conv.3.weight": torch.zeros(1, 2, 3, 3)}
    if edit == "other network":
        return {"conv1.weight": torch.zeros(1)}
    return {"state_dict": weights, "epoch": 3}


@pytest.mark.parametrize(
    "edit, message",
    [
        ("lacking", r"missing features\.5\.conv\.3\.weight; unexpected none"),
        ("surplus", r"missing none; unexpected features\.5\.conv\.9\.weight"),
        ("other size", r"size mismatch for features\.5\.conv\.3\.weight"),
        ("other network", r"missing .* and \d+ more; unexpected conv1\.weight"),
        ("checkpoint", r"state dict.*--resume"),
    ],
)
def test_weights_that_do_not_fit_are_refused(edit, message, tmp_path):
    backbone = build_backbone("mobilenet", 16)
    torch.save(edited(backbone.state_dict(), edit), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message) as caught:
        load_pretrained(backbone, tmp_path / "weights.pth")
    assert "weights.pth" in str(caught.value) and "\n" not in caught.value.args[0]


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="'imagenet', 'none' or a file.*absent.pth"):
        DeepLab(21, "mobilenet", pretrained=tmp_path / "absent.pth")
