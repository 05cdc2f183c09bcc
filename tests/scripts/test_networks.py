"""The networks through the programs: training, resuming, evaluation, inference, export, fine-tuning, two stages."""

import json
import shutil

import pytest
import torch
from PIL import Image

import evaluate
import inference
import train_two_stages
import train_withdensecrfloss
from helpers import call, data, one_line, run_folder, state
from modeling import resnet101_v2
from modeling.backbone.resnet import bottleneck_stage

# A tiny training; what is heavy for a suite is the size of the checkpoints.
TINY = ["--crop-size", 33, "--base-size", 33, "--batch-size", 2, "--workers", 0, "--no-cuda", "--accumulate", 2]
TINY += ["--densecrfloss", 1, "--size-free", "--lr", 1e-4, "--ce-reduction", "mean"]
HEAVY = pytest.mark.slow


def shortened_stage(in_channels, width, stride, dilations, *how, **more):
    """A stage of ResNet-101 of at most 3 blocks, as all but one of them have about; that one has 23."""
    return bottleneck_stage(in_channels, width, stride, dilations[:3], *how, **more)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param("deeplabv3plus", marks=HEAVY),
        "msc_largefov",
        pytest.param("largefov", marks=HEAVY),
        pytest.param("vgg16", marks=HEAVY),
        pytest.param("resnet101_v2", marks=HEAVY),
    ],
)
def test_every_program_takes_every_network(voc, network, capsys, monkeypatch):
    monkeypatch.setattr(resnet101_v2, "bottleneck_stage", shortened_stage)
    words = ["--network", network, "--pretrained", "none", *TINY, *data(voc)]
    if network == "deeplabv3plus":
        words += ["--backbone", "mobilenet", "--freeze-bn"]
    name = "deeplab-mobilenet" if network == "deeplabv3plus" else f"deeplab-{network}"
    run = ["--run-root", voc.parent / "run"]
    assert call(train_withdensecrfloss, *words, *run, "--steps", 2, "--no-val") == 0
    last = run_folder(voc, name) / "checkpoint_last.pth.tar"
    before = state(last)
    assert all(value.isfinite().all() for value in before.values())

    assert call(train_withdensecrfloss, *words, *run, "--steps", 5, "--no-val", "--resume", "auto") == 0
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["model"]["network"] == network
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 2)  # epochs of 3 steps, of which the last has one image
    moved = {key for key, value in checkpoint["state_dict"].items() if not torch.equal(value, before[key])}
    assert any("weight" in key for key in moved)
    if network == "msc_largefov":
        assert all(key.startswith("branches.") for key in moved)
    losses = [json.loads(line).get("losses") for line in (last.parent / "scores.jsonl").read_text().splitlines()]
    assert losses[0].keys() == {"cross_entropy", "densecrf"}

    out = voc.parent / "out"
    capsys.readouterr()
    how = ["--checkpoint", last, "--no-cuda", "--workers", 0]
    assert call(evaluate, *how, *data(voc), "--protocol", "crop", "--output", out) == 0
    assert "mIoU" in capsys.readouterr().out
    export = ["--export", "onnx"] if network in ("largefov", "resnet101_v2") else []  # which takes as long as the rest
    assert call(inference, *how, *export, "--image_path", voc / "JPEGImages/i5.jpg", "--output_directory", out) == 0
    assert Image.open(out / "i5_prediction.png").size == Image.open(voc / "JPEGImages/i5.jpg").size
    assert not export or (out / "checkpoint_last.onnx").is_file()

    (voc.parent / "classes.txt").write_text("background\ncat\ndog\nfox\n")
    fresh = [*words, *run, "--steps", 1, "--no-val", "--resume", last, "--ft", "--checkname", "ft"]
    if network in ("vgg16", "resnet101_v2"):
        pass  # of which fine-tuning has nothing of their own
    elif network == "msc_largefov":  # what it cannot train may not start afresh
        assert call(train_withdensecrfloss, *fresh) == 2
        assert "head.fc8.weight does not learn in this network" in one_line(capsys)
    else:
        assert call(train_withdensecrfloss, *fresh) == 0
        assert "new classifier for 4 classes" in capsys.readouterr().out
    shutil.rmtree(voc.parent / "run")


@pytest.mark.slow
def test_two_stages_compare_other_networks(voc, trained_here):
    out, network = voc.parent / "two", "msc_largefov"
    words = ["--network", network, "--pretrained", "none", *TINY, *data(voc), "--output", out]
    assert call(train_two_stages, *words, "--stage1-epochs", 1, "--stage2-epochs", 1) == 0
    assert "gain of the regulariser" in (out / "table.txt").read_text()
    assert torch.load(out / "model.pth.tar", weights_only=True)["model"]["network"] == network
    shutil.rmtree(out)


def test_a_network_without_a_backbone_takes_none(voc, capsys):
    assert call(train_withdensecrfloss, "--network", "vgg16", "--backbone", "drn", *data(voc)) == 2
    assert one_line(capsys) == "error: --network vgg16 has no --backbone, found drn"
    assert call(train_withdensecrfloss, "--network", "msc_largefov", "--no-cuda", *TINY, *data(voc)) == 2
    assert "--network msc_largefov trains branches beside a trained LargeFOV" in one_line(capsys)
