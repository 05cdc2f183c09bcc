"""Train DeepLabv3+ on scribbles: partial cross-entropy plus the DenseCRF loss.

The recipe of the published mobilenet (PASCAL VOC 2012):

    python train_withdensecrfloss.py --backbone mobilenet --lr 0.007 --workers 6 --epochs 60 --batch-size 12 \
        --checkname deeplab-mobilenet --eval-interval 2 --dataset pascal --save-interval 2 \
        --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-rgb 15 --sigma-xy 100

Any folder of images and scribbles, without code:

    python train_withdensecrfloss.py --backbone mobilenet --data-root FOLDER --classes FOLDER/classes.txt \
        --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-xy 100

Results go to run/<dataset>/<checkname>/experiment_<n>/.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from common import distributed
from common.devices import choose_device, describe_device, describe_precision
from common.distributed import STOPPED
from common.errors import InputError, exit_status
from common.logs import configure_logging
from dataloaders.inspection import quick_check
from dataloaders.labels import UNLABELLED
from dataloaders.loaders import make_data_loader
from losses import build_regulariser
from losses.cross_entropy import PartialCrossEntropy, balanced_class_weights
from modeling.backbone import BACKBONES
from modeling.checkpoint import load_checkpoint, load_weights, other_class
from modeling.deeplab import DeepLab
from modeling.pretrained import default_pretrained
from training.advice import EARLY, EARLY_FROM_RANDOM, guessing_loss, steps_advice
from training.benchmark import benchmark
from training.checkpoint import newest_checkpoint
from training.faults import Stopped, one_line_errors
from training.journal import Monitor, SilentMonitor
from training.options import least_images, parse_options
from training.run_folder import final_scores, newest_run
from training.trainer import Trainer

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    configure_logging(quiet=not distributed.is_main())
    args = parse_options(argv, BACKBONES)
    device = choose_device(args)
    if len(args.gpu_ids) > 1 and not distributed.is_launched():
        words = sys.argv[1:] if argv is None else argv
        return distributed.launch([__file__, *words], len(args.gpu_ids))
    with one_line_errors(args), distributed.process_group(device):
        return train(args, device)


def train(args: argparse.Namespace, device: torch.device) -> int:
    """Train as the options say; return the exit status. In a run of several processes, each calls it."""
    processes = distributed.world_size()
    with distributed.main_first():  # it draws the synthetic images
        loaders = make_data_loader(
            args,
            pin_memory=device.type == "cuda",
            rank=distributed.rank(),
            world_size=processes,
            least=least_images(args, processes),
        )
    dataset = loaders.train.dataset
    counts = torch.from_numpy(distributed.from_main(dataset.count_labels() if distributed.is_main() else None))
    if distributed.is_main() and not (args.no_val or args.benchmark):
        for loader in filter(None, (loaders.val, loaders.fill_in)):
            loader.dataset.count_labels()  # what is wrong there is found now, not after hours
    class_counts = counts[: loaders.num_classes]
    if not class_counts.any():
        raise InputError(
            f"expected {dataset.label_kind}, found no labelled pixel in all training images of {dataset.folder}"
        )

    parent = Path(args.run_root) / loaders.name / args.checkname
    folder = None
    if args.resume == "auto":
        folder = distributed.from_main(newest_run(parent))
        newest = newest_checkpoint(folder) if folder and distributed.is_main() else None
        args.resume = distributed.from_main(newest and str(newest))
    checkpoint = load_checkpoint(args.resume) if args.resume else None
    if checkpoint and checkpoint.get("epoch", 0) >= args.epochs and final_scores(folder) is not None:
        logger.info("%s: this training has ended after %d epochs", folder, checkpoint["epoch"])
        return 0
    pretrained = args.pretrained or ("none" if checkpoint else default_pretrained(args.backbone))
    shape = {"backbone": args.backbone, "num_classes": loaders.num_classes, "output_stride": args.out_stride}
    torch.manual_seed(args.seed)  # here: reading or drawing the data must not change the weights
    with distributed.main_first():  # it downloads the ImageNet weights
        model = DeepLab(**shape, sync_bn=args.sync_bn, freeze_bn=args.freeze_bn, pretrained=pretrained)
    fresh = []
    if checkpoint:
        fresh = load_weights(model, checkpoint["state_dict"], args.resume, new_classifier=args.ft)
        problem = other_class(checkpoint.get("model", {}), loaders.class_names)
        if problem and not args.ft:
            raise InputError(f"{args.resume}: {problem}; give the classes of its training, or --ft to start from it")
    model.to(device, memory_format=torch.channels_last if args.channels_last else torch.preserve_format)
    if distributed.rank():
        torch.manual_seed(args.seed + distributed.rank())  # its own dropout

    weights = balanced_class_weights(class_counts) if args.use_balanced_weights else None
    criterion = PartialCrossEntropy(
        args.loss_type, ignore_index=UNLABELLED, class_weights=weights, reduction=args.ce_reduction
    ).to(device)
    regularisers = {name: build_regulariser(name, weight, args).to(device) for name, weight in args.regularisers}

    if args.benchmark:
        monitor = SilentMonitor(parent)
    elif distributed.is_main():
        monitor = Monitor(parent, vars(args), folder)
        distributed.from_main(monitor.folder)
        logger.info("run folder: %s", monitor.folder)
    else:
        monitor = SilentMonitor(distributed.from_main(None))
    logger.info("device: %s", describe_device(device))
    logger.info("precision: %s", describe_precision(device, args.amp))
    logger.info(
        "data: %s, %s training and %s validation images, %d classes",
        loaders.name,
        f"{len(dataset):,}",
        f"{len(loaders.val.dataset):,}",
        loaders.num_classes,
    )
    logger.info(
        "labels: %s, %.2f %% of the training pixels; of these %s",
        dataset.label_kind,
        100 * class_counts.sum() / counts.sum(),
        ", ".join(
            f"{name} {100 * count / class_counts.sum():.1f} %"
            for name, count in zip(loaders.class_names, class_counts, strict=True)
        ),
    )
    for problem in quick_check(dataset, loaders.val.dataset, counts.numpy()):
        logger.warning("%s; check_dataset.py tells more", problem)
    logger.info(
        "network: DeepLabv3+ %s, output stride %d, %.1f million parameters, backbone from %s",
        args.backbone,
        model.backbone.output_stride,
        sum(p.numel() for p in model.parameters()) / 1e6,
        args.resume or {"none": "random weights", "imagenet": "ImageNet"}.get(pretrained, pretrained),
    )
    if fresh:
        logger.info(
            "new classifier for %d classes: %s start from random weights", loaders.num_classes, ", ".join(fresh)
        )
    elif checkpoint and problem:
        logger.warning("%s %s; its classifier is kept, as their number is the same", args.resume, problem)
    logger.info(
        "optimisation: %d steps (%d epochs of %d), batch %d%s, learning rate %g (head %g), %s",
        args.epochs * len(loaders.train),
        args.epochs,
        len(loaders.train),
        args.batch_size,
        f" in {args.accumulate} parts" * (args.accumulate > 1) + f" over {processes} processes" * (processes > 1),
        args.lr,
        args.head_rate * args.lr,
        args.lr_scheduler,
    )
    advice = steps_advice(len(loaders.train), args.epochs)
    if advice:
        logger.warning("%s", advice)
    for name, regulariser in regularisers.items():
        logger.info("regulariser: %s, %s", name, regulariser)
    settings = {**shape, "class_names": list(loaders.class_names), "crop_size": args.crop_size}
    try:
        guessing = guessing_loss(
            class_counts,
            [min(args.batch_size, len(dataset) - n * args.batch_size) for n in range(len(loaders.train))],
            class_weights=weights,
            kind=args.loss_type,
            reduction=args.ce_reduction,
        )
        early = EARLY if checkpoint or pretrained != "none" else EARLY_FROM_RANDOM
        trainer = Trainer(args, model, settings, loaders, criterion, regularisers, monitor, guessing, early)
        if args.benchmark:
            logger.info("\n%s", benchmark(trainer, args.benchmark))
            return 0
        if checkpoint and not args.ft:
            trainer.restore(checkpoint, Path(args.resume))
        elif folder:
            monitor.rewind([], folder, 0)  # killed before its first checkpoint
        trainer.fit()
        logger.info("results: %s", monitor.folder)
    except Stopped:
        logger.info("stopped and saved; --resume auto goes on from here: %s", monitor.folder)
        return STOPPED
    finally:
        monitor.close()
    return 0


if __name__ == "__main__":
    distributed.end(exit_status(main))
