"""The notebook: it runs, in short, and what is stored in it is what its text says."""

import json
import re
import shutil
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
SHORTER = {"SIZE = 129": "SIZE = 65", "steps=60": "steps=3"}  # beside the environment's one epoch
NOTEBOOK = HOME / "notebooks/rloss_tour.ipynb"


def text_of(notebook) -> str:
    """Return all that the cells printed."""
    return "".join(output.get("text", "") for cell in code_of(notebook) for output in cell.outputs)


def pictures_of(notebook) -> int:
    return sum("image/png" in output.get("data", {}) for cell in code_of(notebook) for output in cell.outputs)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, pattern
    return float(found[1])


@pytest.fixture
def stored():
    nbformat = pytest.importorskip("nbformat")  # not above, as it takes seconds to import
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_it_runs(stored, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("RLOSS_TOUR_EPOCHS", "1")
    code = tmp_path / "pytorch-deeplab_v3_plus"
    shutil.copytree(HOME / code.name, code, ignore=shutil.ignore_patterns("__pycache__", "run"))
    (tmp_path / "data").symlink_to(HOME / "data")  # the bundled weights
    (tmp_path / "notebooks").mkdir()
    pictures = pictures_of(stored)
    for text, shorter in SHORTER.items():
        (cell,) = (cell for cell in code_of(stored) if text in cell.source)
        cell.source = cell.source.replace(text, shorter)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(
        stored, timeout=300, kernel_name="python3", resources=where
    ).execute()  # raises what a cell raises
    assert pictures_of(stored) == pictures
    output = tmp_path / "run/tour"
    assert (output / "val_0001_prediction.png").is_file()
    for name, with_loss in {"partial_ce": False, "more_partial_ce": False, "densecrf": True}.items():
        run = output / "runs/data" / name / "experiment_0"
        assert (run / "checkpoint_last.pth.tar").is_file()
        epochs = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
        assert ("densecrf" in epochs[0]["losses"]) == with_loss


def test_it_is_stored_as_it_ran(stored):
    """From the top, in one go, with its pictures and no trace of the machine."""
    cells = code_of(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert pictures_of(stored) >= 7 and NOTEBOOK.stat().st_size < 1.5e6
    content = NOTEBOOK.read_text()
    assert "sys.path" not in content
    assert not re.search(r"/(home|root|tmp|work|Users)/", content) and "Warning" not in text_of(stored)


def test_the_stored_numbers_are_what_the_text_says(stored):
    text = text_of(stored)
    assert number(r"(\d+) steps, ", text) == 150
    assert number(r"right on the scribbles: (\d+)", text) > 95  # "nearly all of the scribbled pixels"
    predicted, truth = (number(rf"(-[\d.]+)  {name}", text) for name in ("partial CE's prediction", "the truth"))
    assert number(r"(-[\d.]+)  background everywhere", text) == -1 < truth < predicted

    def scores(name: str) -> list[float]:
        return [number(rf"(?m)^{name}(?: +[\d.]+){{{column}}} +([\d.]+)", text) for column in range(3)]

    first, more, with_loss = scores("mIoU")
    assert first == number(r"against their full truth: ([\d.]+)", text)
    assert first > number(r"background everywhere would have ([\d.]+)", text)
    assert abs(more - first) < 1  # "gains nothing"
    assert f"gains {with_loss - more:.1f} points over it" in NOTEBOOK.read_text()
    gain = {name: scores(name)[2] - scores(name)[1] for name in ("leaf", "starfish", "mushroom", "butterfly")}
    assert min(gain["leaf"], gain["starfish"]) > gain["mushroom"] > 0 > gain["butterfly"]
    assert re.search(r"(?m)background [\d.]+ %, leaf [\d.]+ %, mushroom [\d.]+ %$", text)  # of the new image
