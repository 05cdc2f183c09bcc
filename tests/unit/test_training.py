"""Scores by hand, schedules, options, checkpoints."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import inference
import train_two_stages
from common.errors import InputError
from evaluation.protocols import evaluate
from evaluation.scores import ConfusionMatrix, score_table
from losses.registry import FACTORIES, register
from modeling.checkpoint import load_checkpoint, load_network, load_weights
from modeling.deeplab import DeepLab
from training.checkpoint import save_checkpoint
from training.journal import Journal
from training.options import FROM_RANDOM, PRESETS, build_parser, parse_options
from training.recipes import RECIPES
from training.run_folder import best_of_other_runs
from training.schedule import rate_factor
from training.two_stages_report import comparison_table

# Scores


def test_scores_of_a_hand_worked_confusion_matrix():
    matrix = ConfusionMatrix(4)
    # Class 3 never occurs, class 2 only in the prediction; 255 and 254 do not count.
    matrix.update(torch.tensor([0, 0, 0, 1, 1, 255]), torch.tensor([0, 0, 1, 1, 1, 3]))
    matrix.update(torch.tensor([[0, 254]]), torch.tensor([[2, 0]]))
    assert matrix.counts.tolist() == [[2, 1, 1, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = matrix.scores()
    assert scores["pixel_accuracy"] == pytest.approx(4 / 6)
    assert scores["class_accuracy"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert scores["iou"] == [pytest.approx(2 / 4), pytest.approx(2 / 3), 0.0, None]
    assert scores["miou"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    assert scores["fwiou"] == pytest.approx(4 / 6 * 2 / 4 + 2 / 6 * 2 / 3)
    assert scores["frequency"] == pytest.approx([4 / 6, 2 / 6, 0, 0])


def test_score_table_shows_every_class_and_a_dash_for_absent_ones():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    table = score_table({"val": matrix.scores()}, ["sky", "sea", "sand"]).split("\n")
    assert [line.split() for line in table[1:4]] == [["sky", "50.0"], ["sea", "0.0"], ["sand", "-"]]


class FirstChannels(nn.Module):
    """Two logits: the image's red and green."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image[:, :2]


def test_evaluate_restores_the_mode():
    model = FirstChannels().train()
    batch = {
        "image": torch.tensor([[[[255, 0]], [[0, 255]], [[0, 0]]]], dtype=torch.uint8),
        "label": torch.tensor([[[0, 1]]], dtype=torch.uint8),
        "name": ["one"],
    }
    scores = evaluate(model, [batch], 2, "test")
    assert scores["miou"] == 1 and model.training


# Schedule


def test_schedules():
    factors = [rate_factor("poly", step, 10, steps_per_drop=1) for step in (0, 5, 9)]
    assert factors == pytest.approx([1, 0.5**0.9, 0.1**0.9])
    assert [rate_factor("cos", step, 10, steps_per_drop=1) for step in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    drops = [rate_factor("step", step, 9, steps_per_drop=3) for step in (0, 2, 3, 6)]
    assert drops == pytest.approx([1, 1, 0.1, 0.01])


# Options


def options(*argv):
    return parse_options(argv)


def test_defaults_are_the_originals():
    args = options()
    assert (args.backbone, args.out_stride, args.data.base_size, args.data.crop_size) == ("resnet", 16, 513, 513)
    assert (args.epochs, args.data.batch_size, args.data.test_batch_size, args.data.workers, args.data.seed) == (
        50,
        4,
        4,
        4,
        1,
    )
    assert (args.lr, args.momentum, args.weight_decay, args.nesterov) == (0.007, 0.9, 5e-4, False)
    assert (args.densecrfloss, args.rloss_scale, args.sigma_rgb, args.sigma_xy) == (0, 1, 15, 80)
    assert (args.checkname, args.eval_interval, args.save_interval) == ("deeplab-resnet", 1, None)
    assert args.regularisers == []
    assert not (args.sync_bn or args.freeze_bn or args.ft or args.size_free or args.exact_gradient)


def test_the_rate_follows_the_batch():
    assert options("--batch-size", "12").lr == pytest.approx(0.007 / 4 * 12)
    assert options("--batch-size", "12", "--lr", "0.5").lr == 0.5


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--sync-bn"], True),
        (["--sync-bn", "True"], True),
        (["--sync-bn", "False"], False),
        (["--sync-bn", "--nesterov"], True),
    ],
)
def test_booleans_work_bare_and_spelled_out(words, value):
    assert options(*words).sync_bn is value


def test_a_preset_is_beaten_by_options_beside_it():
    args = options("--preset", "80", "--crop-size", "96")
    assert (args.data.base_size, args.data.crop_size, args.data.batch_size, args.sigma_xy) == (129, 96, 8, 40)


def test_a_preset_for_small_images_differs_from_random_weights_and_for_other_backbones():
    bundled, random = options("--preset", "80"), options("--preset", "80", "--pretrained", "none")
    assert (bundled.backbone, bundled.pretrained, bundled.optimizer, bundled.lr) == (
        "mobilenet",
        "bundled",
        "adamw",
        2e-4,
    )
    assert (random.pretrained, random.optimizer, random.lr, random.weight_decay) == ("none", "sgd", 0.01, 5e-4)
    assert bundled.normalised_kernel and not random.normalised_kernel
    assert options("--preset", "80", "--pretrained", "none", "--lr", "0.5").lr == 0.5
    assert (
        options("--preset", "80", "--backbone", "resnet").pretrained == "imagenet"
    )  # the usual weights of that backbone
    assert options("--preset", "80", "--backbone", "xception").normalised_kernel is False  # for which there are none
    assert options("--preset", "80", "--optimizer", "sgd").lr == pytest.approx(0.014)  # each optimizer has its own rate
    assert options("--preset", "80", "--pretrained", "none", "--optimizer", "adamw").lr == 2e-4
    assert (
        options("--preset", "80", "--backbone", "resnet", "--pretrained", "bundled").pretrained == "bundled"
    )  # refused


def test_the_page_on_training_gives_the_presets():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    rows = {f"| `{name}` |": ["--preset", name] for name in PRESETS}
    rows |= {
        f"| `{name}` with `--pretrained none` |": ["--preset", name, "--pretrained", "none"] for name in FROM_RANDOM
    }
    for start, words in rows.items():
        row = next(line for line in text.split("\n") if line.startswith(start))
        args = options(*words)
        settings = (args.data.crop_size, args.data.batch_size, args.rloss_scale, args.sigma_xy, args.sigma_rgb)
        assert [float(cell) for cell in row.split("|")[2:7]] == list(settings)
        assert args.data.base_size == args.data.crop_size
        weight = row.split("|")[7].split(",")
        assert float(weight[0]) == args.densecrfloss and ("normalised" in weight[-1]) == args.normalised_kernel


def test_the_page_on_networks_gives_the_recipes():
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
    for name in RECIPES:
        args = options("--recipe", name)
        row = next(row for row in text.split("\n") if row.startswith(f"| `--recipe {name}` |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2] == (args.backbone or args.network)
        batch = f"{args.data.batch_size}" + f" in {args.accumulate} parts" * (args.accumulate > 1)
        length = f"{args.steps} steps" if args.steps else f"{args.epochs} epochs"
        drops = f"a tenth every {args.lr_step}" if args.lr_scheduler == "step" else "poly"
        assert cells[3:7] == [batch, f"{args.lr:g}", drops, length]
        kernel = f"{args.densecrfloss:g}, {args.sigma_xy:g}, {args.sigma_rgb:g}" if args.densecrfloss else ""
        assert cells[7] == kernel


def test_recipes_of_the_paper_are_presets():
    args = options("--recipe", "resnet101_v2-crf")
    assert (args.network, args.data.batch_size, args.accumulate) == ("resnet101_v2", 10, 10)
    assert (args.backbone, args.checkname, args.min_images) == (None, "deeplab-resnet101_v2", 1)
    assert (args.data.crop_size, args.data.base_size, args.data.short_side) == (321, None, 0)
    assert (args.data.scales, args.data.blur, args.data.padding) == ((0.5, 0.75, 1, 1.25, 1.5), False, "mean")
    assert (args.rloss_scale, args.ce_reduction, args.head_rate) == (1, "mean", 10)
    assert options("--preset", "largefov", "--base-size", "400").data.short_side == 321


def test_the_length_is_in_steps_or_in_epochs():
    assert (options("--steps", "600", "--lr-scheduler", "step").steps, options("--steps", "600").lr_step) == (600, 200)
    args = options("--recipe", "largefov", "--epochs", "12")  # as every option, it wins against the recipe
    assert (args.steps, args.epochs, args.lr_step) == (None, 12, 4)
    assert options("--recipe", "mobilenet", "--steps", "9").steps == 9
    with pytest.raises(InputError, match="either --steps or --epochs, found 5 and 3"):
        options("--steps", "5", "--epochs", "3")


def test_a_preset_by_size_serves_a_network_without_backbone():
    args = options("--preset", "80", "--network", "largefov")
    assert (args.backbone, args.pretrained, args.optimizer, args.data.crop_size) == (None, None, "adamw", 129)
    assert options("--preset", "80", "--network", "largefov", "--pretrained", "none").optimizer == "sgd"


@pytest.fixture
def toy():
    @register("toy")
    class Toy(nn.Module):
        def __init__(self, weight: float, *, size: int = 5) -> None:
            super().__init__()

    yield "toy"
    del FACTORIES["toy"]


def test_regularisers_by_name(toy):
    first, second = options(
        "--regulariser", f"{toy}=0.5,size=3", "--densecrfloss", "2e-9", "--sigma-xy", "9"
    ).regularisers
    assert (first.name, first.weight, first.settings["sigma_xy"], first.settings["sigma_rgb"]) == (
        "densecrf",
        2e-9,
        9,
        15,
    )
    assert (second.name, second.weight, second.settings) == (toy, 0.5, {"size": 3})


@pytest.mark.parametrize(
    "words",
    [
        ["--crop-size", "0"],
        ["--lr", "-1"],
        ["--lr", "nan"],
        ["--rloss-scale", "1.5"],
        ["--sync-bn", "maybe"],
        ["--backbone", "vgg"],
        ["--out-stride", "4"],
        ["--base-size", "0"],
        ["--gpu-ids", "a"],
        ["--gpu-ids", "0,0"],
        ["--seed", str(2**64)],
        ["--sigma-xy", "inf"],
        ["--scale-range", "1", "1e9"],
        ["--scales", "1e9"],
        ["--crop-size", "3000000000"],
        ["--base-size", "9000000000000000000"],
        ["--repeat", "1000000000000000"],
        ["--resume", ""],
        ["--pretrained="],
    ],
)
def test_bad_values_are_errors_that_name_the_option(words):
    with pytest.raises(InputError, match=words[0].rstrip("=")):
        options(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ft"], "--ft starts from a trained network"),
        (["--classes", "x"], "goes with --data-root"),
        (["--data-root", "x", "--classes", "y", "--dataset", "pascal"], "not both"),
        (["--scale-range", "2", "0.5"], "--scale-range 2 0.5: expected LOW up to HIGH"),
        (["--base-size", "1"], "of a pixel or more"),
        (["--batch-size", "1"], "no statistics of one image"),
        (["--nesterov", "--momentum", "0"], "--nesterov needs"),
        (["--checkname", "../x"], "expected the name of a folder below --run-root, found ../x"),
        (["--checkname", "/x"], "expected the name of a folder below --run-root, found /x"),
        (["--rloss-scale", "0.01", "--crop-size", "32"], "leaves nothing of --crop-size 32"),
        (["--regulariser", "densecrf=1", "--densecrfloss", "1"], "each regulariser once"),
        (["--regulariser", "densecrf"], "expected a number, found ''"),
        (["--regulariser", "densecrf=nan"], "a weight of 0 or more"),
        (["--regulariser", "mine=1"], "found 'mine'"),
        (["--regulariser", "densecrf=1,radius=3"], "has no setting 'radius'"),
        (["--regulariser", "densecrf=1,sigma_xy=wide"], "found 'wide'"),
        (["--regulariser", "densecrf=1,rloss_scale=0.001"], "leaves nothing of --crop-size 513"),
    ],
)
def test_contradictions_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        options(*words)


def test_options_may_be_spelled_with_underscores_and_hyphens(capsys):
    """Regression: each script took a few of the others' spellings, and --help listed those twice."""
    data = parse_options(["--crop_size=64", "--scale_ra", ".5", "2", "--batch-size", "3", "--data_root", "a_b-c"]).data
    assert (data.crop_size, data.scale_range, data.batch_size, data.data_root) == (64, (0.5, 2.0), 3, "a_b-c")
    words = ["--checkpoint", "x", "--output-directory", "a_b", "--batch_size", "3", "--image-path", "c_d", "e-f"]
    args = inference.build_parser().parse_args([*words, "--n-c", "4", "--no_cuda"])
    found = args.output_directory, args.batch_size, args.image_path, args.n_class, args.no_cuda
    assert found == ("a_b", 3, ["c_d", "e-f"], 4, True)
    own, rest = train_two_stages.build_parser().parse_known_args(["--stage2_lr=1", "--variant=a=--x_y", "--x_y"])
    assert (own.stage2_lr, own.variant, rest) == (1, ["a=--x_y"], ["--x_y"])
    for words, said in ((["--lr_", "1"], "ambiguous"), (["--batchsize", "4"], "4 .did you mean --batch-size.")):
        with pytest.raises(InputError, match=said):
            parse_options(words)
    for spelling, count in (("--image_path", 1), ("--image-path", 0)):
        assert inference.build_parser().format_help().count(f"\n  {spelling} ") == count


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpus_that_are_not_there_are_said_not_to_be_used(caplog):
    """Regression: a broken driver made a training on the CPU of one that was to take eight GPUs, without a word."""
    assert parse_options(["--gpu-ids", "0,1"]).gpu_ids == (0,)
    assert "--gpu-ids 0,1: PyTorch finds no GPU here: one process trains, on the CPU" in caplog.text
    caplog.clear()
    parse_options(["--gpu-ids", "0,1", "--no-cuda"])
    parse_options([])
    assert not caplog.text


def test_every_option_is_explained():
    known = {name: action.help for action in build_parser()._actions for name in action.option_strings}
    assert {"--densecrfloss", "--rloss-scale", "--start_epoch", "--gpu-ids", "--ft"} < known.keys()
    assert not [name for name, text in known.items() if not (text or "").strip()]


# Checkpoints


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepLab(3, "mobilenet", 16)


def test_a_checkpoint_comes_back(tmp_path, network):
    path = tmp_path / "checkpoint.pth.tar"
    settings = {"backbone": "mobilenet", "num_classes": 3, "output_stride": 16, "crop_size": 40}
    save_checkpoint(path, {"epoch": 2, "state_dict": network.state_dict(), "best_pred": 0.5, "model": settings})
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    model, found = load_network(path)
    assert found == {"network": "deeplabv3plus", **settings}  # checkpoints of earlier versions do not name it
    for key, value in model.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    assert load_network(path, output_stride=8)[0].backbone.output_stride == 8
    with pytest.raises(InputError, match="its backbone is mobilenet, but --backbone says resnet"):
        load_network(path, backbone="resnet")
    with pytest.raises(InputError, match="its num classes is 3, but --n_class says 21"):
        load_network(path, num_classes=21)


class OldScalar:
    """Pickles as NumPy 1 pickled float64 scalars: the way `best_pred` stands in the published files."""

    def __reduce__(self):
        return numpy_1_scalar, (np.dtype("f8"), np.float64(0.694).tobytes())


def numpy_1_scalar():
    """Stands for numpy.core.multiarray.scalar; only its name is pickled."""


@pytest.mark.parametrize("zipped", [True, False])
def test_published_checkpoints_with_numpy_scalars_load_safely(tmp_path, network, zipped, monkeypatch):
    """Written by PyTorch 1.x and NumPy 1: a legacy file whose `best_pred` names numpy.core.multiarray.scalar."""
    path = tmp_path / "published.pth.tar"
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    content = {"epoch": 60, "state_dict": state, "optimizer": {}, "best_pred": OldScalar()}
    module = type(pickle)("numpy.core.multiarray")
    module.scalar = numpy_1_scalar
    monkeypatch.setitem(__import__("sys").modules, "numpy.core.multiarray", module)
    monkeypatch.setattr(numpy_1_scalar, "__module__", "numpy.core.multiarray")
    monkeypatch.setattr(numpy_1_scalar, "__qualname__", "scalar")
    monkeypatch.setattr(numpy_1_scalar, "__name__", "scalar")
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()
    assert b"numpy.core.multiarray" in path.read_bytes()
    checkpoint = load_checkpoint(path)
    assert checkpoint["best_pred"] == 0.694
    torch.save({**content, "best_pred": np.float64(0.25)}, path)  # as today's NumPy pickles them
    assert load_checkpoint(path)["best_pred"] == 0.25
    assert load_weights(network, checkpoint["state_dict"], path) == []


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_pickled_code_is_never_executed(tmp_path, capsys):
    path = tmp_path / "evil.pth.tar"
    torch.save({"state_dict": {}, "x": Malicious()}, path)
    with pytest.raises(InputError, match="pickled code, which is not run"):
        load_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


def test_broken_files_are_named(tmp_path, network):
    path = tmp_path / "checkpoint.pth.tar"
    with pytest.raises(InputError, match="no such checkpoint file"):
        load_checkpoint(path)
    save_checkpoint(path, {"state_dict": network.state_dict()})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=f"{path}: not an intact PyTorch checkpoint"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="expected a checkpoint with a 'state_dict'"):
        load_checkpoint(path)
    for other in ({"state_dict": {1: torch.zeros(1)}}, {"state_dict": {}, "model": "resnet"}):
        torch.save(other, path)
        with pytest.raises(InputError, match="expected weights by name"):
            load_checkpoint(path)


def test_weights_load_strictly(network):
    """Regression: each was said to be of another backbone."""
    state, hint = network.state_dict(), r"^a\.pth: does not fit this network; was it changed by another program\?"
    missing = {key: value for key, value in state.items() if key != "aspp.conv1.weight"}
    with pytest.raises(InputError, match=f'{hint} Missing.*"aspp.conv1.weight"'):
        load_weights(network, missing, "a.pth")
    with pytest.raises(InputError, match=f"{hint} Unexpected.*surplus"):
        load_weights(network, {**state, "surplus": torch.zeros(1)}, "a.pth")
    with pytest.raises(InputError, match=r"^a\.pth: expected weights, found none"):
        load_weights(network, {}, "a.pth")
    with pytest.raises(InputError, match="is --backbone right.* size mismatch"):
        load_weights(network, {**state, "aspp.conv1.weight": torch.zeros(1)}, "a.pth")


def test_another_class_count_only_with_a_new_classifier(network):
    other = DeepLab(5, "mobilenet", 16)
    before = other.decoder.last_conv[8].weight.clone()
    with pytest.raises(InputError, match="trained for 3 classes, but 5 are expected; --ft"):
        load_weights(other, network.state_dict(), "a.pth")
    fresh = load_weights(other, network.state_dict(), "a.pth", new_classifier=True)
    assert fresh == ["decoder.last_conv.8.weight", "decoder.last_conv.8.bias"]
    assert torch.equal(other.decoder.last_conv[8].weight, before)
    assert torch.equal(other.aspp.conv1.weight, network.aspp.conv1.weight)


def test_an_unwritable_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(tmp_path / "absent" / "checkpoint.pth.tar", {})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "file" / "data" / "name", {})


def test_run_folders_are_numbered_as_integers(tmp_path):
    for number in (0, 2, 10):
        (tmp_path / "data" / "name" / f"experiment_{number}").mkdir(parents=True)
    (tmp_path / "data" / "name" / "experiment_2" / "best_pred.txt").write_text("0.25\n")
    journal = Journal(tmp_path / "data" / "name", {"lr": 0.1})
    journal.close()
    assert journal.folder.name == "experiment_11"
    parameters = (journal.folder / "parameters.txt").read_text()
    assert "lr: 0.1" in parameters and f"PyTorch {torch.__version__}" in parameters
    assert best_of_other_runs(journal.folder) == 0.25


def test_a_reader_of_the_log_may_leave():
    code = "import logging; from common.logs import configure_logging; configure_logging(); "
    code += "[logging.info('line') for _ in range(50000)]"
    source = Path(__file__).parents[2] / "pytorch-deeplab_v3_plus"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


# Comparison


def final(val: float, fill_in: float) -> dict:
    return {name: {"miou": miou, "frequency": [0.7, 0.3, 0.0]} for name, miou in (("val", val), ("fill_in", fill_in))}


def test_comparison_table_by_hand():
    results = {
        "partial_ce": [final(0.50, 0.60), final(0.52, 0.62)],
        "regularised": [final(0.53, 0.66), final(0.57, 0.66)],
        "full": [final(0.60, 0.71), final(0.60, 0.71)],
    }
    cells = {line[:26].strip(): line[26:].split() for line in comparison_table(results).split("\n")}
    assert cells["background everywhere"] == ["35.0", "35.0"]
    assert cells["partial CE"] == ["51.0", "±", "1.4", "61.0", "±", "1.4"]
    assert cells["+ regularised loss"] == ["55.0", "±", "2.8", "66.0", "±", "0.0"]
    assert cells["gain of the regulariser"] == ["+4.0", "±", "1.4", "+5.0", "±", "1.4"]
    assert cells["by seed"] == ["+3.0", "+5.0", "+6.0", "+4.0"]
    assert cells["share of the gap closed"] == ["44", "%", "50", "%"]


def test_comparison_table_of_several_losses():
    results = {
        "partial_ce": [final(0.50, 0.60)],
        "potts": [final(0.52, 0.59)],
        "normalized_cut": [final(0.55, 0.65)],
        "full": [final(0.60, 0.70)],
    }
    cells = {line[:31].strip(): line[31:].split() for line in comparison_table(results).split("\n")}
    assert cells["+ potts"] == ["52.0", "59.0"] and cells["gain of potts"] == ["+2.0", "-1.0"]
    assert cells["gain of normalized_cut"] == ["+5.0", "+5.0"]
    assert cells["share closed by potts"] == ["20", "%", "-10", "%"]
    assert cells["share closed by normalized_cut"] == ["50", "%", "50", "%"]


# The commands of the document, as it gives them

DOCUMENTED = [
    "--backbone mobilenet --lr 0.007 --workers 6 --epochs 60 --batch-size 12 --checkname deeplab-mobilenet "
    "--eval-interval 2 --dataset pascal --save-interval 2 --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-rgb 15 "
    "--sigma-xy 100",
    "--backbone mobilenet --crop-size 64 --base-size 64 --batch-size 32 --lr 0.01 --epochs 80 --densecrfloss 2e-9 "
    "--rloss-scale 0.25 --sigma-rgb 10 --sigma-xy 20",
    "--backbone mobilenet --dataset your_dataset --resume /path/to/model.pth.tar --ft --lr 0.001 --epochs 30 "
    "--batch-size 8 --crop-size 513 --base-size 513 --densecrfloss 2e-9 --rloss-scale 0.5",
    "--out-stride 8 --freeze-bn True --loss-type focal --start_epoch 3 --test-batch-size 2 --use-balanced-weights "
    "--lr-scheduler cos --momentum 0.8 --weight-decay 1e-4 --nesterov --no-cuda --seed 4 --no-val --backbone drn "
    "--dataset pascal --gpu-ids 0,1,2,3 --sync-bn True --workers 8",
]


def test_a_preset_has_the_settings_of_the_documented_command():
    assert options("--preset", "40-original").settings() == options(*DOCUMENTED[1].split()).settings()


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_commands_parse(command):
    words = command.split()
    args = options(*words).settings()
    for name, value in zip(words, words[1:] + ["--"], strict=True):
        if name.startswith("--") and not value.startswith("--") and name != "--gpu-ids":
            found = args[name.strip("-").replace("-", "_")]
            assert str(found) == value or found == float(value), name


def test_a_value_may_end_in_an_equals_sign():
    """Regression: it was taken for an unset variable."""
    assert parse_options(["--checkname=a="]).checkname == "a="
    with pytest.raises(InputError, match="--checkname=: expected a value, found an empty word"):
        parse_options(["--checkname="])
