"""What the machine does to the scripts, and several processes of them: one line, and the results of one process."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, parent_process
from pathlib import Path

import numpy as np
import pytest
import torch

import check_dataset
import evaluate
import import_scribbles
import inference
import simulate_scribbles
from common.distributed import is_main, rank, world_size
from common.errors import exit_status
from common.files import link_or_copy, make_folder, new_folder
from common.parallel import in_processes
from dataloaders.datasets.pascal import VOCSegmentation
from dataloaders.images import read_image, value_counts
from evaluation import report_folder
from helpers import CODE, ENVIRONMENT, call, data, message, one_line
from modeling.checkpoint import load_checkpoint
from modeling.deeplab import DeepLab
from prediction.files import find_images
from preparation import importing
from preparation.sources import files_in
from training.checkpoint import newest_checkpoint, save_last

SCRIPTS = {"evaluate": evaluate, "inference": inference}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network.pth.tar"
    model = DeepLab(3, "mobilenet")
    torch.nn.init.normal_(model.decoder.last_conv[8].weight, std=0.5)  # so that all classes occur
    settings = {"backbone": "mobilenet", "num_classes": 3, "output_stride": 16, "crop_size": 32}
    torch.save({"epoch": 1, "state_dict": model.state_dict(), "model": settings}, path)
    return path


def words(name: str, voc: Path, checkpoint: Path, out: Path, *more) -> list[str]:
    own = {
        "evaluate": [*data(voc), "--output", out],
        "inference": ["--image_path", voc / "JPEGImages", "--output_directory", out],
    }
    return [str(word) for word in ("--checkpoint", checkpoint, "--no-cuda", "--workers", 0, *own[name], *more)]


# What the machine does


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_worker_that_is_killed(voc, checkpoint, tmp_path, monkeypatch, capsys, name):
    read = VOCSegmentation.__getitem__

    def killed(*given, **how):
        if parent_process() is None:  # which looks first whether anything is labelled
            return read(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("dataloaders.datasets.pascal.VOCSegmentation.__getitem__", killed)
    monkeypatch.setattr("prediction.files.read_image", killed)
    monkeypatch.setattr("common.distributed.os.sched_getaffinity", lambda _: {0, 1})
    assert call(SCRIPTS[name], *words(name, voc, checkpoint, tmp_path / "out", "--workers", 1)) == 2
    assert "a process that loads images was killed; where memory is short, lower --workers (1)" in one_line(capsys)


class Unsendable:
    def __reduce__(self):
        raise MemoryError


def test_a_worker_that_cannot_send_what_it_has_read(voc, checkpoint, tmp_path, monkeypatch, capsys):
    """Regression: the script waited for ever."""
    monkeypatch.setattr("prediction.files.ImageFiles.__getitem__", lambda *_: Unsendable())
    monkeypatch.setattr("common.distributed.os.sched_getaffinity", lambda _: {0, 1})
    before = signal.signal(signal.SIGALRM, lambda *_: fail(TimeoutError()))
    signal.alarm(30)
    try:
        assert call(inference, *words("inference", voc, checkpoint, tmp_path / "out", "--workers", 1)) == 2
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "a process that loads images was killed; where memory is short, lower --workers (1)" in one_line(capsys)


def fail(error: Exception):
    raise error


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "allocate",
    [
        lambda: bytearray(2**62),
        lambda: np.empty(2**58),
        lambda: torch.empty(2**58),
        lambda: fail(RuntimeError("could not create a primitive")),
        lambda: fail(RuntimeError("Caught _ArrayMemoryError in DataLoader worker process 0.\nMemoryError: 8 TiB")),
        lambda: fail(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    ],
    ids=["python", "numpy", "torch", "onednn", "worker", "cuda"],
)
def test_memory_that_runs_out(voc, checkpoint, tmp_path, monkeypatch, capsys, name, allocate):
    monkeypatch.setattr(DeepLab, "forward", lambda *_: allocate())
    assert call(SCRIPTS[name], *words(name, voc, checkpoint, tmp_path / "out")) == 2
    line = one_line(capsys)
    assert "out of memory; lower --" in line and ("--test-batch-size (4)" if name == "evaluate" else "--tile") in line


class Fail(Exception):
    """As onnxruntime's exceptions, which are no RuntimeError."""


def test_a_worker_that_is_killed_in_another_script(voc, tmp_path, monkeypatch, capsys):
    """Regression: the advice was to lower an option that the script has not."""
    monkeypatch.setattr("preparation.simulation.read_label", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert call(simulate_scribbles, voc, tmp_path / "out", "--classes", tmp_path / "classes.txt") == 2
    line = one_line(capsys)
    assert "was killed; where memory is short, close other programs;" in line and "--workers" not in line
    assert not (tmp_path / "out").exists()


NO_MEMORY = {
    "python": MemoryError(),
    "pillow": OSError("out of memory error when reading image file"),
    "thread": RuntimeError("can't start new thread"),
    "torch": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "onnxruntime": Fail("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 9"),
}


@pytest.mark.parametrize("kind", ["python", "pillow", "thread"])
def test_memory_that_runs_out_in_a_check(voc, tmp_path, monkeypatch, capsys, kind):
    """Regression: good photographs were called unreadable, and left out of the corrected copy."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: fail(NO_MEMORY[kind]))
    out = "--output", tmp_path / "out", "--fix", tmp_path / "fixed"
    assert call(check_dataset, voc, "--classes", tmp_path / "classes.txt", *out) == 2
    assert one_line(capsys) == "error: out of memory; close other programs, or use smaller images"
    assert not (tmp_path / "out").exists() and not (tmp_path / "fixed").exists()


@pytest.mark.parametrize("kind", ["torch", "onnxruntime", "python"])
def test_memory_that_runs_out_in_an_export(checkpoint, tmp_path, monkeypatch, capsys, kind):
    """Regression: the advice was to free space on the disk, or a traceback."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("prediction.export._export", lambda *_: fail(NO_MEMORY[kind]))
    assert call(inference, "--checkpoint", checkpoint, "--output_directory", tmp_path, "--export", "onnx") == 2
    assert "out of memory; close other programs, or lower --crop_size" in one_line(capsys) and not list(
        tmp_path.glob("*onnx*")
    )


def test_a_checkpoint_for_which_memory_is_short_is_not_damaged(tmp_path, monkeypatch, capsys):
    """Regression: the advice was to delete the run's folder."""
    save_last(tmp_path, {"state_dict": {"a": torch.ones(2)}})
    monkeypatch.setattr(torch, "load", lambda *_, **__: fail(NO_MEMORY["torch"]))
    assert exit_status(lambda: newest_checkpoint(tmp_path)) == 2
    assert "out of memory; close other programs" in one_line(capsys)


LITTLE_MEMORY = """
import os, resource, sys
import check_dataset, simulate_scribbles
from common.errors import exit_status

out, *words = sys.argv[1:]
size = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
for script, target, most in ((check_dataset, "--output", 6), (simulate_scribbles, "--seed=1", 15)):
    for more in range(0, most + 1, 3):
        if not os.fork():
            resource.setrlimit(resource.RLIMIT_AS, (1024 * int(size.split()[1]) + more * 2**20,) * 2)
            os._exit(exit_status(lambda: script.main([*words, target, f"{out}/{script.__name__}{more}"])))
        os.write(1, f"status {os.waitstatus_to_exitcode(os.wait()[1])}\\n".encode())
"""


def test_scripts_in_little_memory(voc, tmp_path):
    """Regression: simulate_scribbles.py waited for ever, or ended in tracebacks, where no thread could start."""
    command = [sys.executable, "-c", LITTLE_MEMORY, tmp_path, voc, "--classes", tmp_path / "classes.txt"]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    statuses = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("status")]
    assert len(statuses) == 9 and set(statuses) <= {"0", "2"} and "2" in statuses[:3] and "2" in statuses[3:]
    line = "error: out of memory; close other programs, or use smaller images"
    assert result.stderr.splitlines() == [line] * statuses.count("2")


def test_processes_give_their_results_in_turn_and_errors_with_their_place(monkeypatch):
    monkeypatch.setattr("common.parallel.os.sched_getaffinity", lambda _: {0, 1})
    assert list(in_processes(abs, range(-5, 0), "working", "number")) == [5, 4, 3, 2, 1]
    with pytest.raises(TypeError) as caught:
        list(in_processes(abs, [1, 2, "three"], "working", "number"))
    assert "in _work" in str(caught.value.__cause__)  # the traceback of the process
    with pytest.raises(BrokenProcessPool):
        list(in_processes(os._exit, [0], "working", "number"))
    assert not list(in_processes(abs, [], "working", "number")) and not active_children()


def test_memory_that_runs_out_in_another_script(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_scribbles, "collect", lambda *_: bytearray(2**62))
    assert call(import_scribbles, "labelme", tmp_path, tmp_path / "data") == 2
    assert "out of memory; close other programs" in one_line(capsys)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a/b.png"), "/a/b.png: Permission denied; change its permissions"),
        (OSError(30, "Read-only file system", "/a"), "/a: Read-only file system; choose another folder"),
        (OSError(28, "No space left on device"), "a file: No space left on device; free space"),
        (
            PermissionError("Caught PermissionError in worker\nPermissionError: [Errno 13] Permission denied: '/x'"),
            "/x: Permission denied; change its permissions",
        ),
    ],
)
def test_what_a_file_system_refuses(error, said, capsys):
    def main():
        raise error

    assert exit_status(main) == 2
    assert said in one_line(capsys)


@pytest.fixture
def folder_of_another():
    """A folder of another user's, within which nothing may be read that has mode 0."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        os.seteuid(os.getuid())


def test_what_may_not_be_read_is_said(folder_of_another):
    """Regression: a folder that may not be read was empty, and a file was to be replaced."""
    closed, file = folder_of_another / "closed", folder_of_another / "file"
    closed.mkdir(mode=0)
    file.touch(mode=0)
    if os.getuid() == 0:  # who may read everything
        os.seteuid(65534)
    for find in (files_in, lambda folder: find_images([str(folder)])):
        with pytest.raises(PermissionError, match="closed"):
            find(folder_of_another)
    for read in (read_image, load_checkpoint):
        assert message(read, file).endswith("change its permissions")


def test_a_source_that_may_not_be_read_is_not_the_targets_fault(tmp_path):
    def make():
        with new_folder(tmp_path / "target"):
            raise PermissionError(13, "Permission denied", "/source/i1.jpg")

    line = message(make)
    assert "target: cannot be made" in line and "'/source/i1.jpg'" in line and "change its permissions" in line


def test_a_long_name_is_copied_where_no_link_can_be(tmp_path, monkeypatch):
    """Regression: that of the copy on its way was longer."""

    def no_link(source, target):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", no_link)
    (source := tmp_path / (250 * "x")).write_text("a photograph")
    os.utime(source, ns=(1, 1))
    link_or_copy(source, target := tmp_path / "there" / source.name)
    assert (target.read_text(), target.stat().st_mtime_ns) == ("a photograph", 1)
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_takes_no_files_is_said_before_the_work(folder_of_another, monkeypatch):
    """Regression: evaluate.py scored all images first."""
    folder = folder_of_another / "results"
    folder.mkdir(mode=0o555)
    monkeypatch.setattr("os.access", lambda path, mode: path != folder)  # which root may write all the same
    assert message(make_folder, folder, "choose another --output") == (
        f"{folder}: cannot be written; change its permissions, or choose another --output"
    )


def test_an_image_with_a_long_name_is_told_to_be_renamed(voc, checkpoint, tmp_path, capsys):
    (voc / "JPEGImages/i0.jpg").rename(voc / "JPEGImages" / ("\N{HIRAGANA LETTER A}" * 81 + ".jpg"))
    assert call(inference, *words("inference", voc, checkpoint, tmp_path / "out")) == 2
    assert "shorten the image's name" in one_line(capsys)


def test_mistakes_in_code_keep_their_traceback():
    def main():
        raise FileNotFoundError(2, "No such file or directory", "my_settings.json")

    with pytest.raises(FileNotFoundError):
        exit_status(main)


def test_a_folder_on_a_read_only_disk(voc, checkpoint, tmp_path, capsys):
    """Regression: taking back the file that could not be begun was an error of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("needs the right to mount")
    try:
        for name, script in SCRIPTS.items():
            assert call(script, *words(name, voc, checkpoint, disk)) == 2
            assert str(disk) in one_line(capsys)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])  # the second: a terminal was closed
def test_sigterm_ends_a_script_as_ctrl_c_does(tmp_path, number):
    """Regression: half a file, under its temporary name, stayed."""
    code = (
        "import sys, time; from pathlib import Path; from common.errors import exit_status\n"
        "from common.files import replace_file\n"
        "def write(path): path.write_text('half'); print('begun', flush=True); time.sleep(60)\n"
        "sys.exit(exit_status(lambda: replace_file(Path('whole'), write)))"
    )
    how = {"cwd": tmp_path, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    how["preexec_fn"] = lambda: signal.signal(number, signal.SIG_DFL)  # which nohup has ignored
    with subprocess.Popen([sys.executable, "-c", code], **how) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        assert process.stderr.read() == b"terminated\n" and process.wait() == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_worker_does_not_outlive_a_killed_script(voc):
    """Also one that is busy or stuck."""
    code = (
        "import os, time; from dataloaders.datasets.pascal import VOCSegmentation; from helpers import custom\n"
        "from dataloaders import make_data_loader; from pathlib import Path\n"
        "def stuck(*_): print(os.getpid(), flush=True); time.sleep(60)\n"
        "VOCSegmentation.__getitem__ = stuck\n"
        f"next(iter(make_data_loader(custom(Path({str(voc)!r}), workers=1)).val))"
    )
    with subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        worker = int(process.stdout.readline())
        process.kill()
        ended = select.select([process.stdout], [], [], 30)[0]  # when nobody can write to it any more
    if not ended:
        os.kill(worker, signal.SIGKILL)
    assert ended


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_that_comes_while_a_process_forks_is_not_lost(number, said):
    """Regression: a script whose worker processes just started printed a traceback and went on."""
    code = (
        "import os, signal, sys, time; from common.errors import exit_status\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background ignores it
        f"os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), {number:d}))\n"
        "sys.exit(exit_status(lambda: os.fork() and time.sleep(60)))"
    )
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (result.stderr, result.returncode) == (f"{said}\n", 128 + number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finds_a_data_set_whole_or_not_at_all(voc, tmp_path, monkeypatch, number, status):
    """Regression: images without class names and lists stayed."""
    for place, left in (("draw_label_maps", False), ("write_class_names", True)):
        with monkeypatch.context() as struck:
            strike = getattr(importing, place)
            struck.setattr(
                importing, place, lambda *a, strike=strike, **k: (os.kill(os.getpid(), number), strike(*a, **k))[1]
            )
            source, images = voc / "SegmentationClassAug", ("--images", voc / "JPEGImages")
            words = ("masks", source, tmp_path / "data", *images, "--classes", tmp_path / "classes.txt")
            assert call(import_scribbles, *words) == status
        assert (tmp_path / "data").exists() == left
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {"JPEGImages", "pascal_2012_scribble", "ImageSets", "classes.txt"}


def test_labels_are_counted_in_little_memory():
    import tracemalloc

    label = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    expected = np.bincount(label.ravel(), minlength=256)
    tracemalloc.start()
    counts = value_counts(label)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(counts, expected) and peak < 3 * label.size


# What other programs want of the machine

SHOW_AT_OPENMP = """
import os, runpy, sys


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "bilateralfilter"):
            print("spins", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)


sys.meta_path.insert(0, Finder())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
UNSET = {name: value for name, value in ENVIRONMENT.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
FOLDERS = CODE, CODE.parent / "benchmarks", CODE.parent / "experiments"
PROGRAMS = {path for folder in FOLDERS for path in folder.glob("*.py") if "main(" in path.read_text()}
WITHOUT_PYTORCH = {"check_dataset.py", "export_annotations.py", "import_scribbles.py", "simulate_scribbles.py"}


@pytest.mark.parametrize(
    "program", sorted(PROGRAMS - {CODE / name for name in WITHOUT_PYTORCH}), ids=lambda path: path.name
)
def test_every_program_sets_how_openmp_waits_before_it_imports_pytorch_or_the_filter(program, tmp_path):
    if program.name == "annotate.py":
        pytest.importorskip("starlette", reason="the annotation page needs starlette (requirements-app.txt)")
    environment = {**UNSET, "PYTHONPATH": os.pathsep.join([str(CODE), str(program.parent)])}
    command = [sys.executable, "-c", SHOW_AT_OPENMP, program]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "spins 5000\n" in run.stdout


@pytest.mark.parametrize(
    ("own", "spins"), [({}, 5000), ({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "passive"}, 0)]
)
def test_openmp_follows_it_and_the_users_own_setting_wins(own, spins):
    library = next((Path(torch.__file__).parent / "lib").glob("libgomp*"), None)
    if library is None:
        pytest.skip("PyTorch comes with another OpenMP than GCC's")
    command = [sys.executable, "-c", "import common, ctypes, sys; ctypes.CDLL(sys.argv[1])", library]
    environment = {**UNSET, **own, "OMP_DISPLAY_ENV": "verbose"}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in printed


# Several processes


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_half_an_environment_counts_for_nothing(monkeypatch, name):
    """Regression: RANK=1 alone silenced a script, and WORLD_SIZE alone was a traceback."""
    monkeypatch.setenv(name, "3")
    assert (rank(), world_size(), is_main()) == (0, 1, True)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE: expected an integer of at least 1 in the environment, found"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR expected, but not set); start with torchrun, or unset RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "do not find each other"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK: expected less than WORLD_SIZE=1 in the environment, found '1'"),
    ],
)
def test_an_environment_that_cannot_be_is_one_line(voc, checkpoint, tmp_path, monkeypatch, capsys, environment, said):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert call(evaluate, *words("evaluate", voc, checkpoint, tmp_path)) == 2
    assert said in one_line(capsys)


def run(command: list, **more: str) -> subprocess.CompletedProcess:
    environment = {**ENVIRONMENT, **more}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
@pytest.mark.pictures
def test_two_processes_evaluate_as_one(voc, checkpoint, tmp_path):
    out = tmp_path / "one", tmp_path / "two"
    assert call(evaluate, *words("evaluate", voc, checkpoint, out[0], "--fill-in")) == 0
    printed = run([*TORCHRUN, CODE / "evaluate.py", *words("evaluate", voc, checkpoint, out[1], "--fill-in")]).stdout
    assert printed.count("Scores in %") == 1
    names = sorted(path.name for path in out[0].iterdir())
    assert len(names) == 12 and names == sorted(path.name for path in out[1].iterdir())
    for name in (name for name in names if name.endswith(".json")):
        one, two = (json.loads((folder / name).read_text()) for folder in out)
        assert one == two, name


@pytest.mark.slow
def test_two_processes_segment_as_one(voc, checkpoint, tmp_path):
    (voc / "JPEGImages" / "broken.jpg").write_text("no image")
    out = tmp_path / "one", tmp_path / "two"
    assert call(inference, *words("inference", voc, checkpoint, out[0], "--confidence")) == 1
    command = [*TORCHRUN, CODE / "inference.py", *words("inference", voc, checkpoint, out[1], "--confidence")]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    assert "7 of 8 images segmented" in result.stdout and result.stdout.count("i3_prediction.png") == 1
    assert result.stderr.count("error: expected an image") == 1 and result.returncode
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in out)
    assert one == two and len(one) == 7 * 4


@pytest.mark.slow
def test_each_process_takes_its_share_of_the_cores_unless_the_user_says_otherwise(tmp_path):
    """torchrun sets OMP_NUM_THREADS=1."""
    script = tmp_path / "threads.py"
    script.write_text(
        "import os, torch\nfrom common import distributed\n"
        "os.sched_getaffinity = lambda _: set(range(6))\n"
        "with distributed.process_group(torch.device('cpu')):\n"
        "    os.write(1, f'threads {torch.get_num_threads()}\\n'.encode())\n"
    )
    free = {name: value for name, value in ENVIRONMENT.items() if name != "OMP_NUM_THREADS"}
    for environment, threads in ((free, 3), ({**free, "OMP_NUM_THREADS": "1"}, 1)):
        result = subprocess.run([*TORCHRUN, script], env=environment, capture_output=True, text=True, check=False)
        assert result.stdout.count(f"threads {threads}\n") == 2, result.stdout + result.stderr


def test_looking_overwrites_nothing(voc, checkpoint, tmp_path, capsys):
    """Regression: a run's own report was replaced by one of other data, beside the same checkpoint."""

    def score(*more) -> list[str]:
        assert call(evaluate, "--checkpoint", here, *data(voc), "--no-cuda", "--protocol", "crop", *more) == 0
        return sorted(path.name for path in tmp_path.glob("evaluation*"))

    here = tmp_path / "network.pth.tar"
    here.write_bytes(checkpoint.read_bytes())
    assert score() == score() == ["evaluation"]
    first = (tmp_path / "evaluation/val_crop.json").read_bytes()
    assert json.loads(first).keys() >= {"checkpoint", "weights", "data", "data_folder", "labels", "description"}
    assert score("--crop-size", 24) == ["evaluation", "evaluation_2"]
    truth = voc / "SegmentationClassAug"
    (truth / "i5.png").write_bytes((truth / "i6.png").read_bytes())
    assert score() == ["evaluation", "evaluation_2", "evaluation_3"]
    capsys.readouterr()
    assert score("--output", tmp_path / "evaluation_2") == ["evaluation", "evaluation_2", "evaluation_3"]
    assert (
        "evaluation_2/val_crop.json: is of other weights, data or settings; it is replaced" in capsys.readouterr().out
    )
    assert (tmp_path / "evaluation/val_crop.json").read_bytes() == first
    (tmp_path / "evaluation_3/val_crop.json").write_text("null")  # regression: a traceback
    others = {"val crop": {"weights": "others", "output_stride": 16, "labels": "", "description": ""}}
    assert report_folder(tmp_path, others) == tmp_path / "evaluation_4"
