"""The inference script: settings, files written, refused input, ONNX."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import inference
from common.errors import exit_status
from dataloaders.images import read_image, write_label
from dataloaders.labels import voc_palette
from dataloaders.transforms import to_tensor
from evaluation.protocols import Protocol, predict_batch
from filtering.mean_field import MeanField
from modeling.checkpoint import load_network
from modeling.deeplab import DeepLab
from prediction.export import RawRGB
from prediction.files import network_view
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


# Settings by image size


def test_a_kernel_without_its_loss_is_named(checkpoint, tmp_path, capsys):
    """Regression: it was passed over without a word."""
    words = ("--image_path", draw(tmp_path / "a.png"))
    assert segment(checkpoint, tmp_path / "out", *words, "--preset", "40", "--sigma-xy", 7) == 0
    assert "WARNING: without --rloss-weight nothing follows from --sigma-xy\n" in capsys.readouterr().out
    assert segment(checkpoint, tmp_path / "other", *words, "--preset", "40") == 0
    assert "nothing follows" not in capsys.readouterr().out


def test_a_preset_gives_the_kernel_and_a_size_that_the_checkpoint_does_not_hold(checkpoint, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(inference.Segmenter, "segment", lambda segmenter, words: seen.append(segmenter) or 0)
    published = tmp_path / "published.pth.tar"
    torch.save({"state_dict": torch.load(checkpoint, weights_only=True)["state_dict"]}, published)
    preset = ("--preset", "256-original", "--backbone", "mobilenet", "--image_path", "a.png")
    for file, more in ((checkpoint, []), (published, []), (published, ["--crop_size", 40, "--sigma-xy", 7])):
        assert segment(file, tmp_path / "out", *preset, *more) == 0
    assert [segmenter.size for segmenter in seen] == [48, 256, 40]
    assert [segmenter.network.crop_size for segmenter in seen] == [48, 256, 40]  # which decides on padding
    assert [segmenter.options.sigma_xy for segmenter in seen] == [60, 60, 7]
    assert seen[0].options.rloss_scale == 0.75 and seen[0].options.batch_size == 1  # the batch is training's


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_the_kernel_of_the_training(checkpoint, tmp_path, monkeypatch, preset):
    """Regression: the scale was inference's own default where it is training's."""
    seen = []
    monkeypatch.setattr(inference.Segmenter, "segment", lambda segmenter, words: seen.append(segmenter.options) or 0)
    assert segment(checkpoint, tmp_path / "out", "--preset", preset, "--image_path", "a.png") == 0
    trained = parse_options(["--preset", preset])
    assert all(getattr(seen[0], name) == getattr(trained, name) for name in inference.LOSS_SETTINGS)


def test_a_centre_crop_is_taken_as_it_is_and_a_whole_image_padded(checkpoint, tmp_path, monkeypatch):
    content, sizes, forward = torch.load(checkpoint, weights_only=True), [], DeepLab.forward
    torch.save(content | {"model": content["model"] | {"crop_size": 49}}, tmp_path / "49.pth.tar")
    spy = lambda network, image, *how: sizes.append(tuple(image.shape[2:])) or forward(network, image, *how)  # noqa: E731
    monkeypatch.setattr(DeepLab, "forward", spy)
    for words in (["--center-crop"], []):
        image = draw(tmp_path / "a.png")
        assert segment(tmp_path / "49.pth.tar", tmp_path / "out", "--image_path", image, "--crop_size", 40, *words) == 0
    assert sizes[0] == (40, 40) and sizes[1][0] == 49 and sizes[1][1] % 16 == 1


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


def test_several_views_are_averaged_as_in_the_evaluation(checkpoint, tmp_path, capsys):
    image, out = draw(tmp_path / "a.png", 70, 50), tmp_path / "out"
    words = ["--image_path", image, "--scales", 0.75, 1.5, "--flip", "--confidence", "--probabilities"]
    assert segment(checkpoint, out, *words) == 0
    network, _ = load_network(checkpoint)
    original, pixels = network_view(read_image(image), 48)
    protocol = Protocol("full", 48, (0.75, 1.5), flip=True)
    batch = {"image": pixels[None], "original": to_tensor(original)[None], "label": torch.zeros(1, 50, 70)}
    _, expected = predict_batch(network.eval(), batch, protocol)
    assert np.array_equal(np.asarray(Image.open(out / "a_prediction.png")), expected[0])
    with np.load(out / "a_probabilities.npz") as file:
        soft = file["probabilities"].astype(np.float32)
    assert np.allclose(255 * soft.max(0), np.asarray(Image.open(out / "a_confidence.png")), atol=1)
    assert segment(checkpoint, tmp_path / "plain", "--image_path", image) == 0
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "plain/a_prediction.png")), expected[0])
    assert segment(checkpoint, out, "--image_path", image, "--flip", "--rloss-weight", 1) == 2
    assert "--rloss-weight reports on a single view" in error_lines(capsys)[-1]


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


@pytest.mark.parametrize("name", ["wide.jpg", "wide.png"])
def test_an_image_that_is_too_large_is_read_smaller_and_said_so(checkpoint, tmp_path, monkeypatch, capsys, name):
    """Regression: `decompression bomb ...; replace the file`."""
    image = draw(tmp_path / name, 600, 400)
    monkeypatch.setattr("dataloaders.images.LARGEST", 300 * 200)
    monkeypatch.setattr("dataloaders.images.LARGEST_SHRUNK", 600 * 400)
    assert segment(checkpoint, tmp_path / "out", "--image_path", image) == 0
    assert f"{image}: its 600x400 pixels are read as 300x200, which is also the size" in capsys.readouterr().out
    assert Image.open(tmp_path / "out/wide_prediction.png").size == (300, 200)
    monkeypatch.setattr("dataloaders.images.LARGEST_SHRUNK", 600 * 399)
    assert segment(checkpoint, tmp_path / "out", "--image_path", image) == 2
    assert f"at most 239,400 pixels, found 600x400 in {image}: cut it into pieces" in error_lines(capsys)[-1]


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
        (["--image_path", "{tmp}/a.png", "--tile", "-1"], "expected an integer of at least 0"),
        (["--image_path", "{tmp}/x.png", "{tmp}/y.png"], "y.png"),
    ],
)
def test_bad_input_is_said_with_status_2(checkpoint, tmp_path, capsys, words, said):
    (tmp_path / "empty").mkdir()
    draw(tmp_path / "a.png")
    assert segment(checkpoint, tmp_path / "out", *(word.replace("{tmp}", str(tmp_path)) for word in words)) == 2
    assert said in error_lines(capsys)[-1]


def test_running_out_of_gpu_memory_says_what_to_lower(checkpoint, tmp_path, capsys, monkeypatch):
    def forward(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(DeepLab, "forward", forward)
    assert segment(checkpoint, tmp_path, "--image_path", draw(tmp_path / "a.png")) == 2
    (line,) = error_lines(capsys)
    assert "CUDA out of memory; lower --batch-size (1), --tile (2049)" in line


# ONNX


def test_export_and_images_in_one_call(checkpoint, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    checkpoint = shutil.copyfile(checkpoint, tmp_path / "v1.5.pth.tar")
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx", "--image_path", draw(tmp_path / "a.png")) == 0
    assert (tmp_path / "out/v1.5.onnx").is_file() and (tmp_path / "out/a_prediction.png").is_file()
    said = capsys.readouterr().out
    assert "v1.5.onnx: logits within" in said and "v1.5.onnx: the file of an earlier call" not in said


def test_that_an_earlier_export_is_replaced_is_said(checkpoint, tmp_path, capsys, monkeypatch):
    """Regression: so was the network of another run, whose checkpoint has the same name, without a word."""
    monkeypatch.setattr(inference, "export_onnx", lambda path, *_: path.touch() or 0.0)
    for times in (0, 1):
        assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 0
        assert capsys.readouterr().out.count("model_best.onnx: the file of an earlier call is replaced") == times


def test_a_file_that_gives_other_logits_is_not_kept(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    forward = RawRGB.forward
    monkeypatch.setattr(  # what is traced depends on the size that it is traced at
        RawRGB, "forward", lambda self, image: forward(self, image) * float(image.shape[2])
    )
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 2
    assert "not written: its logits differ from PyTorch's by" in error_lines(capsys)[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_packages_are_named(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 2
    (line,) = error_lines(capsys)
    assert "pip install onnx onnxruntime" in line


# Scribbles


def test_with_scribbles_only_the_classes_drawn_are_offered_and_strokes_are_kept(checkpoint, tmp_path, capsys):
    image, other = draw(tmp_path / "a.png"), draw(tmp_path / "b.png", seed=1)
    strokes = np.full((20, 30), 255, dtype=np.uint8)
    strokes[4, 2:20], strokes[15, 5:25] = 2, 0
    folder = tmp_path / "scribbles"
    folder.mkdir()
    write_label(folder / "a.png", strokes)

    def results(name, *words):
        assert segment(checkpoint, tmp_path / name, "--image_path", image, other, *words) == 0
        return {file.name: np.array(Image.open(file)) for file in (tmp_path / name).glob("*.png")}

    write_label(folder / "e\u0301.png", strokes)  # as macOS writes it
    accent = ("--image_path", draw(tmp_path / "\u00e9.png"), "--scribbles", folder)
    assert segment(checkpoint, tmp_path / "accent", *accent) == 0
    assert "scribbles of 1 of 1 images" in capsys.readouterr().out
    plain, kept = results("plain"), results("kept", "--scribbles", folder, "--crf", "--confidence")
    assert "scribbles of 1 of 2 images" in capsys.readouterr().out
    assert set(np.unique(plain["a_prediction.png"])) == {0, 1, 2}
    for name in ("a_prediction.png", "a_crf.png"):
        assert set(np.unique(kept[name])) == {0, 2}
        assert (kept[name][strokes < 254] == strokes[strokes < 254]).all()
    assert (kept["a_confidence.png"][strokes < 254] == 255).all()
    free = (strokes == 255) & (plain["a_prediction.png"] != 1)
    assert (kept["a_prediction.png"][free] == plain["a_prediction.png"][free]).all()
    assert np.array_equal(kept["b_prediction.png"], plain["b_prediction.png"])


def test_scribbles_that_do_not_fit_are_refused(checkpoint, tmp_path, capsys):
    image, folder = draw(tmp_path / "a.png"), tmp_path / "scribbles"
    folder.mkdir()
    words = ("--image_path", image, "--scribbles", folder)
    assert segment(checkpoint, tmp_path / "out", *words) == 2
    assert "such as a.png" in error_lines(capsys)[-1]
    write_label(folder / "a.png", np.zeros((5, 5), dtype=np.uint8))
    assert segment(checkpoint, tmp_path / "out", *words) == 2
    line = error_lines(capsys)[-1]
    assert "30x20" in line and str(folder / "a.png") in line
    assert segment(checkpoint, tmp_path / "out", *words, "--center-crop") == 2
    assert "--center-crop" in error_lines(capsys)[-1]
    (tmp_path / "other").mkdir()
    assert segment(checkpoint, tmp_path / "earlier", "--image_path", image) == 0
    assert segment(checkpoint, tmp_path / "earlier", *words, "--scribbles", tmp_path / "other") == 2
    assert "are replaced" not in capsys.readouterr().out  # regression: nothing was
    twice = ("--image_path", image, draw(tmp_path / "other/a.png"), "--scribbles", folder)
    assert segment(checkpoint, tmp_path / "out", *twice) == 2
    assert "several images are called a" in error_lines(capsys)[-1]


# New


def test_scribbles_of_other_classes_than_the_networks_are_refused(checkpoint, tmp_path, capsys):
    image, folder = draw(tmp_path / "a.png"), tmp_path / "data/pascal_2012_scribble"
    folder.mkdir(parents=True)
    write_label(folder / "a.png", np.full((20, 30), 2, dtype=np.uint8))
    words = ("--image_path", image, "--scribbles", folder)
    (tmp_path / "data/classes.txt").write_text("background\ncat\ndog\n")
    assert segment(checkpoint, tmp_path / "out", *words) == 0
    (tmp_path / "data/classes.txt").write_text("background\ndog\ncat\n")
    assert segment(checkpoint, tmp_path / "out", *words) == 2
    assert "was trained with class 1 'cat', but here it is 'dog'" in error_lines(capsys)[-1]


def test_results_of_earlier_calls_are_not_taken_for_images_and_what_stays_is_said(checkpoint, tmp_path, capsys):
    """Regression: of what stays, the pictures of gradients were passed over."""
    photos = draw(tmp_path / "photos/a.png").parent
    image = ("--image_path", photos / "a.png")
    more = "--crf", "--crf-iterations", 1, "--preset", "80", "--rloss-weight", 2e-9
    assert segment(checkpoint, photos / "one", *image, *more) == 0
    assert "earlier call" not in capsys.readouterr().out
    assert segment(checkpoint, photos / "one", *image) == 0
    assert "are replaced; *_crf.png *_grad_seg_class_*.png of that call stay" in capsys.readouterr().out
    assert segment(checkpoint, tmp_path / "two", "--image_path", photos) == 2
    assert "looks like a result of an earlier call" in error_lines(capsys)[-1]
    draw(tmp_path / "own/holiday_colour.png")
    assert segment(checkpoint, tmp_path / "two", "--image_path", tmp_path / "own") == 0


def test_an_image_whose_results_would_have_too_long_names_is_refused_at_the_start(checkpoint, tmp_path, capsys):
    """Regression: it ended the call when its turn came, and so did one whose results just fit."""
    fits = "n" * (255 - len("_prediction.png"))
    photos = draw(tmp_path / f"photos/{fits}.png").parent
    draw(photos / "a.png")
    assert segment(checkpoint, tmp_path / "out", "--image_path", photos) == 0
    assert (tmp_path / f"out/{fits}_prediction.png").is_file()
    capsys.readouterr()
    assert segment(checkpoint, tmp_path / "other", "--image_path", photos, "--probabilities") == 2
    (line,) = error_lines(capsys)
    assert "at most 255 bytes" in line and "found 258 for that ending in _probabilities.npz" in line
    assert not list((tmp_path / "other").iterdir())


def test_no_image_of_a_folder_is_left_out_without_a_word(checkpoint, tmp_path, capsys):
    photos = draw(tmp_path / "photos/a.png").parent
    draw(photos / "cam/b.png")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(photos / "c.webp", save_all=True, append_images=frames[1:])
    (photos / "d.png").symlink_to(tmp_path / "absent.png")
    for word in (photos, photos / "*"):
        assert segment(checkpoint, tmp_path / "out", "--image_path", word) == 1
        captured = capsys.readouterr()
        assert "d.png: it is a link to" in captured.err and "3 of 4 images segmented" in captured.out
        assert "c.webp: has 2 pages or frames, of which only the first is segmented" in captured.out


@pytest.mark.parametrize("module", [None, SimpleNamespace(__file__="x.py")])
def test_a_filter_that_is_not_built_is_one_line(checkpoint, tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "bilateralfilter", module)
    assert segment(checkpoint, tmp_path / "out", "--image_path", draw(tmp_path / "a.png"), "--crf") == 2
    assert "pip install ./wrapper/bilateralfilter; is everything installed?" in error_lines(capsys)[-1]


def test_the_onnx_file_says_that_images_keep_their_size(checkpoint, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("prediction.export.DEFAULT_CROP", 33)  # at which it is checked
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx", "--crop_size", 0) == 0
    (file,) = (tmp_path / "out").glob("*.onnx")
    assert {p.key: p.value for p in onnx.load(file).metadata_props}["short_side"] == "0"


def test_a_network_that_cannot_be_exported_is_said_so(checkpoint, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    monkeypatch.setattr(RawRGB, "forward", lambda self, image: torch.fft.fft2(image).abs())
    assert segment(checkpoint, tmp_path / "out", "--export", "onnx") == 2
    assert "this network cannot be exported: Exporting the operator 'aten::fft_fft2'" in error_lines(capsys)[-1]
