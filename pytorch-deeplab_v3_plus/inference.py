"""Segment images with a trained network, or write the network as ONNX.

    python inference.py --backbone mobilenet --checkpoint CHECKPOINT --image_path IMAGE --output_directory OUT \
        --crop_size 513 --n_class 21

takes images, folders and patterns, and writes for each image, at its own size, OUT/<name>_prediction.png (class
numbers, in VOC's colours), <name>_colour.png and <name>_overlay.png (with a legend). Options add a confidence map, the
probabilities, the prediction refined by a DenseCRF, and with --rloss-weight the DenseCRF loss and its gradient for each
class. Backbone, classes, stride and size come from the checkpoint where it holds them. Several GPUs (--gpu-ids 0,1) or
processes (torchrun) share the images.

    python inference.py --checkpoint CHECKPOINT --output_directory OUT --export onnx
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common import distributed
from common.arguments import ArgumentParser, add_options, options_from
from common.devices import choose_device, describe_device, processes_to_launch
from common.errors import exit_status
from common.faults import one_line_errors
from common.files import make_folder
from common.logs import configure_logging
from dataloaders.sizes import DEFAULT_CROP
from modeling.checkpoint import load_network
from prediction.export import export_onnx
from prediction.options import InferenceOptions
from prediction.segmenter import Segmenter
from training.options import ALL_PRESETS, add_preset, parse_with_preset

if TYPE_CHECKING:
    import torch

# Of a preset's settings, those of the DenseCRF loss; its crop size is used where the checkpoint holds none.
LOSS_SETTINGS = ("rloss_scale", "sigma_xy", "sigma_rgb", "size_free", "normalised_kernel")

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """Return the parser of the inference script."""
    parser = ArgumentParser(description="Segment images with a trained network.")
    what = "kernel of the DenseCRF loss, as in training from pretrained weights, and --crop_size where it is not known"
    add_preset(parser, what)
    add_options(parser, InferenceOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Segment or export as the command line says; return the exit status."""
    configure_logging(quiet=not distributed.is_main())
    parser = build_parser()
    args = parse_with_preset(parser, argv, LOSS_SETTINGS)
    options = options_from(InferenceOptions, args)
    if not options.image_path and not options.export:
        parser.error("expected images (--image_path) or --export onnx")
    device = choose_device(options)
    if processes := processes_to_launch(options, device):
        return distributed.launch([__file__, *(sys.argv[1:] if argv is None else argv)], processes)
    idle = [name.replace("_", "-") for name in LOSS_SETTINGS if getattr(options, name) != parser.get_default(name)]
    if idle and not options.rloss_weight:
        logger.warning("without --rloss-weight nothing follows from --%s", ", --".join(idle))
    lower = f"lower --batch-size ({options.batch_size}), --tile ({options.tile}) or --crop_size"
    lower += ", or use --no-cuda" if device.type == "cuda" else ""
    lower = lower if options.image_path else "close other programs, or lower --crop_size"  # an export runs on the CPU
    with one_line_errors(lower, f"--workers ({options.workers})"), distributed.process_group(device):
        return infer(options, args.preset, device)


def infer(options: InferenceOptions, preset: str | None, device: torch.device) -> int:
    """Segment or export as the options say; return the exit status. Of several processes, each calls it."""
    crop_size = options.crop_size or (ALL_PRESETS[preset].get("crop_size", DEFAULT_CROP) if preset else None)
    asked = options.backbone, options.n_class, options.out_stride, crop_size
    network, settings = load_network(options.checkpoint, *asked)
    segmenter = Segmenter(options, network, settings)
    if options.export and distributed.is_main():
        make_folder(segmenter.folder, "choose another --output_directory")
        path = segmenter.folder / (Path(Path(options.checkpoint).name.removesuffix(".tar")).stem + ".onnx")
        replaces = path.exists()
        off = export_onnx(path, network, segmenter.class_names, segmenter.size)
        logger.info("%s: logits within %.1g of PyTorch's, relative to the largest, on two image sizes", path, off)
        if replaces:
            logger.warning("%s: the file of an earlier call is replaced", path)
    if not options.image_path:
        return 0
    network.to(device)
    name = " ".join(filter(None, (settings["network"], settings["backbone"])))
    shape = name, settings["output_stride"], settings["num_classes"]
    logger.info("network: %s, output stride %d, %d classes, on %s", *shape, describe_device(device))
    return segmenter.segment(options.image_path)


if __name__ == "__main__":
    distributed.end(exit_status(main))
