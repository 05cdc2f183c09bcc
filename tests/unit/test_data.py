"""Data sets on disk, their loaders, and the joint transforms."""

import os
import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import bench_loader
import mypath
import plain_route
from dataloaders.catalogue import find_data_set
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.images import image_size, read_image, read_label
from dataloaders.labels import PADDING, UNLABELLED, VOC_CLASSES, voc_palette
from dataloaders.layout import find_class_names, read_class_names
from dataloaders.loaders import WholeImages, make_data_loader
from dataloaders.sampling import SeededSampler
from dataloaders.transforms import (
    EvalTransform,
    TrainTransform,
    normalize,
    resize_short_side,
    resized_part,
    to_tensor,
)
from helpers import HEIGHT, WIDTH, arguments, call, custom, data, message, write_grey_png, write_label

NAMES = ("background", "cat", "dog")

# --- labels ---------------------------------------------------------------------------------------------------------


def test_palette_is_pascal_vocs():
    palette = voc_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {value: tuple(palette[value].tolist()) for value in known} == known
    assert len(np.unique(palette, axis=0)) == 256


@pytest.mark.parametrize("text", ["sky\nsea\n", "0 sky\n1 sea\n", "\ufeffsky\r\n\r\nsea"])
def test_class_names_in_either_form(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode())
    assert read_class_names(path) == ("sky", "sea")


def test_class_names_with_spaces(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("0 clear sky\n1 deep sea\n")
    assert read_class_names(path) == ("clear sky", "deep sea")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0 sky\n2 sea\n", "found '2 sea'"),
        ("0 sky\nsea\n", "found 'sea'"),
        ("sky\nsky\n", "found 'sky' and 'sky'"),
        ("", "found 0"),
        ("sky\n", "found 1"),
        ("sky\nSea\nsea \n", "found 'Sea' and 'sea'"),
        ("sky\nclear  sea\nClear\u00a0Sea\n", "found 'clear sea' and 'Clear Sea'"),
        ("sky\nGr\u00f6\u00dfe\nGro\u0308\u00dfe\n", "found 'Gr\u00f6\u00dfe' and"),
        ("sky\nsea\u200b\nsea\n", "found 'sea"),
        ("cat\nbackground\ndog\n", "'background' as class 1"),
        ("0 cat\n1 _Background_\n", "'_Background_' as class 1"),
        ("cat\n背景\n", "'背景' as class 1"),
        ("background\ncat\nBG\n", "'BG' as class 2"),
        ("__ignore__\n_background_\ncat\n", "'__ignore__' as class 0"),
        ("background\ncat\nVoid\n", "'Void' as class 2"),
        ("background\nc\u0007at\n", "'c\\x07at'"),
    ],
)
def test_bad_class_files_are_refused(tmp_path, text, found):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    said = message(read_class_names, path)
    assert found in said and str(path) in said


def test_class_names_are_the_same_in_every_unicode_form(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("background\nGro\u0308\u00dfe\u3000 1\n")
    assert read_class_names(path) == ("background", "Gr\u00f6\u00dfe 1")


def test_the_classes_of_a_data_set_in_code_pass_the_same_gate(voc):
    assert "'background' as class 1" in message(VOCSegmentation, arguments(), voc, "train", ("cat", "background"))


def test_a_missing_class_file_is_named(tmp_path):
    assert str(tmp_path / "no.txt") in message(read_class_names, tmp_path / "no.txt")


# --- transforms -----------------------------------------------------------------------------------------------------


def pair_with_position(width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """An image whose colours tell each pixel's place and a label that is 1 in the left half."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = np.stack([x, y, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    return Image.fromarray(image), Image.fromarray((x < 127.5).astype(np.uint8))


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (20, 10), (33, 33)])
def test_training_view_has_the_crop_size(size):
    image, label = pair_with_position(*size)
    for seed in range(8):
        tensor, values = TrainTransform(32, 40)(image, label, torch.Generator().manual_seed(seed))
        assert tensor.shape == (3, 40, 40) and tensor.dtype == torch.uint8
        assert values.shape == (40, 40) and values.dtype == torch.uint8
        assert set(values.unique().tolist()) <= {0, 1, PADDING}  # nearest: no value in between


def test_padding_is_black_at_the_right_and_bottom_and_labelled_254():
    image, label = Image.new("RGB", (20, 10), (200, 200, 200)), Image.new("L", (20, 10), 1)
    for seed in range(20):
        tensor, values = TrainTransform(10, 64)(image, label, torch.Generator().manual_seed(seed))
        inside = values == 1
        height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
        assert 5 <= height <= 20 and width == 2 * height
        assert inside[:height, :width].all() and (values[~inside] == PADDING).all()
        outside = ~inside
        outside[: height + 4, : width + 4] = False  # as far as a blur reaches
        assert tensor[:, outside].eq(0).all()


def test_scale_reaches_both_ends_and_nothing_beyond():
    image, label = Image.new("RGB", (8, 8)), Image.new("L", (8, 8), 1)
    transform, generator = TrainTransform(4, 64), torch.Generator().manual_seed(0)
    seen = {int(transform(image, label, generator)[1].eq(1).any(0).sum()) for _ in range(150)}
    assert seen == set(range(2, 9))


def test_flip_moves_image_and_label_together():
    image, label = pair_with_position(64, 64)
    flipped = 0
    for seed in range(12):
        tensor, values = TrainTransform(64, 20)(image, label, torch.Generator().manual_seed(seed))
        red = tensor[0].float()
        certain = ((red - 127.5).abs() > 12) & (values != PADDING)
        assert torch.equal(values[certain] == 1, red[certain] < 127.5)
        columns = red[:2, values[0] != PADDING].mean(0)
        flipped += bool(columns[-1] < columns[0])
    assert 0 < flipped < 12


def test_blur_comes_and_goes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    label = Image.new("L", (64, 64))
    detail = [
        TrainTransform(64, 64)(noise, label, torch.Generator().manual_seed(seed))[0].float().diff().abs().mean().item()
        for seed in range(30)
    ]
    assert min(detail) < 0.5 * max(detail)


def test_the_generator_alone_decides():
    image, label = pair_with_position(50, 40)
    transform = TrainTransform(32, 24)
    first = transform(image, label, torch.Generator().manual_seed(5))
    torch.manual_seed(99)
    second = transform(image, label, torch.Generator().manual_seed(5))
    other = transform(image, label, torch.Generator().manual_seed(6))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_a_crop_of_an_image_at_its_own_size_or_a_factor_of_it():
    image, label = pair_with_position(60, 40)
    how = {"blur": False, "padding": "mean"}
    for seed in range(6):
        pixels, values = TrainTransform(None, 50, (1, 1), **how)(image, label, torch.Generator().manual_seed(seed))
        assert torch.tensor([123, 117, 104]).eq(pixels[:, 40:].permute(1, 2, 0)).all() and values[40:].eq(254).all()
        whole = [to_tensor(image), to_tensor(ImageOps.mirror(image))]
        assert any(torch.equal(pixels[:, :40], view[:, :, left : left + 50]) for view in whole for left in range(11))
    transform, sizes = TrainTransform(None, 90, scales=(0.5, 1.5), **how), set()
    for seed in range(12):
        _, values = transform(image, label, torch.Generator().manual_seed(seed))
        inside = values.ne(254)
        sizes.add((int(inside.any(0).sum()), int(inside.any(1).sum())))
    assert sizes == {(30, 20), (90, 60)}


def test_validation_view_is_the_scaled_centre_square():
    image, label = pair_with_position(60, 40)
    tensor, values = EvalTransform(20)(image, label)
    scaled = image.resize((30, 20), Image.Resampling.BILINEAR).crop((5, 0, 25, 20))
    assert torch.equal(tensor, to_tensor(scaled))
    assert values.shape == (20, 20) and values[:, :9].eq(1).all() and values[:, 11:].eq(0).all()


def test_short_side_scales_as_the_original():
    assert resize_short_side(Image.new("RGB", (500, 375)), 513).size == (684, 513)
    assert resize_short_side(Image.new("RGB", (333, 500)), 100).size == (100, 150)


def test_normalisation():
    image, _ = pair_with_position(12, 9)
    pixels = to_tensor(image)
    tensor = normalize(pixels)
    assert tensor.dtype == torch.float32 and tensor.is_contiguous()
    red = np.asarray(image)[3, 4, 0]
    assert tensor[0, 3, 4].item() == pytest.approx((red / 255 - 0.485) / 0.229, abs=1e-6)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (37, 90), (7, 5), (1, 1), (150, 40)])
@pytest.mark.parametrize("crop_size", [1, 33, 64])
def test_every_pixel_is_that_of_the_plain_route(size, crop_size):
    """Which composes the original's steps on whole images, in float32 by NumPy: equal to the last bit."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    label = Image.fromarray(rng.integers(0, 21, (size[1], size[0]), dtype=np.uint8))
    one, other = torch.Generator(), torch.Generator()
    for seed in range(12):
        one.manual_seed(seed), other.manual_seed(seed)
        expected = plain_route.train_view(image, label, one, 40, crop_size)
        found = TrainTransform(40, crop_size)(image, label, other)
        assert torch.equal(one.get_state(), other.get_state())
        same_as_float(found, expected)
    same_as_float(EvalTransform(crop_size)(image, label), plain_route.eval_view(image, label, crop_size))


def same_as_float(found, expected) -> None:
    image, label = normalize(found[0]), found[1].long()
    assert image.is_contiguous() and image.dtype == torch.float32
    assert torch.equal(image, expected[0]) and torch.equal(label, expected[1])


def test_a_part_of_a_scaled_image_is_that_of_the_whole():
    rng = np.random.default_rng(1)
    for _ in range(150):
        width, height, new_width, new_height = rng.integers(1, 80, 4).tolist()
        if rng.random() < 0.7:  # enlarge, where only the part is computed
            new_width, new_height = new_width + width, new_height + height
        left, top = (int(rng.integers(0, length)) for length in (new_width, new_height))
        box = (left, top, int(rng.integers(left, new_width)) + 1, int(rng.integers(top, new_height)) + 1)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        whole = image.resize((new_width, new_height), Image.Resampling.BILINEAR).crop(box)
        part = resized_part(image, (new_width, new_height), box)
        assert np.array_equal(np.asarray(part), np.asarray(whole)), (image.size, (new_width, new_height), box)


# --- files ----------------------------------------------------------------------------------------------------------


def test_images_of_every_kind_become_rgb(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    kinds = {
        "grey": Image.fromarray(grey),
        "grey16": Image.fromarray(grey.astype(np.uint16) * 256 + 7),
        "palette": Image.fromarray(grey).convert("P"),
        "bilevel": Image.fromarray(grey).convert("1"),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        assert read_image(tmp_path / f"{name}.png").mode == "RGB"
    for name in ("grey", "grey16"):
        assert np.array_equal(np.asarray(read_image(tmp_path / f"{name}.png")), np.stack([grey] * 3, axis=-1))


def test_transparent_pixels_are_shown_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    image.save(tmp_path / "image.png")
    assert np.asarray(read_image(tmp_path / "image.png")).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_program_under_the_name_of_an_image_is_not_run(tmp_path):
    """Regression: Pillow had Ghostscript run PostScript, whatever a file's suffix."""
    path = tmp_path / "image.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (read_image, image_size):
        assert "found a PostScript program in" in message(read, path)


def test_photographs_are_turned_upright(tmp_path, voc):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    path = voc / "JPEGImages/i0.jpg"
    Image.new("RGB", (HEIGHT, WIDTH)).save(path, exif=exif)
    assert read_image(path).size == (WIDTH, HEIGHT)
    VOCSegmentation(arguments(), voc).survey()  # the sizes fit


@pytest.mark.parametrize(("mode", "named"), [("RGB", "'RGB'"), ("I;16", "'I;16'"), ("1", "'1'")])
def test_label_maps_of_the_wrong_kind_are_refused(tmp_path, mode, named):
    Image.new(mode, (4, 4)).save(tmp_path / "label.png")
    said = message(read_label, tmp_path / "label.png", 3)
    assert named in said and "label.png" in said and "mode P or L" in said


def test_grey_label_maps_are_fine(tmp_path):
    Image.new("L", (4, 4), 2).save(tmp_path / "label.png")
    assert (read_label(tmp_path / "label.png", 3) == 2).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_label_maps_of_few_bits_keep_their_numbers(tmp_path, bits):
    """Regression: Pillow spreads such numbers over 0 to 255, where 15 of 4 bits became 255."""
    values = np.arange(2**bits, dtype=np.uint8)[None]
    write_grey_png(tmp_path / "label.png", values, bits)
    assert np.array_equal(read_label(tmp_path / "label.png", 16), values)


# --- the data set ---------------------------------------------------------------------------------------------------


def test_splits_and_their_labels(voc):
    train = VOCSegmentation(arguments(), voc)
    item = train[0]
    assert set(item) == {"image", "label", "name"} and item["name"] == "i0"
    assert item["image"].shape == (3, 24, 24) and item["label"].shape == (24, 24)
    assert train.num_classes == 21 and train.class_names == VOC_CLASSES and train.label_kind == "scribbles"
    assert set(item["label"].unique().tolist()) <= {0, 1, PADDING, UNLABELLED}
    full = VOCSegmentation(arguments(supervision="full"), voc)
    assert UNLABELLED not in full[0]["label"] and full.label_kind == "truth"
    val, fill_in = VOCSegmentation(arguments(), voc, split="val"), VOCSegmentation(arguments(), voc, split="fill_in")
    assert (val.ids, fill_in.ids) == (["i5", "i6"], train.ids)
    assert set(val[0]["label"].unique().tolist()) == {0, 2} and UNLABELLED not in fill_in[0]["label"]


def test_a_seeded_item_is_repeatable(voc):
    data_set = VOCSegmentation(arguments(), voc)
    assert torch.equal(data_set[1, 77]["image"], data_set[1, 77]["image"])
    assert not torch.equal(data_set[1, 77]["image"], data_set[1, 78]["image"])


def test_pictures_list_a_folder_once(voc, monkeypatch):
    (voc / "SegmentationClassAug/i2.png").unlink()
    data_set, listed = VOCSegmentation(arguments(), voc), []
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: listed.append(folder.name) or iterdir(folder))
    found = [data_set.pictures(index) for index in range(5)]
    assert len(listed) == len(set(listed)), listed
    image, scribbles, truth = found[1]
    assert image.size == (WIDTH, HEIGHT) and (scribbles != UNLABELLED).sum() == 26 and set(np.unique(truth)) == {0, 2}
    assert found[2][2] is None


def test_a_sliver_of_a_whole_image_is_named(voc):
    """Regression: scaled to the crop size it was gigabytes, and the advice a smaller batch; it ended trainings late."""
    sliver = np.zeros((2, 4000), np.uint8)
    Image.fromarray(sliver).save(voc / "JPEGImages/i1.png")
    (voc / "JPEGImages/i1.jpg").unlink(missing_ok=True)
    write_label(voc / "SegmentationClassAug/i1.png", sliver)
    whole = WholeImages(VOCSegmentation(arguments(supervision="full"), voc), 513)
    assert "found 4000x2 in" in message(whole.__getitem__, 1) and whole[0]["image"].shape[1] == 513
    assert "found 4000x2 in" in message(VOCSegmentation(arguments(supervision="full", base_size=513), voc).survey)


def test_pictures_do_without_labels_that_cannot_be_shown(voc, caplog):
    """Regression: training ended with a traceback, after its evaluation, at a validation image's scribbles."""
    write_label(voc / "pascal_2012_scribble/i0.png", np.zeros((3, 3), np.uint8))
    (voc / "pascal_2012_scribble/i1.png").write_bytes(b"damaged")
    data_set = VOCSegmentation(arguments(), voc)
    assert data_set.pictures(0)[1] is None and data_set.pictures(1)[1] is None
    assert data_set.pictures(0)[2] is not None
    assert "i0.png: draw or export" in caplog.text and "i1.png" in caplog.text


def test_labels_are_counted(voc):
    counts = VOCSegmentation(arguments(), voc).survey().counts
    assert counts.shape == (256,) and counts.dtype == np.int64
    expected = {0: 5 * 20, 1: 3 * 6, 2: 2 * 6, UNLABELLED: 5 * (WIDTH * HEIGHT - 26)}
    assert {value: int(counts[value]) for value in np.flatnonzero(counts)} == expected


def test_png_and_capital_suffixes_are_accepted(voc):
    Image.open(voc / "JPEGImages/i0.jpg").save(voc / "JPEGImages/i0.png")
    (voc / "JPEGImages/i0.jpg").unlink()
    (voc / "JPEGImages/i1.jpg").rename(voc / "JPEGImages/i1.JPG")
    assert len(VOCSegmentation(arguments(), voc)) == 5


def test_without_truth_validation_uses_the_scribbles(voc, caplog):
    for file in (voc / "SegmentationClassAug").iterdir():
        file.unlink()
    (voc / "SegmentationClassAug").rmdir()
    with caplog.at_level("INFO"):
        loaders = make_data_loader(custom(voc))
    assert loaders.val.dataset.label_kind == "scribbles" and loaders.fill_in is None
    assert "no ground truth" in caplog.text
    assert "SegmentationClassAug" in message(VOCSegmentation, arguments(supervision="full"), voc)


def test_partial_truth_gives_a_fill_in_score_of_what_there_is(voc, caplog):
    (voc / "SegmentationClassAug/i2.png").unlink()
    with caplog.at_level("INFO"):
        assert make_data_loader(custom(voc)).fill_in.dataset.ids == ["i0", "i1", "i3", "i4"]
    assert "4 of 5 training images have ground truth" in caplog.text


def test_a_folder_without_lists_is_split_by_name(voc, caplog):
    for name in ("train", "val"):
        (voc / f"ImageSets/SegmentationAug/{name}.txt").unlink()
    (voc / "ImageSets/SegmentationAug").rmdir()
    (voc / "ImageSets").rmdir()
    (voc / "pascal_2012_scribble/i0.png").unlink()
    with caplog.at_level("INFO"):
        loaders = make_data_loader(custom(voc))
    assert loaders.train.dataset.ids == ["i1", "i2", "i3", "i4", "i6"] and loaders.val.dataset.ids == ["i5"]
    assert caplog.text.count("5 of its 6 scribbled images train") == 1 and "1 images have no scribbles" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "JPEGImages/i3.jpg").unlink(), ["'i3'", "JPEGImages/i3.jpg", "1 of 5"]),
        (
            lambda root: [(root / f"pascal_2012_scribble/i{n}.png").unlink() for n in (1, 2)],
            ["'i1'", "i1.png", "2 of 5"],
        ),
        (lambda root: (root / "JPEGImages").rename(root / "images"), ["JPEGImages", "does not exist"]),
        (lambda root: (root / "pascal_2012_scribble").rename(root / "s"), ["pascal_2012_scribble", "does not exist"]),
        (lambda root: (root / "ImageSets/SegmentationAug/train.txt").unlink(), ["train.txt", "does not exist"]),
        (lambda root: (root / "ImageSets/SegmentationAug/train.txt").write_bytes(b"\xff\xfe\x00"), ["train.txt"]),
    ],
)
def test_incomplete_folders_are_named_at_once(voc, spoil, said):
    spoil(voc)
    text = message(VOCSegmentation, arguments(), voc)
    assert all(part in text for part in [*said, "get PASCAL VOC 2012", "--dataset synthetic"])


@pytest.mark.parametrize(
    "line", ["{}.jpg", "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png", "a\\{}.JPG", "{}.jpg,{}.png", " {}.jpg\t"]
)
def test_lists_may_name_files(voc, caplog, line):
    for name in ("train", "val"):
        path = voc / f"ImageSets/SegmentationAug/{name}.txt"
        path.write_text("".join(line.replace("{}", i) + "\n" for i in path.read_text().split()))
    caplog.set_level("INFO")
    assert VOCSegmentation(arguments(), voc, "train", NAMES).ids == ["i0", "i1", "i2", "i3", "i4"]
    assert "5 lines name files" in caplog.text


def test_lists_of_more_than_ids_are_refused(voc):
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("i0 1\ni1 -1\n")
    assert "found 'i0 1' in" in message(VOCSegmentation, arguments(), voc, "train", NAMES)


def test_broken_links_are_errors(voc):
    """Regression: a link to a file that was not fetched was no file, or a traceback."""
    image = voc / "JPEGImages/i0.jpg"
    image.unlink()
    image.symlink_to(voc / "annex/i0")
    said = message(lambda: VOCSegmentation(arguments(), voc, "train", NAMES).survey().counts)
    assert "i0.jpg: it is a link to" in said and "fetch" in said
    (voc / "ImageSets").rename(voc / "gone")
    (voc / "ImageSets").symlink_to(voc / "annex/ImageSets")
    assert "expected the list of train images" in message(VOCSegmentation, arguments(), voc, "train", NAMES)
    (voc / "classes.txt").symlink_to(voc / "annex/classes.txt")
    assert "it is a link to" in message(find_class_names, voc, None, VOC_CLASSES)
    assert "it is a link to" in message(type("Own", (VOCSegmentation,), {}), arguments(), voc, "train")
    (voc / "classes.txt").unlink()
    (voc / "SegmentationClassAug").rename(voc / "truth")
    (voc / "SegmentationClassAug").symlink_to(voc / "annex/truth")
    assert "SegmentationClassAug: it is a link to" in message(VOCSegmentation, arguments(), voc, "val", NAMES)


def test_a_tiff_whose_data_lie_at_a_fraction_is_named(tmp_path):
    """Regression: a traceback."""
    Image.new("L", (6, 4)).save(tmp_path / "label.tif")
    content = (tmp_path / "label.tif").read_bytes()
    (tmp_path / "label.tif").write_bytes(content.replace(b"\x11\x01\x04\0", b"\x11\x01\x0c\0"))  # a double
    assert "label.tif" in message(read_label, tmp_path / "label.tif", 2)


def test_damage_that_only_check_sums_show_is_an_error(voc):
    """Regression: Pillow reads the pixels of a damaged PNG without comparing the check sum behind them."""
    path = voc / "pascal_2012_scribble/i0.png"
    original, content = np.array(Image.open(path)), path.read_bytes()
    at = content.index(b"IDAT") - 4
    length = int.from_bytes(content[at : at + 4], "big")
    pixels = bytearray(zlib.decompress(content[at + 8 : at + 8 + length]))
    pixels[-1] = 2  # another class in the last pixel
    changed = zlib.compress(bytes(pixels), 9)
    data = len(changed).to_bytes(4, "big") + b"IDAT" + changed + content[at + 8 + length : at + 12 + length]
    path.write_bytes(content[:at] + data + content[at + 12 + length :])
    assert (np.array(Image.open(path)) != original).any()
    assert "i0.png" in message(read_label, path, 3) and "i0.png" in message(read_image, path)


def test_label_maps_that_are_no_png_are_named(voc):
    (voc / "pascal_2012_scribble/i1.png").rename(voc / "pascal_2012_scribble/i1.tif")
    said = message(VOCSegmentation, arguments(), voc, "train", NAMES)
    assert "expected label maps as PNG" in said and "i1.tif" in said and "--fix" in said


def test_an_image_of_a_kind_that_is_not_read_is_named(voc):
    (voc / "JPEGImages/i1.jpg").rename(voc / "JPEGImages/i1.HEIC")
    said = message(VOCSegmentation, arguments(), voc, "train", NAMES)
    assert "i1.HEIC is there, but such files are not read" in said


def test_truth_without_scribbles_trains_only_when_asked(voc, caplog):
    for folder in ("pascal_2012_scribble", "ImageSets"):
        shutil.rmtree(voc / folder)
    said = message(VOCSegmentation, arguments(), voc, "train", NAMES)
    assert "--supervision full" in said and "simulate_scribbles.py" in said
    assert len(VOCSegmentation(arguments(supervision="full"), voc, "train", NAMES)) == 6


def test_names_that_no_list_can_hold_are_refused(voc):
    (voc / "JPEGImages/a\u2028b.jpg").write_bytes(b"")
    assert "rename it" in message(VOCSegmentation, arguments(), voc, "train", NAMES)
    (voc / "JPEGImages/a\u2028b.jpg").rename(voc / "JPEGImages" / os.fsdecode(b"\x83\x4b.jpg"))
    assert "in UTF-8" in message(VOCSegmentation, arguments(), voc, "train", NAMES)


def test_strokes_too_thin_for_the_network_are_said(voc, caplog):
    VOCSegmentation(arguments(base_size=20), voc, "train", NAMES).survey()
    assert not caplog.messages
    VOCSegmentation(arguments(base_size=7), voc, "train", NAMES).survey()
    (line,) = caplog.messages
    assert "'cat' in 3 of 3 images" in line and "'dog' in 2 of 2" in line and "short side of 7 pixels" in line


@pytest.mark.parametrize(("listed", "said"), [("\n", "found none"), ("i1\ni2\ni1\n", "'i1' 2 times")])
def test_bad_lists_are_refused(voc, listed, said):
    (voc / "ImageSets/SegmentationAug/train.txt").write_text(listed)
    text = message(VOCSegmentation, arguments(), voc)
    assert said in text and "ImageSets/SegmentationAug/train.txt" in text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda root: write_label(root / "pascal_2012_scribble/i0.png", np.full((HEIGHT, WIDTH), 7)),
            ["0..2", "found 7", "600 pixels", "x=0, y=0", "pascal_2012_scribble/i0.png"],
        ),
        (
            lambda root: write_label(root / "pascal_2012_scribble/i0.png", np.zeros((HEIGHT, WIDTH - 1))),
            ["30x20", "29x20", "JPEGImages/i0.jpg", "pascal_2012_scribble/i0.png"],
        ),
        (lambda root: truncate(root / "pascal_2012_scribble/i0.png"), ["cannot read", "pascal_2012_scribble/i0.png"]),
        (lambda root: (root / "pascal_2012_scribble/i0.png").write_text("no picture"), ["cannot read", "i0.png"]),
        (lambda root: (root / "JPEGImages/i0.jpg").write_text("no picture"), ["cannot read", "JPEGImages/i0.jpg"]),
    ],
)
def test_bad_files_are_named(voc, spoil, said):
    spoil(voc)
    data_set = VOCSegmentation(arguments(), voc, class_names=("background", "cat", "dog"))
    for read in (data_set.survey, lambda: data_set[0]):
        text = message(read)
        assert all(part in text for part in said), text


def test_a_truncated_photograph_is_named(voc):
    truncate(voc / "JPEGImages/i0.jpg")
    assert "JPEGImages/i0.jpg" in message(VOCSegmentation(arguments(), voc).__getitem__, 0)


def test_bad_files_are_named_by_workers_too(voc):
    (voc / "JPEGImages/i0.jpg").write_text("no picture")
    text = message(list, make_data_loader(custom(voc, batch_size=5, workers=1)).train)
    assert text.startswith("expected an image") and "i0.jpg" in text


# --- loaders --------------------------------------------------------------------------------------------------------


def test_loaders_of_a_plain_folder(voc):
    loaders = make_data_loader(custom(voc, batch_size=5))
    assert loaders.name == "voc" and loaders.class_names == ("background", "cat", "dog") and loaders.num_classes == 3
    batch = next(iter(loaders.train))
    assert batch["image"].shape == (5, 3, 24, 24) and batch["label"].shape == (5, 24, 24)
    assert sorted(batch["name"]) == ["i0", "i1", "i2", "i3", "i4"]
    assert [name for batch in loaders.val for name in batch["name"]] == ["i5", "i6"]
    assert [name for batch in loaders.fill_in for name in batch["name"]] == ["i0", "i1", "i2", "i3", "i4"]


def epoch_of(loaders, epoch: int) -> tuple[list[str], torch.Tensor]:
    loaders.train.batch_sampler.set_epoch(epoch)
    batches = list(loaders.train)
    return [name for batch in batches for name in batch["name"]], torch.cat([batch["image"] for batch in batches])


def test_order_and_augmentation_do_not_depend_on_workers(voc):
    alone, helped = make_data_loader(custom(voc, batch_size=5)), make_data_loader(custom(voc, batch_size=5, workers=2))
    for epoch in (0, 1):
        names, images = epoch_of(alone, epoch)
        names_helped, images_helped = epoch_of(helped, epoch)
        assert names == names_helped and torch.equal(images, images_helped)
    other = make_data_loader(custom(voc, batch_size=5, seed=2))
    assert not torch.equal(epoch_of(alone, 0)[1], epoch_of(alone, 1)[1])
    assert not torch.equal(epoch_of(alone, 0)[1], epoch_of(other, 0)[1])


def test_the_benchmark_of_the_loader(voc, capsys):
    words = ["--batch-size", 2, "--images", 4, "--step", 0, "--crop-size", 24, "--base-size", 24, "--workers", 1]
    assert call(bench_loader, *data(voc), *words) == 0
    printed = capsys.readouterr().out
    assert re.search(r"one core: +[\d.]+ images/s", printed) and re.search(r"workers 1: .* waiting +\d+%", printed)


def test_sampler():
    sampler = SeededSampler(100, seed=3)
    first = list(sampler)
    assert first == list(sampler) and len(sampler) == 100
    assert sorted(index for index, _ in first) == list(range(100)) and len({seed for _, seed in first}) == 100
    sampler.set_epoch(1)
    assert first != list(sampler) != list(SeededSampler(100, seed=4))
    assert [index for index, _ in SeededSampler(5, seed=3, shuffle=False)] == list(range(5))


def test_an_epoch_repeats_few_images_each_augmented_anew(voc):
    loaders = make_data_loader(custom(voc, repeat=3, batch_size=4))
    batches = list(loaders.train)
    names = [name for batch in batches for name in batch["name"]]
    assert sorted(names) == sorted(3 * [f"i{number}" for number in range(5)]) and len(batches) == 4
    images = [
        image for batch in batches for image, name in zip(batch["image"], batch["name"], strict=True) if name == "i0"
    ]
    assert len({image.numpy().tobytes() for image in images}) == 3
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("i0\n")
    assert "at least 2 training images (batch normalisation" in message(make_data_loader, custom(voc))
    assert len(make_data_loader(custom(voc, repeat=2)).train) == 1


@pytest.mark.parametrize(("batch_size", "kept"), [(2, 4), (3, 5), (4, 4), (5, 5), (8, 5), (1, 5)])
def test_only_a_last_batch_of_one_is_dropped(voc, caplog, batch_size, kept):
    with caplog.at_level("INFO"):
        loaders = make_data_loader(custom(voc, batch_size=batch_size))
    assert sum(len(batch["name"]) for batch in loaders.train) == kept
    assert caplog.text.count("single image") == (kept == 4)


def test_one_training_image_is_refused(voc):
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("i0\n")
    assert "at least 2 training images (batch normalisation" in message(make_data_loader, custom(voc))
    how = {"world_size": 4, "min_images": 1}
    assert "at least 4 training images (one for each process), found 1" in message(make_data_loader, custom(voc), **how)


# --- data sets by name ----------------------------------------------------------------------------------------------

DOCUMENTED_CLASS = """\
# dataloaders/datasets/your_dataset.py
from dataloaders.datasets import pascal
from mypath import Path

class YourDatasetSegmentation(pascal.VOCSegmentation):
    def __init__(self, args, root=Path.db_root_dir('your_dataset'), **kwargs):
        super(YourDatasetSegmentation, self).__init__(args, root, **kwargs)
"""


def test_the_documented_class_works_as_it_stands(voc, new_data_set, monkeypatch):
    monkeypatch.setenv("RLOSS_YOUR_DATASET_ROOT", str(voc))
    new_data_set("your_dataset", DOCUMENTED_CLASS)
    loaders = make_data_loader(arguments(dataset="your_dataset"))
    assert loaders.name == "your_dataset" and loaders.class_names == VOC_CLASSES and len(loaders.train.dataset) == 5
    assert type(loaders.val.dataset).__name__ == "YourDatasetSegmentation"


OWN_CLASSES = DOCUMENTED_CLASS.replace("    def", "    CLASSES = ('ground', 'cat', 'dog')\n\n    def", 1)


def test_a_data_set_may_have_its_own_classes(voc, new_data_set, monkeypatch):
    monkeypatch.setenv("RLOSS_YOUR_DATASET_ROOT", str(voc))
    new_data_set("your_dataset", OWN_CLASSES)
    assert make_data_loader(arguments(dataset="your_dataset")).class_names == ("ground", "cat", "dog")
    new_data_set("your_numbers", OWN_CLASSES.replace("CLASSES = ('ground', 'cat', 'dog')", "NUM_CLASSES = 5"))
    assert "set CLASSES" in message(make_data_loader, arguments(dataset="your_numbers"))


def test_classes_txt_is_found_by_itself(voc):
    (voc / "classes.txt").write_text("ground\ncat\ncow\n")
    assert make_data_loader(arguments(data_root=str(voc))).class_names == ("ground", "cat", "cow")
    assert make_data_loader(custom(voc)).class_names == ("background", "cat", "dog")  # --classes comes first
    (voc / "classes.txt").unlink()
    text = message(make_data_loader, arguments(data_root=str(voc)))
    assert f"{voc / 'classes.txt'}, which does not exist: write one name a line" in text and "--classes FILE" in text
    assert "found no folder" in message(make_data_loader, arguments(data_root=str(voc / "nowhere")))


def test_a_named_data_set_takes_its_folders_classes_unless_it_has_its_own(voc, new_data_set, monkeypatch, caplog):
    monkeypatch.setenv("RLOSS_YOUR_DATASET_ROOT", str(voc))
    (voc / "classes.txt").write_text("background\ncat\ncow\n")
    new_data_set("your_dataset", DOCUMENTED_CLASS)
    assert make_data_loader(arguments(dataset="your_dataset")).class_names == ("background", "cat", "cow")
    explicit = SimpleNamespace(**vars(arguments(dataset="your_dataset")))
    explicit.classes = str(voc.parent / "classes.txt")
    assert make_data_loader(explicit).class_names == ("background", "cat", "dog")

    new_data_set("your_classes", OWN_CLASSES)
    assert make_data_loader(arguments(dataset="your_classes")).class_names == ("ground", "cat", "dog")
    assert caplog.text.count("classes.txt names other classes (background, cat, cow)") == 1
    assert "YourDatasetSegmentation (ground, cat, dog) are taken" in caplog.text
    (voc / "classes.txt").write_text("ground\ncat\ndog\n")
    assert make_data_loader(arguments(dataset="your_classes")).class_names == ("ground", "cat", "dog")
    monkeypatch.setenv("RLOSS_PASCAL_ROOT", str(voc))


def test_an_unknown_data_set_is_answered_with_the_known(new_data_set):
    text = message(make_data_loader, arguments(dataset="pascall"))
    assert "pascal, synthetic" in text and "'pascall'" in text and "--data-root" in text
    new_data_set("empty_file", "")
    assert "found 0" in message(find_data_set, "empty_file")


def test_a_new_name_without_a_folder_says_how_to_add_it(new_data_set):
    new_data_set("your_dataset", DOCUMENTED_CLASS)
    text = message(make_data_loader, arguments(dataset="your_dataset"))
    assert "elif dataset == 'your_dataset'" in text and "RLOSS_YOUR_DATASET_ROOT" in text


def test_the_documented_entry_pastes_into_mypath(tmp_path, monkeypatch):
    source = Path(mypath.__file__).read_text()
    marker = "        # A new data set is one more `elif` here.\n"
    assert marker in source
    entry = "        elif dataset == 'your_dataset':\n            return '/data/datasets/your_dataset/'\n"
    namespace = {"__file__": mypath.__file__, "__name__": "pasted"}
    exec(source.replace(marker, entry + marker), namespace)
    where = namespace["Path"].db_root_dir
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert where("your_dataset") == "/data/datasets/your_dataset/"
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert where("your_dataset") == f"{tmp_path}/your_dataset/"
    for folder in ("/elsewhere", "/data/datasets/elsewhere"):  # which DATA_ROOT does not change
        monkeypatch.setenv("RLOSS_YOUR_DATASET_ROOT", folder)
        assert where("your_dataset") == folder


def test_environment_says_where_pascal_is(monkeypatch, tmp_path):
    for name in ("DATA_ROOT", "RLOSS_PASCAL_ROOT"):
        monkeypatch.delenv(name, raising=False)
    assert mypath.Path.db_root_dir("pascal") == "/data/datasets/VOCdevkit/VOC2012/"
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert mypath.Path.db_root_dir("pascal") == f"{tmp_path}/VOCdevkit/VOC2012/"


def test_pascal_is_the_default_where_it_is_found(voc, monkeypatch):
    monkeypatch.setenv("RLOSS_PASCAL_ROOT", str(voc))
    assert make_data_loader(arguments()).name == "pascal"


def test_pascal_asked_for_but_absent_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("RLOSS_PASCAL_ROOT", str(tmp_path / "nowhere"))
    text = message(make_data_loader, arguments(dataset="pascal"))
    assert "nowhere" in text and "get PASCAL VOC 2012" in text and "--dataset synthetic" in text


def test_reading_in_several_threads_leaves_pillows_limit_as_it_was(voc):
    limit, files = Image.MAX_IMAGE_PIXELS, sorted(voc.glob("JPEGImages/*")) * 50
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(image_size, files))) == 1
    assert limit is not None and limit == Image.MAX_IMAGE_PIXELS
