"""The paper's networks from Caffe: their scores, what learns how, first weights and their files, losses."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import nn

from helpers import message
from losses.cross_entropy import PartialCrossEntropy
from modeling.caffemodel import read_caffemodel
from modeling.checkpoint import load_checkpoint, load_network, load_weights
from modeling.networks import NETWORKS, build_network
from modeling.pretrained import load_pretrained
from reference.fill_state import FOLDER, filled_state
from training.step import TrainingStep

NAMES = ("largefov", "msc_largefov", "vgg16", "resnet101_v2")
CLASSES = 21


def relative_error(found: torch.Tensor, expected: np.ndarray | torch.Tensor) -> float:
    expected = torch.as_tensor(expected)
    return float((found - expected).norm() / expected.norm())


def make(name: str, classes: int = CLASSES, **how) -> nn.Module:
    torch.manual_seed(0)
    return build_network({"network": name, "num_classes": classes}, **how)


def caffe_weights(name: str) -> dict[str, torch.Tensor]:
    return filled_state(json.loads((FOLDER / f"keys_{name}.json").read_text()))


def image_for(network: nn.Module, bgr: torch.Tensor) -> torch.Tensor:
    """The normalised RGB image that enters the first convolution as `bgr` minus the mean."""
    return (bgr.flip(1) - network.shift) / network.scale


FIRST: dict[str, dict[str, torch.Tensor]] = {}  # what classifiers and branches of these networks start from


@pytest.fixture(scope="module", params=NAMES)
def filled(request):
    """A network's name, and the network with the weights of the reference scores, in evaluation mode."""
    network = make(request.param).eval()
    own = network.state_dict()
    FIRST[request.param] = {key: own[key].clone() for key in {*network.classifier_keys, *network.optional_keys}}
    load_weights(network, network.from_published(caffe_weights(request.param)), "the reference")
    return request.param, network


# Graphs


def test_scores_are_the_originals(filled):
    name, network = filled
    reference = np.load(FOLDER / f"scores_{name}.npz")
    bgr = torch.from_numpy(np.random.RandomState(20182).standard_normal((1, 3, 65, 97)) * 50).float()
    with torch.no_grad():
        output, logits = network(image_for(network, bgr), for_training=True), network(image_for(network, bgr))
    expected = [reference[key] for key in reference.files if key.startswith("scores_train")]
    assert all(relative_error(ours, theirs) < 1e-5 for ours, theirs in zip(output.scores, expected, strict=True))
    assert relative_error(output.logits[:, :, ::8, ::8], expected[0]) < 1e-5
    assert relative_error(logits[:, :, ::4, ::4], reference["scores_test"]) < 1e-5
    assert logits.mean().item() == pytest.approx(float(reference["full_mean"]), rel=1e-3)
    assert logits.std().item() == pytest.approx(float(reference["full_std"]), rel=1e-3)
    assert torch.equal(logits, output.logits) == (name != "msc_largefov")  # which alone has two graphs


def test_other_sizes_are_padded_with_the_mean_colour(filled):
    name, network = filled
    image = torch.randn(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    sides = (33, 33) if name == "resnet101_v2" else (25, 33)
    padded = image_for(network, torch.zeros(1, 3, *sides))
    padded[:, :, :20, :30] = image
    with torch.no_grad():
        assert relative_error(network(image), network(padded)[:, :, :20, :30]) < 1e-4
        output = network(image, for_training=True)
    assert output.logits.shape == (1, CLASSES, 20, 30)
    strides = network.score_strides
    assert [scores.shape[2] for scores in output.scores] == [(sides[0] - 1) // stride + 1 for stride in strides]


# What learns, and how


def test_rates_and_weight_decay(filled):
    name, network = filled
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    groups = network.parameter_groups(head_rate=10)
    found = {names[id(p)]: (group["lr_scale"], group.get("weight_decay")) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    learning = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    assert found.keys() == learning
    for key, (rate, decay) in found.items():
        classifies = key in network.classifier_keys and name != "msc_largefov"
        bias = key.endswith(".bias")
        assert rate == (10 if classifies else 1) * (2 if bias else 1), key
        assert decay == (0 if bias else None), key
    frozen = set(names.values()) - learning
    if name == "msc_largefov":
        assert frozen == set(make("largefov").state_dict())
    else:
        assert all(".bn" in key or "downsample.1" in key for key in frozen)
        assert len(frozen) == (2 * 104 if name == "resnet101_v2" else 0)


def test_gaussian_first_weights(filled):
    name, network = filled
    for key, value in FIRST[name].items():
        if key.endswith("bias"):
            assert not value.any(), key
            continue
        expected = 0.001 if ".conv." in key or ".fc." in key else 0.01
        expected = 0.005 if key == "branches.pool4.fc.weight" else expected
        assert value.std().item() == pytest.approx(expected, rel=0.05), key


# First weights


def torchvisions_vgg() -> dict[str, torch.Tensor]:
    """Weights with the names and shapes of torchvision's VGG-16; those of its largest layers take no memory."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.vgg16().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items() if "fe" in name}
    for layer in (0, 3, 6):
        rows, columns = shapes[f"classifier.{layer}.weight"]
        weights[f"classifier.{layer}.weight"] = torch.arange(columns).float().expand(rows, columns)
        weights[f"classifier.{layer}.bias"] = torch.arange(rows).float()
    return weights


@pytest.mark.parametrize("name", ["largefov", "vgg16"])
def test_torchvisions_vgg_sees_rgb_and_ours_bgr(name, tmp_path):
    weights = torchvisions_vgg()
    network = make(name).eval()
    network.load_state_dict(network.from_published(weights), strict=False)
    image = torch.randn(1, 3, 17, 25)
    with torch.no_grad():
        first = network.trunk.conv1_1((image * network.scale + network.shift).flip(1)).relu()
        expected = F.conv2d(image, weights["features.0.weight"], weights["features.0.bias"], padding=1).relu()
    assert relative_error(first[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1]) < 1e-5
    ours = dict(network.trunk.named_children())
    assert torch.equal(ours["conv5_3"].weight, weights["features.28.weight"])
    for head in network.heads if name == "vgg16" else [network.head]:
        # Row 3 r and column 3 c of channel k is column 49 k + 21 r + 3 c of torchvision's fc6.
        assert head.fc6.weight[7, 5].tolist() == [[245 + 21 * r + 3 * c for c in range(3)] for r in range(3)]
        assert head.fc7.weight[7, :3, 0, 0].tolist() == [0, 4, 8]
        assert head.fc6.bias[:3].tolist() == head.fc7.bias[:3].tolist() == [0, 4, 8]
    for wrong in ({"features.30.weight": torch.zeros(1)}, {"features.28.weight": torch.zeros(3, 3)}):
        torch.save({key: value.clone() for key, value in weights.items() if "fe" in key} | wrong, tmp_path / "w.pth")
        assert "w.pth does not fit" in message(load_pretrained, network, tmp_path / "w.pth")


def test_torchvisions_resnet_sees_rgb_and_ours_bgr(tmp_path):
    theirs = torchvision.models.resnet101().eval()
    nn.init.uniform_(theirs.bn1.running_mean)
    torch.save(theirs.state_dict(), tmp_path / "resnet101.pth")
    network = make("resnet101_v2", pretrained=tmp_path / "resnet101.pth").eval()
    image = torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        expected, ours = image, (image * network.scale + network.shift).flip(1)
        for layer in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            expected, ours = getattr(theirs, layer)(expected), getattr(network.trunk, layer)(ours)
    assert relative_error(ours[..., 5:-5, 5:-5], expected[..., 5:-5, 5:-5]) < 1e-5
    assert torch.equal(network.trunk.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)
    torch.save({"layer1.0.conv1.weight": theirs.layer1[0].conv1.weight.detach()}, tmp_path / "other.pth")
    assert "missing trunk.conv1.weight" in message(load_pretrained, network, tmp_path / "other.pth")


def test_msc_starts_from_a_trained_largefov(tmp_path, caplog):
    largefov = make("largefov", 3)
    torch.save({"epoch": 1, "state_dict": largefov.state_dict(), "model": {}}, tmp_path / "largefov.pth.tar")
    with caplog.at_level("INFO"):
        network = make("msc_largefov", 3, pretrained=tmp_path / "largefov.pth.tar")
    assert "branches.data.conv.weight, " in caplog.text and "start from random weights" in caplog.text
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in largefov.state_dict().items())
    # It does not learn, so that it cannot start afresh.
    assert "largefov.pth.tar does not fit" in message(make, "msc_largefov", 4, pretrained=tmp_path / "largefov.pth.tar")
    other = own | {key: own[key].repeat_interleave(2, dim=0) for key in network.classifier_keys}
    text = message(load_weights, network, other, "FILE", new_classifier=True)
    assert text == "FILE: head.fc8.weight does not learn in this network; train it for these classes first"
    assert "give that network's checkpoint with --pretrained FILE" in message(network.default_pretrained)
    assert "no ImageNet weights are published for MScLargeFOV" in message(load_pretrained, network, "imagenet")


@pytest.mark.parametrize(
    ("network", "theirs", "ours"),
    [
        ("largefov", "fc8_voc12", ["head.fc8"]),
        ("msc_largefov", "pool3_conv", ["branches.pool3.conv"]),
        ("vgg16", "fc8_voc12_3", ["heads.2.fc8"]),
        ("vgg16", "fc6", ["heads.0.fc6", "heads.1.fc6", "heads.2.fc6", "heads.3.fc6"]),
        ("resnet101_v2", "fc1_voc12_c2", ["fc1.2"]),
        ("resnet101_v2", "scale4b22_branch2a", ["trunk.layer3.22.bn1"]),
        ("resnet101_v2", "bn5c_branch2c", ["trunk.layer4.2.bn3"]),
    ],
)
def test_names_in_the_authors_files(network, theirs, ours):
    found = NETWORKS[network].from_published({f"{theirs}.bias": torch.zeros(1)})
    assert sorted(found) == [f"{layer}.bias" for layer in ours]


# .caffemodel files, as Google's library writes them from Caffe's definition of the messages

REPEATED, OPTIONAL = 3, 1
FLOAT, DOUBLE, INT64, INT32, STRING, ENUM_AS_INT, MESSAGE = 2, 1, 3, 5, 9, 5, 11
MESSAGES = {
    "BlobShape": [("dim", 1, REPEATED, INT64)],
    "BlobProto": [
        *[(name, i, OPTIONAL, INT32) for i, name in enumerate(("num", "channels", "height", "width"), 1)],
        *[("data", 5, REPEATED, FLOAT), ("diff", 6, REPEATED, FLOAT), ("double_data", 8, REPEATED, DOUBLE)],
        ("shape", 7, OPTIONAL, "BlobShape"),
    ],
    "LayerParameter": [
        *[("name", 1, OPTIONAL, STRING), ("type", 2, OPTIONAL, STRING), ("loss_weight", 5, REPEATED, FLOAT)],
        ("blobs", 7, REPEATED, "BlobProto"),
    ],
    "V1LayerParameter": [
        *[("bottom", 2, REPEATED, STRING), ("name", 4, OPTIONAL, STRING), ("type", 5, OPTIONAL, ENUM_AS_INT)],
        ("blobs", 6, REPEATED, "BlobProto"),
    ],
    "NetParameter": [
        *[("name", 1, OPTIONAL, STRING), ("layers", 2, REPEATED, "V1LayerParameter")],
        ("layer", 100, REPEATED, "LayerParameter"),
    ],
}


@pytest.fixture(scope="module")
def caffe():
    """The classes of Caffe's messages by name."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in MESSAGES.items():
        kind = file.message_type.add(name=name)
        for field, number, label, what in fields:
            of = {"type": MESSAGE, "type_name": f".caffe.{what}"} if isinstance(what, str) else {"type": what}
            added = kind.field.add(name=field, number=number, label=label, **of)
            if label == REPEATED and what in (FLOAT, DOUBLE, INT64):
                added.options.packed = field != "double_data"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in MESSAGES}


def blob(caffe, value: torch.Tensor, old: bool = False):
    made = caffe["BlobProto"](data=value.flatten().tolist(), diff=[1.0])
    if old:
        made.num, made.channels, made.height, made.width = (1,) * (4 - value.dim()) + tuple(value.shape)
    else:
        made.shape.dim.extend(value.shape)
    return made


def test_new_and_old_files_are_read(caffe, tmp_path):
    weight, bias = torch.randn(2, 3, 1, 1), torch.randn(2)
    net = caffe["NetParameter"](name="net")
    net.layer.add(name="data", type="Data")
    net.layer.add(name="conv", type="Convolution", blobs=[blob(caffe, weight), blob(caffe, bias)], loss_weight=[1.0])
    net.layer.add(name="bn", type="BatchNorm", blobs=[blob(caffe, v) for v in (bias, bias**2, torch.tensor([4.0]))])
    net.layer.add(name="scale", type="Scale", blobs=[blob(caffe, bias), blob(caffe, -bias)])
    net.layer.add(name="conv_res075", type="Convolution", blobs=[blob(caffe, weight), blob(caffe, bias)])
    double = net.layer.add(name="double").blobs.add(double_data=[0.5, 2.0])
    double.shape.dim.append(2)
    path = tmp_path / "new.caffemodel"
    path.write_bytes(net.SerializeToString())
    expected = {"conv.weight": weight, "conv.bias": bias, "bn.running_mean": bias / 4, "bn.running_var": bias**2 / 4}
    expected |= {"scale.weight": bias, "scale.bias": -bias, "double.weight": torch.tensor([0.5, 2.0])}
    found = read_caffemodel(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())

    old = caffe["NetParameter"](name="old")
    blobs = [blob(caffe, weight, old=True), blob(caffe, bias, old=True)]
    old.layers.add(name="conv", type=4, bottom=["data"], blobs=blobs)
    path.write_bytes(old.SerializeToString())
    found = read_caffemodel(path)
    assert torch.equal(found["conv.weight"], weight) and torch.equal(found["conv.bias"], bias)

    net.layer[4].blobs[0].data[0] += 1
    path.write_bytes(net.SerializeToString())
    assert message(read_caffemodel, path).endswith(
        "expected in the layer conv_res075 the weights of conv, found others"
    )


def test_what_is_no_caffemodel_is_refused(caffe, tmp_path):
    net = caffe["NetParameter"](name="net")
    net.layer.add(name="conv", type="Convolution", blobs=[blob(caffe, torch.randn(2, 3, 1, 1))])
    whole = net.SerializeToString()
    path = tmp_path / "x.caffemodel"
    for content in (whole[:-3], b"<html>404</html>", b"\xff" * 30, b"\x0f" + whole):
        path.write_bytes(content)
        assert "x.caffemodel: expected a .caffemodel file" in message(read_caffemodel, path)
    path.write_bytes(b"")
    assert "found none in it" in message(read_caffemodel, path)
    net.layer[0].blobs[0].shape.dim[0] = 3
    path.write_bytes(net.SerializeToString())
    assert "expected a .caffemodel file" in message(read_caffemodel, path)
    assert "cannot be read" in message(read_caffemodel, tmp_path / "absent.caffemodel")
    net.layer[0].blobs[0].shape.dim[0] = 2
    path.write_bytes(net.SerializeToString())
    text = message(load_checkpoint, path)
    assert "expected the layers of one of largefov, msc_largefov, vgg16, resnet101_v2, found conv.weight" in text


def test_the_authors_file_of_a_network_is_a_checkpoint_and_first_weights(caffe, tmp_path):
    weights = {key: value.half().float() for key, value in caffe_weights("largefov").items() if "fc" not in key}
    weights |= {key: torch.zeros(shape) for key, shape in FULLY_CONNECTED.items()}
    net = caffe["NetParameter"]()
    for name in dict.fromkeys(key.rpartition(".")[0] for key in weights):
        layer = net.layer.add(name=name.replace("fc8", "fc8_voc12"), type="Convolution")
        for kind in ("weight", "bias"):
            value = weights[f"{name}.{kind}"]
            made = layer.blobs.add()
            made.shape.dim.extend(value.shape)
            made.MergeFromString(packed_data(value))
    path = tmp_path / "train_iter_9000.caffemodel"
    path.write_bytes(net.SerializeToString())
    network, settings = load_network(path)
    assert (settings["network"], settings["num_classes"], settings["short_side"]) == ("largefov", 4, 0)
    assert torch.equal(network.trunk.conv3_2.weight, weights["conv3_2.weight"])
    again = make("largefov", 7, pretrained=path)  # of other classes: a new classifier
    assert torch.equal(again.head.fc7.bias, torch.zeros(1024)) and again.head.fc8.weight.any()
    net.layer[3].name = "elsewhere"
    path.write_bytes(net.SerializeToString())
    text = message(load_pretrained, again, path)
    assert "missing trunk.conv2_2.weight, trunk.conv2_2.bias; unexpected elsewhere.weight, elsewhere.bias" in text
    path.unlink()


def packed_data(value: torch.Tensor) -> bytes:
    """The field `data` of a blob, for the library to read: it takes seconds to be given millions of numbers."""
    length, content = [], value.numpy().tobytes()
    rest = len(content)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([5 << 3 | 2, *length, rest]) + content


FULLY_CONNECTED = {
    **{"fc6.weight": (1024, 512, 3, 3), "fc6.bias": (1024,), "fc7.weight": (1024, 1024, 1, 1), "fc7.bias": (1024,)},
    **{"fc8.weight": (4, 1024, 1, 1), "fc8.bias": (4,)},
}


# Losses


class Spy(nn.Module):
    """A regulariser that keeps the probabilities."""

    def forward(self, image, probabilities, region_of_interest):
        self.probabilities = probabilities.detach()
        return probabilities.square().sum((1, 2, 3)).mean()


def test_a_step_on_each_score_and_the_regulariser_on_the_enlarged_ones(filled):
    name, network = filled  # in evaluation mode, without dropout
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(CLASSES, (2, 33, 33), generator=generator, dtype=torch.uint8)
    label[0, :, 17:], label[1, :9] = 254, 255
    image = torch.randint(256, (2, 3, 33, 33), generator=generator, dtype=torch.uint8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    learning = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    with torch.no_grad():
        inputs = (image / 255 - mean) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        output = network(inputs, for_training=True)
    expected = 0.0
    for scores, stride in zip(output.scores, network.score_strides, strict=True):
        log = scores.log_softmax(1)
        losses = [
            -log[n, int(label[n, y * stride, x * stride]), y, x].item()
            for n in range(2)
            for y in range(scores.shape[2])
            for x in range(scores.shape[3])
            if label[n, y * stride, x * stride] < 254
        ]
        expected += sum(losses) / len(losses)

    for parts in (1, 2) if name == "largefov" else (1,):
        seen, spy = [], Spy()
        criterion = PartialCrossEntropy(ignore_index=255, reduction="mean")
        optimizer = torch.optim.SGD(network.parameter_groups(), lr=1.0, weight_decay=5e-4)
        how = {"score_strides": network.score_strides, "inspect": lambda terms, scores, seen=seen: seen.append(scores)}
        step = TrainingStep(network, optimizer, criterion, {"spy": spy}, accumulate=parts, **how)
        losses = step({"image": image, "label": label})
        moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
        network.load_state_dict(before)
        assert losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-3)
        assert torch.allclose(spy.probabilities, output.logits[2 - len(spy.probabilities) :].softmax(1), atol=1e-3)
        assert seen[0].shape[1:] == output.scores[0].shape[1:]
        assert moved <= learning and {key for key in learning if key.endswith("weight")} <= moved
