"""The wheel of the filter: built by pip, and used where nothing else is installed."""

import importlib.util
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

FILTER = Path(__file__).parents[2] / "wrapper" / "bilateralfilter"
CAN_BUILD = importlib.util.find_spec("setuptools.command.bdist_wheel") and (
    shutil.which("swig") or shutil.which("swig", path=str(Path(sys.executable).parent))
)


@pytest.mark.slow
@pytest.mark.skipif(not CAN_BUILD, reason="needs setuptools 70.1 and SWIG")
def test_the_wheel_works_in_a_bare_environment(tmp_path):
    source = shutil.copytree(FILTER, tmp_path / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    setup = source / "setup.py"
    content = setup.read_text()
    assert content.count('"-O3"') == 1
    setup.write_text(content.replace('"-O3"', '"-O0"'))  # which compiles in a third of the time
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("bilateralfilter-*.whl")
    venv.create(tmp_path / "bare", with_pip=False)
    (packages,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    python = tmp_path / "bare" / "bin" / "python"
    check = [python, "-I", FILTER / "tests" / "check_wheel.py"]
    run = subprocess.run(check, check=True, capture_output=True, text=True)
    assert run.stdout.startswith("bilateralfilter works: ")
