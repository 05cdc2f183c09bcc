"""Several processes: the same loss and gradients as one, each image once, and a process that dies ends them all."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import distributed
from common.errors import InputError
from dataloaders.sampling import BatchShare, SeededSampler
from gradients_of_a_batch import CASES, gradients
from helpers import CODE, ENVIRONMENT, SMALL, data, run_folder
from modeling.data_parallel import SyncBatchNormOnCPU
from training.options import parse_options

HERE = Path(__file__).parents[1]
SCRIPT = str(HERE / "gradients_of_a_batch.py")


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        env=ENVIRONMENT | options,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def launch(processes: int, *command) -> subprocess.CompletedProcess:
    """Run a script in several processes as --gpu-ids does."""
    words = list(map(str, command))
    code = f"import sys; from common.distributed import launch; sys.exit(launch({words!r}, {processes}))"
    return run(sys.executable, "-c", code)


def assert_same(found: dict, names: list[str]) -> None:
    """Compare with what one process computes here."""
    for name in names:
        for key, expected in gradients(CASES[name]).items():
            # Relative to the whole: a gradient that is zero but for rounding has no digits of its own.
            error = (found[name][key].double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-3)
            assert error < 1e-5, (name, key)


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path):
    names = list(CASES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    result = run(*torchrun, SCRIPT, tmp_path / "found.pt", *names)
    assert result.returncode == 0, result.stderr
    assert_same(torch.load(tmp_path / "found.pt"), names)


@pytest.mark.parametrize("case", [name for name, words in CASES.items() if "--accumulate" in words])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(case):
    words = CASES[case]
    position = words.index("--accumulate")
    whole = gradients(words[:position] + words[position + 2 :])
    for key, value in gradients(words).items():
        assert torch.allclose(value, whole[key], rtol=1e-5, atol=1e-8), key


def test_parts_of_the_focal_loss_are_refused():
    with pytest.raises(InputError, match="needs the mean over the whole batch"):
        parse_options(["--loss-type", "focal", "--accumulate", "2"])


def test_synchronised_batch_norm_is_torchs_where_there_is_one_process():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    theirs, ours = torch.nn.BatchNorm2d(3).double(), SyncBatchNormOnCPU(3).double()
    gradient = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    for mode in (True, False):
        expected, found = theirs.train(mode)(x), ours.train(mode)(x)
        assert torch.allclose(found, expected)
        (a,), (b,) = (torch.autograd.grad(y, x, gradient) for y in (expected, found))
        assert torch.allclose(a, b)
    assert all(torch.allclose(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())


@pytest.fixture
def two_hosts():
    """Two network namespaces, joined by a cable, in the place of two machines."""
    names = [f"rloss{os.getpid()}{end}" for end in "ab"]  # an interface's name has at most 15 characters
    commands = [f"ip netns add {name}" for name in names]
    commands += [f"ip link add {names[0]} netns {names[0]} type veth peer name {names[1]} netns {names[1]}"]
    for number, name in enumerate(names, 1):
        commands += [f"ip -n {name} addr add 10.77.0.{number}/24 dev {name}", f"ip -n {name} link set {name} up"]
        commands += [f"ip -n {name} link set lo up"]
    try:
        for command in commands:
            try:
                result = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            except FileNotFoundError:
                pytest.skip("needs the command ip")
            if result.returncode:
                pytest.skip(f"needs the right to make network namespaces: {result.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_hosts_have_the_loss_and_the_gradients_of_one_process(two_hosts, tmp_path):
    case = "size-free, in two parts"
    hosts = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                *("--node-rank", str(number), "--master-addr", "10.77.0.1", "--master-port", "29511"),
                *(SCRIPT, str(tmp_path / "found.pt"), case),
            ],
            env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": name},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, name in enumerate(two_hosts)
    ]
    for host in hosts:
        _, error = host.communicate(timeout=600)
        assert host.returncode == 0, error
    assert_same(torch.load(tmp_path / "found.pt"), [case])


def test_a_training_of_two_processes(voc):
    """Started as --gpu-ids does; the second validation image is the second process's."""
    words = [*SMALL, "--batch-size", 4, *data(voc), "--run-root", voc.parent / "run", "--epochs", 1, "--sync-bn"]
    result = launch(2, CODE / "train_withdensecrfloss.py", *words, "--densecrfloss", 1, "--size-free")
    assert result.returncode == 0, result.stderr
    assert "batch 4 over 2 processes" in result.stdout and result.stdout.count("epoch 1/1") == 1
    assert [path.name for path in run_folder(voc).parent.glob("experiment_*")] == ["experiment_0"]
    final = json.loads((run_folder(voc) / "scores.jsonl").read_text().splitlines()[-1])["final"]
    # The two validation images are alike but for their class, 1 in one and 2 in the other.
    frequency = final["val"]["frequency"]
    assert frequency[1] == pytest.approx(frequency[2]) and sum(frequency) == pytest.approx(1)
    assert len(torch.load(run_folder(voc) / "checkpoint_last.pth.tar", weights_only=True)["random_states"]) == 2
    again = [*words, "--densecrfloss", 1, "--size-free", "--resume", "auto"]
    result = launch(2, CODE / "train_withdensecrfloss.py", *again)
    assert result.returncode == 0, result.stderr  # regression: the second process failed
    assert "this training has ended after 1 epochs" in result.stdout


STATISTICS = """
import sys, torch
from common import distributed
from training import build_trainer
from training.options import parse_options

with distributed.process_group(torch.device("cpu")):
    trainer = build_trainer(parse_options(sys.argv[1:]))
    trainer.train_epoch()
    trainer.close()
    assert trainer.network is not trainer.model
    for network in (trainer.model, trainer.network):
        buffers = [buffer.double().sum().item() for buffer in network.buffers()]
        first, second = distributed.gather(buffers)
        assert len(first) > 100 and first == second
"""


def test_processes_score_the_network_that_is_saved(voc, tmp_path):
    """Regression: without synchronised batch norms each kept its own running statistics of the last step."""
    script = tmp_path / "one_epoch.py"
    script.write_text(STATISTICS)
    words = [*SMALL, "--batch-size", 4, *data(voc), "--run-root", tmp_path / "run", "--sync-bn", "False", "--no-val"]
    result = launch(2, script, *words, "--ema", 0.9)
    assert result.returncode == 0, result.stderr


DYING = """
import os, signal, sys, time, torch
from common import distributed
from common.errors import InputError, exit_status
from training import TrainOptions, faults

def main():
    with faults.one_line_errors(TrainOptions()), distributed.process_group(torch.device("cpu")):
        distributed.any_process(False)
        if distributed.rank() == 1:
            if sys.argv[1] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("the second has had enough")
        if sys.argv[1] == "fails alone":
            time.sleep(600)
        distributed.any_process(False)
    return 0

distributed.end(exit_status(main))
"""


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("killed", 1, "process 1 of 2 was killed by signal 9"),
        ("fails", 2, "error: the second has had enough"),
        ("fails alone", 2, "error: the second has had enough"),  # the launcher ends the first
    ],
)
def test_a_process_that_dies_takes_the_others_down_with_its_error(tmp_path, how, status, said):
    (tmp_path / "dying.py").write_text(DYING)
    result = launch(2, tmp_path / "dying.py", how)
    assert result.returncode == status and said in result.stderr
    assert "Traceback" not in result.stderr
    # The other process says so as well, unless it is ended first.
    others = [line for line in result.stderr.splitlines() if line.startswith("error: ") and said not in line]
    assert all("another process of this training has ended" in line for line in others)


def test_the_cause_of_several_failures():
    """Hand-worked: what was killed comes first, then what failed first, then what the launcher has ended."""

    def cause(*failures: tuple[int, int]) -> int:
        made = {place: SimpleNamespace(exitcode=code, timestamp=time) for place, (code, time) in enumerate(failures)}
        return distributed._cause(made)[0]

    assert cause((2, 100), (-9, 101)) == 1  # out of memory; the other saw it go
    assert cause((-15, 100), (2, 100)) == 1
    assert cause((-9, 130), (2, 100)) == 1  # it did not heed the SIGTERM
    assert cause((75, 101), (2, 100), (-15, 100)) == 1
    assert cause((-15, 100)) == 0


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_image_is_given_once(processes):
    def batches(rank, start=0, **options):
        share = BatchShare(SeededSampler(11, seed=3), 4, rank, processes, **options)
        share.set_epoch(2, start)
        return list(share)

    whole = BatchShare(SeededSampler(11, seed=3), 4)
    whole.set_epoch(2)
    whole = list(whole)
    assert [len(batch) for batch in whole] == [4, 4, 3]
    shares = [batches(rank) for rank in range(processes)]
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(key for share in shares for key in share[number])
    assert [batches(rank, start=1) for rank in range(processes)] == [share[1:] for share in shares]
    assert [len(batches(rank, drop_below=4)) for rank in range(processes)] == [2] * processes
    one_left = [list(BatchShare(SeededSampler(5, 0, shuffle=False), 4, rank, processes)) for rank in range(processes)]
    assert [len(batches) for batches in one_left] == [2] + [1] * (processes - 1)  # none is empty


def test_options_of_several_processes(monkeypatch):
    def options(*words):
        return parse_options(words)

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    args = options()
    assert (args.data.batch_size, args.sync_bn, args.lr) == (16, True, pytest.approx(0.007))
    assert options("--sync-bn", "False", "--batch-size", "8").sync_bn is False
    assert options("--batch-size", "4").data.batch_size == 4
    with pytest.raises(InputError, match="4 processes with --accumulate 1 need at least 8 images.*statistics of one"):
        options("--sync-bn", "False", "--batch-size", "7")
    with pytest.raises(InputError, match="4 processes with --accumulate 2 need at least 8 images in a step"):
        options("--batch-size", "7", "--accumulate", "2")
