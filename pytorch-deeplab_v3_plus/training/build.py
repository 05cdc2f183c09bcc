"""From options to a Trainer."""

import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common import distributed
from common.devices import choose_device, describe_device, describe_precision
from common.errors import InputError
from dataloaders import Loaders, make_data_loader
from dataloaders.datasets.pascal import SPLITS, Survey
from dataloaders.inspection import NUMBER_ANEW, OBJECT_255, object_is_255, quick_check
from dataloaders.labels import UNLABELLED
from evaluation import nothing_to_score
from losses import build_regulariser
from losses.cross_entropy import PartialCrossEntropy, balanced_class_weights
from modeling.checkpoint import class_mismatch, load_weights
from modeling.data_parallel import data_parallel
from modeling.networks import build_network
from training.advice import (
    EARLY,
    EARLY_FROM_RANDOM,
    EXPECT_OF_RANDOM,
    guessing_loss,
    progress_advice,
    report_shares,
    steps_advice,
)
from training.average import MovingAverage
from training.identity import data_facts, fingerprint
from training.journal import Journal, SilentJournal
from training.options import BASE_RATE, IMAGES_PER_DEVICE, TrainOptions, default_rate
from training.resume import Start, check_resumable, find_start, restore
from training.step import TrainingStep
from training.trainer import Trainer

RANDOM = "random weights"

Notes = list[tuple[int, str]]  # lines for the log, with their levels

logger = logging.getLogger(__name__)


def build_trainer(options: TrainOptions, regularisers: Mapping[str, nn.Module] | None = None) -> Trainer:
    """Return a trainer whose fit() trains as `options` say; in a run of several processes, each calls it.

    `regularisers` are further ones, by name, beside those that the options name (see losses.registry).

    Raises:
        InputError: the options, the data, a checkpoint or the run's folder cannot be used.
        Ended: the training that is to be resumed has ended.
    """
    options = options.resolved()
    if len(options.gpu_ids) > 1 and not distributed.is_launched() and distributed.world_size() == 1:
        given = ",".join(map(str, options.gpu_ids))
        what = f"--gpu-ids {given}: expected one here, as a process trains on one GPU"
        raise InputError(f"{what}; train_withdensecrfloss.py and torchrun start a process for each")
    device = choose_device(options)
    loaders, surveys = load_data(options, device)
    label_counts = torch.from_numpy(surveys["train"].counts)
    if options.steps:
        options = replace(options, epochs=math.ceil(options.steps / len(loaders.train)))
    if options.start_epoch >= options.epochs:
        raise InputError(f"--start_epoch {options.start_epoch}: nothing is left of {options.epochs} epochs")
    parent = Path(options.run_root) / loaders.name / options.checkname
    start = find_start(options, parent, fingerprint(options, data_facts(loaders, surveys), regularisers or {}))
    settings = {
        "network": options.network,
        "backbone": options.backbone,
        "num_classes": loaders.num_classes,
        "output_stride": options.out_stride if options.backbone else options.architecture.output_stride,
        "class_names": list(loaders.class_names),
        "crop_size": options.data.crop_size,
        "short_side": options.data.short_side,
    }
    pretrained = options.pretrained or ("none" if start.checkpoint else options.default_pretrained())
    model, notes = build_model(options, settings, pretrained, start, device)
    class_counts = label_counts[: loaders.num_classes]
    step = build_step(options, model, class_counts, regularisers or {})
    if start.resumes and not options.benchmark:
        check_resumable(options, loaders, step, start)
    journal = open_journal(options, parent, start)
    try:
        log_data(options, loaders, label_counts, device)
        names = {"none": RANDOM, "imagenet": "ImageNet", "bundled": "ImageNet (bundled)"}
        origin = start.path or names.get(pretrained, pretrained)
        log_network(options, model, origin, notes)
        log_optimisation(options, len(loaders.train), step)
        early = EARLY if start.checkpoint or pretrained != "none" else EARLY_FROM_RANDOM
        guessing = loss_of_guessing(step, class_counts, loaders.train, options.data.batch_size)
        advise = functools.partial(progress_advice, steps_per_epoch=len(loaders.train), guessing=guessing, early=early)
        trainer = Trainer(options, start.path, model, settings, start.identity, loaders, step, journal, advise)
        if options.benchmark:
            return trainer
        if start.resumes:
            restore(trainer, start.checkpoint, start.path)
            if start.folder is None:
                trainer.save()  # or --resume auto would find nothing in the new folder, should it be killed soon
        elif start.folder:
            journal.rewind([], start.folder, 0)  # killed before its first checkpoint
    except BaseException:
        journal.close()
        raise
    return trainer


def load_data(options: TrainOptions, device: torch.device) -> tuple[Loaders, dict[str, Survey]]:
    """Return the loaders of this process, and a survey of the labels of each split that they are for."""
    splits = ("train",) if options.no_val or options.benchmark else SPLITS
    with distributed.main_first():  # it draws the synthetic images
        loaders = make_data_loader(
            options.data,
            pin_memory=device.type == "cuda",
            splits=splits,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            min_images=options.min_images,
        )
    surveys: dict[str, Survey] = {}
    if distributed.is_main():  # what is wrong with a label is found now, not after hours
        datasets = {split: getattr(loaders, split).dataset for split in splits if getattr(loaders, split) is not None}
        surveys = {split: dataset.survey() for split, dataset in datasets.items()}
    surveys = distributed.from_main(surveys)
    if not surveys["train"].counts[: loaders.num_classes].any():
        dataset = loaders.train.dataset
        images = f"all training images of {dataset.folder}"
        raise InputError(f"expected {dataset.label_kind}, found no labelled pixel in {images}")
    if object_is_255(surveys["train"].counts):
        raise InputError(f"{OBJECT_255} in {loaders.train.dataset.folder}: {NUMBER_ANEW}")
    # Both are scored by the crop protocol, which may miss what a survey counts.
    if "val" in surveys and (nothing := nothing_to_score(loaders.val.dataset)):
        advice = "label more there, or validate on other images; train_withdensecrfloss.py --no-val needs none"
        raise InputError(f"expected labelled pixels to score on, found {nothing}: {advice}")
    if "fill_in" in surveys and (nothing := nothing_to_score(loaders.fill_in.dataset)):
        logger.warning("%s: there is no fill-in score", nothing)
        loaders = loaders._replace(fill_in=None)
    return loaders, surveys


def build_model(
    options: TrainOptions, settings: Mapping[str, Any], pretrained: str, start: Start, device: torch.device
) -> tuple[nn.Module, Notes]:
    """Return the network with its first weights, on its device, and what the log should say of its classifier."""
    seed = options.data.seed
    torch.manual_seed(seed)  # here: reading or drawing the data must not change the weights
    with distributed.main_first():  # it downloads the ImageNet weights
        model = build_network(settings, sync_bn=options.sync_bn, freeze_bn=options.freeze_bn, pretrained=pretrained)
    notes = []
    if start.checkpoint:
        fresh = load_weights(model, start.checkpoint["state_dict"], start.path, new_classifier=start.weights_only)
        mismatch = class_mismatch(start.checkpoint.get("model", {}), settings["class_names"])
        if mismatch and not start.weights_only:
            raise InputError(
                f"{start.path}: {mismatch}; give the classes of its training, or --ft to start from its weights"
            )
        if fresh:
            new = f"new classifier for {settings['num_classes']} classes"
            notes.append((logging.INFO, f"{new}: {', '.join(fresh)} start from random weights"))
        elif mismatch:
            kept = "its classifier is kept, since their number is the same"
            notes.append((logging.WARNING, f"{start.path} {mismatch}; {kept}"))
    model.to(device, memory_format=torch.channels_last if options.channels_last else torch.preserve_format)
    if distributed.rank():
        torch.manual_seed(seed + distributed.rank())  # its own dropout
    return model, notes


def build_step(
    options: TrainOptions, model: nn.Module, class_counts: Tensor, regularisers: Mapping[str, nn.Module]
) -> TrainingStep:
    """Return the step that trains `model`; `class_counts` (K,) are the labelled pixels of each class."""
    device = next(model.parameters()).device
    weights = balanced_class_weights(class_counts) if options.use_balanced_weights else None
    criterion = PartialCrossEntropy(
        options.loss_type, ignore_index=UNLABELLED, class_weights=weights, reduction=options.ce_reduction
    ).to(device)
    named = {wanted.name: build_regulariser(wanted, options.settings()) for wanted in options.regularisers}
    if twice := {*named, "cross_entropy"} & regularisers.keys():
        raise InputError(f"expected regularisers with names of their own, found {', '.join(sorted(twice))} twice")
    for name, module in regularisers.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"regulariser {name}: expected an object that is an nn.Module, found {module!r}")
    named = {name: module.to(device) for name, module in {**named, **regularisers}.items()}
    for name, module in named.items():
        if any(weight.requires_grad for weight in module.parameters()):
            what = "expected no weights that learn, since the optimizer has the network's alone"
            raise InputError(f"regulariser {name}: {what}; put them into a network (modeling/network.py)")
    optimizer = build_optimizer(options, model.parameter_groups(options.head_rate))
    network = data_parallel(torch.compile(model) if options.compile else model, device)
    how = {"amp": options.amp, "accumulate": options.accumulate, "min_images": options.min_images}
    how["score_strides"] = model.score_strides
    if options.ema:
        how["average"] = MovingAverage(model, options.ema)
    return TrainingStep(network, optimizer, criterion, named, **how, inspect=report_shares)


def build_optimizer(options: TrainOptions, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer that `options` name for the groups of a network's parameters."""
    common = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=options.momentum, nesterov=options.nesterov, **common)


def open_journal(options: TrainOptions, parent: Path, start: Start) -> Journal:
    """Return the journal of a new run in `parent`, or of the one to continue; only the first process's writes."""
    if options.benchmark:
        return SilentJournal(parent)
    if not distributed.is_main():
        return SilentJournal(distributed.from_main(None))
    journal = Journal(parent, options.settings(), start.folder, start.identity)
    distributed.from_main(journal.folder)
    logger.info("run folder: %s", journal.folder)
    return journal


def loss_of_guessing(step: TrainingStep, class_counts: Tensor, loader: DataLoader, batch: int) -> float:
    """Return the cross-entropy of a network that has learned only how frequent the classes are."""
    criterion = step.criterion
    images = len(loader.batch_sampler.batches.sampler)
    sizes = [min(batch, images - number * batch) for number in range(len(loader))]
    weights = None if criterion.class_weights is None else criterion.class_weights.cpu()
    how = {"kind": criterion.kind, "reduction": criterion.reduction}
    return len(step.score_strides) * guessing_loss(class_counts, sizes, class_weights=weights, **how)


def log_data(options: TrainOptions, loaders: Loaders, label_counts: Tensor, device: torch.device) -> None:
    """Log the device, the images and their labels, with warnings of what looks wrong in them."""
    dataset, counts = loaders.train.dataset, label_counts[: loaders.num_classes]
    logger.info("device: %s", describe_device(device))
    logger.info("precision: %s", describe_precision(device, options.amp))
    validation = f" and {len(loaders.val.dataset):,} validation" if loaders.val else ""
    images = f"{len(dataset):,} training{validation} images"
    logger.info("data: %s, %s, %d classes", loaders.name, images, loaders.num_classes)
    shares = 100 * counts / counts.sum()
    labelled = 100 * counts.sum() / label_counts.sum()
    by_class = ", ".join(f"{name} {share:.1f} %" for name, share in zip(loaders.class_names, shares, strict=True))
    logger.info("labels: %s, %.2f %% of the training pixels; of these %s", dataset.label_kind, labelled, by_class)
    evaluated = loaders.val and loaders.val.dataset
    for problem in quick_check(dataset, evaluated, label_counts.numpy()):
        logger.warning("%s; see check_dataset.py", problem)


def log_network(options: TrainOptions, model: nn.Module, origin: Any, notes: Notes) -> None:
    """Log what the network is, where its weights come from, and notes on its classifier."""
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    shape = " ".join(filter(None, (options.network, options.backbone))) + f", output stride {model.output_stride}"
    part = "backbone " if options.backbone and not isinstance(origin, Path) else ""  # of a checkpoint it is all
    logger.info("network: %s, %.1f million parameters, %sfrom %s", shape, millions, part, origin)
    if origin == RANDOM:
        logger.info("%s", EXPECT_OF_RANDOM)
    for level, note in notes:
        logger.log(level, "%s", note)


def log_optimisation(options: TrainOptions, steps_per_epoch: int, step: TrainingStep) -> None:
    """Log the length of the training, its batches, rates and regularisers."""
    processes, epochs = distributed.world_size(), options.epochs
    batch = f"batch {options.data.batch_size}" + f" in {options.accumulate} micro-batches" * (options.accumulate > 1)
    batch += f" over {processes} processes" * (processes > 1)
    steps = f"{options.steps or epochs * steps_per_epoch} steps ({epochs} epochs of {steps_per_epoch})"
    head = f" (head {options.head_rate * options.lr:g})"
    head *= any(group["lr_scale"] == options.head_rate for group in step.optimizer.param_groups)
    rates = f"learning rate {options.lr:g}{head}, {options.lr_scheduler}"
    if options.optimizer == "sgd" and math.isclose(options.lr, default_rate(options.data.batch_size, options.devices)):
        devices = f"{options.devices} device{'s' * (options.devices > 1)}"
        rule = f"{BASE_RATE} x batch {options.data.batch_size} / ({IMAGES_PER_DEVICE} x {devices})"
        rates += f"; the rate is the default, {rule}, as in the original"
    logger.info("optimisation: %s, %s, %s, %s", steps, batch, options.optimizer, rates)
    if advice := steps_advice(steps_per_epoch, epochs, options.steps):
        logger.warning("%s", advice)
    if options.ema:
        first = options.ema ** ((options.steps or epochs * steps_per_epoch) - 1)
        what = "moving average of the weights: over about %.0f steps; at the end %.0f %% of it are the first weights"
        level = logging.WARNING if first > 0.1 else logging.INFO
        logger.log(level, what + "; lower --ema" * (first > 0.1), 1 / (1 - options.ema), 100 * first)
    for name, regulariser in step.regularisers.items():
        logger.info("regulariser: %s, %s", name, regulariser)
