"""The ImageNet weights in data/weights: what they are, and the conversion that made them."""

import importlib.util
import math
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.errors import InputError
from dataloaders.synthetic import draw_dataset
from dataloaders.transforms import normalize
from modeling.backbone import build_backbone
from modeling.backbone.mobilenet import PUBLISHED_HEAD
from modeling.pretrained import BUNDLED, load_pretrained

FILE = BUNDLED / "mobilenet_v2.pth"


@pytest.fixture(scope="module")
def conversion():
    """data/weights/from_keras.py, without the package that reads Keras's files."""
    spec = importlib.util.spec_from_file_location("from_keras", BUNDLED / "from_keras.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "h5py", types.ModuleType("h5py"))
        sys.modules["h5py"].Group = sys.modules["h5py"].File = None
        spec.loader.exec_module(module)
    return module


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's mobilenet, without what comes after the features."""
    from torchvision.models import mobilenet_v2

    state = mobilenet_v2(weights=None).state_dict()
    unused = (*PUBLISHED_HEAD, "num_batches_tracked")
    return {
        name: tuple(value.shape)
        for name, value in state.items()
        if not name.startswith(unused) and not name.endswith(unused)
    }


def keras_model() -> dict[str, dict[str, np.ndarray]]:
    """Random weights by the names of Keras's mobilenet."""
    rng = np.random.default_rng(0)
    model: dict[str, dict[str, np.ndarray]] = {}
    for name, shape in published_shapes().items():
        _, block, *layer = name.removesuffix(".weight").split(".")
        if not name.endswith(".weight") or len(shape) == 1:
            continue
        if block == "0":
            kernel, norm = "Conv1", "bn_Conv1"
        else:
            place = int(layer[1]) + (block == "1")
            part = ("expand", "depthwise", "project")[place]
            kernel = f"{'expanded_conv' if block == '1' else f'block_{int(block) - 1}'}_{part}"
            norm = f"{kernel}_BN"
        size = shape[0]
        depthwise = shape[1] == 1 and "depthwise" in kernel
        model[kernel] = {"kernel": rng.normal(size=shape).transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))}
        model[norm] = {name: rng.uniform(0.5, 2, size) for name in ("gamma", "moving_variance")}
        model[norm] |= {name: rng.normal(size=size) for name in ("beta", "moving_mean")}
    return model


def test_conversion_has_torchvisions_names_and_shapes(conversion):
    weights = conversion.convert(keras_model())
    assert {name: tuple(value.shape) for name, value in weights.items()} == published_shapes()


def test_conversion_folds_normalisation_padding_and_epsilon(conversion):
    """The first convolution and its batch norm, worked out by Keras's rules on one image."""
    model = keras_model()
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    padded = np.pad(image / 127.5 - 1, ((0, 1), (0, 1), (0, 0)))  # bottom and right
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2]  # (4, 4, channel, row, column)
    sums = np.einsum("yxcij,ijco->oyx", patches, model["Conv1"]["kernel"])
    norm = {name: values[:, None, None] for name, values in model["bn_Conv1"].items()}
    expected = (sums - norm["moving_mean"]) / np.sqrt(norm["moving_variance"] + 1e-3) * norm["gamma"] + norm["beta"]

    backbone = build_backbone("mobilenet", 16)
    weights = {name: value.float() for name, value in conversion.convert(model).items()}
    backbone.load_state_dict(backbone.from_published(weights), strict=False)
    shifted = torch.from_numpy(image[1:, 1:].copy()).permute(2, 0, 1)[None]  # half a stride
    first = backbone.eval().features[0][:2]
    found = first(normalize(shifted))[0].detach().numpy()
    assert found.shape == (32, 4, 4)
    # Away from the border, where one pads with grey and the other with ImageNet's mean colour.
    np.testing.assert_allclose(found[:, 1:3, 1:3], expected[:, 1:3, 1:3], atol=0.02)  # half precision


def test_shipped_file_is_small_and_complete():
    weights = torch.load(FILE, weights_only=True)
    assert {name: tuple(value.shape) for name, value in weights.items()} == published_shapes()
    assert all(value.dtype == torch.float16 and value.isfinite().all() for value in weights.values())
    assert all((weights[name] > 0).all() for name in weights if name.endswith("running_var"))
    assert FILE.stat().st_size < 4_000_000
    assert {"NOTICE.md", "APACHE-2.0.txt"} < {path.name for path in BUNDLED.iterdir()}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    """Cut-outs of drawn objects, uint8 (n, 3, 96, 96), and their classes, int64 (n,)."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, seed=5, train=60, val=1)
    images, classes = [], []
    for path in sorted(folder.glob("JPEGImages/train*")):
        image = Image.open(path)
        truth = np.array(Image.open(folder / "SegmentationClassAug" / f"{path.stem}.png"))
        for label in np.unique(truth[(truth > 0) & (truth < 255)]):
            mask = Image.fromarray(truth == label)
            if np.count_nonzero(mask) > 300:
                images.append(np.array(image.crop(mask.getbbox()).resize((96, 96))))
                classes.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(classes, dtype=torch.long)


def nearest_neighbour_accuracy(features: torch.Tensor, classes: torch.Tensor, neighbours: int = 5) -> float:
    """Return how often the majority of the nearest others, by cosine, has the class."""
    similarity = F.normalize(features) @ F.normalize(features).T
    votes = classes[similarity.fill_diagonal_(-2).topk(neighbours).indices].mode(1).values
    return (votes == classes).float().mean().item()


def test_bundled_features_tell_drawn_classes_apart(objects):
    """Measured when the weights were made: 98 %, and 21 to 35 % of random weights."""
    images, classes = objects
    torch.manual_seed(0)
    accuracy = {}
    for source in ("none", "bundled"):
        backbone = build_backbone("mobilenet", 16)
        load_pretrained(backbone, source)
        with torch.inference_mode():
            deep, _ = backbone.eval()(normalize(images))
        accuracy[source] = nearest_neighbour_accuracy(deep.mean((2, 3)), classes)
    assert len(classes) > 60 and len(classes.unique()) == 4
    assert accuracy["bundled"] > 0.9 and accuracy["none"] < 0.6


def test_bundled_batch_norm_fits_normalised_images(objects):
    """Activations after the first batch norm have about the scale that it was trained for; of raw images, not."""
    backbone = build_backbone("mobilenet", 16)
    load_pretrained(backbone, "bundled")
    convolution, norm = backbone.features[0][:2]

    def spread(images: torch.Tensor) -> float:
        sums = convolution(images)
        standard = (sums - norm.running_mean[:, None, None]) / norm.running_var[:, None, None].sqrt()
        return standard.square().mean().sqrt().item()

    with torch.inference_mode():
        assert 0.5 < spread(normalize(objects[0])) < 2
        assert spread(objects[0].float()) > 10


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """Regression: the first loss was not a number, and the advice a lower --lr."""
    weights = build_backbone("mobilenet", 16).state_dict()
    weights["features.3.conv.0.weight"][0] = math.nan
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match="w.pth: expected finite weights, found features.3.conv.0.weight"):
        load_pretrained(build_backbone("mobilenet", 16), tmp_path / "w.pth")


def test_bundled_is_for_mobilenet_and_says_so():
    with pytest.raises(InputError, match="'bundled'.*mobilenet alone, not for ResNet101; use 'imagenet'"):
        load_pretrained(build_backbone("resnet", 16), "bundled")


def test_bundled_without_its_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("modeling.pretrained.BUNDLED", tmp_path)
    with pytest.raises(InputError, match="'bundled', 'imagenet', 'none' or a file, found no file.*mobilenet_v2.pth"):
        load_pretrained(build_backbone("mobilenet", 16), "bundled")
