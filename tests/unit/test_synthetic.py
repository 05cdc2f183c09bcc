"""The data set that the project draws itself."""

import filecmp
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from dataloaders.labels import PADDING, UNLABELLED
from dataloaders.loaders import make_data_loader
from dataloaders.synthetic import CLASS_NAMES, draw_dataset, drawing, ensure_drawn, read_stamp
from dataloaders.synthetic.scribbles import components, distance_to_boundary, simulate_scribbles
from helpers import arguments

TRAIN, VAL = 44, 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    draw_dataset(folder, seed=3, train=TRAIN, val=VAL)
    return folder


def pictures(folder, split):
    """Yield image, truth and scribbles of a split."""
    for name in (folder / f"ImageSets/SegmentationAug/{split}.txt").read_text().split():
        yield (
            np.asarray(Image.open(folder / f"JPEGImages/{name}.jpg")),
            np.asarray(Image.open(folder / f"SegmentationClassAug/{name}.png")),
            np.asarray(Image.open(folder / f"pascal_2012_scribble/{name}.png")),
        )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_trains_by_name(drawn, monkeypatch):
    monkeypatch.setenv("RLOSS_SYNTHETIC_ROOT", str(drawn))
    monkeypatch.setenv("RLOSS_PASCAL_ROOT", str(drawn / "nowhere"))
    sizes = {"base_size": 64, "crop_size": 64, "batch_size": 4, "test_batch_size": 4}
    loaders = make_data_loader(arguments(**sizes))
    assert loaders.name == "synthetic" and loaders.class_names == CLASS_NAMES
    assert len(loaders.train.dataset) == len(loaders.fill_in.dataset) == TRAIN and len(loaders.val.dataset) == VAL
    counts = loaders.train.dataset.survey().counts
    assert (counts[: len(CLASS_NAMES)] > 0).all() and 0.025 < counts[:PADDING].sum() / counts.sum() < 0.035
    # The list of names that it writes is found by its folder too.
    assert make_data_loader(arguments(data_root=str(drawn), **sizes)).class_names == CLASS_NAMES


def test_scribbles_agree_with_the_truth(drawn):
    for _, truth, scribbles in pictures(drawn, "train"):
        labelled = scribbles != UNLABELLED
        assert (scribbles[labelled] == truth[labelled]).all()
        assert 0.02 < labelled.mean() < 0.04
        assert set(np.unique(scribbles[labelled])) == set(np.unique(truth))


def test_every_class_occurs(drawn):
    for split in ("train", "val"):
        seen = set().union(*(np.unique(truth).tolist() for _, truth, _ in pictures(drawn, split)))
        assert seen == set(range(len(CLASS_NAMES)))


def test_objects_stand_out_from_what_surrounds_them(drawn):
    differences = []
    for image, truth, _ in pictures(drawn, "train"):
        thing = truth > 0
        ring = (distance_to_boundary(~thing) <= 6) & ~thing
        differences.append(np.linalg.norm(image[thing].mean(0) - image[ring].mean(0)))
    assert np.mean(np.array(differences) > 30) > 0.8


def test_colour_alone_does_not_give_the_class_away(drawn):
    """The best guess from a pixel's colour is hardly better than calling everything background."""

    def coarse(image):
        return (image // 43).astype(np.int64) @ np.array([36, 6, 1])

    number = len(CLASS_NAMES)
    votes = np.zeros((216, number))
    for image, truth, _ in pictures(drawn, "train"):
        np.add.at(votes, (coarse(image).ravel(), truth.ravel()), 1)
    guesses = votes.argmax(axis=1)
    confusion = np.zeros((number, number))
    for image, truth, _ in pictures(drawn, "val"):
        np.add.at(confusion, (truth.ravel(), guesses[coarse(image)].ravel()), 1)
    hits = np.diag(confusion)
    assert (hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean() < 1.3 / number
    background_alone = confusion[0].sum() / confusion.sum()
    assert hits.sum() / confusion.sum() < background_alone + 0.05


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_dataset(tmp_path / name, seed=seed, train=3, val=1)
    names = files(tmp_path / "a")
    assert len(names) == 3 * 4 + 4 and names == files(tmp_path / "b")
    same, other, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
    assert same == names and not other
    pictures_a = [name for name in names if name.endswith(("jpg", "png"))]
    assert not filecmp.cmpfiles(tmp_path / "a", tmp_path / "c", pictures_a, shallow=False)[0]


def test_a_picture_depends_neither_on_the_counts_nor_on_the_workers(drawn, tmp_path):
    draw_dataset(tmp_path / "few", seed=3, train=2, val=1)  # so few that one process draws them
    common = [name for name in files(tmp_path / "few") if name.endswith(("jpg", "png"))]
    assert len(common) == 9
    assert filecmp.cmpfiles(tmp_path / "few", drawn, common, shallow=False)[0] == common


def test_an_interrupted_run_leaves_nothing_half_made(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "set"
    monkeypatch.setattr(drawing, "simulate_scribbles", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(folder, train=2, val=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    draw_dataset(folder, train=2, val=1)
    before = files(folder)
    monkeypatch.setattr(drawing, "simulate_scribbles", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(folder, train=4, val=1)
    assert files(folder) == before and list(tmp_path.iterdir()) == [folder]


def test_two_runs_at_once_do_not_clash(tmp_path):
    with ThreadPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(draw_dataset, tmp_path / "set", 1, 2, 1) for _ in range(2)]:
            done.result()
    assert len(files(tmp_path / "set")) == 3 * 3 + 4 and list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_a_set_of_another_version_is_drawn_anew_with_its_own_settings(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    draw_dataset(folder, seed=9, train=2, val=1)
    stamp = read_stamp(folder)
    assert stamp == {"version": drawing.VERSION, "seed": 9, "train": 2, "val": 1}
    (folder / "JPEGImages/train_0000.jpg").unlink()
    ensure_drawn(folder)
    assert not (folder / "JPEGImages/train_0000.jpg").exists()  # the right version is left alone
    (folder / "drawn.json").write_text(json.dumps({**stamp, "version": 0}))
    ensure_drawn(folder)
    assert (folder / "JPEGImages/train_0000.jpg").exists() and read_stamp(folder) == stamp


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="found other files.*RLOSS_SYNTHETIC_ROOT"):
        ensure_drawn(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(InputError, match="choose another folder$"):  # regression: options of other scripts
        draw_dataset(tmp_path / "precious.txt" / "below", train=2, val=1)


def test_components_and_distances():
    region = np.array([[1, 1, 0, 0, 1], [0, 1, 0, 1, 1], [0, 1, 1, 0, 1], [1, 0, 0, 0, 1]], dtype=bool)
    found = sorted(int(component.sum()) for component in components(region))
    assert found == [1, 5, 5]
    square = np.zeros((9, 9), dtype=bool)
    square[2:7, 2:7] = True
    assert distance_to_boundary(square)[4, 4] == 3 and distance_to_boundary(square)[2, 2] == 1
    assert distance_to_boundary(square)[0, 0] == 0 and distance_to_boundary(np.ones((9, 9), bool)).min() > 9


def test_each_object_gets_its_own_stroke():
    label = np.zeros((100, 140), dtype=np.uint8)
    label[10:50, 10:50], label[60:95, 90:130], label[5:9, 60:130] = 2, 2, 3
    label[50:55, 20:120] = PADDING
    scribbles = simulate_scribbles(label, np.random.default_rng(0))
    for rows, columns, value in (
        (slice(10, 50), slice(10, 50), 2),
        (slice(60, 95), slice(90, 130), 2),
        (slice(5, 9), slice(60, 130), 3),
    ):
        assert (scribbles[rows, columns] == value).any()
    assert (scribbles[label == PADDING] == UNLABELLED).all() and (scribbles == 0).any()
    assert ((scribbles == UNLABELLED) | (scribbles == label)).all()
