"""Inference: which files, tiles and batches, pictures, the script, ONNX."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import inference
from common.errors import InputError, exit_status
from dataloaders.labels import voc_palette
from figures import fonts, plotting
from figures.matrices import save_confusion, save_gradient
from figures.overlay import overlay
from figures.sheets import save_contact_sheet
from filtering.mean_field import MeanField
from modeling.checkpoint import load_network
from modeling.deeplab import DeepLab
from prediction import evaluation_views, export
from prediction.files import find_images, output_names
from prediction.predict import RawRGB, View, labels_and_confidence, predict, probabilities, tile_starts
from training.options import PRESETS, parse_options

NAMES = ["background", "cat", "dog"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "model_best.pth.tar"
    model = DeepLab(3, "mobilenet")
    nn.init.normal_(model.decoder.last_conv[8].weight, std=0.5)  # so that all classes occur
    settings = {"backbone": "mobilenet", "num_classes": 3, "class_names": NAMES, "crop_size": 48}
    torch.save({"epoch": 1, "state_dict": model.state_dict(), "model": settings}, path)
    return path


def segment(checkpoint: Path, out: Path, *words) -> int:
    words = ["--checkpoint", checkpoint, "--output_directory", out, "--no_cuda", "--workers", 0, *words]
    return exit_status(lambda: inference.main([str(word) for word in words]))


def draw(path: Path, width: int = 30, height: int = 20, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path)
    return path


def error_lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.split("\n") if line.strip()]


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


def test_no_two_results_share_a_name():
    files = [Path(f) for f in ("/x/a/1.jpg", "/x/b/1.jpg", "/x/b/1.png", "/y/b/1.jpg", "/x/2.jpg", "/x/B_1_PNG.jpg")]
    names = output_names(files)
    assert names == ["a_1_jpg", "b_1_jpg", "b_1_png_2", "b_1_jpg_2", "2", "B_1_PNG"]
    assert len({name.casefold() for name in names}) == len(files)
    assert output_names([Path("/x/Cat.jpg"), Path("/x/cat.jpg")]) == ["x_Cat_jpg", "x_cat_jpg_2"]


# Settings by image size


def test_a_preset_gives_the_kernel_and_a_size_that_the_checkpoint_does_not_hold(checkpoint, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(inference.Segmenter, "segment", lambda segmenter, words: seen.append(segmenter) or 0)
    published = tmp_path / "published.pth.tar"
    torch.save({"state_dict": torch.load(checkpoint, weights_only=True)["state_dict"]}, published)
    preset = ("--preset", "256", "--backbone", "mobilenet", "--image_path", "a.png")
    for file, more in ((checkpoint, []), (published, []), (published, ["--crop_size", 40, "--sigma-xy", 7])):
        assert segment(file, tmp_path / "out", *preset, *more) == 0
    assert [segmenter.view.size for segmenter in seen] == [48, 256, 40]
    assert [segmenter.args.sigma_xy for segmenter in seen] == [60, 60, 7]
    assert seen[0].args.rloss_scale == 0.75 and seen[0].args.batch_size == 1  # the batch is training's


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_the_kernel_of_the_training(checkpoint, tmp_path, monkeypatch, preset):
    """Regression: the scale was inference's own default where it is training's."""
    seen = []
    monkeypatch.setattr(inference.Segmenter, "segment", lambda segmenter, words: seen.append(segmenter.args) or 0)
    assert segment(checkpoint, tmp_path / "out", "--preset", preset, "--image_path", "a.png") == 0
    trained = parse_options(["--preset", preset])
    assert all(getattr(seen[0], name) == getattr(trained, name) for name in inference.LOSS_SETTINGS)


# Names in any language


def test_names_need_not_be_latin_nor_fit_for_mathematics(tmp_path, monkeypatch, caplog):
    """Regression: `$` began a formula, and characters without a font cost five lines of warnings a picture."""
    monkeypatch.setattr(fonts, "families", lambda: [fonts.DEFAULT])
    monkeypatch.setattr(plotting, "families", fonts.families)
    fonts.say_that_characters_are_missing.cache_clear()
    names = ("背景", "p$x_{$1", "nut")
    image, labels = Image.new("RGB", (20, 16)), np.tile(np.arange(20, dtype=np.uint8) % 3, (16, 1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        overlay(image, labels, names)
        save_contact_sheet(tmp_path / "sheet.png", [{"$_{": image, "b": labels}], names, "$_{", ["$_{"])
        save_confusion(tmp_path / "confusion.png", np.eye(3, dtype=int), names, "$_{")
        save_gradient(tmp_path / "gradient.png", np.zeros((9, 9)), names[0])
    assert not said and [record.levelname for record in caplog.records] == ["WARNING"]
    assert "apt-get install fonts-noto-cjk" in caplog.text


# Tiles and scaling


@pytest.mark.parametrize(("length", "tile"), [(1, 9), (9, 9), (10, 9), (100, 9), (4000, 513), (10, 1), (7, 3)])
def test_tiles_cover_a_side_and_overlap_by_a_quarter(length, tile):
    starts = tile_starts(length, tile)
    assert starts[0] == 0 and starts[-1] == max(length - tile, 0)
    assert all(0 < b - a <= tile - tile // 4 for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_tiles_and_batches_leave_a_pointwise_network_alone(batch_size):
    """Images of several sizes, some of them alike, some in tiles: each gets its own logits, in order."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 1).eval()
    seen = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    images = [torch.randn(3, *size) for size in ((20, 33), (12, 12), (20, 33), (12, 12), (8, 50), (3, 5))]
    results = predict(network, images, tile=16, batch_size=batch_size)
    assert max(shape[0] for shape in seen) == min(batch_size, 4 * 3)
    assert max(side for shape in seen for side in shape[2:]) == 16
    with torch.no_grad():
        for image, logits in zip(images, results, strict=True):
            assert torch.allclose(logits, network(image[None])[0], atol=1e-5)


def test_tiles_blend_without_a_seam():
    """Where tiles disagree, here by their mean, the result goes over from one to the other step by step."""

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.weight * x.mean((1, 2, 3), keepdim=True).expand(len(x), 1, *x.shape[2:])

    image = torch.arange(56.0).expand(3, 32, 56)  # two tiles of means 15.5 and 39.5
    (logits,) = predict(Mean(), [image], tile=32)
    assert logits[0, 0, 0].item() == pytest.approx(15.5) and logits[0, 0, -1].item() == pytest.approx(39.5)
    steps = logits[0, 16].diff()
    assert (steps >= -1e-4).all() and steps.max() < 24 / 4  # the overlap has 8 pixels
    assert torch.allclose(logits[0, 0], logits[0, 31])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaling_back_class_by_class_is_the_same_as_at_once(interpolation):
    logits = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits[None], (31, 20), mode=interpolation, align_corners=True)[0]
    labels, confidence = labels_and_confidence(logits, 31, 20, interpolation)
    assert torch.equal(labels, whole.argmax(0).to(torch.uint8))
    assert torch.allclose(confidence, whole.softmax(0).amax(0), atol=1e-6)
    assert torch.allclose(probabilities(logits, 31, 20, interpolation), whole.softmax(0), atol=1e-6)


def test_an_image_is_segmented_as_in_evaluation(checkpoint):
    model, _ = load_network(checkpoint)
    image = Image.open(draw(checkpoint.with_name("a.png"), 61, 47))
    picture, inputs = View(48)(image)
    (logits,) = predict(RawRGB(model).eval(), [inputs])
    labels, _ = labels_and_confidence(logits, picture.height, picture.width)
    expected = evaluation_views.label_map(evaluation_views.predict(model, image, 48)[1], 47, 61)
    assert len(expected.unique()) > 1 and (labels == expected).float().mean() > 0.999


def test_an_image_keeps_its_size_with_size_0_and_a_sliver_is_refused():
    image = Image.new("RGB", (9, 5))
    assert View(0)(image)[1].shape == (3, 5, 9)
    assert View(10)(image)[1].shape == (3, 10, 18)
    picture, inputs = View(10, centre=True)(image)
    assert picture.size == (10, 10) and inputs.shape == (3, 10, 10)
    with pytest.raises(InputError, match="found 20000x1 in sliver.png; lower --crop_size"):
        View(513)(Image.new("RGB", (20000, 1)), Path("sliver.png"))


# Pictures


def test_the_overlay_tints_objects_and_names_what_occurs():
    labels = np.zeros((600, 500), dtype=np.uint8)
    labels[200:400, 100:300] = 2
    image = Image.new("RGB", (500, 600), (100, 200, 40))
    picture = np.asarray(overlay(image, labels, NAMES)).astype(int)
    assert picture.shape[1] == 500 and picture.shape[0] > 600
    assert picture[100, 50].tolist() == [100, 200, 40]
    assert np.abs(picture[300, 200] - (np.array([100, 200, 40]) + voc_palette()[2]) / 2).max() <= 1
    assert picture[300, 100].tolist() == voc_palette()[2].tolist()  # the border
    legend = picture[600:].reshape(-1, 3)
    swatch = (legend == voc_palette()[2]).all(1).sum()
    assert 12 * 12 <= swatch <= 16 * 16
    assert not (legend == voc_palette()[1]).all(1).any()


@pytest.mark.parametrize("size", [(1, 1), (40, 40), (3, 300), (479, 10), (3000, 200), (1, 3000)])
def test_an_overlay_of_any_size_can_be_looked_at(size):
    labels = np.ones(size[::-1], dtype=np.uint8)
    picture = overlay(Image.new("RGB", size, "white"), labels, NAMES)
    assert 480 <= max(picture.size) <= 1600 + 120
    legend = np.asarray(picture)[-20:]
    assert (legend == voc_palette()[1]).all(2).any() and (legend.sum(2) < 200).any()  # a swatch and letters


# The script


def test_a_folder_is_segmented_and_what_cannot_be_read_is_reported(checkpoint, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out" / "new"
    draw(photos / "a.jpg")
    draw(photos / "sub/a.png", 50, 70, seed=1)
    (photos / "b.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 2**16, (33, 24), dtype=np.uint16)).save(photos / "deep.tif")
    words = ["--confidence", "--probabilities", "--batch-size", 2, "--tile", 40]
    assert segment(checkpoint, out, "--image_path", photos, *words) == 1
    captured = capsys.readouterr()
    assert [line for line in captured.err.split("\n") if line.startswith("error: ")] == captured.err.strip().split("\n")
    assert "b.jpg" in captured.err and "3 of 4 images segmented" in captured.out

    sizes = {"photos_a_jpg": (30, 20), "sub_a_png": (50, 70), "deep": (24, 33)}
    kinds = ("prediction.png", "colour.png", "overlay.png", "confidence.png", "probabilities.npz")
    assert {path.name for path in out.iterdir()} == {f"{name}_{kind}" for name in sizes for kind in kinds}
    seen = set()
    for name, size in sizes.items():
        prediction = Image.open(out / f"{name}_prediction.png")
        assert prediction.mode == "P" and prediction.size == size
        labels = np.asarray(prediction)
        seen |= set(np.unique(labels).tolist())
        assert np.array_equal(np.asarray(Image.open(out / f"{name}_colour.png")), voc_palette()[labels])
        with np.load(out / f"{name}_probabilities.npz") as file:
            soft, names = file["probabilities"].astype(np.float32), file["class_names"].tolist()
        assert soft.shape == (3, *size[::-1]) and names == NAMES
        assert np.allclose(soft.sum(0), 1, atol=2e-3)
        confidence = np.asarray(Image.open(out / f"{name}_confidence.png")) / 255
        assert np.allclose(confidence, soft.max(0), atol=0.004)
        assert np.allclose(np.take_along_axis(soft, labels[None].astype(int), 0)[0], soft.max(0), atol=1e-3)
    assert len(seen) > 1


def test_options_change_what_they_say(checkpoint, tmp_path):
    """The scale of the network's view and the interpolation change the scores, batches and readers do not."""
    photos = [draw(tmp_path / f"{number}.png", 60, 45, seed=number) for number in range(3)]

    def scores(name, *words):
        out = tmp_path / name
        assert segment(checkpoint, out, "--image_path", *photos, "--probabilities", *words) == 0
        return np.stack([np.load(out / f"{n}_probabilities.npz")["probabilities"] for n in range(3)]).astype(float)

    plain = scores("plain")
    assert np.abs(plain - scores("batch", "--batch-size", 3, "--workers", 2)).max() < 2e-3
    for words in (["--interpolation", "bicubic"], ["--crop_size", 0], ["--tile", 40]):
        assert np.abs(plain - scores(words[0], *words)).max() > 2e-3, words


def test_the_crf_refines_the_prediction_and_the_pictures_show_it(checkpoint, tmp_path, capsys):
    image = draw(tmp_path / "a.png", 64, 48)
    out = tmp_path / "out"
    assert segment(checkpoint, out, "--image_path", image, "--probabilities", "--crf") == 0
    prediction, refined = (np.asarray(Image.open(out / f"a_{kind}.png")) for kind in ("prediction", "crf"))
    soft = torch.from_numpy(np.load(out / "a_probabilities.npz")["probabilities"]).float()
    pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)
    expected = MeanField()(pixels[None], soft[None])[0].argmax(0).numpy()
    assert (refined == expected).mean() > 0.99  # the file holds half precision
    assert (refined != prediction).any()
    assert np.array_equal(np.asarray(Image.open(out / "a_colour.png")), voc_palette()[refined])
    assert f"a_crf.png: the DenseCRF changes {100 * (refined != prediction).mean():.1f} %" in capsys.readouterr().out


def test_a_single_pixel_has_no_gradient_at_half_its_size(checkpoint, tmp_path, capsys):
    image = draw(tmp_path / "a.png", 1, 1)
    words = ["--crop_size", 0, "--rloss-weight", 1e-9, "--rloss-scale", 0.5]
    assert segment(checkpoint, tmp_path / "out", "--image_path", image, *words) == 0
    assert "WARNING: a: --rloss-scale 0.5 leaves nothing of it" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").glob("*grad*")} == set()


def test_results_are_not_segmented_again(checkpoint, tmp_path, capsys):
    image = draw(tmp_path / "a.png")
    assert segment(checkpoint, tmp_path, "--image_path", tmp_path) == 0
    capsys.readouterr()
    assert segment(checkpoint, tmp_path, "--image_path", tmp_path) == 2
    (line,) = error_lines(capsys)
    assert "looks like a result of an earlier call" in line
    assert segment(checkpoint, tmp_path, "--image_path", image) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected images (--image_path) or --export onnx"),
        (["--image_path", "{tmp}/empty"], "none in the folder"),
        (["--image_path", "{tmp}/*.jpg"], "no file that matches"),
        (["--image_path", "{tmp}/a.png", "--output_directory", "{tmp}/a.png/out"], "choose another --output_directory"),
        (["--image_path", "{tmp}/a.png", "--tile", "-1"], "expected an integer at least 0"),
        (["--image_path", "{tmp}/x.png", "{tmp}/y.png"], "y.png"),
    ],
)
def test_bad_input_is_said_with_status_2(checkpoint, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "a.png")
    try:
        assert segment(checkpoint, tmp_path / "out", *(word.replace("{tmp}", str(tmp_path)) for word in words)) == 2
    except SystemExit as error:
        assert error.code == 2
    assert said in error_lines(capsys)[-1]


def test_running_out_of_gpu_memory_says_what_to_lower(checkpoint, tmp_path, capsys, monkeypatch):
    def forward(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(DeepLab, "forward", forward)
    assert segment(checkpoint, tmp_path, "--image_path", draw(tmp_path / "a.png")) == 2
    (line,) = error_lines(capsys)
    assert "CUDA out of memory; lower --batch-size (1), --tile (2049)" in line


# ONNX


def test_the_onnx_file_takes_any_size_and_gives_the_logits_of_torch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = RawRGB(DeepLab(3, "mobilenet")).eval()
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
        inputs = [View(0)(Image.fromarray(picture))[1] for picture in pictures]
        expected = torch.stack(predict(model, inputs)).numpy()
        (found,) = session.run(None, {"image": pictures.transpose(0, 3, 1, 2).astype(np.float32)})
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_export_and_images_in_one_call(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx", "--image_path", draw(tmp_path / "a.png")) == 0
    assert (tmp_path / "out/model_best.onnx").is_file() and (tmp_path / "out/a_prediction.png").is_file()
    assert "model_best.onnx: logits within" in capsys.readouterr().out


def test_a_file_that_gives_other_logits_is_not_kept(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    forward = RawRGB.forward
    monkeypatch.setattr(  # what is traced depends on the size that it is traced at
        RawRGB, "forward", lambda self, image: forward(self, image) * float(image.shape[2])
    )
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 2
    assert "not written: its logits differ from torch's by" in error_lines(capsys)[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_packages_are_named(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 2
    (line,) = error_lines(capsys)
    assert "pip install onnx onnxruntime" in line
