"""check_environment.py: the table and the JSON, and that each fault of an environment is reported as one."""

import importlib.metadata
import json
import sys
import types
from pathlib import Path

import pytest
import torch

import check_environment
import filtering
from check_environment import Note, against_cpu, data_set, filter_build, graphics, packages, run

NAMES = ["Python", "packages", "processor", "GPU", "filter", "DenseCRF loss", "data: pascal", "disk"]


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    """No data set is where it should be."""
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "none"))
    monkeypatch.setenv("RLOSS_SYNTHETIC_ROOT", str(tmp_path / "none either"))


def by_name(capsys) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_a_narrow_terminal_and_a_missing_package_are_no_traceback(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setitem(sys.modules, "dataloaders.catalogue", None)  # importing it fails
    assert check_environment.main([]) in (0, 1)
    assert not any(line.startswith("data: ") for line in capsys.readouterr().out.splitlines())


def test_a_sound_environment_passes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert check_environment.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 or " " not in line[24:] for line in lines)  # a path is not broken
    assert lines[-1] == "everything works"
    starts = [line[:24] for line in lines[:-1] if line[0] != " "]
    assert all(line[16:].strip() in ("ok", "note") for line in starts)
    assert {line[:16].strip() for line in starts} >= set(NAMES)

    assert check_environment.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert [check["name"] for check in report["checks"]] == [line[:16].strip() for line in starts]


def test_a_filter_with_other_numbers_fails(capsys, monkeypatch):
    def wrong(images, ins, outs, *_):
        outs[:] = 1.001 * ins

    monkeypatch.setitem(
        sys.modules, "bilateralfilter", types.SimpleNamespace(bilateralfilter_batch=wrong, mean_field=None)
    )
    assert check_environment.main(["--json"]) == 1
    checks = by_name(capsys)
    assert checks["filter"]["status"] == checks["DenseCRF loss"]["status"] == "FAILED"
    assert "expected below 1e-05" in checks["filter"]["text"] and checks["Python"]["status"] == "ok"


def test_a_missing_filter_fails_and_says_how_to_build_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bilateralfilter", None)
    assert check_environment.main([]) == 1
    text = capsys.readouterr().out
    assert "pip install ./wrapper/bilateralfilter" in text.replace("\n" + 24 * " ", " ")
    assert text.splitlines()[-1].endswith("checks failed")


def test_the_build_is_told(monkeypatch, tmp_path):
    binary = tmp_path / "_bilateralfilter.so"
    monkeypatch.setitem(sys.modules, "_bilateralfilter", types.SimpleNamespace(__file__=str(binary)))
    built = types.SimpleNamespace(instruction_sets=lambda: ("avx2", "sse2"), mean_field=None)
    monkeypatch.setitem(sys.modules, "bilateralfilter", built)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    binary.write_bytes(b"\x7fELF GOMP_parallel")
    assert filter_build().startswith("OpenMP, threads: 3, avx2 (of avx2, sse2)")
    binary.write_bytes(b"\x7fELF")
    assert run(filter_build)[0] == "note" and "no OpenMP" in run(filter_build)[1]


def test_versions_are_held_against_the_requirements(monkeypatch, tmp_path):
    requirements = tmp_path / "requirements.txt"
    monkeypatch.setattr(check_environment, "REQUIREMENTS", requirements)
    found = f"torch {importlib.metadata.version('torch')}"
    requirements.write_text("# what runs need\ntorch>=2.4,<3\nswig>=4.1 # builds\n")
    assert packages() == found
    requirements.write_text("torch>=99\n")
    assert run(packages) == ("FAILED", f"{found}, expected >=99")
    requirements.write_text("no-such-package-here>=1\n")
    assert run(packages)[0] == "FAILED" and "no-such-package-here" in run(packages)[1]


def test_a_device_is_held_against_the_cpu(monkeypatch):
    """With the CPU in the place of a GPU: it agrees with itself, until its filter is off."""
    assert against_cpu(torch.device("cpu")).count("relative error 0e+00") == 2
    right, calls = filtering.bilateral_filter, []

    def wrong_at_first(*words):
        calls.append(words)
        return right(*words) * (1.01 if len(calls) == 1 else 1)

    monkeypatch.setattr(filtering, "bilateral_filter", wrong_at_first)
    assert run(lambda: against_cpu(torch.device("cpu"))) == ("FAILED", "relative error 1.0e-02, expected below 0.0001")


def test_data_sets_are_found_and_complete(voc, monkeypatch):
    monkeypatch.setenv("RLOSS_PASCAL_ROOT", str(voc))
    assert data_set("pascal").startswith("5 training and 2 validation images")
    (voc / "JPEGImages/i6.jpg").unlink()
    status, text = run(lambda: data_set("pascal"))
    assert status == "FAILED" and "i6" in text
    with pytest.raises(Note, match="drawn when it is first used"):
        data_set("synthetic")
    assert not Path(voc.parent / "none either").exists()


def test_a_missing_gpu_is_a_note():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run(graphics)[0] == "note"
