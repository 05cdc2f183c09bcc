"""Score a trained network on the validation images of a data set, and with --fill-in on its training images.

    python evaluate.py --checkpoint run/synthetic/deeplab-mobilenet/model_best.pth.tar --dataset synthetic

There are two protocols: crop, the original's (short side scaled to the crop size, centre square), and full, PASCAL
VOC's own (every pixel of the image at its original size). Multi-scale, mirroring and a DenseCRF on top:

    python evaluate.py --checkpoint CHECKPOINT --protocol full --scales 0.5 0.75 1 1.25 1.5 1.75 --flip --crf

It prints a table and writes for each of its columns all counts as JSON, the confusion matrix, and the worst and best
images. Several GPUs (--gpu-ids 0,1) or processes (torchrun) share the images.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import distributed
from common.arguments import ArgumentParser, add_options, options_from
from common.devices import choose_device, describe_device, processes_to_launch
from common.errors import InputError, exit_status
from common.faults import one_line_errors
from common.files import make_folder
from common.logs import configure_logging
from dataloaders.loaders import make_data_loader
from dataloaders.options import DataOptions
from dataloaders.sizes import DEFAULT_CROP
from evaluation import describe, evaluate_and_report, nothing_to_score, report_folder, score_table, warn_of_others
from evaluation.options import EvaluationOptions
from modeling.checkpoint import class_mismatch, load_network
from prediction import short_side

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the evaluation script."""
    parser = ArgumentParser(description="Score a trained network on a data set.")
    add_options(parser, DataOptions, only=("dataset", "data_root", "classes", "workers"))
    add_options(parser, EvaluationOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; return the exit status."""
    configure_logging(quiet=not distributed.is_main())
    args = build_parser().parse_args(argv)
    options, data = options_from(EvaluationOptions, args), options_from(DataOptions, args)
    device = choose_device(options)
    if processes := processes_to_launch(options, device):
        return distributed.launch([__file__, *(sys.argv[1:] if argv is None else argv)], processes)
    lower = f"lower --test-batch-size ({options.test_batch_size}) or --crop-size"
    lower += ", or use --no-cuda" if device.type == "cuda" else ""
    with one_line_errors(lower, f"--workers ({data.workers})"), distributed.process_group(device):
        evaluate(options, data, device)
    return 0


def evaluate(options: EvaluationOptions, data: DataOptions, device: torch.device) -> None:
    """Evaluate as the options say. In a run of several processes, which share the images, each calls it."""
    asked = options.backbone, options.n_class, options.out_stride, options.crop_size
    network, settings = load_network(options.checkpoint, *asked)
    crop = options.crop_size or settings.get("crop_size", DEFAULT_CROP)
    whole = options.crop_size or short_side(settings)
    splits = ("val", "fill_in") if options.fill_in else ("val",)
    data = replace(data, crop_size=crop, test_batch_size=options.test_batch_size)
    share = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    with distributed.main_first():  # it draws the synthetic images
        loaders = make_data_loader(data, pin_memory=device.type == "cuda", splits=splits, **share)
    if loaders.num_classes != settings["num_classes"]:
        raise InputError(
            f"{options.checkpoint}: has {settings['num_classes']} classes, but the data set {loaders.name} has "
            f"{loaders.num_classes}; name the data set that it was trained on"
        )
    if problem := class_mismatch(settings, loaders.class_names):
        raise InputError(f"{options.checkpoint}: {problem}; give the classes of its training, in the same order")
    protocols = options.protocols(crop, whole)
    for split, protocol in itertools.product(splits, protocols):
        loader = getattr(loaders, split)
        if loader and (nothing := nothing_to_score(loader.dataset, protocol.view)):
            outside = not nothing_to_score(loader.dataset, "full")
            advice = "label more there" + ", or score with --protocol full" * outside
            raise InputError(f"expected labelled pixels to score on, found {nothing}: {advice}")
    reports, folder = {}, Path(options.output or Path(options.checkpoint).resolve().parent)
    if distributed.is_main():
        reports = describe(options.checkpoint, network, loaders, splits, protocols)
        folder = folder if options.output else report_folder(folder, reports)
        make_folder(folder, "choose another --output")  # reported before the work where it takes no files
        warn_of_others(folder, reports)
    network.to(device)
    logger.info("network: %s, on %s", options.checkpoint, describe_device(device))
    columns, files = evaluate_and_report(network, loaders, splits, protocols, folder, data.workers, reports)
    logger.info("\nScores in %%\n\n%s\n", score_table(columns, loaders.class_names))
    for protocol in protocols:
        logger.info("%s: %s", protocol.name, protocol)
    logger.info("written to %s: %s", folder, ", ".join(file.name for file in files))


if __name__ == "__main__":
    distributed.end(exit_status(main))
