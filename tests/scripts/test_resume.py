"""A training that is killed or stopped goes on as if nothing had been; damaged checkpoints are passed over."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from common.distributed import STOPPED
from common.errors import InputError
from helpers import ENVIRONMENT, SMALL, data, one_line, run_folder, state, train
from training import build_trainer, checkpoint
from training.checkpoint import keep_newest, newest_checkpoint, save_last
from training.journal import Journal
from training.options import parse_options
from training.resume import Start, check_resumable, image_order, restore, training_state
from training.trainer import Trainer

TIMES = ("images_per_second", "regulariser_ms", "waiting_for_data")


def records(folder: Path, name: str) -> list[dict]:
    """Return the lines of a log without what a clock has measured."""
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    """The same weights to the bit, optimizer, scores and losses of every step."""
    x, y = (torch.load(folder / "checkpoint_last.pth.tar", weights_only=True) for folder in (a, b))
    assert all(torch.equal(x["state_dict"][key], value) for key, value in y["state_dict"].items())
    for p, q in zip(x["optimizer"]["state"].values(), y["optimizer"]["state"].values(), strict=True):
        assert torch.equal(p["momentum_buffer"], q["momentum_buffer"])
    assert records(a, "scores.jsonl") == records(b, "scores.jsonl")
    assert records(a, "steps.jsonl") == records(b, "steps.jsonl")
    assert (a / "best_pred.txt").read_text() == (b / "best_pred.txt").read_text()


@pytest.mark.slow
def test_a_training_that_is_killed_anywhere_ends_as_one_that_never_was(voc):
    """In a step, an evaluation, before and while a file is written; stopped by both signals; by Ctrl-C twice."""
    words = ["--epochs", "3", "--eval-interval", "2", "--log-interval", "1", "--save-steps", "1"]
    strikes = "TERM:6,KILL:9,INT2:11,INT:8,KILL:14"
    killed, whole = (voc.parent / root / "voc" / "deeplab-mobilenet" / "experiment_0" for root in ("run", "whole"))
    # Processes of one number of threads, on which the last bits depend.
    command = [sys.executable, Path(__file__).parents[1] / "killed_training.py", strikes, voc.parent / "whole"]
    command += [*SMALL, *data(voc), "--run-root", voc.parent / "run", *words]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    statuses = [line.split()[-1] for line in result.stdout.splitlines() if ": status " in line]
    assert statuses == [str(STOPPED), "-9", "130", str(STOPPED), "-9", "0", "0"], result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in killed.parent.glob("experiment_*")] == ["experiment_0"]
    assert not list(killed.glob(".*"))
    assert_same_run(whole, killed)


@pytest.fixture
def stop_after(monkeypatch):
    """Return a function that has a signal sent after so many training steps from now."""
    step = Trainer.train_step

    def stop(steps: int, number: signal.Signals = signal.SIGTERM) -> None:
        left = iter(range(steps - 1, -1, -1))

        def struck(self, batch):
            step(self, batch)
            if next(left) == 0:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Trainer, "train_step", struck)

    yield stop
    monkeypatch.undo()


def test_a_length_in_steps_that_is_already_exceeded_is_refused(voc, stop_after, capsys):
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("".join(f"i{number}\n" for number in range(7)))
    words = ["--batch-size", 2, "--no-val"]  # three steps an epoch
    stop_after(5)
    assert train(voc, *words, "--steps", 6) == STOPPED
    capsys.readouterr()
    assert train(voc, *words, "--steps", 4, "--resume", "auto") == 2
    assert "has 5 steps already, of 4 in all" in one_line(capsys)
    assert train(voc, *words, "--steps", 6, "--start_epoch", 50) == 2
    assert "nothing is left of 2 epochs" in one_line(capsys)
    assert [path.name for path in run_folder(voc).parent.glob("experiment_*")] == ["experiment_0"]


def test_a_length_in_steps_that_ended_within_an_epoch_is_continued_there(voc, capsys):
    """Regression: the epoch counted whole, so that a longer training lacked its other steps."""
    (voc / "ImageSets/SegmentationAug/train.txt").write_text("".join(f"i{number}\n" for number in range(7)))
    words = ["--batch-size", 2, "--lr-scheduler", "step", "--lr-step", 99]  # three steps an epoch
    words += ["--log-interval", 1, "--no-val", "--resume", "auto"]
    assert train(voc, *words, "--steps", 5, "--checkname", "whole") == 0
    last, scores = (run_folder(voc) / name for name in ("checkpoint_last.pth.tar", "scores.jsonl"))
    for steps in (4, 5):
        assert train(voc, *words, "--steps", steps) == 0
        content = torch.load(last, weights_only=True)
        assert (content["epoch"], content["step"]) == divmod(steps, 3)
        ended = scores.read_text()
        scores.write_text("".join(ended.splitlines(keepends=True)[:-1]))  # killed before its end
        assert train(voc, *words, "--steps", steps) == 0
        assert records(run_folder(voc), "scores.jsonl")[-1] == json.loads(ended.splitlines()[-1])
        capsys.readouterr()
        assert train(voc, *words, "--steps", steps) == 0
        assert "this training has ended after 2 epochs" in capsys.readouterr().out
    whole = run_folder(voc, "whole")
    for name in ("scores.jsonl", "steps.jsonl"):
        assert records(whole, name) == records(last.parent, name)
    weights, found = state(whole / last.name), state(last)
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    assert train(voc, *words[:-2], "--steps", 5, "--resume", last) == 2
    assert "has 5 steps already and --steps is 5; ask for more" in one_line(capsys)


def test_stopped_within_an_epoch(voc, stop_after, monkeypatch, capsys):
    """With workers, an interval that the stop cuts in two, and a file named on the command line, into a new folder."""
    words = ["--epochs", 2, "--batch-size", 2, "--no-val", "--workers", 1, "--log-interval", 2]
    assert train(voc, *words) == 0
    whole = run_folder(voc)
    stop_after(3)
    assert train(voc, *words) == STOPPED
    stopped = run_folder(voc, number=1)
    assert "stopped and saved; --resume auto" in capsys.readouterr().out
    monkeypatch.undo()
    last = stopped / "checkpoint_last.pth.tar"
    content = torch.load(last, weights_only=True)
    assert (content["epoch"], content["step"]) == (1, 1) and len(content["losses"]["cross_entropy"]) == 1
    assert train(voc, *words, "--resume", last, "--batch-size", 4) == 2
    line = one_line(capsys)
    assert str(last) in line and "--batch-size was 2 and is 4" in line
    assert train(voc, *words, "--resume", last) == 0
    resumed = max(whole.parent.glob("experiment_*"))
    a, b = state(whole / "checkpoint_last.pth.tar"), state(resumed / "checkpoint_last.pth.tar")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert records(whole, "steps.jsonl") == records(resumed, "steps.jsonl")


def test_a_moving_average_goes_on_where_it_stopped(voc, stop_after, monkeypatch, capsys):
    """It is what --ft takes; resumed without --ema, the training goes on from its own weights."""
    words = ["--epochs", 2, "--batch-size", 2, "--log-interval", 1, "--eval-interval", 2, "--ema"]
    assert train(voc, *words, 0.5) == 0
    stop_after(3)
    assert train(voc, *words, 0.5, "--checkname", "stopped") == STOPPED
    monkeypatch.undo()
    assert train(voc, *words, 0.5, "--checkname", "stopped", "--resume", "auto") == 0
    whole, resumed = run_folder(voc), run_folder(voc, "stopped")
    x, y = (torch.load(folder / "checkpoint_last.pth.tar", weights_only=True) for folder in (whole, resumed))
    for name in ("state_dict", "trained"):
        assert all(torch.equal(x[name][key], value) for key, value in y[name].items())
    assert not torch.equal(*(x[name]["decoder.last_conv.8.weight"] for name in ("state_dict", "trained")))
    for name in ("steps.jsonl", "scores.jsonl"):
        assert records(whole, name) == records(resumed, name)
    last = str(whole / "checkpoint_last.pth.tar")
    options = parse_options([*SMALL, *data(voc), "--run-root", str(voc.parent / "new"), "--resume", last, "--ft"])
    for changed, key in (({}, "state_dict"), ({"ft": False, "epochs": 3}, "trained")):
        trainer = build_trainer(replace(options, **changed))
        trainer.close()
        found = trainer.network.state_dict()
        assert all(torch.equal(found[name], value) for name, value in x[key].items())
    assert "resumed with changes: --ema was 0.5 and is None" in capsys.readouterr().out


def test_another_batch_size_keeps_the_records_of_the_steps_before(voc):
    """Regression: they were cut and renumbered by the new number of steps in an epoch."""
    words = ["--no-val", "--log-interval", 1]
    assert train(voc, *words, "--batch-size", 2, "--epochs", 2) == 0
    before = records(run_folder(voc), "steps.jsonl")
    assert [entry["epoch"] for entry in before] == [1, 1, 2, 2]
    assert train(voc, *words, "--batch-size", 5, "--epochs", 3, "--resume", "auto") == 0
    assert records(run_folder(voc), "steps.jsonl")[:-1] == before


def test_an_epoch_of_which_only_the_evaluation_was_left_has_no_rate(voc, monkeypatch, capsys):
    """Regression: the log and the records said 0 images a second."""
    with monkeypatch.context() as patch:
        evaluate = Trainer.evaluate

        def struck(self, *how):
            os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(self, *how)

        patch.setattr(Trainer, "evaluate", struck)
        assert train(voc, "--epochs", 1, "--resume", "auto") == STOPPED
    # Regression: as a part of train_two_stages.py it gave an option as advice that is refused there.
    assert "stopped and saved; the same command continues from here" in capsys.readouterr().out
    capsys.readouterr()
    assert train(voc, "--epochs", 1, "--resume", "auto") == 0
    (line,) = (line for line in capsys.readouterr().out.split("\n") if line.startswith("epoch 1/1"))
    assert ", val mIoU (crop) " in line and "images/s" not in line
    record = json.loads((run_folder(voc) / "scores.jsonl").read_text().split("\n")[0])
    assert record["images_per_second"] is None and record["regulariser_ms"] is None


def test_a_run_from_a_file_that_is_killed_before_it_has_trained_is_continued(voc):
    """Regression: --resume auto found no checkpoint in its folder, and began from the first weights."""
    assert train(voc, "--epochs", 1, "--no-val", "--checkname", "first") == 0
    words = [*SMALL, *data(voc), "--run-root", str(voc.parent / "run"), "--epochs", "2", "--no-val", "--resume"]
    build_trainer(parse_options([*words, str(run_folder(voc, "first") / "checkpoint_last.pth.tar")])).close()
    assert train(voc, "--epochs", 2, "--no-val", "--resume", "auto") == 0
    assert [path.name for path in run_folder(voc).parent.glob("experiment_*")] == ["experiment_0"]
    assert [record.get("epoch") for record in records(run_folder(voc), "scores.jsonl")] == [1, 2, None]


def test_a_sigterm_to_every_process_of_a_run(voc, monkeypatch):
    """Regression: SLURM and systemd send it so; the worker died, and the run with it, before it had saved."""
    step = Trainer.train_step

    def struck(self, batch):
        step(self, batch)
        processes = [*(str(worker.pid) for worker in active_children()), str(os.getpid())]
        assert len(processes) == 2
        subprocess.run(["kill", *processes], check=True)  # from a process that is not the worker's parent

    monkeypatch.setattr(Trainer, "train_step", struck)
    assert train(voc, "--epochs", 2, "--no-val", "--workers", 1) == STOPPED
    assert torch.load(run_folder(voc) / "checkpoint_last.pth.tar", weights_only=True)["step"] == 1


def test_auto_starts_a_run_and_leaves_an_ended_one(voc, capsys):
    assert train(voc, "--epochs", 1, "--no-val", "--resume", "auto") == 0
    last = run_folder(voc) / "checkpoint_last.pth.tar"
    written = last.stat().st_mtime_ns
    assert train(voc, "--epochs", 1, "--no-val", "--resume", "auto") == 0
    assert "this training has ended after 1 epochs" in capsys.readouterr().out
    assert last.stat().st_mtime_ns == written
    assert train(voc, "--epochs", 1, "--no-val", "--resume", "auto", "--benchmark", 1) == 0
    assert "whole step" in capsys.readouterr().out
    assert [path.name for path in run_folder(voc).parent.glob("experiment_*")] == ["experiment_0"]
    with pytest.raises(InputError, match="another process is training in this folder"):
        first = Journal(run_folder(voc).parent, {}, run_folder(voc))
        try:
            Journal(run_folder(voc).parent, {}, run_folder(voc))
        finally:
            first.close()


def test_a_later_network_of_another_run_is_not_the_best_so_far(voc, capsys):
    """Regression: resumed from an earlier epoch, a run had another's later network as its best."""
    assert train(voc, "--epochs", 2, "--eval-interval", 1, "--save-interval", 1) == 0
    best = run_folder(voc) / "checkpoint.pth.tar"
    torch.save({**torch.load(best, weights_only=True), "best_pred": 0.99}, best)
    assert train(voc, "--epochs", 2, "--no-val", "--resume", run_folder(voc) / "checkpoint_epoch_1.pth.tar") == 0
    assert f"{best} is not the best that checkpoint_epoch_1.pth.tar knew of" in capsys.readouterr().out
    own = torch.load(run_folder(voc, number=1) / "checkpoint.pth.tar", weights_only=True)
    assert own["best_pred"] < 0.99


def test_what_a_checkpoint_holds_of_a_training_is_checked(voc, tmp_path):
    """Regression: each was a traceback, or was taken."""
    options = parse_options([*SMALL, *data(voc), "--run-root", str(tmp_path), "--epochs", "3"])
    trainer = build_trainer(options)
    kept, source = training_state(trainer), tmp_path / "last.pth.tar"
    record = {"epoch": 0, "lr": 0.1, "losses": {"cross_entropy": 1.0}, "val": {"miou": 0.5}}
    restore(trainer, {**kept, "history": [record]}, source)
    other_shape = {**kept["optimizer"], "state": {0: {"momentum_buffer": torch.ones(3)}}}
    for change, said in {
        "optimizer": "holds weights but no training state",
        "order": "its 'step' comes from another program",
        "step": "stopped after 99 steps of an epoch, which has 2 here",
    }.items():
        changed = {**kept, "step": 1, **({"step": 99} if change == "step" else {change: None})}
        changed = {name: value for name, value in changed.items() if value is not None}
        options = trainer.options if change != "step" else replace(trainer.options, epochs=99)
        with pytest.raises(InputError, match=f"{source}: {said}"):
            start = Start(trainer.identity, path=source, checkpoint=changed)
            check_resumable(options, trainer.loaders, trainer.step, start)
    # Regression: other images followed, silently.
    repeated = replace(trainer.options, data=replace(trainer.options.data, repeat=2))
    assert image_order(repeated, trainer.loaders, trainer.step) != kept["order"]
    for change in (
        {"history": [{"epoch": 1}]},
        {"history": [{**record, "lr": "high"}]},
        {"history": [{**record, "val": 3}]},
        {"losses": {"cross_entropy": ["low"]}},
        {"random_states": [{}]},
        {"optimizer": {}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": other_shape},
        {"trained": {"decoder.conv1.weight": 3}},
    ):
        changed = {name: value for name, value in {**kept, **change}.items() if value is not None}
        with pytest.raises(InputError, match=f"{source}: its '{next(iter(change))}' is .*; start from its weights"):
            restore(trainer, changed, source)
    with pytest.raises(InputError, match=f"{source}, 'trained': expected weights, found none"):
        restore(trainer, {**kept, "trained": {}}, source)
    with pytest.raises(InputError, match="its 'optimizer' is .* no state of any weight"):  # regression: it went on
        restore(trainer, {**kept, "step": 1}, source)
    trainer.close()


# Files


def content(epoch: int) -> dict:
    return {"epoch": epoch, "state_dict": {"weight": torch.full((1000,), float(epoch))}}


def epoch(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "pickled code", "altered"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(tmp_path, caplog, damage):
    assert newest_checkpoint(tmp_path) is None
    for number in (1, 2, 3):
        save_last(tmp_path, content(number))
    last, previous = tmp_path / "checkpoint_last.pth.tar", tmp_path / "checkpoint_previous.pth.tar"
    os.utime(previous, ns=(2**62, 2**62))  # regression: the times of files, which a copy loses, decided
    assert newest_checkpoint(tmp_path) == last and (epoch(last), epoch(previous)) == (3, 2)
    whole = last.read_bytes()
    if damage == "foreign":
        torch.save([1, 2, 3], last)
    elif damage == "pickled code":
        torch.save({"state_dict": {}, "path": Path("x")}, last)
    else:
        altered = whole.replace(torch.full((8,), 3.0).numpy().tobytes(), bytes(32), 1)
        assert altered != whole
        last.write_bytes({"truncated": whole[:-100], "empty": b"", "altered": altered}[damage])
    with caplog.at_level("WARNING"):
        assert newest_checkpoint(tmp_path) == previous
    assert str(last) in caplog.text and "taking the checkpoint before it" in caplog.text
    previous.write_bytes(b"")
    with pytest.raises(InputError, match="expected an intact checkpoint to resume from, found none"):
        newest_checkpoint(tmp_path)


def test_at_any_moment_one_checkpoint_is_intact(tmp_path, monkeypatch):
    """Stopped before each of the calls that put files in their place."""
    replace, calls = os.replace, []

    def stop_at(number):
        def struck(*paths):
            calls.append(paths)
            if len(calls) == number:
                raise KeyboardInterrupt
            replace(*paths)

        calls.clear()
        return struck

    save_last(tmp_path, content(1))
    for number, newest in ((1, 1), (2, 1), (3, 2)):
        monkeypatch.setattr(checkpoint.os, "replace", stop_at(number))
        try:
            save_last(tmp_path, content(2))
        except KeyboardInterrupt:
            assert number < 3
        assert epoch(newest_checkpoint(tmp_path)) == newest


def test_what_a_killed_run_left_beside_its_folder_is_deleted(voc, monkeypatch):
    """Regression: a part of model_best.pth.tar stayed for ever; that of another run, which may live, has to stay."""
    written, save = [], torch.save
    monkeypatch.setattr(checkpoint.torch, "save", lambda content, path: (written.append(path), save(content, path)))
    assert train(voc, "--epochs", 1) == 0
    own = next(path for path in written if path.parent == run_folder(voc).parent)
    other = own.with_name(own.name.replace("experiment_0", "experiment_01"))
    for path in (own, other):
        path.touch()
    Journal(run_folder(voc).parent, {}, run_folder(voc)).close()
    assert other.exists() and not own.exists()


def test_only_so_many_checkpoints_by_epoch_are_kept(tmp_path):
    for number in (2, 4, 10, 12):
        (tmp_path / f"checkpoint_epoch_{number}.pth.tar").touch()
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint_epoch_10.pth.tar",
        "checkpoint_epoch_12.pth.tar",
    ]
