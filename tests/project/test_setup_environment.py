"""setup_environment.sh on machines that stand-ins make up, and that all shell scripts are clean.

The stand-ins for apt-get, sudo, id and Python record what they are asked for; nothing is installed.
"""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
TOOLS = ("basename", "bash", "cat", "cp", "dirname", "find", "grep", "mkdir", "mv", "rm", "sed", "touch", "xargs")

PYTHON = r"""#!/usr/bin/env bash
# Does what `python3` should: makes a virtual environment of itself, and knows whether the packages were installed.
echo "$(basename "$(dirname "$0")")/python $*" >>"$MACHINE/log"
case "$*" in
  *"sys.version_info"*) [[ ! -f $MACHINE/old ]] ;;
  *"import ensurepip"*) [[ -f $MACHINE/installed/python3-venv ]] ;;
  *Python.h*) [[ -f $MACHINE/installed/python3-dev ]] ;;
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *--version) echo Python 3.9.2 ;;
  *wrapper/bilateralfilter*) [[ -f $MACHINE/installed/g++ ]] ;;
  *--index-url*) [[ ! -f $MACHINE/offline ]] ;;
esac
"""
APT = r"""#!/usr/bin/env bash
echo "apt-get $*" >>"$MACHINE/log"
[[ $(id -u) == 0 ]] || exit 100
for word in "$@"; do
  touch "$MACHINE/installed/$word"
  [[ $word == g++ ]] && cp "$MACHINE/true" "$MACHINE/bin/g++"
  [[ $word == python3 ]] && cp "$MACHINE/python" "$MACHINE/bin/python3"
done
exit 0
"""
SUDO = r"""#!/usr/bin/env bash
echo "sudo $*" >>"$MACHINE/log"
[[ -f $MACHINE/sudoer ]] || exit 1
[[ $1 == -n ]] && shift
AS_ROOT=1 "$@"
"""


class Machine:
    """A folder with a copy of the script, a PATH of stand-ins, and the packages that are `installed`."""

    def __init__(self, folder: Path, clone: str = "clone of rloss") -> None:
        self.folder, self.code = folder, folder / clone
        for path in (folder / "bin", folder / "installed", self.code / "wrapper/bilateralfilter"):
            path.mkdir(parents=True)
        for name in ("setup_environment.sh", "requirements.txt"):
            shutil.copy(HOME / name, self.code / name)
        (self.code / "wrapper/bilateralfilter/setup.py").write_text("")
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
        self.program("env", '#!/usr/bin/env bash\nwhile [[ $1 == *=* ]]; do export "${1?}"; shift; done\nexec "$@"\n')
        self.program("id", '#!/usr/bin/env bash\n[[ ${AS_ROOT:-} ]] && echo 0 || cat "$MACHINE/uid"\n')
        self.program("apt-get", APT)
        self.program("true", "#!/usr/bin/env bash\n", folder)
        self.program("python", PYTHON, folder)
        (folder / "uid").write_text("0")

    def program(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.folder / "bin") / name
        path.write_text(text.replace("/usr/bin/env bash", shutil.which("bash")))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def has(self, *packages: str) -> None:
        for package in packages:
            (self.folder / "installed" / package).touch()
        if "python3" in packages:
            shutil.copy(self.folder / "python", self.folder / "bin/python3")
        if "g++" in packages:
            shutil.copy(self.folder / "true", self.folder / "bin/g++")

    def user(self, *, sudo: bool) -> None:
        (self.folder / "uid").write_text("1000")
        if sudo:
            self.program("sudo", SUDO)
            (self.folder / "sudoer").touch()

    def run(self, *options: str) -> subprocess.CompletedProcess:
        (self.folder / "log").write_text("")
        environment = {"PATH": str(self.folder / "bin"), "MACHINE": str(self.folder), "HOME": str(self.folder)}
        return subprocess.run(
            [Path(os.path.relpath(self.code, self.folder), "setup_environment.sh"), *options],  # from another folder
            env=environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def log(self, word: str = "") -> list[str]:
        return [line for line in (self.folder / "log").read_text().splitlines() if word in line]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_root_on_a_bare_machine(machine):
    result = machine.run()
    assert result.returncode == 0, result.stdout + result.stderr
    assert machine.log("apt-get install")[0].endswith(" python3 python3-venv python3-dev g++")
    pip = [line.partition("-m pip ")[2] for line in machine.log("bin/python -m pip --quiet")]
    assert [line.split("install ", 1)[1] for line in pip] == [
        "--upgrade pip",
        "-r requirements.txt",
        "--force-reinstall --no-deps ./wrapper/bilateralfilter",
    ]
    assert machine.log()[-1] == "bin/python pytorch-deeplab_v3_plus/check_environment.py"
    assert result.stdout.splitlines()[-1] == "ready: source .venv/bin/activate"


def test_a_second_call_changes_nothing_and_make_has_nothing_to_do(tmp_path):
    machine = Machine(tmp_path, "rloss")  # make knows no folders with spaces
    assert machine.run().returncode == 0
    assert machine.run().returncode == 0
    assert not machine.log("apt-get") and not machine.log("install") and not machine.log("venv .venv")
    assert machine.log()[-1].endswith("check_environment.py")

    shutil.copy(HOME / "Makefile", machine.code)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    make = ["make", "--directory", machine.code, "--question", ".venv/filter.stamp", "RUNTIME=local"]
    assert subprocess.run(make, env=environment, check=False).returncode == 0

    # A change of the filter builds it anew, and nothing else.
    setup, stamp = machine.code / "wrapper/bilateralfilter/setup.py", machine.code / ".venv/filter.stamp"
    os.utime(setup, (stamp.stat().st_mtime + 10,) * 2)
    assert machine.run().returncode == 0
    assert len(machine.log(" install ")) == 1 and "bilateralfilter" in machine.log(" install ")[0]


def test_sudo_is_used_by_those_who_have_it(machine):
    machine.user(sudo=True)
    assert machine.run().returncode == 0
    assert len(machine.log("sudo env DEBIAN_FRONTEND=noninteractive apt-get install")) == 1


def test_without_root_it_says_what_is_missing_and_goes_on(machine):
    machine.user(sudo=False)
    machine.has("python3", "python3-venv", "python3-dev")
    result = machine.run()
    assert result.returncode == 2 and not machine.log("apt-get")
    assert "missing: g++; install them as root (apt-get install g++)" in result.stdout
    assert machine.log("install -r requirements.txt")  # SWIG among them
    assert "the bilateral filter could not be built; missing: g++" in result.stderr.splitlines()[-1]

    machine.has("g++")  # the administrator has been asked
    assert machine.run().returncode == 0 and not machine.log("requirements.txt")


def test_without_root_on_a_complete_machine(machine):
    machine.user(sudo=False)
    machine.has("python3", "python3-venv", "python3-dev", "g++")
    result = machine.run()
    assert result.returncode == 0 and "missing" not in result.stdout


def test_no_apt(machine):
    machine.has("python3", "python3-venv", "g++")
    result = machine.run("--no-apt")
    assert result.returncode == 0 and not machine.log("apt-get")  # the build may find headers where nobody looked
    assert "missing: python3-dev;" in result.stdout


def test_cpu_takes_pytorch_from_its_own_index(machine):
    assert machine.run("--cpu").returncode == 0
    order = [line for line in machine.log(" install ") if "torch" in line or "requirements" in line]
    assert "--index-url https://download.pytorch.org/whl/cpu torch>=2.4,<3 torchvision>=" in order[0]
    assert order[1].endswith("-r requirements.txt")


def test_cpu_without_that_index(machine):
    (machine.folder / "offline").touch()
    result = machine.run("--cpu")
    assert result.returncode == 0 and "taking PyPI's" in result.stdout
    assert machine.log("-r requirements.txt")


@pytest.mark.parametrize(("options", "said"), [(["--gpu"], "found '--gpu'"), ([], "expected Python 3.10 or newer")])
def test_one_line_for_what_cannot_be(machine, options, said):
    machine.has("python3", "python3-venv", "python3-dev", "g++")
    (machine.folder / "old").touch()
    result = machine.run(*options)
    assert result.returncode == 2 and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and said in line


def test_help(machine):
    text = machine.run("--help").stdout
    assert all(option in text for option in ("--cpu", "--no-apt", "PYTHON", "TORCH_INDEX_URL")) and "set -e" not in text


def test_shell_scripts_are_clean():
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("no shellcheck on this machine")
    scripts = [HOME / "setup_environment.sh", *HOME.glob("data/**/*.sh")]
    result = subprocess.run(
        [shellcheck, "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
