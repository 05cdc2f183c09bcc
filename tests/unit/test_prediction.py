"""Prediction: which files, tiles, scales and mirroring, and back to the image's size; ONNX."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common.errors import InputError
from dataloaders.images import image_size
from dataloaders.options import DataOptions
from dataloaders.transforms import normalize
from helpers import message
from modeling.checkpoint import load_network
from modeling.deeplab import DeepLab
from modeling.network import Network
from modeling.networks import build_network
from prediction import export, predict, probabilities, segment
from prediction.files import ImageFiles, find_images, network_view, output_names
from prediction.options import InferenceOptions, RefinementOptions
from prediction.predict import keep_scribbles, labels_and_confidence, labels_on_scribbles, tile_starts
from prediction.segmenter import Segmenter

NAMES = ["background", "cat", "dog"]


# Files and names


def test_files_folders_and_patterns_name_each_image_once(tmp_path):
    for name in ("a.jpg", "b.PNG", "deep/er/c.tif", "notes.txt", ".trash/d.jpg", "deep/.e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "odd[1].jpg").touch()

    def found(*words):
        return [file.relative_to(tmp_path).as_posix() for file in find_images([str(tmp_path / w) for w in words])]

    assert found("") == ["a.jpg", "b.PNG", "deep/er/c.tif", "odd[1].jpg"]
    assert found("*.jpg", "a.jpg", "deep/../b.PNG") == ["a.jpg", "odd[1].jpg", "deep/../b.PNG"]
    assert found("**/c.*") == ["deep/er/c.tif"]
    assert found("odd[1].jpg") == ["odd[1].jpg"]  # a file before a pattern
    assert found("absent.jpg", "notes.txt") == ["absent.jpg", "notes.txt"]  # reported when it is read
    (tmp_path / "empty").mkdir()
    for word, said in (("empty", "none in the folder"), ("*.gif", "no file that matches")):
        with pytest.raises(InputError, match=said):
            found(word)


def test_folders_are_searched_behind_links_and_what_is_not_read_is_said(tmp_path, caplog):
    """Regression: linked folders, and photographs in HEIC or JPEG 2000, were left out without a word."""
    for name in ("photos/a.jpg", "photos/b.HEIC", "photos/d.heic", "photos/e.jp2", "photos/f", "elsewhere/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "photos")
    names = [file.name for file in find_images([str(tmp_path / "photos")])]
    assert names == ["a.jpg", "c.jpg"]
    assert "passed over files of kinds that are not read: 2 .heic, 1 .jp2, 1 without a suffix" in caplog.text


def test_each_name_of_a_file_is_an_image_and_a_link_to_itself_is_reported_when_it_is_read(tmp_path):
    """Regression: of two links to one file, one had no result."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    for name in ("first.png", "second.png"):
        (tmp_path / "photos" / name).symlink_to(tmp_path / "a.png")
    (tmp_path / "photos/third.png").symlink_to("third.png")
    (tmp_path / "same").symlink_to(tmp_path / "photos")
    found = find_images([str(tmp_path / word) for word in ("photos", "same", "photos/first.png")])
    assert [file.name for file in found] == ["first.png", "second.png", "third.png"]
    assert "cannot read" in message(image_size, found[2])


def test_a_variable_that_is_not_set_is_no_folder():
    """Regression: it was the current one, or another data set."""
    assert "--image_path" in message(find_images, [""])
    assert "--data-root" in message(DataOptions, data_root="")


def test_settings_of_the_refinement_need_it():
    assert "--crf-iterations goes with --crf" in message(RefinementOptions(crf_iterations=3).mean_field)
    assert RefinementOptions(crf=True, crf_iterations=3).mean_field().iterations == 3


def test_no_two_results_share_a_name():
    files = [Path(f) for f in ("/x/a/1.jpg", "/x/b/1.jpg", "/x/b/1.png", "/y/b/1.jpg", "/x/2.jpg", "/x/B_1_PNG.jpg")]
    names = output_names(files)
    assert names == ["a_1_jpg", "b_1_jpg", "b_1_png_2", "b_1_jpg_2", "2", "B_1_PNG"]
    assert len({name.casefold() for name in names}) == len(files)
    assert output_names([Path("/x/Cat.jpg"), Path("/x/cat.jpg")]) == ["x_Cat_jpg", "x_cat_jpg_2"]


# Tiles and scaling


@pytest.mark.parametrize(("length", "tile"), [(1, 9), (9, 9), (10, 9), (100, 9), (4000, 513), (10, 1), (7, 3)])
def test_tiles_cover_a_side_and_overlap_by_a_quarter(length, tile):
    starts = tile_starts(length, tile)
    assert starts[0] == 0 and starts[-1] == max(length - tile, 0)
    assert all(0 < b - a <= tile - tile // 4 for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("size", [(20, 33), (12, 12), (8, 50), (3, 5)])
def test_tiles_leave_a_pointwise_network_alone(size, batch_size):
    torch.manual_seed(0)
    network = Pointwise().eval()
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    images = 255 * torch.rand(2, 3, *size)
    (logits,) = predict(network, images, tile=16, batch_size=batch_size)
    assert max(side for shape in seen for side in shape[2:]) <= 16
    if max(size) > 16:
        assert max(shape[0] for shape in seen) == batch_size
    with torch.no_grad():
        assert torch.allclose(logits, network(normalize(images)), atol=1e-5)


class Pointwise(Network):
    """A 1x1 convolution."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        return self.convolution(image)


class Mean(Network):
    """One logit: the mean of the raw image that it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.weight * x.mean((1, 2, 3), keepdim=True).expand(len(x), 1, *x.shape[2:])


def test_tiles_blend_without_a_seam():
    """Where tiles disagree, here by their means, the result passes from one to the other in steps."""
    image = torch.arange(56.0).expand(1, 3, 32, 56)  # two tiles of means 15.5 and 39.5
    left, right = (normalize(image[..., part]).mean().item() for part in (slice(0, 32), slice(24, 56)))
    (logits,) = predict(Mean(), image, tile=32)
    row = logits[0, 0, 16]
    assert row[0].item() == pytest.approx(left) and row[-1].item() == pytest.approx(right)
    steps = row.diff()
    assert (steps >= -1e-4).all() and steps.max() < (right - left) / 4  # the overlap has 8 pixels
    assert torch.allclose(logits[0, 0, 0], logits[0, 0, 31])


class Lopsided(Network):
    """Not symmetric, so that mirroring shows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image):
        return self.weight * image.cumsum(3)


def test_scales_and_mirroring_are_averaged():
    images = 255 * torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    model = Lopsided()

    def found(size, *scales, flip=False):
        return probabilities(predict(model, images, scales=scales, flip=flip), size)

    with torch.no_grad():
        inputs = normalize(images)
        plain, mirrored = model(inputs).softmax(1), model(inputs.flip(3)).flip(3).softmax(1)
    assert torch.allclose(found((8, 10), 1, flip=True), (plain + mirrored) / 2)
    half = found((8, 10), 0.5)
    assert torch.allclose(found((8, 10), 1, 0.5), (plain + half) / 2)
    assert half.shape == plain.shape and not torch.allclose(half, plain, atol=0.1)
    assert found((16, 20), 0.5, 1, 2, flip=True).sum(1).allclose(torch.ones(()))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaling_back_class_by_class_is_the_same_as_at_once(interpolation):
    logits = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], (31, 20), mode=interpolation, align_corners=True)[0]
    labels, confidence = labels_and_confidence(logits, (31, 20), interpolation)
    assert torch.equal(labels, whole.argmax(0).to(torch.uint8))
    assert torch.allclose(confidence, whole.softmax(0).amax(0), atol=1e-6)
    assert torch.allclose(probabilities([logits[None]], (31, 20), interpolation)[0], whole.softmax(0), atol=1e-6)


def test_an_image_is_segmented_at_its_own_size_and_the_mode_is_left():
    network = FirstChannels().train()
    image = Image.fromarray(np.tile(np.uint8([[[255, 0, 0]] * 15 + [[0, 255, 0]] * 16]), (20, 1, 1)))
    labels = segment(network, image, 40)
    assert network.seen == [(1, 3, 40, 62)] and network.training
    assert labels.dtype == np.uint8 and labels.shape == (20, 31)
    assert (labels[:, :14] == 0).all() and (labels[:, 17:] == 1).all()


class FirstChannels(Network):
    """Logits: red and green of the normalised image."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(1)), []

    def forward(self, image):
        assert not self.training
        self.seen.append(tuple(image.shape))
        return self.weight * image[:, :2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_no_background(value):
    """Regression: finite weights that were too large gave `background 100 %`."""
    network = Mean()
    network.forward = lambda image: image.new_full((len(image), 3, 4, 5), value)
    line = message(segment, network, Image.new("RGB", (5, 4)), 0)
    assert line.startswith("the network's scores are infinite or not a number")


def test_logits_of_half_precision_may_have_a_sum_beyond_its_range():
    network = Mean()
    network.forward = lambda image: torch.full((len(image), 3, 100, 100), -10.0, dtype=torch.float16)
    (logits,) = predict(network, torch.zeros(1, 3, 100, 100), batch_size=1)
    assert logits.sum().isinf() and (logits == -10).all()


def test_an_image_keeps_its_size_with_size_0_and_a_sliver_is_refused():
    image = Image.new("RGB", (9, 5))
    assert network_view(image, 0)[1].shape == (3, 5, 9)
    assert network_view(image, 10)[1].shape == (3, 10, 18)
    picture, inputs = network_view(image, 10, centre=True)
    assert picture.size == (10, 10) and inputs.shape == (3, 10, 10)
    with pytest.raises(InputError, match="found 20000x1 in sliver.png; lower --crop-size"):
        network_view(Image.new("RGB", (20000, 1)), 513, source=Path("sliver.png"))


@pytest.mark.parametrize(("output_stride", "size"), [(16, (40, 65)), (16, (49, 51)), (8, (44, 9)), (16, (1, 2))])
def test_whole_images_are_not_stretched(output_stride, size):
    """Regression: where a side is no multiple of the stride plus 1, masks reached too far, by 7 % for 172 pixels.

    An image of such sides whose last pixels repeat one another has the mask of the part without them.
    """
    torch.manual_seed(0)
    network = DeepLab(3, "mobilenet", output_stride).eval()
    part = 255 * torch.rand(1, 3, *size)
    beyond = [(1 - side) % output_stride for side in size]
    image = F.pad(part, (0, beyond[1], 0, beyond[0]), mode="replicate")
    (expected,) = predict(network, image, whole=False)
    (found,) = predict(network, part)
    assert torch.equal(found, expected[:, :, : size[0], : size[1]])
    (whole,) = predict(network, image)
    assert torch.equal(whole, expected)  # nothing changes for the sizes of crops


def test_whole_images_are_as_the_crops_that_the_network_knows(tmp_path):
    """A network of crops of 64, which are stretched by 31 %, does worse on padded images."""
    torch.manual_seed(0)
    settings, images = {"num_classes": 3, "backbone": "mobilenet", "output_stride": 16}, 255 * torch.rand(1, 3, 32, 40)
    weights = build_network(settings).state_dict()
    for crop_size, padded in ((None, True), (513, True), (64, False), (129, True)):
        crop = {"crop_size": crop_size} if crop_size else {}
        torch.save({"state_dict": weights, "model": settings | crop}, tmp_path / "a.pth.tar")
        network = load_network(tmp_path / "a.pth.tar")[0].eval()
        (found,), (plain,) = predict(network, images), predict(network, images, whole=False)
        assert torch.equal(found, plain) == (not padded)


# ONNX


def test_the_onnx_file_takes_any_size_and_gives_the_logits_of_torch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = DeepLab(3, "mobilenet").eval()
    path = tmp_path / "network.onnx"
    assert export.export_onnx(path, model, NAMES, 48) < export.LARGEST_DIFFERENCE
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {
        "class_names": '["background", "cat", "dog"]',
        "short_side": "48",
    }
    rng = np.random.default_rng(0)
    for n, height, width in ((1, 33, 70), (3, 97, 64), (1, 5, 3)):
        pictures = rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
        images = pictures.transpose(0, 3, 1, 2)
        (expected,) = predict(model, torch.from_numpy(images))
        (found,) = session.run(None, {"image": images.astype(np.float32)})
        expected = expected.numpy()
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_scribbles_restrict_the_classes_and_keep_their_strokes():
    soft = torch.tensor([[0.1, 0.1, 0.8], [0.2, 0.6, 0.0], [0.7, 0.3, 0.2]])[:, None]  # (K, 1, 3)
    kept = keep_scribbles(soft, np.array([[255, 254, 0]], dtype=np.uint8))
    assert torch.equal(kept, torch.tensor([[1.0, 1, 1], [0, 0, 0], [0, 0, 0]])[:, None])
    kept = keep_scribbles(soft, np.array([[0, 255, 1]], dtype=np.uint8))
    expected = torch.tensor([[1, 0.1 / 0.7, 0], [0, 0.6 / 0.7, 1], [0, 0, 0]])[:, None]
    torch.testing.assert_close(kept, expected)
    assert torch.equal(keep_scribbles(soft, np.full((1, 3), 255, dtype=np.uint8)), soft)
    certain = torch.tensor([[0.0, 0], [0, 0], [1, 1]])[:, None]  # the classes drawn have underflown
    kept = keep_scribbles(certain, np.array([[0, 255]], dtype=np.uint8))
    assert torch.equal(kept, torch.tensor([[1.0, 1], [0, 0], [0, 0]])[:, None])


def test_labels_on_scribbles_are_the_likeliest_that_keep_scribbles_leaves():
    generator = torch.Generator().manual_seed(0)
    logits, size = 3 * torch.randn(4, 5, 6, generator=generator), (17, 23)
    for drawn in ((), (2,), (1, 3), (0, 1, 2, 3)):
        scribbles = np.full(size, 255, dtype=np.uint8)
        scribbles[0, 0] = 254
        for row, value in enumerate(drawn, 3):
            scribbles[row, 2:9] = value
        expected = keep_scribbles(probabilities([logits[None]], size)[0], scribbles).argmax(0)
        assert torch.equal(labels_on_scribbles(logits, size, scribbles), expected.byte())


def test_results_are_called_after_the_folders_that_the_user_sees(tmp_path):
    """Regression: those of the cache into which a data set's links lead."""
    for number, folder in enumerate(("cam1", "cam2")):
        (tmp_path / folder).mkdir()
        (tmp_path / f"blob{number}").touch()
        (tmp_path / folder / "1.png").symlink_to(tmp_path / f"blob{number}")
    assert output_names(find_images([str(tmp_path)])) == ["cam1_1_png", "cam2_1_png"]


@pytest.mark.parametrize(("classes", "names"), [(21, "those of PASCAL VOC"), (20, "numbers")])
def test_a_checkpoint_without_class_names_is_told(classes, names, caplog):
    caplog.set_level("INFO")
    Segmenter(InferenceOptions(checkpoint="bare.pth", output_directory="out"), nn.Identity(), {"num_classes": classes})
    assert caplog.messages == [f"bare.pth has no class names: taking {names}"]


def test_more_classes_than_labels_have_values():
    with pytest.raises(InputError, match=r"expected 2 to 254 classes, found 300 in many.pth"):
        Segmenter(InferenceOptions(checkpoint="many.pth"), nn.Identity(), {"num_classes": 300})


def test_slivers_that_take_long_are_named(tmp_path, caplog):
    """Regression: nothing said why an image of a few pixels took so long."""
    sliver, photograph = tmp_path / "sliver.png", tmp_path / "photograph.png"
    Image.new("RGB", (2500, 1)).save(sliver)
    Image.new("RGB", (250, 100)).save(photograph)
    images = ImageFiles([sliver, photograph], 65)
    assert images[0][1].shape == (3, 65, 162500) and images[1][1].shape == (3, 65, 162)
    (record,) = caplog.records
    assert f"{sliver}: its 2500x1 pixels become 162500x65" in record.getMessage()
