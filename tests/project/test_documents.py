"""The documents: twins say the same; commands, options, messages, links and examples in them are right."""

import argparse
import ast
import json
import re
import shlex
import sys
import textwrap
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from PIL import Image
from torch import nn

from modeling.backbone import BACKBONES
from modeling.networks import NETWORKS, build_network

HOME = Path(__file__).parents[2]
CODE = HOME / "pytorch-deeplab_v3_plus"
DOCS = HOME / "docs"
README = HOME / "README.md"
TWINS = [(README, HOME / "README.ja.md")] + [(DOCS / path.name, path) for path in sorted(DOCS.glob("ja/*.md"))]
WITH_MESSAGES = (DOCS / "troubleshooting.md", DOCS / "ja" / "troubleshooting.md", HOME / "README_A100.md")
MOST_WORDS = 1800  # of the README: one read of five minutes
DOCUMENTS = [
    path
    for pattern in ("*.md", "*.ipynb")
    for path in sorted(HOME.rglob(pattern))
    if not {".venv", ".git", "run", ".pytest_cache", ".ipynb_checkpoints"} & set(path.relative_to(HOME).parts)
]
SCRIPTS = sorted(path.stem for path in CODE.glob("*.py") if "exit_status(main)" in path.read_text(encoding="utf-8"))
MODULES = SCRIPTS + [path.stem for folder in ("benchmarks", "experiments") for path in (HOME / folder).glob("*.py")]
# Options of docker, docker-compose, pip and setuptools, and torchrun.
FOREIGN_OPTIONS = {
    *("--requeue", "--signal"),
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


FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks of code in these languages."""
    return [textwrap.dedent(code) for _, language, code in FENCE.findall(text) if language in languages]


def prose_of(text: str) -> str:
    """Return the text without its blocks of code."""
    return "\n".join(line for line in FENCE.sub("", text).split("\n") if not line.startswith("    "))


def code_lines(text: str) -> list[str]:
    """Return the lines of the blocks of code, without comments and what stands apart on the right like one."""
    fenced = [
        line
        for _, language, code in FENCE.findall(text)
        if language != "mermaid"
        for line in textwrap.dedent(code).split("\n")
    ]
    indented = [line[4:] for line in FENCE.sub("", text).split("\n") if line.startswith("    ")]
    lines = [re.split(r"(?:^|(?<=\S)\s+)#\s|(?<=\S) {4,}(?=\S)", line)[0].rstrip() for line in fenced + indented]
    return [line for line in lines if line]


def spans(text: str) -> list[str]:
    """Return the pieces of code within sentences and tables."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose_of(text))]


def commands(text: str) -> list[str]:
    """Return the command lines in blocks, continued lines joined, and the pieces of code in sentences."""
    return "\n".join(code_lines(text)).replace("\\\n", " ").split("\n") + spans(text)


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))


def sections(text: str) -> list[tuple[str, str]]:
    """Return the heading's marks (##) and the content of each section."""
    text = FENCE.sub(lambda match: match[0].replace("\n#", "\n #"), text)  # comments are no headings
    parts = re.split(r"^(#+) .*\n", text, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def figures(text: str) -> list[list[str]]:
    """Return for each line of a table its cells, those that are no figures emptied."""
    rows = [line.split("|") for line in text.split("\n") if line.startswith("|")]
    return [[cell if re.fullmatch(r"[\d\s.,±+*()-]+(s/it\) )?", cell) else "" for cell in row] for row in rows]


def numbers(text: str) -> Counter:
    """Count the figures in the sentences."""
    return Counter(re.findall(r"\d+(?:\.\d+)?", re.sub(r"\]\([^)]*\)", "", prose_of(text))))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_weights_near_1_go_with_the_size_free_form(path):
    for line in commands(text_of(path)):
        if any(float(weight) > 1e-3 for weight in re.findall(r"densecrfloss[= ]([\d.e-]+)", line)):
            assert re.search(r"size.free|--preset", line), line


@pytest.mark.parametrize(("english", "japanese"), TWINS, ids=lambda path: str(path.relative_to(HOME)))
def test_twins_hold_the_same(english, japanese):
    here, there = sections(text_of(english)), sections(text_of(japanese))
    assert [marks for marks, _ in here] == [marks for marks, _ in there]
    for (_, ours), (_, theirs) in zip(here, there, strict=True):
        assert code_lines(ours) == code_lines(theirs)
        assert sorted(set(spans(ours))) == sorted(set(spans(theirs)))
        assert options(ours) == options(theirs)
        assert figures(ours) == figures(theirs)
        assert not numbers(ours) - numbers(theirs)  # Japanese writes some words as figures
        assert len(blocks(ours, "mermaid")) == len(blocks(theirs, "mermaid"))


def test_the_pages_that_have_twins():
    assert {path.name for path in DOCS.glob("ja/*.md")} == {"data.md", "training.md", "troubleshooting.md"}
    for english, japanese in TWINS:
        assert f"({japanese.relative_to(english.parent)})" in text_of(english)
        assert f"]({'' if japanese.parent == HOME else '../'}{english.name})" in text_of(japanese)


def test_the_readme_is_one_read_of_five_minutes():
    assert len(text_of(README).split()) <= MOST_WORDS


def test_the_readme_links_every_page():
    for path in [*DOCS.glob("*.md"), HOME / "CONTRIBUTING.md", HOME / "README_A100.md"]:
        assert f"({path.relative_to(HOME)})" in text_of(README), path.name


@pytest.mark.parametrize("path", [*sorted(DOCS.rglob("*.md")), HOME / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_a_page_begins_with_what_it_answers(path):
    first = next(part for part in text_of(path).split("\n\n")[1:] if " | " not in part)
    assert first.startswith(("This page answers", "このページでは"))


@pytest.fixture
def options_of(capsys):
    @cache
    def ask(script: str) -> set[str]:
        with pytest.raises(SystemExit) as end:
            import_module(script).main(["--help"])
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
    for folder in (HOME / "benchmarks", HOME / "experiments", CODE / "dataloaders"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
                    known.add(node.value)
    for path in DOCUMENTS:
        assert options(text_of(path)) <= known, path.name


class Parsed(BaseException):
    """A command line was parsed."""


def command_lines(text: str) -> list[str]:
    """Return the command lines in blocks of code, and those in sentences, that run Python."""
    return [line for line in commands(text) if re.match(r"(PYTHONPATH=\S+ )?(python|torchrun) ", line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_documented_commands_parse(path, monkeypatch, capsys):
    def stopping(parse):
        def stop(self, *args, **kwargs):
            parse(self, *args, **kwargs)
            raise Parsed

        return stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    for line in command_lines(text_of(path)):
        words = [word for word in shlex.split(line) if word != "..."]
        if "-m" in words:
            name, words = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
            if not name.startswith("dataloaders."):
                continue
            package = (CODE / name.replace(".", "/")).is_dir()
            module = import_module(f"{name}.__main__" if package else name)
        else:
            at = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
            if at is None or Path(words[at]).stem not in MODULES:
                continue
            module, words = import_module(Path(words[at]).stem), words[at + 1 :]
        monkeypatch.setattr(sys, "argv", [module.__name__, *words])
        try:
            module.main()
        except Parsed:
            continue
        except SystemExit as end:
            assert end.code == 0, f"{line}: {capsys.readouterr().err}"  # 0 is --help
            continue
        pytest.fail(f"{line}: ended without parsing")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_python_examples_compile(path):
    for code in blocks(text_of(path), "python"):
        if not re.match(r'elif|"\w+":', code):  # lines to put into a file
            compile(code, str(path), "exec")


def test_contributing_shows_the_shortest_regulariser_as_it_is():
    assert (CODE / "losses" / "entropy.py").read_text() in blocks(text_of(HOME / "CONTRIBUTING.md"), "python")


def example(name: str) -> Any:
    """Return a class or function that CONTRIBUTING.md writes down."""
    known = {}
    codes = blocks(text_of(HOME / "CONTRIBUTING.md"), "python")
    code = next(code for code in codes if re.search(rf"^(class|def) {name}\(", code, re.MULTILINE))
    exec(compile(code, "CONTRIBUTING.md", "exec"), known)
    return known[name]


def test_the_backbone_and_the_network_that_contributing_writes_down_work(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", example("Tiny"))
    monkeypatch.setitem(NETWORKS, "fcn", example("FCN"))
    image, settings = torch.zeros(2, 3, 65, 49), {"num_classes": 3, "backbone": "tiny", "crop_size": 65}
    for stride in (16, 8):
        for network in ("deeplabv3plus", "fcn"):
            settings |= {"network": network, "output_stride": stride}
            model = build_network(settings, freeze_bn=True)
            assert model(image).shape == model.whole(image).shape == (2, 3, 65, 49)
            deep, low_level = model.backbone(image)
            assert deep.shape[2] == 64 // stride + 1 and low_level.shape[2] == 17
    keys = model.classifier_keys
    assert all(model.state_dict()[key].shape[0] == 3 for key in keys)
    groups = model.parameter_groups(10.0)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_format_that_contributing_writes_down_works(tmp_path, voc):
    (tmp_path / "points.csv").write_text("image,label,x,y\ni0.jpg,cat,3,4\ni0.jpg,background,20,15\ni1.jpg,cat,5,5\n")
    options = import_module("preparation.formats").ImportOptions(images=voc / "JPEGImages", width=3)
    photographs = import_module("preparation.sources").Photographs(options.images, options.images.iterdir())
    assert example("recognises")(tmp_path / "points.csv") and not example("recognises")(voc / "JPEGImages/i0.jpg")
    items, names = example("collect")([tmp_path / "points.csv"], photographs, options)
    assert names == ("background", "cat")
    assert [item.id for item in items] == ["i0", "i1"]
    label = items[0].draw(Image.open(items[0].image).size)
    assert label[4, 3] == 1 and label[15, 20] == 0 and label[10, 10] == 255


def test_the_training_in_python_that_the_page_on_training_writes_down_works(voc, tmp_path, monkeypatch, capsys):
    (code,) = blocks(text_of(DOCS / "training.md"), "python")
    for documented, small in {"DATA": f"{voc} --classes {tmp_path}/classes.txt", "--epochs 20": "--epochs 1"}.items():
        assert code.count(documented) == 1
        code = code.replace(documented, small)
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(compile(code, "training.md", "exec"), known)
    assert {"val", "val_full", "fill_in"} == known["scores"].keys()
    assert known["trainer"].journal.folder.is_dir()
    assert re.search(r"mIoU 0\.\d{3}; run folder run/voc/deeplab-mobilenet/experiment_0\n", capsys.readouterr().out)


def test_the_prediction_in_python_that_the_page_on_inference_writes_down_works(voc, tmp_path):
    (code,) = blocks(text_of(DOCS / "inference.md"), "python")
    settings = {"backbone": "mobilenet", "num_classes": 3, "output_stride": 16, "crop_size": 33}
    weights = build_network(settings).state_dict()
    torch.save({"state_dict": weights, "model": settings}, tmp_path / "checkpoint.pth.tar")
    image = next((voc / "JPEGImages").iterdir())
    known = {}
    exec(code.replace("CHECKPOINT", f"{tmp_path}/checkpoint.pth.tar").replace("IMAGE", str(image)), known)
    assert known["labels"].shape == Image.open(image).size[::-1] and known["labels"].max() < 3


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
    for path in WITH_MESSAGES:
        tables = text_of(path)
        if path.name == "README_A100.md":
            tables = tables[tables.index("## Troubleshooting") :]
        for row in tables.split("\n"):
            for message in spans(row.split(" | ")[0]) if row.startswith("| ") else []:
                if message not in FOREIGN_MESSAGES:
                    assert SOURCES_OF_MESSAGES.get(message, message) in source, f"{path.name}: {message}"
                    found += 1
    assert found > 30


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_nothing_is_left_to_fill_in(path):
    assert "<!--" not in path.read_text(encoding="utf-8")


# Files that a reader is told to write, and one of an earlier version.
ABSENT_FILES = {
    *("losses/NAME.py", "backbone/tiny.py", "modeling/fcn.py", "datasets/leaves.py", "datasets/your_dataset.py"),
    *("preparation/points.py", "benchmarks/study.py"),
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_files_that_sentences_name_exist(path):
    folders = [path.parent, HOME, CODE]
    for span in spans(text_of(path)):
        if re.fullmatch(r"(\.\./)?([\w-]+/)+[\w.-]+\.(py|sh|md|ipynb|hpp|cpp|i)", span):
            assert span.endswith(tuple(ABSENT_FILES)) or any((folder / span).exists() for folder in folders), span


def titles(path: Path) -> list[str]:
    return re.findall(r"^#+ (.*)", FENCE.sub("", text_of(path)), re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles(path)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOME)))
def test_no_dead_link(path):
    prose = prose_of(text_of(path))
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
