"""The commands behind the Makefile's targets, as make itself prints them."""

import os
import shlex
import subprocess
from pathlib import Path

import train_two_stages
from modeling.backbone import BACKBONES
from training.options import parse_options

HOME = Path(__file__).parent.parent


def make(*words: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=HOME, env=environment, capture_output=True, text=True, check=False)


def command(target: str, script: str, *settings: str) -> list[str]:
    """Return the words behind `script` in the recipe of a target."""
    result = make("-n", target, *settings)
    assert result.returncode == 0, result.stderr
    recipe = result.stdout.replace("\\\n", " ").split("\n")
    line = next(line for line in recipe if script in line)
    return shlex.split(line[line.index(script) + len(script) :])


def test_help_lists_every_target_and_setting():
    text = make().stdout
    for name in ("setup", "train-small", "train-standard", "inference", "test", "test-env", "clean", "help"):
        assert f"  {name} " in text
    for name in ("PYTHON", "DATASET", "IMAGE_PATH", "CHECKPOINT", "TRAIN_OPTIONS"):
        assert f"  {name} " in text


def test_train_small_compares_with_a_regulariser():
    words = command("train-small", "train_two_stages.py", "DATASET=synthetic", "SEEDS=1,2", "FULL=1")
    own, rest = train_two_stages.build_parser().parse_known_args(words)
    args = parse_options(rest, BACKBONES)
    assert (own.seeds, own.full, args.dataset, args.pretrained) == ([1, 2], True, "synthetic", "none")
    assert args.regularisers == [("densecrf", 1.5)] and args.size_free


def test_train_standard_is_the_published_recipe():
    args = parse_options(command("train-standard", "train_withdensecrfloss.py"), BACKBONES)
    assert (args.crop_size, args.backbone, args.densecrfloss, args.dataset) == (513, "mobilenet", 2e-9, None)
    assert (args.batch_size, args.lr, args.rloss_scale, args.sigma_xy, args.sigma_rgb) == (12, 0.007, 0.5, 100, 15)


def test_inference_keeps_paths_with_spaces():
    words = command("inference", "inference.py", "IMAGE_PATH=/tmp/my image.jpg", "CHECKPOINT=x.pth.tar")
    assert words[words.index("--image_path") + 1] == "/tmp/my image.jpg"
