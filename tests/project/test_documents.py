"""The documents: both READMEs say the same, and commands, options, messages and links that they name exist."""

import ast
import importlib
import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

HOME = Path(__file__).parents[2]
CODE = HOME / "pytorch-deeplab_v3_plus"
ENGLISH, JAPANESE, A100 = (HOME / name for name in ("README.md", "README.ja.md", "README_A100.md"))
READMES = (ENGLISH, JAPANESE, A100)
DOCUMENTS = [
    path
    for pattern in ("*.md", "*.ipynb")
    for path in sorted(HOME.rglob(pattern))
    if not {".venv", ".git", "run", ".pytest_cache", ".ipynb_checkpoints"} & set(path.relative_to(HOME).parts)
]
SCRIPTS = sorted(path.stem for path in CODE.glob("*.py") if "exit_status(main)" in path.read_text(encoding="utf-8"))
# Options of docker, docker-compose, pip and setuptools, and torchrun.
FOREIGN_OPTIONS = {
    *("--build-arg", "--gpus", "--ipc", "--profile", "--rm", "--user"),
    *("--inplace", "--no-build-isolation"),
    *("--master-addr", "--nnodes", "--node-rank", "--nproc-per-node"),
}
# Messages in the tables of troubles that our code does not write, or writes with something inserted.
FOREIGN_MESSAGES = {
    "CUDA out of memory",
    "operator torchvision::nms does not exist",
    'could not select device driver "" with capabilities: [[gpu]]',
    "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8",
}
SOURCES_OF_MESSAGES = {
    "missing: g++; install them as root (apt-get install g++)": "missing: ${packages[*]}; install them as root "
    "(apt-get install ${packages[*]})",
    "expected Python 3.10 or newer, found Python 3.9.2": "expected Python 3.10 or newer, found $",
    "cannot write to /data/datasets": "cannot write to $data_root",
    "... cannot be had (ERROR 404: Not Found.)": "$name cannot be had ($reason)",
    "belongs to user ... and this container runs as ...": "belongs to user $owner and this container runs as $(id",
    "error: the image rloss:a100-ubuntu22.04 is not there": "error: the image $(IMAGE) is not there",
}


@cache
def text_of(path: Path) -> str:
    """Return a document's Markdown; of a notebook, that of its cells of text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    return "\n\n".join("".join(cell["source"]) for cell in cells)


def code_lines(text: str) -> list[str]:
    """Return the lines of the code blocks, without comments and what stands apart on the right like one."""
    blocks = [line[4:] for line in text.split("\n") if line.startswith("    ")]
    return [re.split(r"(?<=\S)(?:\s+#\s| {4,}(?=\S))", line)[0].rstrip() for line in blocks]


def spans(text: str) -> list[str]:
    """Return the pieces of code within sentences and tables."""
    prose = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> list[str]:
    """Return the command lines in blocks, continued lines joined, and the pieces of code in sentences."""
    return "\n".join(code_lines(text)).replace("\\\n", " ").split("\n") + spans(text)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def sections(text: str) -> list[tuple[str, str]]:
    """Return the heading's marks (##) and the content of each section."""
    parts = re.split(r"^(#+) .*\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def figures(text: str) -> list[list[str]]:
    """Return for each line of a table its cells, those that are no figures emptied."""
    rows = [line.split("|") for line in text.split("\n") if line.startswith("|")]
    return [[cell if re.fullmatch(r"[\d\s.,±+*()-]+(s/it\) )?", cell) else "" for cell in row] for row in rows]


def test_both_readmes_hold_the_same():
    english, japanese = (sections(text_of(path)) for path in (ENGLISH, JAPANESE))
    assert [marks for marks, _ in english] == [marks for marks, _ in japanese]
    for (_, here), (_, there) in zip(english, japanese, strict=True):
        assert code_lines(here) == code_lines(there)
        assert sorted(set(spans(here))) == sorted(set(spans(there)))
        assert options(here) == options(there)
        assert figures(here) == figures(there)


@pytest.fixture
def options_of(capsys):
    @cache
    def ask(script: str) -> set[str]:
        with pytest.raises(SystemExit) as end:
            importlib.import_module(script).main(["--help"])
        assert end.value.code == 0
        return options(capsys.readouterr().out)

    return ask


def test_commands_have_the_options_that_documents_give_them(options_of):
    known = {script: options_of(script) for script in SCRIPTS}
    known["train_two_stages"] |= known["train_withdensecrfloss"]  # to which it hands on what it does not know
    found = 0
    for path in DOCUMENTS:
        for line in commands(text_of(path)):
            for script, words in re.findall(r"\b(\w+)\.py\b([^;&]*)", line):
                if script in known:
                    assert options(words) <= known[script], f"{path.name}: {line}"
                    found += 1
    assert found > 30


def test_options_exist(options_of):
    known = FOREIGN_OPTIONS | options((HOME / "setup_environment.sh").read_text()) | {"--help"}
    known = known.union(*(options_of(script) for script in SCRIPTS))
    for folder in (HOME / "benchmarks", CODE / "dataloaders"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
                    known.add(node.value)
    for path in DOCUMENTS:
        assert options(text_of(path)) <= known, path.name


def test_targets_and_settings_of_make_exist():
    makefile = (HOME / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    settings = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    found = set()
    for path in DOCUMENTS:
        for line in commands(text_of(path)):
            if match := re.match(r"make(?! -C)((?: +[A-Z_]+=\S*)*)(?: +([a-z-]+))?(.*)", line):
                before, target, behind = match.groups()
                assert target is None or target in targets, f"{path.name}: {line}"
                used = set(re.findall(r"(?<=\s)([A-Z_]+)=", before + re.sub('".*?"', "", behind)))
                assert used <= settings, f"{path.name}: {line}"
                found.add(target)
    assert {"train-small", "test", "inference", "build"} <= found


def test_messages_in_the_tables_of_troubles_are_those_of_the_code():
    suffixes = {".py", ".sh", ".cpp", ".hpp"}
    paths = [path for path in HOME.rglob("*") if path.suffix in suffixes and "tests" not in path.parts]
    paths = [path for path in paths if not {".venv", "run"} & set(path.relative_to(HOME).parts)] + [HOME / "Makefile"]
    source = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings in several pieces
    found = 0
    for path in READMES:
        table = sections(text_of(path))[
            next(i for i, t in enumerate(titles(path)) if t.startswith(("Trou", "トラブル")))
        ]
        for row in table[1].split("\n"):
            for message in spans(row.split(" | ")[0]) if row.startswith("| ") else []:
                if message not in FOREIGN_MESSAGES:
                    assert SOURCES_OF_MESSAGES.get(message, message) in source, f"{path.name}: {message}"
                    found += 1
    assert found > 30


def titles(path: Path) -> list[str]:
    return re.findall(r"^#+ (.*)", text_of(path), re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles(path)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_no_dead_link(path):
    prose = "\n".join(line for line in text_of(path).split("\n") if not line.startswith("    "))
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue  # elsewhere, or a picture within a notebook
        name, _, anchor = link.partition("#")
        target = (path.parent / unquote(name)).resolve() if name else path
        assert target.exists(), link
        assert HOME in target.parents or target == HOME, link
        if anchor:
            assert unquote(anchor) in anchors(target), link
