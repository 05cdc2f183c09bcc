"""The study of the annotation page: its user, its forest, and all of it on small images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import rounds
from common.errors import InputError
from dataloaders.images import read_label, write_label
from dataloaders.layout import CLASS_FILE, IMAGES, SCRIBBLES, TRUTH
from helpers import call, one_line
from page.rounds import RoundSettings, new_round

WIDTH, HEIGHT = 48, 40
COLOURS = ((40, 60, 160), (200, 60, 40), (60, 190, 60))
HELD = {
    name: frozenset(objects) for name, objects in zip("abcdefg", ([1], [2], [1, 2], [3], [1, 3], [1], []), strict=True)
}


@pytest.fixture
def source(tmp_path):
    """A data set with truth: in each image a red or a green rectangle on blue, with noise."""
    folder = tmp_path / "source"
    for kind in (IMAGES, TRUTH):
        (folder / kind).mkdir(parents=True)
    (folder / CLASS_FILE).write_text("background\nred\ngreen\n")
    rng = np.random.default_rng(0)
    for index in range(14):
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        top, left = rng.integers(3, 14, 2)
        label[top : top + 22, left : left + 24] = 1 + index % 2
        noise = rng.integers(-30, 31, (HEIGHT, WIDTH, 3))
        picture = (np.array(COLOURS)[label] + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / IMAGES / f"{index:02d}.png")
        write_label(folder / TRUTH / f"{index:02d}.png", label)
    return folder


def test_the_objects_besides_which_most_images_hold_no_other():
    assert rounds.choose_objects(HELD, 4, 1) == (1,)
    assert rounds.choose_objects(HELD, 4, 2) == (1, 2)
    assert rounds.choose_objects(HELD, 4, 3) == (1, 2, 3)


def test_every_class_is_drawn_and_other_objects_only_where_images_are_few(caplog):
    for seed in range(10):
        drawn, others = rounds.choose_images(HELD, (1, 2), 2, 2, np.random.default_rng(seed))
        assert set(drawn + others) == {"a", "b", "c", "f"}
        assert 1 in HELD[drawn[0]] and 2 in HELD[drawn[1]]
    assert not caplog.text
    drawn, others = rounds.choose_images(HELD, (1, 2), 2, 3, np.random.default_rng(0))
    assert set(drawn + others) == {"a", "b", "c", "e", "f"}
    assert "1 of 5 images hold other objects too" in caplog.text
    with pytest.raises(InputError, match="expected 6 images that hold the objects 1, 2, found 5"):
        rounds.choose_images(HELD, (1, 2), 2, 4, np.random.default_rng(0))


def test_other_objects_become_background(source, tmp_path):
    rounds.make_data(source, tmp_path / "made", (2,), (["01"], ["00"]), 1)
    assert (tmp_path / "made" / CLASS_FILE).read_text() == "background\ngreen\n"
    red, green = (read_label(tmp_path / "made" / TRUTH / f"{name}.png", 2) for name in ("00", "01"))
    assert not red.any() and np.array_equal(green == 1, read_label(source / TRUTH / "01.png", 3) == 2)
    strokes = read_label(tmp_path / "made" / SCRIBBLES / "01.png", 2)
    assert set(np.unique(strokes)) == {0, 1, 255} and (strokes == green)[strokes < 2].all()
    assert not (tmp_path / "made" / SCRIBBLES / "00.png").exists()


def test_the_largest_wrong_part():
    truth, mask = np.zeros((2, 30, 40), np.uint8)
    truth[2:12, 2:12] = 1  # missed: 100 pixels
    mask[20:26, 30:36] = 1  # wrong: 36 pixels of background
    truth[28, 0] = mask[0, 39] = 1  # too small to be seen
    truth[29, 39] = 255
    part, value = rounds.wrong_part(truth, mask)
    assert value == 1 and np.argwhere(part).min(0).tolist() == [2, 2] and part.sum() == 100
    assert rounds.wrong_part(truth, truth) is None


def test_measures_and_ranks_by_hand():
    soft = torch.tensor([[[0.9, 0.6]], [[0.1, 0.4]]])  # two pixels, both of class 0
    expected = {
        "1 - margin, mean": 0.5,
        "1 - margin, mean off the borders": 0.5,
        "entropy, mean": -sum(p * np.log(p) for p in (0.9, 0.1, 0.6, 0.4)) / 2,
        "1 - expected mIoU": 1 - 0.75 * 0.9 / (0.9 + 0.4),
    }
    assert {name: rate(soft) for name, rate in rounds.MEASURES.items()} == pytest.approx(expected, rel=1e-5)
    assert rounds.rank_correlation([1, 2, 9], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert rounds.rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)


@pytest.fixture
def ended(source, tmp_path):
    """A data set of four images drawn on and nine others, and a round on it with masks that are right but for one."""
    data = tmp_path / "data"
    names = [f"{index:02d}" for index in range(13)]
    rounds.make_data(source, data, (1, 2), (names[:4], names[4:]), 1)
    folder = new_round(data, RoundSettings())
    lines = [{"id": name, "uncertainty": int(name) / 100} for name in names]
    torn = '{"id": "00", "uncer'  # where the round was killed; regression: the study ended at it
    (folder / rounds.PREDICTED).write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    for name in names:
        mask = read_label(data / TRUTH / f"{name}.png", 3)
        write_label(folder / rounds.PREDICTIONS / f"{name}.png", np.where(mask == 2, 0, mask) if name == "01" else mask)
    return data, folder


@pytest.mark.parametrize("order", rounds.ORDERS)
def test_the_user_draws_on_three_images_and_corrects_what_is_wrong(ended, order):
    data, folder = ended
    before = {path.stem: read_label(path, 3) for path in (data / SCRIBBLES).iterdir()}
    rounds.correct(data, folder, order, 1)
    after = {path.stem: read_label(path, 3) for path in (data / SCRIBBLES).iterdir()}
    assert len(after.keys() - before.keys()) == 3
    if order == "uncertainty":
        assert after.keys() - before.keys() == {"10", "11", "12"}
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {"01"}
    new = before["01"] != after["01"]
    assert new.sum() > 5 and (after["01"][new] == 2).all() and (read_label(data / TRUTH / "01.png", 3)[new] == 2).all()
    rounds.correct(data, folder, order, 1)  # as where it was interrupted
    assert all((read_label(path, 3) == after[path.stem]).all() for path in (data / SCRIBBLES).iterdir())


def test_the_forest_fills_in_what_colours_tell(ended):
    pytest.importorskip("sklearn")
    pytest.importorskip("skimage")
    data, folder = ended
    rounds.run_forest(data, 1, 1)
    drawn, others = ([f"{index:02d}" for index in some] for some in (range(4), range(4, 13)))
    assert rounds.miou(data, data / "forest/1", others) > 0.8
    mask, strokes = (read_label(path / "00.png", 3) for path in (data / "forest/1", folder / "scribbles"))
    assert set(np.unique(mask)) == {0, 1} and (mask == strokes)[strokes < 3].all()
    assert rounds.miou(data, data / "forest/1", drawn) > 0.9


def study(source, output, *words) -> int:
    quick = ("--steps", 1, "--crf-steps", 1, "--crop-size", 33, "--batch-size", 2, "--rounds", 2, "--draws", "1")
    size = ("--classes", "2", "--drawn", 2, "--others", 9)
    return call(rounds, "--data-root", source, "--output", output, *quick, *size, *words)


def test_the_study_is_kept_and_refuses_other_settings(source, tmp_path, capsys):
    output = tmp_path / "study"
    assert study(source, output, "--no-forest", "--others", 99) == 2  # and the folder stays free
    assert "found 14: lower --others" in one_line(capsys)
    assert study(source, output, "--no-forest") == 0
    table = (output / "rounds.md").read_text()
    results = json.loads((output / "rounds.json").read_text())["2"]["1"]
    for order in rounds.ORDERS:
        assert [scores["images"] for scores in results[order]] == [2, 5]
        case = output / "classes_2/draw_1" / order
        first, second = (sorted(path.name for path in (case / "rounds" / n / "scribbles").iterdir()) for n in "12")
        assert set(first) < set(second)
        assert json.loads((case / "rounds/2/round.json").read_text())["start"] == "rounds/1/model.pth.tar"
    assert results["uncertainty"][0] == results["random"][0]
    lines = [json.loads(line) for line in (case.parent / "uncertainty/rounds/1/images.jsonl").read_text().splitlines()]
    last = {line["id"]: line["uncertainty"] for line in lines}
    drawn = {name[:-4] for name in second} - {name[:-4] for name in first}
    assert len(drawn) == 3 and drawn <= last.keys()
    times = {path: path.stat().st_mtime_ns for path in output.rglob("model.pth.tar")}
    assert len(times) == 5 and (output / "rounds.png").is_file() and "uncertainty ahead of random" in table
    assert study(source, output, "--no-forest") == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("model.pth.tar")} == times
    assert (output / "rounds.md").read_text() == table
    capsys.readouterr()
    assert study(source, output, "--no-forest", "--others", 8) == 2
    assert "this folder holds a study with other settings" in one_line(capsys)
