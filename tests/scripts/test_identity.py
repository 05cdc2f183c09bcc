"""A run is known by its data and settings: what is resumed, kept and called best is that of this very training."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_two_stages
from common.errors import InputError
from dataloaders import make_data_loader
from helpers import SMALL, call, custom, data, one_line, run_folder, train, write_label
from training.checkpoint import save_checkpoint, save_last
from training.identity import SCORE_FACTS, best_of_runs, data_facts, differences, fingerprint, identity_of
from training.journal import Journal
from training.options import ALL_PRESETS, parse_options
from training.resume import Ended, Start, find_start, runs_in
from training.trainer import Trainer

# Whole trainings


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def relabel(voc: Path, kind: str = "pascal_2012_scribble", image: str = "i0") -> None:
    write_label(voc / kind / f"{image}.png", np.tile(np.arange(30) % 3, (20, 1)))


def test_an_ended_run_whose_large_files_are_deleted_is_left_alone(voc, capsys):
    """Regression: it was trained anew in its own folder, over its scores and its best network."""
    assert train(voc, "--epochs", 1, "--save-interval", 1) == 0
    for name in ("last", "previous"):
        (run_folder(voc) / f"checkpoint_{name}.pth.tar").unlink(missing_ok=True)
    for path in (run_folder(voc), run_folder(voc).parent):
        before = contents(path)
        assert train(voc, "--epochs", 1, "--resume", "auto") == 0
        assert "has ended after 1 epochs" in capsys.readouterr().out
        assert contents(path) == before
    (run_folder(voc) / "checkpoint_epoch_1.pth.tar").unlink()
    assert train(voc, "--epochs", 2, "--no-val", "--resume", "auto") == 0  # nothing is left that could be continued
    printed = capsys.readouterr().out
    assert "experiment_0 has ended after 1 epochs, and its last checkpoint is gone: it stays as it is" in printed
    assert contents(run_folder(voc)).keys() >= {"checkpoint.pth.tar", "best_pred.txt"}
    assert (run_folder(voc, number=1) / "checkpoint_last.pth.tar").is_file()


def test_data_sets_of_one_name_have_runs_of_their_own(voc, capsys):
    """Regression: the second was told that it had ended, or went on from the first one's network."""
    assert train(voc, "--epochs", 1) == 0
    best = voc.parent / "run" / "voc" / "deeplab-mobilenet" / "model_best.pth.tar"
    first = best.read_bytes()
    other = voc.parent / "fold2"
    shutil.copytree(voc, other / "voc")
    relabel(other / "voc", "SegmentationClassAug", "i5")  # of a validation image
    (other / "classes.txt").write_text((voc.parent / "classes.txt").read_text())
    words = ["--epochs", 1, "--resume", "auto", "--run-root", voc.parent / "run"]
    capsys.readouterr()
    assert train(other / "voc", *words) == 0
    printed = capsys.readouterr().out
    assert "experiment_0 is another training (other validation labels): it stays as it is, and a new run" in printed
    assert "cannot be compared with this run's best (other validation labels)" in printed
    assert best.with_name("model_best_before_experiment_1.pth.tar").read_bytes() == first != best.read_bytes()
    for folder, number in ((voc, 0), (other / "voc", 1)):
        assert train(folder, *words) == 0
        assert f"experiment_{number}: this training has ended" in capsys.readouterr().out


@pytest.mark.slow
def test_fine_tuning_is_one_command_that_picks_up_its_own_run(voc, monkeypatch, capsys):
    """Also where the run's best network has replaced the file that it started from."""
    assert train(voc, "--epochs", 1) == 0
    model = run_folder(voc).parent / "model_best.pth.tar"
    (run_folder(voc) / "best_pred.txt").write_text("0.0\n")
    words = ["--resume", model, "--ft", "--epochs", 3, "--lr", 1e-9]
    with monkeypatch.context() as struck:
        evaluate, times = Trainer.evaluate, []

        def killed(self, *args):
            times.append(1)
            if len(times) == 2:
                raise KeyboardInterrupt
            return evaluate(self, *args)

        struck.setattr(Trainer, "evaluate", killed)
        assert train(voc, *words) == 130
    tuned = run_folder(voc, number=1)
    assert torch.load(model, weights_only=True)["identity"]["start"]["file"] == str(model)  # replaced
    assert train(voc, *words) == 0
    assert [run.name for run in runs_in(tuned.parent)] == ["experiment_1", "experiment_0"]
    assert [json.loads(line).get("epoch") for line in (tuned / "scores.jsonl").open()] == [1, 2, 3, None]
    capsys.readouterr()
    assert train(voc, *words) == 0
    assert "experiment_1: this training has ended after 3 epochs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_file_that_is_resumed_on_other_data_leaves_its_best_behind(voc, capsys):
    assert train(voc, "--epochs", 1) == 0
    last, best = (run_folder(voc) / f"checkpoint{name}.pth.tar" for name in ("_last", ""))
    content = torch.load(last, weights_only=True)
    content["best_pred"] = content["history"][0]["val"]["miou"] = 0.99
    torch.save(content, last)
    words = ["--epochs", 2, "--lr", 0.001, "--densecrfloss", 1, "--size-free", "--resume"]
    relabel(voc, "SegmentationClassAug", "i6")
    capsys.readouterr()
    assert train(voc, *words, last) == 0
    printed = capsys.readouterr().out
    changes = next(line for line in printed.split("\n") if "is resumed with changes" in line)
    for said in ("other validation labels", "--lr was 0.0035 and is 0.001", "--densecrfloss was 0.0 and is 1.0"):
        assert said in changes
    assert changes.endswith("the scores are not comparable, so that the best starts anew")
    resumed = run_folder(voc, number=1)
    assert float((resumed / "best_pred.txt").read_text()) < 0.9
    assert (resumed / "checkpoint.pth.tar").read_bytes() != best.read_bytes()


def test_what_a_continued_run_was_told_before_is_kept(voc, capsys):
    words = ["--no-val", "--resume", "auto"]
    assert train(voc, "--epochs", 1, *words) == 0
    assert "the rate is the default, 0.007 x batch 2 / (4 x 1 device), as in the original" in capsys.readouterr().out
    parameters = run_folder(voc) / "parameters.txt"
    assert train(voc, "--epochs", 2, *words, "--lr", 0.001) == 0
    printed = capsys.readouterr().out
    assert "is resumed with changes: --epochs was 1 and is 2; --lr was 0.0035 and is 0.001" in printed
    assert "as the schedule is now that of 2 epochs, the learning rate rises" not in printed
    text = parameters.read_text()
    assert text.count("command: ") == 2 and text.index("\nlr: 0.001\n") > text.index("\nlr: 0.0035\n")
    for path in (run_folder(voc) / "identity.json", parameters):
        path.unlink()
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    content = torch.load(last, weights_only=True)
    del content["identity"]
    torch.save(content, last)
    assert train(voc, "--epochs", 3, *words, "--lr", 0.001) == 0  # as earlier versions left it
    printed = capsys.readouterr().out
    assert "an earlier version did not keep what its data were" in printed
    assert "as the schedule is now that of 3 epochs, the learning rate rises from 0.000287 to 0.000372" in printed
    kept = json.loads((run_folder(voc) / "identity.json").read_text())
    assert kept["data"]["classes"] == ["background", "cat", "dog"]


# The parts, on runs that are only written down


def identity(voc: Path, *words) -> dict:
    loaders = make_data_loader(custom(voc))
    surveys = {split: getattr(loaders, split).dataset.survey() for split in ("train", "val")}
    return fingerprint(options(*words), data_facts(loaders, surveys))


def options(*words):
    return parse_options(["--backbone", "mobilenet", "--no-cuda", *map(str, words)])


def test_the_files_that_settings_name_belong_to_a_training(voc, tmp_path):
    """Regression: a training with other bounds went on as if they were the same."""
    bounds, words = tmp_path / "bounds.txt", ["--regulariser", f"size=1,bounds={tmp_path / 'bounds.txt'}"]
    bounds.write_text("1 0.05 0.3\n")
    before = identity(voc, *words)
    assert differences(before, identity(voc, *words)) == []
    bounds.write_text("1 0.50 0.9\n")
    (difference,) = differences(before, identity(voc, *words))
    assert str(bounds) in difference


def write_run(parent: Path, number: int, identity: dict, epochs: int, ended: bool = False) -> Path:
    folder = parent / f"experiment_{number}"
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(json.dumps(identity))
    content = {"epoch": epochs, "state_dict": {"weight": torch.zeros(2)}, "optimizer": {}, "identity": identity}
    save_last(folder, content)
    lines = [{"epoch": epoch} for epoch in range(1, epochs + 1)] + [{"final": {}}] * ended
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def spoil_list(voc):
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("i0\ni1\ni2\ni3\n")


def spoil_image(voc):
    path = voc / "JPEGImages/i1.jpg"
    path.write_bytes((voc / "JPEGImages/i2.jpg").read_bytes() + b"\0")


def spoil_pixels(voc):
    """Pixels in a file that stays as large as it was."""
    path = voc / "JPEGImages/i1.jpg"
    path.write_bytes(path.read_bytes()[:-9] + bytes(9))


def recompress(voc):
    """The same labels in another file, and the whole data set in another place."""
    path = voc / "pascal_2012_scribble/i0.png"
    Image.open(path).save(path, compress_level=0)
    os.utime(voc / "JPEGImages/i0.jpg", (0, 0))


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (recompress, [], []),
        (recompress, ["--lr", 0.5, "--epochs", 3, "--batch-size", 8, "--amp", "bf16", "--workers", 1, "--no-val"], []),
        (relabel, [], ["other training labels"]),
        (spoil_list, [], ["other training list", "other training images", "other training labels"]),
        (spoil_image, [], ["other training images"]),
        (spoil_pixels, [], ["other training images"]),
        (recompress, ["--crop-size", 65], ["--crop-size was 513 and is 65"]),
        (recompress, ["--supervision", "full"], ["--supervision was scribble and is full"]),
        (recompress, ["--densecrfloss", 2e-9], ["--densecrfloss was 0.0 and is 2e-09"]),
        (recompress, ["--backbone", "drn"], ["--backbone was mobilenet and is drn"]),
    ],
)
def test_what_makes_another_training(voc, change, words, said):
    before = identity(voc)
    change(voc)
    assert differences(before, identity(voc, *words)) == said


def test_auto_takes_the_newest_run_of_this_very_training(tmp_path, voc, caplog):
    ours, theirs = identity(voc), identity(voc, "--supervision", "full")
    auto = options("--resume", "auto", "--epochs", 5)
    assert find_start(auto, tmp_path, ours) == Start(ours)
    old = write_run(tmp_path, 0, {}, 2)  # of an earlier version: as far as it is known, it is this training
    assert find_start(auto, tmp_path, ours).folder == old
    mine = write_run(tmp_path, 1, ours, 3)
    write_run(tmp_path, 2, theirs, 4)
    (tmp_path / "experiment_7").write_text("a file of the user's")
    write_run(tmp_path, 3, ours, 0)
    (tmp_path / "experiment_3" / "checkpoint_last.pth.tar").unlink()  # stopped before its first checkpoint
    (tmp_path / "experiment_9").mkdir()  # the user's
    assert find_start(auto, tmp_path, ours).path == mine / "checkpoint_last.pth.tar"
    shutil.rmtree(tmp_path / "experiment_9")
    shutil.rmtree(old), shutil.rmtree(mine)
    assert find_start(auto, tmp_path, ours) == Start(ours, tmp_path / "experiment_3")
    shutil.rmtree(tmp_path / "experiment_3")
    with caplog.at_level("WARNING"):
        assert find_start(auto, tmp_path, ours).folder is None
    assert "experiment_2 is another training (--supervision was full and is scribble)" in caplog.text
    write_run(tmp_path, 3, ours, 5, ended=True)
    with pytest.raises(Ended, match=r"ended after 5 epochs with other settings \(--lr was 0.007 and is 0.5\)"):
        find_start(auto, tmp_path, identity(voc, "--lr", 0.5))
    classes = {**ours, "data": {**ours["data"], "classes": ["background", "cat", "dog", "fox"]}}
    with pytest.raises(InputError, match="experiment_3: was trained with 3 classes, but here are 4; .* --checkname"):
        find_start(auto, tmp_path, classes)


@pytest.mark.parametrize(
    "damage", ["null", "{}", '{"data": {"classes": 7}, "settings": {}}', '{"data": [], "settings": {}}']
)
def test_a_damaged_identity_is_that_of_the_checkpoint(tmp_path, voc, damage):
    """Regression: some were a traceback."""
    ours = identity(voc)
    folder = write_run(tmp_path, 0, ours, 3)
    (folder / "identity.json").write_text(damage)
    assert find_start(options("--resume", "auto", "--epochs", 5), tmp_path, ours).identity == ours
    assert (
        identity_of({"identity": json.loads(damage), "options": {"seed": 3, "device": Path("x")}})["settings"]["seed"]
        == 3
    )


def test_settings_of_a_later_version_are_named(voc):
    """Regression: nothing was said, and the training went on without them."""
    ours = identity(voc)
    later = {**ours, "settings": {**ours["settings"], "mixup": 0.5}}
    assert differences(later, ours) == ["--mixup was 0.5 and is not known here"] and not differences(
        ours, later, SCORE_FACTS
    )


def test_a_run_of_a_version_without_an_option_is_another_than_one_with_it():
    def told(before: dict, **now) -> list[str]:
        settings = {"lr": 0.1, **now}
        return differences({"data": {}, "settings": before}, {"data": {}, "settings": settings, "start": None})

    assert told({"lr": 0.1}, ema=0.9) == ["--ema was None and is 0.9"]
    assert told({"lr": 0.1}, ema=None) == told({}, ema=0.9) == told({"lr": 0.1, "ema": 0.9}, ema=0.9) == []


def test_fine_tuning_from_a_file_of_other_weights_is_another_run(tmp_path, voc, caplog):
    ours, model = identity(voc), tmp_path / "model.pth.tar"
    tune = options("--resume", model, "--ft")
    save_checkpoint(model, {"state_dict": {"a": torch.zeros(2)}})
    tuned = write_run(tmp_path, 0, find_start(tune, tmp_path, ours).identity, 1)
    assert find_start(tune, tmp_path, ours).folder == tuned
    save_checkpoint(model, {"state_dict": {"a": torch.ones(2)}})
    with caplog.at_level("WARNING"):
        assert find_start(tune, tmp_path, ours).folder is None
    assert f"{tuned} started from other weights, which {model} had then: a new run begins" in caplog.text


def test_damaged_files_of_a_run_do_not_stop_it(tmp_path, voc):
    """Regression: each was a traceback."""
    ours = identity(voc)
    folder = write_run(tmp_path, 0, ours, 3)
    (folder / "identity.json").write_text("null")
    (folder / "scores.jsonl").write_bytes(b'null\n{"epoch": 3}\n\0\0\n\xff\n{"fin')
    (folder / "steps.jsonl").write_bytes(b'3\n{"step": 2, "epoch": 0}\n\xff\n{"step": 9, "epoch": 4}\n{}\n{"st')
    (folder / "parameters.txt").write_bytes(b"\xff\n")
    start = find_start(options("--resume", "auto", "--epochs", 5), tmp_path, ours)
    assert start.path == folder / "checkpoint_last.pth.tar" and start.identity == ours
    journal = Journal(tmp_path, {"lr": 1}, folder, ours)
    journal.rewind([], folder, 2)
    journal.close()
    assert (folder / "steps.jsonl").read_text() == '{"step": 2, "epoch": 1}\n'
    assert (folder / "parameters.txt").read_text().endswith("lr: 1\n")


def test_that_there_is_nothing_to_resume_is_said(tmp_path, voc, caplog):
    """As where the folder of the data was renamed."""
    with caplog.at_level("INFO"):
        find_start(options("--resume", "auto"), tmp_path / "renamed", identity(voc))
    assert f"there is no run in {tmp_path / 'renamed'} yet: a new one begins" in caplog.text


def test_the_best_of_all_runs_is_of_those_that_can_be_compared(tmp_path, voc, caplog):
    ours, theirs = identity(voc), identity(voc, "--crop-size", 65)
    folder, best = write_run(tmp_path, 1, ours, 1), tmp_path / "model_best.pth.tar"
    assert best_of_runs(folder, ours, 0.3) == best
    sibling = write_run(tmp_path, 0, ours, 1)
    (sibling / "best_pred.txt").write_text("0.5\n")
    shutil.copytree(sibling, tmp_path / "experiment_copy")
    (tmp_path / "experiment_copy" / "best_pred.txt").write_text("0.99\n")  # somebody's own folder
    assert best_of_runs(folder, ours, 0.5) is None and best_of_runs(folder, ours, 0.6) == best
    save_checkpoint(best, {"state_dict": {}, "best_pred": 0.5, "identity": ours})
    assert best_of_runs(folder, ours, 0.6) == best and best.is_file()
    (sibling / "identity.json").write_text(json.dumps(theirs))
    save_checkpoint(best, {"state_dict": {}, "best_pred": 0.5, "identity": theirs})
    assert best_of_runs(folder, ours, 0.1) == best and not best.exists()
    assert "(--crop-size was 65 and is 513): it becomes model_best_before_experiment_1.pth.tar" in caplog.text


def test_a_comparison_by_another_version_of_the_preset_is_not_continued(voc, monkeypatch, capsys):
    """Regression: only the words of the command were compared."""
    monkeypatch.setattr("training.two_stages.train_all", lambda trainings, jobs: fails())
    preset = "40-original"
    words = [*SMALL, *data(voc), "--preset", preset, "--output", voc.parent / "two"]

    def fails():
        raise InputError("trained")

    for _ in range(2):
        assert call(train_two_stages, *words) == 2
        assert "trained" in one_line(capsys)
    monkeypatch.setitem(ALL_PRESETS, preset, ALL_PRESETS[preset] | {"amp": "bf16"})  # as auto on another machine
    assert call(train_two_stages, *words) == 2 and "trained" in one_line(capsys)
    monkeypatch.setitem(ALL_PRESETS, preset, ALL_PRESETS[preset] | {"momentum": 0.5, "sigma_xy": 7.0})
    assert call(train_two_stages, *words) == 2
    line = one_line(capsys)
    for said in ("--sigma-xy was 20.0 and is 7.0", "--momentum was 0.9 and is 0.5"):
        assert line.count(said) == 1
    file = voc.parent / "two" / "comparison.json"
    file.write_text(json.dumps({"settings": {"partial_ce": 3}}))
    assert call(train_two_stages, *words) == 2 and "comparison.json: is damaged" in one_line(capsys)


def test_a_comparison_of_earlier_labels_is_not_shown_again(voc, capsys):
    """Regression: after the labels were corrected, the old table was printed in four seconds."""
    words = [*SMALL, *data(voc), "--densecrfloss", 1, "--output", voc.parent / "two"]

    def no_training(trainings, jobs):
        raise InputError("trained")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.two_stages.train_all", no_training)
        for _ in range(2):
            assert call(train_two_stages, *words) == 2
            assert "trained" in one_line(capsys)
        file = voc.parent / "two" / "comparison.json"
        kept = file.read_bytes()
        for damage in ("{", "null", '{"data": []}', '{"variants": []}'):
            file.write_text(damage)
            assert call(train_two_stages, *words) == 2
            assert "comparison.json: is damaged; choose another --output" in one_line(capsys)
        for kind, said in (("SegmentationClassAug", "training truth"), ("pascal_2012_scribble", "training labels")):
            file.write_bytes(kept)  # the truth: the table shows it as fill-in
            relabel(voc, kind)
            assert call(train_two_stages, *words) == 2
            assert f"(other {said}" in (line := one_line(capsys))
            assert line.endswith(f"choose another --output, or delete the folder {voc.parent / 'two'}")
        file.unlink()  # regression: as the message might be understood, and the old table was printed
        (voc.parent / "two" / "seed_1").mkdir()
        assert call(train_two_stages, *words) == 2
        assert "comparison.json: is missing" in one_line(capsys)
        patch.setenv("RANK", "0"), patch.setenv("WORLD_SIZE", "2")
        assert call(train_two_stages, *words) == 2
        assert "expected no torchrun: this script starts trainings itself" in one_line(capsys)
