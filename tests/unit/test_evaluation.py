"""Both protocols, multi-scale and mirroring, mean-field inference against brute force, boundary scores, the report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate as script
import filtering.mean_field
from common.arguments import options_from
from common.errors import exit_status
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.labels import UNLABELLED
from dataloaders.loaders import WholeImages, make_data_loader, usable_cpus, whole_image_loader
from evaluation.protocols import BAND_WIDTHS, Protocol, count, evaluate_split, predict_batch
from evaluation.scores import Tally, near_border, score_table
from filtering.mean_field import MeanField, gaussian_filter
from helpers import HEIGHT, WIDTH, arguments, custom, write_label
from modeling.deeplab import DeepLab
from modeling.network import Network
from prediction import segment
from prediction.options import RefinementOptions


class Colours(Network):
    """Logits: red, green and blue of the normalised image, sharpened."""

    def __init__(self):
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        return self.sharpness * image


# Mean field


def scene(height: int = 20, width: int = 26) -> tuple[torch.Tensor, torch.Tensor]:
    """An image of two colours with noise, (1, 3, H, W), and noisy probabilities of three classes, (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((1, 3, height, width), 60.0)
    image[..., width // 2 :] = 180.0
    image += 8 * torch.randn(image.shape, generator=generator)
    logits = torch.randn(1, 3, height, width, generator=generator)
    logits[:, 1, :, : width // 2] += 1
    logits[:, 2, :, width // 2 :] += 1
    return image.clamp(0, 255), logits.softmax(1)


def dense_kernel(image: torch.Tensor, sigma_rgb: float | None, sigma_xy: float) -> torch.Tensor:
    """The Gaussian of every pair of pixels, float64 (pixels, pixels)."""
    _, _, height, width = image.shape
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    exponent = torch.cdist(places, places) ** 2 / sigma_xy**2
    if sigma_rgb:
        colours = image[0].flatten(1).T.double()
        exponent = exponent + torch.cdist(colours, colours) ** 2 / sigma_rgb**2
    return torch.exp(-exponent / 2)


def brute_force(image: torch.Tensor, probabilities: torch.Tensor, crf: MeanField) -> torch.Tensor:
    """Mean field as the paper writes it, with all pairs."""
    kernels = []
    for weight, kernel in (
        (crf.appearance_weight, dense_kernel(image, crf.appearance_rgb, crf.appearance_xy)),
        (crf.smoothness_weight, dense_kernel(image, None, crf.smoothness_xy)),
    ):
        norm = kernel.sum(1).rsqrt()
        kernels.append(weight * norm[:, None] * kernel * norm[None, :])
    unary = -probabilities[0].flatten(1).double().log()
    q = torch.softmax(-unary, 0)
    for _ in range(crf.iterations):
        q = torch.softmax(-unary + sum(q @ kernel for kernel in kernels), 0)
    return q.view_as(probabilities[0])


SETTINGS = [
    MeanField(),
    MeanField(appearance_xy=8, appearance_rgb=20),
    MeanField(
        iterations=3, appearance_weight=1, appearance_xy=5, appearance_rgb=40, smoothness_weight=2, smoothness_xy=3
    ),
]


@pytest.mark.parametrize("crf", SETTINGS)
def test_mean_field_is_the_papers(crf, monkeypatch):
    """With the exact kernel in place of the lattice: equal; the symmetric weights and the order of steps are right."""
    image, probabilities = scene()

    class Exact:
        def __init__(self, images, sigma_rgb, sigma_xy):
            self.kernel = dense_kernel(images, sigma_rgb, sigma_xy)

        def filter(self, values):
            return (values[0].flatten(1).double() @ self.kernel).float().view_as(values)

    monkeypatch.setattr(filtering.mean_field, "Lattice", Exact)
    found = crf.by_tensors(image, probabilities.log())[0]
    assert torch.allclose(found.double(), brute_force(image, probabilities, crf), atol=2e-3)


@pytest.mark.parametrize("crf", SETTINGS)
def test_mean_field_on_the_lattice_comes_close(crf):
    image, probabilities = scene()
    found, expected = crf(image, probabilities)[0].double(), brute_force(image, probabilities, crf)
    assert found.sum(0).allclose(torch.ones((), dtype=torch.float64), atol=1e-5)
    assert (found - expected).abs().mean() < 0.02
    assert (found.argmax(0) == expected.argmax(0)).double().mean() > 0.97


@pytest.mark.parametrize(("classes", "batch"), [(1, 1), (2, 2), (21, 1), (60, 1)])
@pytest.mark.parametrize(
    "crf",
    [
        *SETTINGS,
        MeanField(appearance_weight=0),
        MeanField(smoothness_weight=0, appearance_rgb=30),
        MeanField(iterations=2, appearance_weight=200, smoothness_weight=100, smoothness_xy=10),
    ],
)
def test_mean_field_is_that_of_tensor_operations(crf, classes, batch):
    image = torch.cat([scene(23, 31)[0] + 3 * number for number in range(batch)]).to(torch.uint8)
    coarse = 4 * torch.randn(batch, classes, 5, 6, generator=torch.Generator().manual_seed(1))
    probabilities = torch.nn.functional.interpolate(coarse, (23, 31), mode="bilinear").softmax(1)
    probabilities[:, :, 0] = torch.nn.functional.one_hot(torch.tensor(classes - 1), classes)[:, None]
    expected = crf.by_tensors(image, probabilities.clamp_min(1e-8).log())
    found = crf(image, probabilities)
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-4)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.999


def test_mean_field_of_what_is_not_contiguous_or_not_float32():
    image, probabilities = scene()
    expected = MeanField()(image, probabilities)
    strided = probabilities.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(MeanField()(image.contiguous(memory_format=torch.channels_last), strided), expected)
    assert torch.allclose(MeanField()(image.double(), probabilities.double()), expected, atol=1e-5)


def test_mean_field_says_what_is_wrong():
    image, probabilities = scene()
    for bad, message in (
        ((image[:, :1], probabilities), r"images: expected shape \(N, 3, H, W\)"),
        ((image, probabilities[..., 1:]), r"values: expected shape \(1, K, 20, 26\) to match images"),
        ((image, probabilities / 0), r"probabilities must lie in 0\.\.1, found values in inf"),
        ((image / 0, probabilities), r"images must be RGB in 0\.\.255 \(not normalised\)"),
        # Regression: masks that were wrong in silence.
        ((image, probabilities.log()), r"probabilities must lie in 0\.\.1, found values in -"),
        ((image / 64 - 2, probabilities), r"images must be RGB in 0\.\.255 \(not normalised\), found values in -"),
    ):
        with pytest.raises(ValueError, match=message):
            MeanField()(*bad)


def test_mean_field_cleans_up_along_the_colours():
    image, probabilities = scene(40, 52)
    truth = torch.ones(40, 52, dtype=torch.int64)
    truth[:, 26:] = 2
    before = (probabilities[0].argmax(0) == truth).float().mean()
    after = (MeanField(appearance_rgb=20)(image, probabilities)[0].argmax(0) == truth).float().mean()
    assert before < 0.7 and after > 0.97


def test_mean_field_without_weights_or_iterations_changes_nothing():
    image, probabilities = scene()
    both = torch.cat([image, image.flip(3)]), torch.cat([probabilities, probabilities.flip(3)])
    for crf in (MeanField(iterations=0), MeanField(appearance_weight=0, smoothness_weight=0)):
        assert torch.allclose(crf(*both), both[1], atol=1e-6)
    # A batch is its images one by one.
    assert torch.allclose(MeanField()(*both)[1], MeanField()(both[0][1:], both[1][1:])[0], atol=1e-5)


def test_gaussian_filter_is_the_kernels_sum():
    image, values = scene(9, 12)
    expected = values[0].flatten(1).double() @ dense_kernel(image, None, 2.0)
    assert torch.allclose(gaussian_filter(values, 2.0)[0].flatten(1).double(), expected, rtol=2e-3)
    two = torch.cat([values, values.flip(1)])
    strided = two.contiguous(memory_format=torch.channels_last)
    assert torch.equal(gaussian_filter(strided, 2.0), gaussian_filter(two, 2.0))


# Scores


def test_the_band_lies_along_the_borders():
    labels = torch.zeros(1, 9, 12, dtype=torch.int64)
    labels[:, 3:, 5:] = 1
    labels[0, 8, 0] = UNLABELLED
    for width in (1, 2, 3):
        expected = torch.zeros(9, 12, dtype=torch.bool)
        for y, x in np.ndindex(9, 12):
            around = labels[0, max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
            expected[y, x] = bool((around != labels[0, y, x]).any())
        assert torch.equal(near_border(labels, width)[0], expected)


def test_boundary_scores_see_the_border_alone():
    truth = torch.zeros(1, 20, 40, dtype=torch.int64)
    truth[..., 20:] = 1
    shifted = torch.zeros_like(truth)
    shifted[..., 21:] = 1  # the border is a pixel off
    tally = Tally(2, (1, 4))
    tally.update(["a"], truth, shifted)
    scores = tally.scores()
    # In the band of one pixel a column of each class: 20 right, 20 wrong; IoUs 20/40 and 0/20.
    assert scores["boundary"][1] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["boundary"][4] == pytest.approx((80 / 100 + 60 / 80) / 2)
    assert scores["miou"] == pytest.approx((400 / 420 + 380 / 400) / 2)


def test_each_image_has_a_score_and_the_extremes_are_found():
    tally = Tally(3)
    truth = torch.tensor([[[0, 0]], [[1, 1]], [[0, 1]], [[255, 255]]])
    tally.update(["good", "bad", "half", "empty"], truth, torch.tensor([[[0, 0]], [[0, 2]], [[0, 0]], [[0, 0]]]))
    assert tally.images == {"good": 1.0, "bad": 0.0, "half": pytest.approx((1 / 2 + 0) / 2)}
    assert tally.extremes(1) == ["bad", "good"] and tally.extremes(4) == ["bad", "half", "good"]
    assert tally.matrix.counts.sum() == 6


def test_absent_classes_do_not_count_and_the_table_says_so():
    tally = Tally(4)
    tally.update(["a"], torch.tensor([[[0, 1]]]), torch.tensor([[[0, 2]]]))
    table = score_table({"val full": tally.scores()}, ["sky", "sea", "sand", "snow"])
    assert "-: in no truth and no prediction" in table
    assert "val full: in no truth, but predicted, hence 0 in the mIoU: sand" in table
    assert tally.scores()["miou"] == pytest.approx(1 / 3)


# Predictions


def test_the_full_protocol_scores_what_inference_predicts(voc):
    """Every pixel at the original size, by the same prediction as for a single image."""
    torch.manual_seed(0)
    model = DeepLab(3, "mobilenet").eval()
    images = VOCSegmentation(arguments(), voc, split="val", class_names=("background", "cat", "dog"))
    for index, batch in enumerate(whole_image_loader(images, 40, workers=0)):
        assert batch["image"].shape == (1, 3, 40, 60) and batch["original"].shape == (1, 3, HEIGHT, WIDTH)
        truth, prediction = predict_batch(model, batch, Protocol("full", 40))
        image, label = images.read(index)
        assert np.array_equal(truth[0].numpy(), np.asarray(label))
        assert np.array_equal(prediction[0].numpy(), segment(model, image, 40))


def test_the_full_protocol_cuts_large_images_into_tiles_as_inference_does():
    """Regression: it saw them whole, in as much memory as that takes. Crops are never cut."""
    image, sizes = torch.zeros(1, 3, 5, 3000, dtype=torch.uint8), []
    batch, model = {"image": image, "label": image[:, 0], "original": image}, Colours()
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(tuple(arguments[0].shape[2:])))
    for view in ("full", "crop"):
        predict_batch(model, batch, Protocol(view, 5))
    assert sizes == [(5, 2049), (5, 2049), (5, 3000)]


def test_images_of_different_sizes_are_all_counted(voc):
    Image.new("RGB", (17, 41), "red").save(voc / "JPEGImages/i5.jpg")
    write_label(voc / "SegmentationClassAug/i5.png", np.zeros((41, 17)))
    loaders = make_data_loader(custom(voc), splits=("val",))
    tally = evaluate_split(Colours(), loaders, "val", Protocol("full", 24), workers=0)
    assert tally.matrix.counts.sum() == 17 * 41 + WIDTH * HEIGHT and set(tally.images) == {"i5", "i6"}
    assert tally.images["i5"] == 1.0 and set(tally.bands) == set(BAND_WIDTHS)
    crop = evaluate_split(Colours(), loaders, "val", Protocol("crop", 24), workers=0)
    assert crop.matrix.counts.sum() == 2 * 24 * 24


def test_crops_are_taken_as_they_are_and_whole_images_padded(voc):
    network, sizes = DeepLab(3, "mobilenet"), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[2:])))
    loaders = make_data_loader(custom(voc), splits=("val",))
    evaluate_split(network, loaders, "val", Protocol("crop", 24), workers=0)
    assert {*sizes} == {(24, 24)}
    sizes.clear()
    evaluate_split(network, loaders, "val", Protocol("full", 24), workers=0)
    assert sizes and all(side % 16 == 1 for size in sizes for side in size)


def test_parts_of_the_images_add_up(voc, monkeypatch):
    """As the processes of a distributed run share them: no image twice, none left out."""
    loaders = make_data_loader(custom(voc), splits=("fill_in", "val"))
    images, model = loaders.fill_in.dataset, Colours()
    whole = count(model, whole_image_loader(images, 24, 0), Tally(3), "test")
    parts = [
        count(model, whole_image_loader(images, 24, 0, rank=rank, world_size=3), Tally(3), "t") for rank in range(3)
    ]
    assert sum(len(part.images) for part in parts) == len(images) == 5
    assert torch.equal(sum(part.matrix.counts for part in parts), whole.matrix.counts)

    everyone = [([part.matrix.counts], part.images) for part in parts]
    monkeypatch.setattr("common.distributed.gather", lambda _: everyone)
    parts[0].gather()
    assert parts[0].scores() == whole.scores() and parts[0].images == whole.images


def test_what_is_counted_can_be_stopped_between_batches(voc):
    loaders = make_data_loader(custom(voc, test_batch_size=1), splits=("val",))

    def first(batches):
        yield next(iter(batches))

    for view in ("crop", "full"):
        tally = evaluate_split(Colours(), loaders, "val", Protocol(view, 24), 0, wrap=first)
        assert list(tally.images) == ["i5"]


def test_scribbles_have_no_borders(voc):
    for path in (voc / "SegmentationClassAug").iterdir():
        path.unlink()
    (voc / "SegmentationClassAug").rmdir()
    loaders = make_data_loader(custom(voc), splits=("val",))
    assert "boundary" not in evaluate_split(Colours(), loaders, "val", Protocol("crop", 24), 0).scores()


def test_workers_are_no_more_than_the_processors(voc, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cpus() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # torchrun's
    assert usable_cpus() == 2
    assert make_data_loader(custom(voc, workers=4)).val.num_workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert usable_cpus() == 1


# The script


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "network.pth.tar"
    settings = {"backbone": "mobilenet", "num_classes": 3, "output_stride": 16, "crop_size": 32}
    torch.save({"epoch": 1, "state_dict": DeepLab(3, "mobilenet").state_dict(), "model": settings}, path)
    return path


def run(voc: Path, checkpoint: Path, *words) -> int:
    data = ["--data-root", voc, "--classes", voc.parent / "classes.txt", "--no-cuda", "--workers", 0]
    return exit_status(lambda: script.main([str(word) for word in ("--checkpoint", checkpoint, *data, *words)]))


@pytest.mark.pictures
def test_the_script_scores_by_both_protocols(voc, checkpoint, capsys):
    assert run(voc, checkpoint) == 0
    printed = capsys.readouterr().out
    heading = next(line for line in printed.split("\n") if "val crop" in line)
    assert heading.split("  ")[-2:] == ["val crop", "val full"]
    assert "boundary mIoU, 4 px" in printed and "full: every pixel at the original size" in printed
    folder = checkpoint.parent / "evaluation"
    assert json.loads((folder / "val_crop.json").read_text())["protocol"] == "crop"
    full = json.loads((folder / "val_full.json").read_text())
    assert full["protocol"] == "full" and full["data"] == "voc" and full["checkpoint"] == str(checkpoint)
    assert np.sum(full["confusion_matrix"]) == 2 * WIDTH * HEIGHT and np.shape(full["confusion_matrix"]) == (3, 3)
    assert list(full["iou"]) == ["background", "cat", "dog"] and set(full["images"]) == {"i5", "i6"}
    found = [line.split()[2] for line in printed.split("\n") if line.startswith("mIoU")]
    assert found == [f"{100 * full['miou']:.1f}"]
    for column in ("val_crop", "val_full"):
        for kind in ("confusion", "worst_best"):
            with Image.open(folder / f"{column}_{kind}.png") as picture:
                assert min(picture.size) > 200


def test_the_script_with_everything_on(voc, checkpoint, tmp_path, capsys):
    words = ("--protocol", "full", "--scales", 0.75, 1, "--flip", "--crf", "--crf-iterations", 2, "--crf-sigma-xy", 20)
    assert run(voc, checkpoint, *words, "--fill-in", "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "val full+ms+flip+crf  fill-in full+ms+flip+crf" in printed
    assert "scales 0.75 1; mirrored too; DenseCRF: iterations 2" in printed
    record = json.loads((tmp_path / "out/val_full+ms+flip+crf.json").read_text())
    assert record["settings"]["crf"]["appearance_xy"] == 20 and record["settings"]["scales"] == [0.75, 1.0]


def test_an_output_that_cannot_be_made_is_one_line(voc, checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(voc, checkpoint, "--output", tmp_path / "file" / "out") == 2
    assert "cannot be made" in capsys.readouterr().err


def test_crf_options_have_the_classes_defaults():
    def crf(*words):
        return options_from(RefinementOptions, script.build_parser().parse_args(["--checkpoint", "x", *words]))

    assert crf().mean_field() is None
    assert crf("--crf").mean_field() == MeanField()
    assert crf("--crf", "--crf-weight", "7").mean_field() == MeanField(appearance_weight=7)


def test_whole_images_come_by_name(voc):
    images = WholeImages(VOCSegmentation(arguments(), voc, split="val"), 10)
    assert len(images) == 2 and images[1]["name"] == "i6" and images[1]["image"].shape == (3, 10, 15)


def test_scores_at_another_stride_do_not_replace_those_of_the_first(voc, checkpoint):
    for stride in (16, 8):
        assert run(voc, checkpoint, "--protocol", "crop", "--out-stride", stride) == 0
    for folder, stride in (("evaluation", 16), ("evaluation_2", 8)):
        report = json.loads((checkpoint.parent / folder / "val_crop.json").read_text())
        assert report["output_stride"] == stride


def test_larger_scales_see_the_details_of_the_original(voc):
    """Regression: they enlarged what had been reduced to the network's size."""
    stripes = np.tile(np.uint8([[255, 0, 0], [0, 255, 0]]), (64, 32, 1))
    Image.fromarray(stripes).save(voc / "JPEGImages/i5.png")
    (voc / "JPEGImages/i5.jpg").unlink()
    write_label(voc / "SegmentationClassAug/i5.png", np.tile([0, 1], (64, 32)))
    loaders = make_data_loader(custom(voc), splits=("val",))
    tally = evaluate_split(Colours(), loaders, "val", Protocol("full", 32, scales=(2.0,)), workers=0)
    assert tally.images["i5"] == 1.0
