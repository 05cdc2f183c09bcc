"""The options of training: every one with its default, and the recommended settings by image size."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from common.arguments import COUNT, ArgumentParser, add_options, check_values, number, option, options_from, switch
from common.devices import DeviceOptions, has_fast_bfloat16
from common.distributed import is_launched, world_size
from common.errors import InputError
from dataloaders.options import DataOptions
from dataloaders.sizes import SMALL_CROP
from losses.options import DenseCRFOptions
from losses.registry import RegulariserOptions, describe_regularisers, parse_regulariser, settings_of
from modeling.backbone import BACKBONES, OUTPUT_STRIDES, backbone_class
from modeling.network import Network
from modeling.networks import DEFAULT_NETWORK, NETWORKS, network_class
from modeling.pretrained import default_pretrained
from training.recipes import RECIPES
from training.schedule import SCHEDULES

logger = logging.getLogger(__name__)

# Options that a program decides which has trainings of its own length in folders of its own.
DECIDED = ("--epochs", "--steps", "--start-epoch", "--resume", "--ft", "--checkname", "--run-root", "--benchmark")
DECIDED += ("--help", "-h")

# Recipes by image size, as differences from the defaults. Those from the bundled weights have a loss that regularises
# small images, which the original's rows for 40 and 80 pixels do not (docs/small_images.md).
BUNDLED = dict(backbone="mobilenet", pretrained="bundled", optimizer="adamw", batch_size=8, amp="auto")
BUNDLED |= dict(scale_range=(0.9, 1.3), ce_reduction="mean", channels_last=True)
BUNDLED |= dict(densecrfloss=3.0, size_free=True, normalised_kernel=True, rloss_scale=1.0, sigma_rgb=6.0)
ORIGINAL = dict(backbone="mobilenet", densecrfloss=2e-9)
PRESETS: dict[str, dict[str, Any]] = {
    "40": dict(BUNDLED, crop_size=65, base_size=65, densecrfloss=0.5, sigma_xy=20.0),
    "80": dict(BUNDLED, crop_size=SMALL_CROP, base_size=SMALL_CROP, sigma_xy=40.0),
    "256": dict(BUNDLED, crop_size=257, base_size=257, sigma_xy=80.0),
    "40-original": dict(
        ORIGINAL,
        **dict(crop_size=64, base_size=64, batch_size=32, lr=0.01, epochs=80),
        **dict(rloss_scale=0.25, sigma_xy=20.0, sigma_rgb=10.0),
    ),
    "80-original": dict(ORIGINAL, crop_size=128, base_size=128, batch_size=16, rloss_scale=0.5, sigma_xy=40.0),
    "256-original": dict(
        crop_size=256, base_size=256, batch_size=8, densecrfloss=2e-9, rloss_scale=0.75, sigma_xy=60.0
    ),
    "513": dict(crop_size=513, base_size=513, batch_size=4, densecrfloss=2e-9, rloss_scale=1.0, sigma_xy=80.0),
}
# What changes in a preset from random weights.
RANDOM = dict(optimizer="sgd", lr=0.01, densecrfloss=2.0, normalised_kernel=False, sigma_rgb=12.0)
FROM_RANDOM = {"40": dict(RANDOM, sigma_xy=14.0), "80": dict(RANDOM, sigma_xy=24.0), "256": dict(RANDOM, sigma_xy=48.0)}
ALL_PRESETS = PRESETS | RECIPES
LARGEST = {"40": 60, "80": math.inf}  # short side in pixels of the images for which a preset is taken unasked
IMAGES_PER_DEVICE = 4
BASE_RATE = 0.007  # of SGD for a batch of IMAGES_PER_DEVICE images a device; grows with the batch, as in the original
ADAMW_RATE = 2e-4
BACKBONE, EPOCHS_OF_A_RUN = "resnet", 50  # where neither they nor what takes their place is asked for
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}
OPTIMIZERS = tuple(WEIGHT_DECAY)

POSITIVE, WEIGHT, SHARE = number(float, 0, above=True), number(float, 0), number(float, 0, above=True, high=1)
EPOCHS, STEPS = ({"type": number(int, 1), "metavar": metavar} for metavar in ("EPOCHS", "STEPS"))


@dataclass(frozen=True)
class NetworkOptions:
    """network"""

    network: str = option(DEFAULT_NETWORK, "architecture", choices=tuple(NETWORKS))
    backbone: str | None = option(
        None, f"feature network of {DEFAULT_NETWORK} (default: {BACKBONE})", choices=tuple(BACKBONES)
    )
    out_stride: int = option(
        16,
        f"input pixels per feature pixel; 8 is finer and slower (drn and networks other than {DEFAULT_NETWORK}: "
        "always 8)",
        type=int,
        choices=OUTPUT_STRIDES,
    )
    pretrained: str | None = option(
        None,
        "initial weights of the backbone or network: imagenet (downloaded), bundled (ImageNet's for mobilenet, which "
        "come with this project), none, or a file of weights (default: imagenet; none for xception, for which no "
        "weights are published, and with --resume)",
        metavar="WHAT",
    )
    sync_bn: bool | None = switch(
        "batch norm with the statistics of the whole batch, over all processes (default: with several processes)",
        default=None,
    )
    freeze_bn: bool = switch("keep the running statistics of batch norm fixed")


@dataclass(frozen=True)
class LossOptions(DenseCRFOptions):
    """losses"""

    loss_type: str = option("ce", "loss over the labelled pixels", choices=("ce", "focal"))
    ce_reduction: str = option(
        "batch",
        "batch: the mean over labelled pixels, divided once more by the batch size, as in the original; mean: without "
        "that division",
        choices=("batch", "mean"),
    )
    use_balanced_weights: bool = switch("weight classes by 1 / ln(1.02 + frequency)")
    densecrfloss: float = option(
        0.0,
        "weight of the DenseCRF loss: 2e-9 at 513 pixels, about 2 with --size-free and --ce-reduction mean, 0 for off",
        type=WEIGHT,
    )
    rloss_scale: float = option(1.0, "scale of the DenseCRF loss's input: below 1 it is faster", type=SHARE)
    exact_gradient: bool = switch("exact gradient of the lattice filter instead of the original's")
    regulariser: tuple[str, ...] | None = option(
        None,
        "a further regularised loss, by its name in losses/; repeatable. 'help' lists them all with their settings",
        action="append",
        metavar="NAME=WEIGHT[,SETTING=VALUE...]",
    )

    @property
    def regularisers(self) -> list[RegulariserOptions]:
        """The regularisers that are asked for, parsed; --densecrfloss first."""
        wanted = [parse_regulariser(text) for text in self.regulariser or ()]
        if self.densecrfloss:
            wanted.insert(0, RegulariserOptions("densecrf", self.densecrfloss))
        own = {name: getattr(self, name) for name in settings_of("densecrf")}
        return [replace(one, settings={**own, **one.settings}) if one.name == "densecrf" else one for one in wanted]


@dataclass(frozen=True)
class OptimisationOptions:
    """optimisation"""

    epochs: int | None = option(None, f"passes over the images (default: {EPOCHS_OF_A_RUN})", **COUNT)
    steps: int | None = option(None, "length of the training in steps, instead of in epochs", **STEPS)
    start_epoch: int = option(
        0, "epoch to begin with (--resume sets it)", "--start_epoch", type=number(int, 0), metavar="N"
    )
    accumulate: int = option(
        1,
        "split each batch into N micro-batches: the gradient of the whole batch with the memory of one of them (batch "
        "norm sees the micro-batches, and losses that are means over pixels weigh them alike)",
        **COUNT,
    )
    lr: float | None = option(
        None,
        f"learning rate of the backbone (default: {BASE_RATE} x batch size / {IMAGES_PER_DEVICE} per device; with "
        f"adamw {ADAMW_RATE:g})",
        type=POSITIVE,
        metavar="RATE",
    )
    head_rate: float = option(
        10.0, "learning rate of the head, as a multiple of the backbone's", type=POSITIVE, metavar="FACTOR"
    )
    lr_scheduler: str = option("poly", "learning-rate schedule", choices=SCHEDULES)
    lr_step: int | None = option(
        None,
        "with --lr-scheduler step: epochs between drops (default: a third of --epochs); with --steps: steps",
        **COUNT,
    )
    optimizer: str = option("sgd", "sgd, as in the original, or adamw, which learns in fewer steps", choices=OPTIMIZERS)
    momentum: float = option(0.9, "SGD momentum", type=number(float, 0, high=1), metavar="M")
    weight_decay: float | None = option(None, "weight decay (default: 5e-4, with adamw 0.01)", type=WEIGHT, metavar="D")
    nesterov: bool = switch("Nesterov momentum")
    ema: float | None = option(
        None,
        "keep and evaluate an exponential moving average of the weights, of this decay; 0.995 averages about 200 steps",
        type=number(float, 0, above=True, high=0.9999),
        metavar="DECAY",
    )
    amp: str = option(
        "off",
        "mixed precision for the network; losses and evaluation stay in float32; auto: bf16 where the device has "
        "instructions for it, else off",
        choices=("off", "auto", "bf16", "fp16"),
    )
    channels_last: bool = switch("channels-last memory format: faster on many CPUs and GPUs")
    compile: bool = switch("compile the network with torch.compile: minutes at the start, then faster")


@dataclass(frozen=True)
class RunOptions:
    """run"""

    checkname: str | None = option(
        None, "name of the run's folder (default: deeplab-<backbone or network>)", metavar="NAME"
    )
    run_root: str = option("run", "results go to FOLDER/<dataset>/<checkname>/experiment_<n>/", metavar="FOLDER")
    resume: str | None = option(
        None,
        "checkpoint to continue from; auto: the newest of the last run of this name, in its folder (a new run where "
        "there is none)",
        metavar="FILE",
    )
    ft: bool = switch("with --resume: take only the weights; epoch, optimizer and best score start afresh")
    eval_interval: int = option(1, "epochs between evaluations (the last epoch is always evaluated)", **EPOCHS)
    save_interval: int | None = option(
        None, "also keep checkpoint_epoch_<n>.pth.tar every N epochs (default: never)", **COUNT
    )
    keep: int | None = option(None, "of those, keep only the newest N (default: all)", **COUNT)
    save_steps: int | None = option(
        None, "also write checkpoint_last.pth.tar every N steps (default: after each epoch and at a signal)", **COUNT
    )
    log_interval: int = option(
        10, "steps between two lines of steps.jsonl; the losses are read from the device only then", **STEPS
    )
    benchmark: int | None = option(
        None, "take N steps, print the time of each part of a step and the peak memory, and write nothing", **COUNT
    )
    no_val: bool = switch("train without evaluation: no images for validation are needed")


@dataclass(frozen=True)
class TrainOptions(DeviceOptions, RunOptions, OptimisationOptions, LossOptions, NetworkOptions):
    """All options of a training; raises InputError for those that contradict each other or the machine."""

    data: DataOptions = DataOptions()

    def __post_init__(self) -> None:
        check_values(self.data)
        check_values(self)
        if self.backbone and not self.architecture.has_backbone:
            raise InputError(f"--network {self.network} has no --backbone, found {self.backbone}")
        if self.nesterov and not self.momentum:
            raise InputError("--nesterov needs a --momentum above 0")
        if self.accumulate > 1 and self.loss_type == "focal":
            raise InputError(
                "--accumulate: the focal loss needs the mean over the whole batch at once; use --loss-type ce"
            )
        for scale in [self.rloss_scale, *(one.settings.get("rloss_scale", 1) for one in self.regularisers)]:
            if self.data.crop_size * scale < 1:
                raise InputError(f"--rloss-scale {scale:g} leaves nothing of --crop-size {self.data.crop_size}")
        if (parts := PurePath(self.checkname or "").parts) and (".." in parts or PurePath(*parts).is_absolute()):
            raise InputError(f"--checkname: expected the name of a folder below --run-root, found {self.checkname}")
        if self.ft and self.resume in (None, "auto"):
            raise InputError("--ft starts from a trained network: name its checkpoint with --resume FILE")
        names = [wanted.name for wanted in self.regularisers]
        if len(set(names)) < len(names):
            raise InputError(f"expected each regulariser once, found {', '.join(names)}")

    @property
    def architecture(self) -> type[Network]:
        """The class of the network."""
        return network_class(self.network)

    def default_pretrained(self) -> str:
        """Return what `pretrained` means for a new training when nobody says."""
        return default_pretrained(self.backbone) if self.backbone else self.architecture.default_pretrained()

    @property
    def devices(self) -> int:
        """How many devices, one process each, the training runs on."""
        return world_size() if is_launched() else len(self.gpu_ids)

    @property
    def min_images(self) -> int:
        """Images a process needs in a forward pass: batch norm after global pooling fails on a single one."""
        return 1 if self._takes_single_images or (self.sync_bn and self.devices > 1) else 2

    @property
    def _takes_single_images(self) -> bool:
        return self.freeze_bn or not self.architecture.takes_batch_statistics

    def resolved(self) -> TrainOptions:
        """Return the options with every default filled in that depends on others or on the machine, and checked."""
        cuda = torch.cuda.is_available() and not self.no_cuda
        gpu_ids = self.gpu_ids if cuda else self.gpu_ids[:1]
        if len(gpu_ids) < len(self.gpu_ids) and not self.no_cuda:
            named = ",".join(map(str, self.gpu_ids))
            logger.warning("--gpu-ids %s: PyTorch finds no GPU here: one process trains, on the CPU", named)
        devices = world_size() if is_launched() else len(gpu_ids)
        batch_size = self.data.batch_size or IMAGES_PER_DEVICE * devices
        rate = default_rate(batch_size, devices) if self.optimizer == "sgd" else ADAMW_RATE
        decay = WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay
        epochs = self.epochs or EPOCHS_OF_A_RUN
        backbone = self.backbone or (BACKBONE if self.architecture.has_backbone else None)
        options = replace(
            self,
            data=replace(self.data, batch_size=batch_size, test_batch_size=self.data.test_batch_size or batch_size),
            gpu_ids=gpu_ids,
            lr=self.lr or rate,
            weight_decay=decay,
            amp=("bf16" if has_fast_bfloat16(cuda) else "off") if self.amp == "auto" else self.amp,
            sync_bn=devices > 1 if self.sync_bn is None else self.sync_bn,
            lr_step=self.lr_step or max(1, (self.steps or epochs) // 3),
            epochs=epochs,
            backbone=backbone,
            checkname=self.checkname or f"deeplab-{backbone or self.network}",
            start_epoch=0 if self.ft else self.start_epoch,
        )
        options._check_batch()
        return options

    def _check_batch(self) -> None:
        batch_size, devices = self.data.batch_size, self.devices
        if batch_size == 1 and not self._takes_single_images:
            raise InputError(
                "--batch-size 1: batch normalisation has no statistics of one image; use 2, or --freeze-bn"
            )
        least = self.min_images * devices * self.accumulate
        if batch_size < least:
            who = f"{devices} process{'es' * (devices > 1)} with --accumulate {self.accumulate}"
            why = ", since batch normalisation has no statistics of one" if self.min_images > 1 else ""
            raise InputError(f"--batch-size {batch_size}: {who} need at least {least} images in a step{why}")

    def settings(self) -> dict[str, Any]:
        """Return every option by its name on the command line, those of the data included, as plain values.

        Checkpoints hold them, so that paths become text and NumPy's numbers Python's.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "data"}
        settings = {**asdict(self.data), **own}
        settings = {name: str(value) if isinstance(value, PurePath) else value for name, value in settings.items()}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}


def preset_for(short_side: float) -> str:
    """Return the preset for training on images of this short side, in pixels, where nobody asks for another."""
    return next(name for name, largest in LARGEST.items() if short_side <= largest)


def default_rate(batch_size: int, devices: int) -> float:
    """Return the original's learning rate of SGD."""
    return BASE_RATE / (IMAGES_PER_DEVICE * devices) * batch_size


def add_preset(parser: argparse.ArgumentParser, help: str) -> None:
    """Add --preset, which parse_with_preset reads."""
    about = f"{help}, or that of a row of the paper's table (docs/networks.md); any option beside it wins"
    parser.add_argument("--preset", "--recipe", choices=ALL_PRESETS, help=about)


def parse_with_preset(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, settings: Collection[str] | None = None
) -> argparse.Namespace:
    """Parse the command line; what its --preset says of these settings (None: of all) becomes the default."""
    preset = parser.parse_args(argv).preset
    if preset:
        known = {name: value for name, value in ALL_PRESETS[preset].items() if settings is None or name in settings}
        given = parser.parse_args(argv)
        for length, beaten in (("epochs", ("steps", "lr_step")), ("steps", ("epochs",))):
            if known.keys() & {*beaten} and getattr(given, length):
                known = {name: value for name, value in known.items() if name not in beaten}
        if "backbone" in known and not network_class(given.network).has_backbone:
            del known["backbone"]
        parser.set_defaults(**known)
        given = parser.parse_args(argv)
        if "pretrained" in known and not (given.backbone and backbone_class(given.backbone).bundled):
            parser.set_defaults(pretrained=default_pretrained(given.backbone) if given.backbone else None)
            given = parser.parse_args(argv)
        if "pretrained" in known and given.pretrained == "none":
            known |= FROM_RANDOM[preset]
            parser.set_defaults(**known)
            given = parser.parse_args(argv)
            if given.optimizer != known["optimizer"]:  # for which the rate is
                parser.set_defaults(lr=None)
        logger.info("preset %s: %s", preset, ", ".join(f"{name} {getattr(given, name)}" for name in known))
    return parser.parse_args(argv)


def first_taken(words: Sequence[str], taken: Collection[str]) -> str | None:
    """Return the first option of a command line that is one of the `taken`, as it is given, else None."""
    names = (word.split("=")[0] for word in words if word.startswith("-"))
    # argparse takes the beginning of a name for it.
    return next((name for name in names if any(one.startswith(name.replace("_", "-")) for one in taken)), None)


def build_parser(allow_abbrev: bool = True) -> ArgumentParser:
    """Return the parser of the training script; it may take an option by the beginning of its name."""
    about = "Train DeepLabv3+ on scribbles with partial cross-entropy and the DenseCRF loss."
    parser = ArgumentParser(description=about, allow_abbrev=allow_abbrev)
    add_preset(parser, "a recipe for images of this size")
    add_options(parser, DataOptions)
    add_options(parser, TrainOptions)
    return parser


def parse_options(argv: Sequence[str] | None = None, allow_abbrev: bool = True) -> TrainOptions:
    """Parse the command line of training and fill in what follows from other options.

    Raises InputError for options that do not parse, contradict each other or the machine, and SystemExit after --help
    and --regulariser help.
    """
    parser = build_parser(allow_abbrev)
    namespace = parse_with_preset(parser, argv)
    if namespace.steps and namespace.epochs:
        raise InputError(f"give either --steps or --epochs, found {namespace.steps} and {namespace.epochs}")
    if "help" in (namespace.regulariser or ()):
        print(describe_regularisers())
        parser.exit()
    return options_from(TrainOptions, namespace, data=options_from(DataOptions, namespace)).resolved()
