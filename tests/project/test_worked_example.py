"""Every command of docs/worked_example.md, in order; there are fewer photographs, and the training is shorter."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import exit_status
from dataloaders.synthetic import belt

PAGE = Path(__file__).parents[2] / "docs" / "worked_example.md"
EPOCHS = 1
SIZE = ["--crop-size", "65", "--base-size", "65"]
PHOTOGRAPHS, NEW = 20, 2


def commands() -> list[list[str]]:
    """Return the commands of the page as words."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^python (.*)$", text, flags=re.MULTILINE)]


def run(words: list[str]) -> None:
    """Run a command of the page in this process."""
    name, *options = words[1:] if words[0] == "-m" else words
    if "--epochs" in options:
        options[options.index("--epochs") + 1] = str(EPOCHS)
        options += SIZE
    script = importlib.import_module(name.removesuffix(".py"))
    assert exit_status(lambda: script.main(options)) == 0, shlex.join(words)


@pytest.mark.slow
@pytest.mark.pictures
def test_every_command_of_the_page(tmp_path, monkeypatch, capsys):
    assert (belt.PHOTOGRAPHS, belt.NEW) == (60, 6)  # as the page says
    monkeypatch.setattr(belt, "PHOTOGRAPHS", PHOTOGRAPHS)
    monkeypatch.setattr(belt, "NEW", NEW)
    monkeypatch.chdir(tmp_path)  # the page runs them in the code's folder, and all that they write goes to run/
    printed: dict[str, str] = {}
    for words in commands():
        run(words)
        printed[words[0]] = capsys.readouterr().out
    assert list(printed) == [
        "-m",
        "import_scribbles.py",
        "check_dataset.py",
        "train_withdensecrfloss.py",
        "evaluate.py",
        "inference.py",
        "simulate_scribbles.py",
    ]
    assert "16 training and 4 validation images, 200x150 pixels" in printed["check_dataset.py"]
    assert "0 errors, 0 warnings, 0 notes" in printed["check_dataset.py"]
    assert "see check_dataset.py" not in printed["train_withdensecrfloss.py"]
    assert (tmp_path / "run/parts/deeplab-mobilenet/experiment_0/validation.png").is_file()
    for name in ("bolt", "gear", "nut", "mIoU"):
        assert name in printed["evaluate.py"]

    for number in range(PHOTOGRAPHS, PHOTOGRAPHS + NEW):
        segmented = tmp_path / "run/belt/segmented" / f"part_{number:03d}_prediction.png"
        assert Image.open(segmented).size == (200, 150)
        for kind in ("colour", "overlay"):
            assert segmented.with_name(f"part_{number:03d}_{kind}.png").is_file()

    drawn = {
        name: sum(
            (np.asarray(Image.open(path)) != 255).sum()
            for path in sorted((tmp_path / "run/belt" / name / "pascal_2012_scribble").iterdir())
        )
        for name in ("parts", "half", "dots")
    }
    assert 0 < drawn["dots"] < drawn["half"] < 0.6 * drawn["parts"]

    # The strokes agree with the masks, but for where the hand crossed a border.
    wrong = total = 0
    for path in (tmp_path / "run/belt/parts/pascal_2012_scribble").iterdir():
        scribbles = np.asarray(Image.open(path))
        truth = np.asarray(Image.open(path.parent.with_name("SegmentationClassAug") / path.name))
        wrong += (scribbles[scribbles != 255] != truth[scribbles != 255]).sum()
        total += (scribbles != 255).sum()
    assert wrong < 0.06 * total
