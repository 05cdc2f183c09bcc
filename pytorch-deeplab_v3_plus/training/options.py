"""The options of training: every one, its default, and the recommended settings by image size."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Any

import torch

from common.arguments import HelpFormatter, add_switch, integers, number
from common.distributed import is_launched, world_size
from common.errors import InputError
from filtering.mean_field import MeanField
from training.schedule import SCHEDULES


def named_weight(text: str) -> tuple[str, float]:
    """Parse `NAME=WEIGHT`."""
    name, _, weight = text.partition("=")
    try:
        return name, number(float, 0)(weight)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected NAME=WEIGHT with a weight of 0 or more, found {text!r}") from None


# What trains small images from random weights, and a DenseCRF loss that regularises them: the original's rows for these
# sizes do not (docs/small_images.md).
SMALL: dict[str, Any] = dict(
    scale_range=(0.9, 1.3),
    batch_size=8,
    lr=0.01,
    ce_reduction="mean",
    channels_last=True,
    densecrfloss=2.0,
    size_free=True,
    rloss_scale=1.0,
    sigma_rgb=12.0,
)

# Recommended settings by image size, as differences from the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "40": dict(SMALL, crop_size=65, base_size=65, sigma_xy=14.0),
    "80": dict(SMALL, crop_size=129, base_size=129, sigma_xy=24.0),
    "256": dict(crop_size=256, base_size=256, batch_size=8, rloss_scale=0.75, sigma_xy=60.0),
    "513": dict(crop_size=513, base_size=513, batch_size=4, rloss_scale=1.0, sigma_xy=80.0),
}

# Learning rate for a batch of four images on one device; it grows with the batch.
BASE_RATE = 0.007


def add_preset_option(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --preset, which parse_with_preset reads."""
    parser.add_argument("--preset", choices=PRESETS, help=f"{help}; any option beside it wins")


def parse_with_preset(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, settings: Collection[str] | None = None
) -> argparse.Namespace:
    """Parse the command line; what its --preset says of these settings (None: of all) becomes the default."""
    preset = parser.parse_args(argv).preset
    if preset:
        known = PRESETS[preset]
        parser.set_defaults(**{name: known[name] for name in known if settings is None or name in settings})
    return parser.parse_args(argv)


def add_data_options(group: Any) -> None:
    """Add the options that say which images, for every script that reads a data set."""
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="a name in dataloaders/datasets/: pascal, synthetic or your own (default: pascal where it is "
        "found, otherwise synthetic)",
    )
    group.add_argument(
        "--data-root",
        metavar="FOLDER",
        help="any folder with JPEGImages/, pascal_2012_scribble/ and, where known, SegmentationClassAug/; "
        "needs --classes and no code",
    )
    group.add_argument("--classes", metavar="FILE", help="class names of --data-root, one a line, background first")
    group.add_argument("--workers", type=number(int, 0), default=4, metavar="N", help="processes that load images")


def add_network_options(group: Any, backbones: Iterable[str]) -> None:
    """Add what a checkpoint usually says itself, for the scripts that use trained networks."""
    group.add_argument(
        "--backbone", choices=list(backbones), help="feature network (default: the checkpoint's, or else resnet)"
    )
    group.add_argument(
        "--n_class", "--n-class", type=number(int, 2), metavar="K", help="number of classes (default: the checkpoint's)"
    )
    group.add_argument(
        "--out-stride",
        type=int,
        choices=(16, 8),
        help="input pixels per feature pixel (default: the checkpoint's, or else 16)",
    )


def add_device_options(group: Any) -> None:
    """Add the options that say where to run."""
    add_switch(group, "--no-cuda", "--no_cuda", help="run on the CPU even where there is a GPU")
    group.add_argument(
        "--gpu-ids",
        type=integers,
        default=[0],
        metavar="IDS",
        help="GPU to use; training runs one process on each of several (default: 0)",
    )


def add_densecrf_options(group: Any) -> None:
    """Add the settings of the DenseCRF loss, the same in training and in inference."""
    group.add_argument(
        "--sigma-rgb",
        type=number(float, 0, above=True),
        default=15.0,
        metavar="S",
        help="width of the kernel in colour, in grey levels of 0-255",
    )
    group.add_argument(
        "--sigma-xy",
        type=number(float, 0, above=True),
        default=80.0,
        metavar="S",
        help="width of the kernel in position, in pixels of the crop",
    )
    add_switch(
        group,
        "--size-free",
        help="divide the DenseCRF loss by the kernel mass of each image, so that it lies in [-1, 0] and a weight "
        "means the same at every image size",
    )


def add_crf_options(group: Any) -> None:
    """Add the settings of the DenseCRF that refines finished predictions, the same in evaluation and in inference."""
    add_switch(group, "--crf", help="refine the predictions with a DenseCRF, by mean-field inference")
    for name, field, metavar, text in (
        ("--crf-iterations", "iterations", "N", "iterations of the inference"),
        ("--crf-weight", "appearance_weight", "W", "weight of its kernel of position and colour"),
        ("--crf-sigma-xy", "appearance_xy", "S", "width of that kernel in position, in pixels"),
        ("--crf-sigma-rgb", "appearance_rgb", "S", "width of that kernel in colour, in grey levels of 0-255"),
        ("--crf-smooth-weight", "smoothness_weight", "W", "weight of its kernel of position alone"),
        ("--crf-smooth-sigma", "smoothness_xy", "S", "width of that kernel, in pixels"),
    ):
        default = getattr(MeanField, field)
        kind = number(type(default), 0, above=metavar == "S")
        group.add_argument(name, dest=f"crf_{field}", type=kind, default=default, metavar=metavar, help=text)


def mean_field(args: argparse.Namespace) -> MeanField | None:
    """Return the DenseCRF that the options of add_crf_options ask for, None without --crf."""
    if not args.crf:
        return None
    return MeanField(**{field.name: getattr(args, f"crf_{field.name}") for field in fields(MeanField)})


def build_parser(backbones: Iterable[str]) -> argparse.ArgumentParser:
    """Return the parser of the training script."""
    parser = argparse.ArgumentParser(
        description="Train DeepLabv3+ on scribbles with partial cross-entropy and the DenseCRF loss.",
        formatter_class=HelpFormatter,
    )
    add_preset_option(parser, "recommended settings for images of this size (256 and 513: without --densecrfloss)")

    data = parser.add_argument_group("data")
    add_data_options(data)
    data.add_argument(
        "--supervision",
        choices=("scribble", "full"),
        default="scribble",
        help="labels to train on; full is the upper bound to compare with",
    )
    data.add_argument(
        "--base-size",
        type=number(int, 1),
        default=513,
        metavar="PIXELS",
        help="short side of a training image before the random scaling",
    )
    data.add_argument(
        "--scale-range",
        type=number(float, 0, above=True),
        nargs=2,
        default=(0.5, 2.0),
        metavar=("LOW", "HIGH"),
        help="random scaling of a training image; narrower learns faster from few small images (default: 0.5 2)",
    )
    data.add_argument(
        "--crop-size", type=number(int, 1), default=513, metavar="PIXELS", help="side of the training crop"
    )

    model = parser.add_argument_group("network")
    model.add_argument("--backbone", choices=list(backbones), default="resnet", help="feature network")
    model.add_argument(
        "--out-stride",
        type=int,
        choices=(16, 8),
        default=16,
        help="input pixels per feature pixel; 8 is finer and slower (drn: always 8)",
    )
    model.add_argument(
        "--pretrained",
        metavar="WHAT",
        help="start of the backbone: imagenet, none, or a file of weights (default: imagenet; none for "
        "xception, for which no weights are published, and with --resume)",
    )
    add_switch(
        model,
        "--sync-bn",
        default=None,
        help="batch norm with the statistics of the whole batch, over all processes (default: with several processes)",
    )
    add_switch(model, "--freeze-bn", help="keep the batch norms' running statistics as they are")

    loss = parser.add_argument_group("losses")
    loss.add_argument("--loss-type", choices=("ce", "focal"), default="ce", help="loss over the labelled pixels")
    loss.add_argument(
        "--ce-reduction",
        choices=("batch", "mean"),
        default="batch",
        help="batch: the mean over labelled pixels, divided by the batch size once more, as in the "
        "original; mean: without that division",
    )
    add_switch(loss, "--use-balanced-weights", help="weight classes by 1 / ln(1.02 + frequency)")
    loss.add_argument(
        "--densecrfloss",
        type=number(float, 0),
        default=0.0,
        metavar="WEIGHT",
        help="weight of the DenseCRF loss: 2e-9 at 513 pixels, about 1 with --size-free, 0 for off",
    )
    loss.add_argument(
        "--rloss-scale",
        type=number(float, 0, above=True, high=1),
        default=1.0,
        metavar="FACTOR",
        help="shrink the input of the DenseCRF loss by this factor, for speed",
    )
    add_densecrf_options(loss)
    add_switch(loss, "--exact-gradient", help="true gradient of the lattice filter instead of the original's")
    loss.add_argument(
        "--regulariser",
        type=named_weight,
        action="append",
        metavar="NAME=WEIGHT",
        help="a further regularised loss, by its name in losses/; repeatable",
    )

    optimization = parser.add_argument_group("optimisation")
    optimization.add_argument("--epochs", type=number(int, 1), default=50, metavar="N", help="passes over the images")
    optimization.add_argument(
        "--start_epoch",
        "--start-epoch",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="epoch to begin with (--resume sets it)",
    )
    optimization.add_argument(
        "--batch-size",
        type=number(int, 1),
        metavar="N",
        help="images in a step, over all devices (default: 4 a device)",
    )
    optimization.add_argument(
        "--accumulate",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="work each batch off in N parts: the gradient of the whole batch with the memory of a part (batch "
        "norm sees the parts)",
    )
    optimization.add_argument(
        "--test-batch-size",
        type=number(int, 1),
        metavar="N",
        help="images in a step of the evaluation (default: as --batch-size)",
    )
    optimization.add_argument(
        "--lr",
        type=number(float, 0, above=True),
        metavar="RATE",
        help=f"learning rate of the backbone (default: {BASE_RATE} x batch size / 4 a device)",
    )
    optimization.add_argument(
        "--head-rate",
        type=number(float, 0, above=True),
        default=10.0,
        metavar="FACTOR",
        help="the head (everything but the backbone) learns at so many times the backbone's rate",
    )
    optimization.add_argument("--lr-scheduler", choices=SCHEDULES, default="poly", help="course of the learning rate")
    optimization.add_argument(
        "--lr-step",
        type=number(int, 1),
        metavar="EPOCHS",
        help="with --lr-scheduler step: epochs between drops (default: a third of --epochs)",
    )
    optimization.add_argument("--momentum", type=number(float, 0, high=1), default=0.9, metavar="M", help="of SGD")
    optimization.add_argument("--weight-decay", type=number(float, 0), default=5e-4, metavar="D", help="of SGD")
    add_switch(optimization, "--nesterov", help="Nesterov momentum")

    optimization.add_argument(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="mixed precision for the network; losses and evaluation stay in float32",
    )
    add_switch(optimization, "--channels-last", help="channels-last memory format: faster on many CPUs and GPUs")
    add_switch(
        optimization, "--compile", help="compile the network with torch.compile: minutes at the start, then faster"
    )

    run = parser.add_argument_group("run")
    run.add_argument("--checkname", metavar="NAME", help="name of the run's folder (default: deeplab-<backbone>)")
    run.add_argument(
        "--run-root", default="run", metavar="FOLDER", help="results go to FOLDER/<dataset>/<checkname>/experiment_<n>/"
    )
    run.add_argument(
        "--resume",
        metavar="FILE",
        help="checkpoint to continue from; auto: the newest of the last run of this name, in its folder (a new run "
        "where there is none)",
    )
    add_switch(run, "--ft", help="with --resume: take only the weights; epoch, optimizer and best score start anew")
    run.add_argument(
        "--eval-interval",
        type=number(int, 1),
        default=1,
        metavar="EPOCHS",
        help="epochs between evaluations (there is always one after the last)",
    )
    run.add_argument(
        "--save-interval",
        type=number(int, 1),
        metavar="EPOCHS",
        help="also keep checkpoint_epoch_<n>.pth.tar every so many epochs (default: never)",
    )
    run.add_argument("--keep", type=number(int, 1), metavar="N", help="of those, keep only the newest N (default: all)")
    run.add_argument(
        "--save-steps",
        type=number(int, 1),
        metavar="STEPS",
        help="also write checkpoint_last.pth.tar every so many steps (default: at the end of an epoch and at a signal)",
    )
    run.add_argument(
        "--log-interval",
        type=number(int, 1),
        default=10,
        metavar="STEPS",
        help="steps between two lines of steps.jsonl; the losses are read from the device so often",
    )
    run.add_argument(
        "--benchmark",
        type=number(int, 1),
        metavar="STEPS",
        help="run so many steps, print the time of each part of a step and the peak memory, and write nothing",
    )
    add_switch(run, "--no-val", help="train without evaluation")
    run.add_argument("--seed", type=number(int, 0), default=1, metavar="N", help="of weights, order and augmentation")
    add_device_options(run)
    return parser


def parse_options(argv: Sequence[str] | None, backbones: Iterable[str]) -> argparse.Namespace:
    """Parse the command line of training and fill in what follows from other options.

    Raises:
        InputError: options that contradict each other.
        SystemExit: status 2 for a value out of its range, 0 for --help.
    """
    args = parse_with_preset(build_parser(backbones), argv)
    args.gpu_ids = args.gpu_ids[:1] if args.no_cuda or not torch.cuda.is_available() else args.gpu_ids
    devices = world_size() if is_launched() else len(args.gpu_ids)
    if args.batch_size is None:
        args.batch_size = 4 * devices
    if args.test_batch_size is None:
        args.test_batch_size = args.batch_size
    if args.lr is None:
        args.lr = BASE_RATE / (4 * devices) * args.batch_size
    if args.sync_bn is None:
        args.sync_bn = devices > 1
    if args.lr_step is None:
        args.lr_step = max(1, args.epochs // 3)
    if args.checkname is None:
        args.checkname = f"deeplab-{args.backbone}"
    args.regularisers = list(args.regulariser or [])
    if args.densecrfloss:
        args.regularisers.insert(0, ("densecrf", args.densecrfloss))
    if args.ft:
        args.start_epoch = 0
    if args.start_epoch >= args.epochs:
        raise InputError(f"--start_epoch {args.start_epoch}: nothing is left of --epochs {args.epochs}")
    if args.batch_size == 1 and not args.freeze_bn:
        raise InputError("--batch-size 1: batch normalisation has no statistics of one image; use 2, or --freeze-bn")
    least = least_images(args, devices) * devices * args.accumulate
    if args.batch_size < least:
        raise InputError(
            f"--batch-size {args.batch_size}: {devices} process{'es' * (devices > 1)} with --accumulate "
            f"{args.accumulate} need at least {least} images in a step"
            + ("" if args.sync_bn or args.freeze_bn else ", since batch normalisation has no statistics of one")
        )
    if args.accumulate > 1 and args.loss_type == "focal":
        raise InputError("--accumulate: the focal loss needs the mean over the whole batch at once; use --loss-type ce")
    if args.scale_range[0] > args.scale_range[1] or args.base_size * args.scale_range[0] < 1:
        raise InputError(
            f"--scale-range {args.scale_range[0]:g} {args.scale_range[1]:g}: LOW up to HIGH, of a pixel or more"
        )
    if args.nesterov and not args.momentum:
        raise InputError("--nesterov needs a --momentum above 0")
    if args.crop_size * args.rloss_scale < 1:
        raise InputError(f"--rloss-scale {args.rloss_scale:g} leaves nothing of --crop-size {args.crop_size}")
    names = [name for name, _ in args.regularisers]
    if len(set(names)) < len(names):
        raise InputError(f"each regulariser once, found {', '.join(names)}")
    if args.ft and args.resume in (None, "auto"):
        raise InputError("--ft starts from a trained network: name its checkpoint with --resume FILE")
    check_data_options(args)
    return args


def check_data_options(args: argparse.Namespace) -> None:
    """Refuse --data-root and --classes one without the other, and beside --dataset."""
    if bool(args.data_root) != bool(args.classes):
        raise InputError("--data-root FOLDER and --classes FILE go together: one of them is missing")
    if args.data_root and args.dataset:
        raise InputError("give either --dataset NAME or --data-root FOLDER, not both")


def least_images(args: argparse.Namespace, processes: int) -> int:
    """Return how many images a process needs in a forward pass: batch norm after global pooling fails on one alone."""
    return 1 if args.freeze_bn or (args.sync_bn and processes > 1) else 2
