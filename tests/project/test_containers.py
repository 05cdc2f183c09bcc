"""The Dockerfiles and the Compose file, as far as they can be checked without a Docker engine."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

HOME = Path(__file__).parents[2]
DOCKERFILES = ("Dockerfile", "Dockerfile.a100")


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", (HOME / name).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile_is_cached_in_the_right_order_and_ends_without_root(name):
    steps = instructions(name)
    assert steps[0][0] == "ARG" and re.fullmatch(r"BASE_IMAGE=[a-z/]+:[0-9].*", steps[0][1])
    assert steps[1] == ("FROM", "${BASE_IMAGE} AS packages")
    stage = steps[: next(n for n, (word, what) in enumerate(steps) if word == "FROM" and "AS filter" in what)]
    assert [what for word, what in stage if word == "COPY"] == [
        "docker/install.sh /opt/rloss/",
        "requirements.txt requirements-dev.txt requirements-app.txt ./",
    ]
    assert [what for word, what in steps if word == "USER"] == ["1000"]
    assert ("ENTRYPOINT", '["tini", "--", "/opt/rloss/entrypoint.sh"]') in steps


def test_dockerfiles_differ_only_where_they_must():
    plain, a100 = (set(instructions(name)) for name in DOCKERFILES)
    assert {word for word, _ in plain ^ a100} == {"ARG", "ENV", "RUN"}
    assert len(plain ^ a100) == 6  # base, packages and the last ENV of each


@pytest.mark.parametrize(
    ("linter", "files"), [("hadolint", DOCKERFILES), ("shellcheck", ("docker/install.sh", "docker/entrypoint.sh"))]
)
def test_linters_find_nothing(linter, files):
    if not shutil.which(linter):
        pytest.skip(f"no {linter} on this machine")
    result = subprocess.run([linter, *files], cwd=HOME, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.fixture
def services() -> dict:
    return yaml.safe_load((HOME / "docker-compose.yml").read_text())["services"]


def test_compose_services(services):
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "rloss-a100": None,
        "jupyter": ["jupyter"],
        "rloss-cpu": ["cpu"],
        "jupyter-cpu": ["cpu"],
        "annotate": ["annotate"],
        "annotate-cpu": ["cpu"],
    }
    for name, service in services.items():
        gpu = not name.endswith("-cpu")
        assert service["image"] == ("rloss:a100-ubuntu22.04" if gpu else "rloss:latest")
        assert service["build"].get("dockerfile", "Dockerfile") == ("Dockerfile.a100" if gpu else "Dockerfile")
        assert ("deploy" in service) == gpu
        assert service["volumes"] == [".:/workspace", "${DATA_ROOT:-/data/datasets}:/data/datasets"]
        assert "shm_size" in service


def test_services_do_not_depend_on_which_of_two_merged_mappings_wins():
    """Parsers of YAML differ in that."""
    node = yaml.compose((HOME / "docker-compose.yml").read_text())

    def keys(mapping) -> list[str]:
        found = []
        for key, value in mapping.value:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            found += [name for part in merged for name in keys(part)] if key.value == "<<" else [key.value]
        return found

    services = next(value for key, value in node.value if key.value == "services")
    for name, service in services.value:
        assert len(set(keys(service))) == len(keys(service)), name.value


@pytest.mark.parametrize("name", ["jupyter", "jupyter-cpu"])
def test_jupyter_listens_on_this_machine_only_and_keeps_its_token(services, name):
    (port,) = services[name]["ports"]
    assert port.startswith("${ADDRESS:-127.0.0.1}:")
    command = " ".join(services[name]["command"])
    assert command.startswith("jupyter lab") and "token" not in command and "password" not in command


@pytest.mark.parametrize("name", ["annotate", "annotate-cpu"])
def test_annotate_listens_on_this_machine_only(services, name):
    (port,) = services[name]["ports"]
    assert port.startswith("${ADDRESS:-127.0.0.1}:")


@pytest.mark.parametrize("given", [{}, {"DATA": "my photos", "CLASSES": "a cat,$x", "PORT": "9"}])
def test_annotate_takes_its_settings_and_starts_without_any(services, tmp_path, given):
    """Regression: without CLASSES it was given an empty one, and ended at once."""
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)

    def filled(word: str) -> str:  # as Compose does
        word = re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1]) or found[2], word)
        return word.replace("$$", "$")

    words = [filled(word) for word in services["annotate"]["command"]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    script, *options = result.stdout.splitlines()
    assert script == "pytorch-deeplab_v3_plus/annotate.py"
    chosen = ["--port=9", "--classes=a cat,$x", "my photos"] if given else ["--port=8765", "run/annotate"]
    assert options == ["--no-browser", "--address=0.0.0.0", *chosen]


@pytest.mark.parametrize("writable", [True, False])
def test_entrypoint_says_when_results_cannot_be_written(tmp_path, writable):
    tmp_path.chmod(0o777 if writable else 0o555)
    owner = f"{os.getuid()}:{os.getgid()}"
    script = (HOME / "docker/entrypoint.sh").read_text()  # as text: another user may not be able to read the file
    someone = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}  # root writes everywhere
    words = ["sh", "-c", script, "sh", "echo", "a  b"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, **someone)
    assert result.stdout == "a  b\n"
    if writable:
        assert result.stderr == ""
    else:
        assert f"{tmp_path} belongs to user {owner}" in result.stderr and f"--user {owner}" in result.stderr
        assert "USER_ID=" in result.stderr and result.stderr.count("\n") == 1
