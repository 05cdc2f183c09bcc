"""What a script says when something is wrong, and with which status it ends."""

import argparse
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from common.arguments import number
from common.errors import PACKAGES, InputError, exit_status
from common.parallel import WORKERS
from dataloaders.images import read_image
from filtering import Lattice, torch_lattice
from helpers import CODE, ENVIRONMENT, data, one_line, run_folder, train


def fails(error: BaseException):
    def main() -> int:
        raise error

    return main


def test_bad_input_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv("RLOSS_DEBUG", raising=False)
    assert exit_status(fails(InputError("a.png: expected an image"))) == 2
    assert capsys.readouterr().err == "error: a.png: expected an image\n"


def test_every_program_says_bad_input_in_one_line():
    """Regression: a mistyped option of check_environment.py was a traceback."""
    folders = CODE, CODE.parent / "benchmarks", CODE.parent / "experiments"
    programs = [path for folder in folders for path in folder.rglob("*.py") if "__main__" in path.read_text()]
    assert len(programs) > 20
    assert [path for path in programs if "exit_status(main)" not in path.read_text()] == []


def test_closed_streams_and_a_matplotlibrc_are_no_error(voc):
    """Regression: a progress bar had nothing to write to, status 1 without a word; a sheet was set with LaTeX."""
    (voc.parent / "matplotlibrc").write_text("text.usetex: True\n")
    environment = {**ENVIRONMENT, "MATPLOTLIBRC": str(voc.parent / "matplotlibrc")}
    command = [sys.executable, CODE / "check_dataset.py", voc, "--classes", voc.parent / "classes.txt"]
    command = [*command, "--output", voc.parent / "report"]
    closed = subprocess.run(
        ["bash", "-c", '"$@" >&- 2>&-', "bash", *map(str, command)], env=environment, check=False, timeout=300
    )
    assert closed.returncode == 0 and (voc.parent / "report/report.txt").is_file()


def test_sigmas_too_small_for_the_filter_are_one_line(capsys, voc):
    """Regression: of --crf, --densecrfloss and --rloss-weight alike, they ended in a traceback."""
    for build in (Lattice, torch_lattice.Lattices):
        assert exit_status(lambda build=build: build(255 * torch.rand(1, 3, 9, 9), 1e-9, 80.0)) == 2
        assert "use larger sigmas" in one_line(capsys)
    assert train(voc, "--epochs", 1, "--densecrfloss", 1, "--sigma-rgb", "1e-9") == 2
    line = one_line(capsys)
    assert line.endswith("use larger sigmas or a smaller range of features")  # and not how a resumed training goes on


@pytest.mark.parametrize("text", ["nan", "inf", "1e-200", "1e200", "-1", "x"])
def test_numbers_whose_squares_single_precision_lacks_are_refused(text):
    """Regression: a weight of 1e300 made every pixel background, and a width of 1e-200 was 0 in C++."""
    with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
        number(float, 0)(text)
    assert [number(float, 0)(text) for text in ("0", "2e-9", "1e6")] == [0, 2e-9, 1e6]


def test_a_file_name_of_two_lines_is_shown_whole(tmp_path, capsys):
    """Regression: of such a message only the last line was left."""
    (tmp_path / "two\nlines.png").write_bytes(b"no image")
    how = {"num_workers": 1, "multiprocessing_context": WORKERS, "collate_fn": lambda files: read_image(files[0])}
    images = DataLoader([tmp_path / "two\nlines.png"], **how)
    for read in (lambda: read_image(tmp_path / "two\nlines.png"), lambda: next(iter(images))):
        assert exit_status(read) == 2
        assert one_line(capsys).startswith(rf"error: expected an image, cannot read {tmp_path}/two\nlines.png: ")


def test_names_that_are_not_in_utf8_stay_in_the_log(voc, capsys):
    """Regression: they vanished from the output, and a training in such a folder ended with a traceback."""
    folder = voc.rename(voc.with_name(os.fsdecode(b"f\xe9")))
    assert train(folder, "--epochs", 1, "--no-val") == 0
    assert r"run/f\udce9/deeplab-mobilenet/experiment_0" in capsys.readouterr().out
    for name in ("log.txt", "parameters.txt"):
        assert r"f\udce9" in (run_folder(folder) / name).read_text(encoding="utf-8")


def test_with_rloss_debug_the_traceback_is_shown_as_well(capsys, monkeypatch):
    monkeypatch.setenv("RLOSS_DEBUG", "1")
    assert exit_status(fails(InputError("a.png: expected an image"))) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and printed.endswith("error: a.png: expected an image\n")


def test_a_missing_package_is_one_line(capsys):
    assert exit_status(fails(ModuleNotFoundError("No module named 'tqdm'", name="tqdm"))) == 2
    assert capsys.readouterr().err == "error: No module named 'tqdm'; is everything installed? (make setup)\n"


def test_the_packages_that_may_be_missing_are_those_of_requirements_txt():
    """Regression: export_annotations.py without contourpy ended in a traceback."""
    needed, _, _ = (CODE.parent / "requirements.txt").read_text().partition("# Build")  # what training imports
    names = set(re.findall(r"^\w+", needed, re.MULTILINE))
    assert names - {"pillow"} | {"PIL", "bilateralfilter"} == PACKAGES


def test_rank_alone_does_not_keep_sigterm_from_being_handled(monkeypatch, capsys):
    """Regression: a variable that another program left behind had SIGTERM leave half a file."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert exit_status(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert capsys.readouterr().err == "terminated\n"


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'my_helpers'", name="my_helpers"),
        ImportError("cannot import name 'Tenzor' from 'torch'", name="torch"),
    ],
)
def test_other_mistaken_imports_keep_their_traceback(error):
    with pytest.raises(ImportError):
        exit_status(fails(error))


def test_a_broken_import_in_a_loss_of_ones_own_names_its_line(voc, tmp_path):
    (tmp_path / "mine.py").write_text("import no_such_helpers\n")
    code = (
        "import sys, losses, train_withdensecrfloss as script; from common.errors import exit_status; "
        f"losses.__path__.append({str(tmp_path)!r}); sys.exit(exit_status(lambda: script.main(sys.argv[1:])))"
    )
    words = [*data(voc), "--regulariser", "mine=1"]
    result = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CODE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1 and "Traceback" in result.stderr
    assert 'mine.py", line 1' in result.stderr and "No module named 'no_such_helpers'" in result.stderr
