"""The Makefile: the commands behind its targets, and where they run.

The commands that make would give Docker are recorded by a stand-in for `docker`; no engine is asked.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import train_two_stages
from training.options import parse_options

HOME = Path(__file__).parents[2]
A100, PLAIN = "rloss:a100-ubuntu22.04", "rloss:latest"

# Writes its name and words, one call a line; knows the images, and one container a label, that the test says there are.
STAND_IN = r"""#!/bin/bash
{ printf '%q ' "$(basename "$0")" "$@"; echo; } >>"$RECORD"
case "$1 $2" in
  "image inspect") [[ " $IMAGES " == *" $3 "* ]] ;;
  "ps --all") echo "container-${@: -1}" ;;
esac
"""


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without what make or a container would set."""
    settings = set(re.findall(r"^([A-Z_]+) \?=", (HOME / "Makefile").read_text(), re.MULTILINE))
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in settings and not key.startswith(("MAKE", "MFLAGS", "RLOSS_"))
    }
    return {**kept, **variables}


def make(*words: str, folder: Path = HOME, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False
    )


def command(target: str, script: str, *settings: str) -> list[str]:
    """Return the words behind `script` in the recipe of a target."""
    result = make("-n", "RUNTIME=local", target, *settings)
    assert result.returncode == 0, result.stderr
    recipe = result.stdout.replace("\\\n", " ").split("\n")
    line = next(line for line in recipe if script in line)
    return shlex.split(line[line.index(script) + len(script) :])


class Machine:
    """A copy of the Makefile, in a folder with a space, on a machine with stand-ins for its programs."""

    def __init__(self, root: Path) -> None:
        self.folder, self.record, self.programs = root / "my clone", root / "record", root / "bin"
        self.programs.mkdir()
        for name in ("wrapper/bilateralfilter", "run/pascal/x", "data/synthetic", ".venv/bin"):
            (self.folder / name).mkdir(parents=True)
        requirements = (f"requirements{kind}.txt" for kind in ("", "-dev", "-app"))
        for name in ("Makefile", *requirements, "wrapper/bilateralfilter/setup.py"):
            shutil.copy(HOME / name, self.folder / name)
        (self.folder / "run/pascal/x/model_best.pth.tar").touch()
        for name in ("packages", "filter", "development", "app"):  # so that .venv counts as made
            (self.folder / f".venv/{name}.stamp").touch()
        self.images = A100
        self.add("docker")
        self.add("python", self.folder / ".venv/bin")

    def add(self, name: str, folder: Path | None = None) -> None:
        """Put a stand-in of that name on the PATH, or into another folder."""
        path = (folder or self.programs) / name
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def make(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        path = f"{self.programs}:{os.environ['PATH']}"
        return make(*words, folder=self.folder, PATH=path, RECORD=str(self.record), IMAGES=self.images, **variables)

    def calls(self, *start: str) -> list[list[str]]:
        """Return the recorded calls that begin with these words."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [words for words in map(shlex.split, lines) if words[: len(start)] == list(start)]

    def run(self, *words: str, **variables: str) -> list[str]:
        """Make a target and return its one `docker run`, whole."""
        result = self.make(*words, **variables)
        assert result.returncode == 0, result.stderr
        (call,) = self.calls("docker", "run")
        return call


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def values(call: list[str], option: str) -> list[str]:
    return [value for name, value in zip(call, call[1:], strict=False) if name == option]


def inside(call: list[str], image: str = A100) -> list[str]:
    """Return the command that a `docker run` gives the container."""
    return call[call.index(image) + 1 :]


def test_help_lists_every_target_and_setting():
    text = make().stdout
    document = "build run test-env train-small train-standard inference jupyter clean help"
    for name in f"{document} setup test lint evaluate benchmark tensorboard download-data".split():
        assert text.count(f"\n  {name} ") == 1
    for name in ("PYTHON", "DATASET", "DATA_ROOT", "IMAGE_PATH", "CHECKPOINT", "OPTIONS", "RUNTIME", "NO_GPU", "IMAGE"):
        assert f"\n  {name} " in text
    assert "[auto]" in text and f"[{A100}]" in text and f"[{PLAIN}]" in make("NO_GPU=1").stdout


def test_train_small_compares_with_a_regulariser_and_the_upper_bound():
    words = command("train-small", "train_two_stages.py", "DATASET=synthetic", "SEEDS=1,2")
    own, rest = train_two_stages.build_parser().parse_known_args(words)
    options = parse_options(["--preset", own.preset, *rest])
    assert (own.seeds, own.full, options.data.dataset, options.pretrained) == ((1, 2), True, "synthetic", "bundled")
    (regulariser,) = options.regularisers
    assert regulariser.name == "densecrf" and options.size_free and options.normalised_kernel
    assert "--full" not in command("train-small", "train_two_stages.py", "FULL=0")


def test_train_small_takes_the_higher_weight_for_drawn_images_alone(tmp_path):
    (tmp_path / "VOCdevkit/VOC2012").mkdir(parents=True)
    voc, none = f"DATA_ROOT={tmp_path}", f"DATA_ROOT={tmp_path}/none"
    drawn = [none], [voc, "DATASET=synthetic"]
    elsewhere = f"RLOSS_PASCAL_ROOT={tmp_path}"
    photographs = [voc], [none, elsewhere], [none, "DATASET=pascal"], [none, "OPTIONS=--data_root=."]
    for settings in (*drawn, *photographs):
        given = "--densecrfloss" in command("train-small", "train_two_stages.py", *settings)
        assert given == (settings in drawn), settings


def test_train_standard_is_the_published_recipe():
    args = parse_options(command("train-standard", "train_withdensecrfloss.py"))
    data = args.data
    assert (data.crop_size, args.backbone, args.densecrfloss, data.dataset) == (513, "mobilenet", 2e-9, None)
    assert (data.batch_size, args.lr, args.rloss_scale, args.sigma_xy, args.sigma_rgb) == (12, 0.007, 0.5, 100, 15)


def test_auto_takes_the_container_where_the_image_is(machine):
    call = machine.run("train-small", "DATASET=synthetic")
    folder = str(machine.folder)
    assert values(call, "--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert values(call, "-w") == [folder] and f"{folder}:{folder}" in values(call, "-v")
    assert "--rm" in call and "--ipc=host" in call and "-it" not in call
    assert inside(call)[:2] == ["python", "pytorch-deeplab_v3_plus/train_two_stages.py"]
    assert values(call, "--dataset") == ["synthetic"]


@pytest.mark.parametrize("missing", ["image", "engine"])
def test_auto_takes_venv_where_the_image_is_not(machine, missing):
    machine.images = PLAIN if missing == "image" else ""
    result = machine.make("train-small")
    assert result.stderr == f"runtime: .venv (no Docker image {A100} here)\n"
    assert not machine.calls("docker", "run")
    assert machine.calls("python", "pytorch-deeplab_v3_plus/train_two_stages.py")


def test_runtime_by_hand(machine):
    assert machine.make("test-env", "RUNTIME=local").stderr == "runtime: .venv\n"
    assert machine.calls() == [["python", "pytorch-deeplab_v3_plus/check_environment.py"]]
    machine.images = ""
    for target in ("test-env", "run"):
        result = machine.make(target, "RUNTIME=docker")
        assert result.returncode == 2 and f"error: the image {A100} is not there (make build)" in result.stderr
    assert not machine.calls("docker", "run")
    result = machine.make("test-env", "RUNTIME=podman")
    assert result.returncode == 2 and "expected auto, docker or local, found 'podman'" in result.stderr


def test_inside_a_container_its_own_environment_is_used(machine):
    shutil.rmtree(machine.folder / ".venv")
    machine.add("python")
    result = machine.make("evaluate", RLOSS_CONTAINER="1")
    assert result.returncode == 0 and "runtime: this container\n" in result.stderr
    assert [call[:2] for call in machine.calls()] == [["python", "pytorch-deeplab_v3_plus/evaluate.py"]]
    assert not (machine.folder / ".venv").exists()


def test_gpus_are_used_where_there_are_some(machine):
    assert "--gpus" not in machine.run("test-env")
    assert "container of rloss:a100-ubuntu22.04 without GPUs" in machine.make("test-env").stderr
    machine.add("nvidia-smi")
    machine.record.unlink()
    assert values(machine.run("test-env"), "--gpus") == ["all"]
    machine.record.unlink()
    machine.images = PLAIN
    call = machine.run("test-env", "NO_GPU=1")
    assert "--gpus" not in call and inside(call, PLAIN)[0] == "python"


def test_no_gpu_hides_them_from_pytorch(machine):
    (machine.folder / ".venv/bin/python").write_text('#!/bin/sh\necho "devices: [${CUDA_VISIBLE_DEVICES-all}]"\n')
    assert machine.make("test-env", "RUNTIME=local", "NO_GPU=1").stdout == "devices: []\n"
    assert machine.make("test-env", "RUNTIME=local", CUDA_VISIBLE_DEVICES="1").stdout == "devices: [1]\n"
    assert machine.make("test-env", "RUNTIME=local", "NO_GPU=0").stdout == "devices: [all]\n"  # regression


@pytest.mark.parametrize("setting", ["NO_GPU=no", "FULL=no"])
def test_what_is_neither_on_nor_off_is_refused(machine, setting):
    """Regression: it was taken for on."""
    result = machine.make("test-env", setting)
    assert result.returncode == 2 and f"{setting.replace('=no', '')}: expected 0 or 1, found 'no'" in result.stderr


@pytest.mark.parametrize(
    ("target", "name"), [("evaluate", "DATASET"), ("train-small", "SEEDS"), ("annotate", "ADDRESS")]
)
def test_settings_of_one_word_are_no_two(machine, target, name):
    """Regression: the second word went to the program as one of its own."""
    result = machine.make(target, f"{name}=1 2")
    assert result.returncode == 2 and f"{name}: expected one word, found '1 2'" in result.stderr
    assert not machine.calls("python")


def test_an_environment_whose_interpreter_is_gone_is_named(machine):
    """Regression: another Python of this machine was taken without a word, or none was found."""
    python = machine.folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to(machine.folder / "gone")
    result = machine.make("test-env", "RUNTIME=local")
    assert result.returncode == 2 and "the interpreter of .venv is gone: delete that folder" in result.stderr


def test_another_interpreter_than_that_of_the_environment_is_refused(machine):
    """Regression: PYTHON=python3.12 was ignored where .venv was there."""
    python = machine.folder / ".venv/bin/python"
    python.write_text("#!/bin/sh\necho Python 3.8.1\n")
    result = machine.make("test-env", "RUNTIME=local", "PYTHON=python3")
    assert result.returncode == 2 and "error: .venv has Python 3.8.1, which PYTHON=python3 is not" in result.stderr
    assert machine.make("test-env", "RUNTIME=local", "PYTHON=.venv/bin/python").returncode == 0


def test_build_and_run_are_the_documents_commands(machine):
    machine.make("build")
    machine.make("build", "NO_GPU=1")
    plain, cpu = machine.calls("docker", "build")
    assert plain == f"docker build -f Dockerfile.a100 -t {A100} .".split()
    assert cpu[:6] == f"docker build -f Dockerfile -t {PLAIN}".split() and "whl/cpu" in values(cpu, "--build-arg")[0]
    assert inside(machine.run("run")) == ["bash"]


def test_a_container_sees_the_files_that_the_command_names(machine, tmp_path):
    image, data, output = tmp_path / "my image.jpg", tmp_path / "my data", tmp_path / "pictures"
    image.touch()
    data.mkdir()
    own = f"RLOSS_OWN_ROOT={tmp_path / 'my own'}"
    settings = (f"IMAGE_PATH={image}", f"OUTPUT={output}", f"DATA_ROOT={data}", own, "OPTIONS=--crop_size 64")
    call = machine.run("inference", *settings)
    network = "run/pascal/x/model_best.pth.tar"
    mounts = values(call, "-v")
    assert {f"{image}:{image}:ro", f"{output}:{output}", f"{data}:{data}"} <= set(mounts)
    assert f"{tmp_path}/my own:{tmp_path}/my own" in mounts and (tmp_path / "my own").is_dir()
    assert f"{machine.folder}/{network}:{machine.folder}/{network}:ro" in mounts
    assert f"DATA_ROOT={data}" in values(call, "-e") and "RLOSS_OWN_ROOT" in values(call, "-e")
    words = inside(call)
    assert (values(words, "--image_path"), values(words, "--checkpoint")) == ([str(image)], [network])
    assert values(words, "--crop_size") == ["64"]
    assert output.is_dir()  # made by make: Docker would make it as root


def test_inference_takes_patterns(machine, tmp_path):
    (tmp_path / "photos" / "one").mkdir(parents=True)
    (tmp_path / "photos" / "one" / "a.jpg").touch()
    patterns = {f"{tmp_path}/photos/one/*.jpg": "photos/one", f"{tmp_path}/photos/*/a.jpg": "photos"}
    for pattern in patterns:
        machine.make("inference", f"IMAGE_PATH={pattern}")
    for (pattern, folder), call in zip(patterns.items(), machine.calls("docker", "run"), strict=True):
        assert f"{tmp_path}/{folder}:{tmp_path}/{folder}:ro" in values(call, "-v")
        assert values(inside(call), "--image_path") == [pattern]
    assert "no image" in machine.make("inference", f"IMAGE_PATH={tmp_path}/photos/*.png").stderr


@pytest.mark.parametrize("runtime", ["local", "docker"])
def test_names_of_files_reach_the_programs_as_they_are(machine, tmp_path, runtime):
    """Regression: make or the shell expanded a $ in them, ran what stood in backticks, and stumbled over quotes."""
    odd = tmp_path / """it's "$HOME$(touch ran)`touch ran` #, 100%"""
    image, network, photographs = odd / "a [$x].jpg", odd / "model.pth.tar", odd / "photographs"
    photographs.mkdir(parents=True)
    image.touch()
    network.touch()
    settings = (f"RUNTIME={runtime}", f"DATA_ROOT={odd}", f"CHECKPOINT={network}", f"OUTPUT={odd}/out")
    inference = [*settings, f"RLOSS_OWN_ROOT={odd}/own", f"IMAGE_PATH={image}"]
    targets = ["inference", *inference], ["inference", *inference[:-1], f"IMAGE_PATH={odd}/*.jpg"]
    targets += ["evaluate", *settings], ["annotate", *settings, f"DATA={photographs}/", "CLASSES=a's,$b,`c`"]
    for words in targets:
        result = machine.make(*words)
        assert result.returncode == 0, result.stderr
    one, many, evaluate, annotate = machine.calls("docker", "run") if runtime == "docker" else machine.calls("python")
    assert [values(call, "--image_path") for call in (one, many)] == [[str(image)], [f"{odd}/*.jpg"]]
    assert [values(call, "--checkpoint") for call in (one, evaluate)] == [[str(network)]] * 2
    assert values(one, "--output_directory") == [f"{odd}/out"] and (odd / "out").is_dir()
    assert values(annotate, "--classes") == ["a's,$b,`c`"] and annotate[-1] == f"{photographs}/"
    if runtime == "docker":
        mounts = {f"{odd}:{odd}", f"{image}:{image}:ro", f"{network}:{network}:ro", f"{odd}/own:{odd}/own"}
        assert mounts <= set(values(one, "-v")) and f"DATA_ROOT={odd}" in values(one, "-e")
        assert f"{odd}:{odd}:ro" in values(many, "-v") and (odd / "own").is_dir()
        assert f"{photographs}-rloss:{photographs}-rloss" in values(annotate, "-v")
    assert f"[{image}]" in machine.make("help", *inference).stdout
    assert f"no image '{image}x'" in machine.make(*targets[0][:-1], f"IMAGE_PATH={image}x").stderr
    assert f"no trained network {odd}/none:" in machine.make("evaluate", f"CHECKPOINT={odd}/none").stderr
    assert not list(machine.folder.glob("ran")) and not list(tmp_path.glob("ran"))


def test_the_data_root_of_the_programs_is_the_one_given(machine):
    (machine.folder / ".venv/bin/python").write_text('#!/bin/sh\necho "$DATA_ROOT $RLOSS_OWN_ROOT"\n')
    settings = {"DATA_ROOT": "/a$b", "RLOSS_OWN_ROOT": "/c$d"}
    given = machine.make("test-env", "RUNTIME=local", *(f"{name}={value}" for name, value in settings.items()))
    assert given.stdout == machine.make("test-env", "RUNTIME=local", **settings).stdout == "/a$b /c$d\n"


def test_no_folder_is_made_by_mounting_it(machine, tmp_path):
    call = machine.run("test-env", f"DATA_ROOT={tmp_path}/nowhere")
    assert all("nowhere" not in mount for mount in values(call, "-v"))


@pytest.mark.parametrize(("setting", "expected"), [("", "no image ''"), ("IMAGE_PATH=/no.jpg", "no image '/no.jpg'")])
def test_inference_wants_an_image(machine, setting, expected):
    result = machine.make("inference", *filter(None, [setting]))
    assert result.returncode == 2 and expected in result.stderr and not machine.calls("docker", "run")


def test_inference_and_evaluate_want_a_network(machine):
    (machine.folder / "run/pascal/x/model_best.pth.tar").unlink()
    for target in ("inference", "evaluate"):
        result = machine.make(target, "IMAGE_PATH=Makefile")
        assert result.returncode == 2 and "train first (make train-small)" in result.stderr
    assert "no trained network lost.tar" in machine.make("evaluate", "CHECKPOINT=lost.tar").stderr


@pytest.mark.parametrize(("target", "port"), [("jupyter", "8888"), ("tensorboard", "6006")])
def test_servers_can_be_reached_from_this_machine_only(machine, target, port):
    call = machine.run(target)
    assert values(call, "-p") == [f"127.0.0.1:{port}:{port}"]
    assert "0.0.0.0" in " ".join(inside(call)) and "token" not in " ".join(call)
    machine.make(target, "RUNTIME=local", "ADDRESS=127.0.0.2")
    call = machine.calls("python")[-1]
    assert call[1] == "-m"  # a script of .venv/bin does not outlive the folder's moving
    assert "127.0.0.2" in " ".join(call) and port in " ".join(call)


@pytest.mark.parametrize("port", ["abc", "99999", "-5", "8 9", ""])
@pytest.mark.parametrize(
    ("target", "name"), [("jupyter", "JUPYTER_PORT"), ("tensorboard", "TENSORBOARD_PORT"), ("annotate", "PORT")]
)
def test_a_port_that_is_none_is_named(machine, target, name, port):
    """Regression: Jupyter ended with a traceback."""
    result = machine.make(target, f"{name}={port}")
    assert result.returncode == 2 and f"error: {name}: expected a port of 0 to 65535, found '{port}'" in result.stderr


def test_annotate_takes_photographs_and_can_be_reached_from_this_machine_only(machine, tmp_path):
    photographs, made = tmp_path / "my photos", tmp_path / "my photos-rloss"
    photographs.mkdir()
    call = machine.run("annotate", f"DATA={photographs}", "CLASSES=cat, dog")
    assert values(call, "-p") == ["127.0.0.1:8765:8765"]
    assert {f"{photographs}:{photographs}", f"{made}:{made}"} <= set(values(call, "-v")) and made.is_dir()
    words = inside(call)
    assert values(words, "--address") == ["0.0.0.0"] and values(words, "--classes") == ["cat, dog"]
    assert words[-1] == str(photographs) and "--no-browser" in words
    made.rmdir()
    machine.make("annotate", "RUNTIME=local", f"DATA={photographs}")
    assert not made.exists()  # annotate.py makes it, or what --output names
    machine.make("annotate", "RUNTIME=local", "PORT=9000")
    words = machine.calls("python")[-1]
    assert words[1:] == ["pytorch-deeplab_v3_plus/annotate.py", "--address", "127.0.0.1", "--port", "9000"]


@pytest.mark.parametrize("runtime", ["auto", "local", "docker"])
def test_clean_keeps_results_data_and_everything_else(machine, runtime, tmp_path):
    outside = tmp_path / "environment"
    (outside / "__pycache__").mkdir(parents=True)
    (machine.folder / ".venv").rename(tmp_path / "old")
    (machine.folder / ".venv").symlink_to(outside)
    for name in ("run/__pycache__", "data/synthetic/__pycache__", "tests/__pycache__", "wrapper/bilateralfilter/build"):
        (machine.folder / name).mkdir(parents=True)
    result = machine.make("clean", f"RUNTIME={runtime}")
    assert result.returncode == 0, result.stderr
    for name in ("run/pascal/x/model_best.pth.tar", "run/__pycache__", "data/synthetic/__pycache__", "Makefile"):
        assert (machine.folder / name).exists()
    assert (outside / "__pycache__").exists()
    for name in (".venv", "tests/__pycache__", "wrapper/bilateralfilter/build"):
        assert (machine.folder / name).exists() == (runtime == "docker")
    removed = [call[1:] for call in machine.calls("docker") if "rm" in call]
    containers = [
        ["rm", "--force", f"container-label={label}={machine.folder}"]
        for label in ("rloss.folder", "com.docker.compose.project.working_dir")
    ]
    labelled = [[*call[:2], " ".join(call[2:])] for call in removed if call[0] == "rm"]
    assert labelled == ([] if runtime == "local" else containers)
    assert [call for call in removed if call[0] == "image"] == ([] if runtime == "local" else [["image", "rm", A100]])


def test_containers_carry_the_label_that_clean_looks_for(machine):
    assert values(machine.run("run"), "--label") == [f"rloss.folder={machine.folder}"]


def test_elsewhere_make_touches_nothing(tmp_path):
    (tmp_path / ".venv").mkdir()
    result = make("-f", str(HOME / "Makefile"), "clean", folder=tmp_path)
    assert result.returncode == 2 and "run make in the folder of rloss" in result.stderr
    assert (tmp_path / ".venv").exists()
