"""Segment images one batch after the other and write what was asked for."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import InputError
from dataloaders.labels import VOC_CLASSES, voc_palette
from DenseCRFLoss import DenseCRFLoss
from figures.matrices import save_gradient
from figures.overlay import overlay, share
from prediction.files import ImageFiles, find_images, keep, output_names
from prediction.output import save_labels, save_picture, save_probabilities
from prediction.predict import RawRGB, View, densecrf_gradient, labels_and_confidence, predict, probabilities
from training.options import mean_field

logger = logging.getLogger(__name__)

# No ending ends another: two images' results have the same name only if the images have.
PREDICTION, COLOUR, OVERLAY, CONFIDENCE = "_prediction.png", "_colour.png", "_overlay.png", "_confidence.png"
REFINED, PROBABILITIES, GRADIENT = "_crf.png", "_probabilities.npz", "_grad_seg_class_{}.png"


class Segmenter:
    """A network and what to make of its output.

    Args:
        args: the options of inference.py.
        model: the network, on its device, in evaluation mode.
        settings: of the checkpoint (see training.checkpoint.load_network).
    """

    def __init__(self, args: argparse.Namespace, model: RawRGB, settings: dict[str, Any]) -> None:
        self.args, self.model = args, model
        size = settings.get("crop_size", 513) if args.crop_size is None else args.crop_size
        self.view = View(size, args.center_crop)
        self.class_names = class_names(settings)
        self.refine = mean_field(args)
        self.folder = Path(args.output_directory)

    def segment(self, words: Sequence[str]) -> int:
        """Segment the images that `words` name; return the exit status.

        A file that cannot be read is reported, and the others go on: 1 then, or 2 when none could be read.
        """
        files = find_images(words)
        names = output_names(files)
        self._check_folder(files)
        workers = min(self.args.workers, os.cpu_count() or 1, len(files) - 1)
        batches = DataLoader(ImageFiles(files, self.view), self.args.batch_size, num_workers=workers, collate_fn=keep)
        todo = iter(zip(files, names, strict=True))
        failed = 0
        with logging_redirect_tqdm(), tqdm(total=len(files), unit="image", desc="segmenting", disable=None) as bar:
            for batch in batches:
                readable = []
                for item in batch:
                    file, name = next(todo)
                    if isinstance(item, InputError):
                        failed += 1
                        bar.write(f"error: {item}", file=sys.stderr)
                    else:
                        readable.append((name, *item))
                inputs = [pixels for _, _, pixels in readable]
                logits = predict(self.model, inputs, self.args.tile, self.args.batch_size)
                for (name, image, pixels), one in zip(readable, logits, strict=True):
                    self.write(name, image, pixels, one)
                bar.update(len(batch))
        if len(files) > 1:
            logger.info("%d of %d images segmented into %s", len(files) - failed, len(files), self.folder)
        return 0 if not failed else 1 if failed < len(files) else 2

    def write(self, name: str, image: Image.Image, inputs: Tensor, logits: Tensor) -> None:
        """Write the results of one image (H, W): its input is (3, h, w), its logits (K, h, w)."""
        args = self.args
        shape = image.height, image.width, args.interpolation
        labels, confidence = (plane.numpy() for plane in labels_and_confidence(logits, *shape))
        save_labels(self.folder / (name + PREDICTION), labels)
        counts = np.bincount(labels.ravel())
        found = (f"{self.class_names[k]} {share(count / labels.size)}" for k, count in enumerate(counts) if count)
        logger.info("%s: %s", self.folder / (name + PREDICTION), ", ".join(found))
        if args.confidence:
            save_picture(
                self.folder / (name + CONFIDENCE), Image.fromarray((255 * confidence).round().astype(np.uint8))
            )
        if args.probabilities or self.refine:
            soft = probabilities(logits, *shape)
            if args.probabilities:
                save_probabilities(self.folder / (name + PROBABILITIES), soft.cpu().numpy(), self.class_names)
            if self.refine:
                pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(soft.device)
                refined = self.refine(pixels[None], soft[None])[0].argmax(0).to(torch.uint8).cpu().numpy()
                save_labels(self.folder / (name + REFINED), refined)
                changed = share((refined != labels).mean())
                logger.info("%s: the DenseCRF changes %s", self.folder / (name + REFINED), changed)
                labels = refined  # the pictures below show the final result
        save_picture(self.folder / (name + COLOUR), Image.fromarray(voc_palette()[labels]))
        save_picture(self.folder / (name + OVERLAY), overlay(image, labels, self.class_names))
        if args.rloss_weight:
            self._write_gradient(name, inputs, logits)

    def _write_gradient(self, name: str, inputs: Tensor, logits: Tensor) -> None:
        args = self.args
        if min(inputs.shape[1:]) * args.rloss_scale < 1:
            logger.warning("%s: --rloss-scale %g leaves nothing of it; no gradient", name, args.rloss_scale)
            return
        loss = DenseCRFLoss(
            args.rloss_weight, args.sigma_rgb, args.sigma_xy, args.rloss_scale, size_free=args.size_free
        )
        value, gradient = densecrf_gradient(loss, inputs, logits)
        logger.info("DenseCRF loss: %.6g", value)
        for k, plane in enumerate(gradient.numpy()):
            title = f"gradient of the DenseCRF loss, {self.class_names[k]}"
            save_gradient(self.folder / (name + GRADIENT.format(k)), plane, title)
        last = len(gradient) - 1
        logger.info("%s: gradients of classes 0-%d", self.folder / (name + GRADIENT.format("<k>")), last)

    def _check_folder(self, files: Sequence[Path]) -> None:
        """Make the folder; refuse to segment pictures that an earlier call has written there, or to overwrite them."""
        endings = tuple(Path(ending).stem for ending in (PREDICTION, COLOUR, OVERLAY, CONFIDENCE, REFINED))
        folder = self.folder.resolve()
        for file in files:
            if file.resolve().parent == folder and file.stem.endswith(endings):
                raise InputError(
                    f"{file}: looks like a result of an earlier call in the --output_directory; choose another "
                    "folder for the results than that of the images, or name the images one by one"
                )
        make_folder(self.folder)


def make_folder(folder: Path) -> None:
    """Make the folder of the results if it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --output_directory") from None


def class_names(settings: dict[str, Any]) -> list[str]:
    """Return the names in a checkpoint's settings; without any, VOC's where they are 21, and else numbers."""
    count = settings["num_classes"]
    names = settings.get("class_names") or (VOC_CLASSES if count == len(VOC_CLASSES) else None)
    return list(names or (f"class {k}" for k in range(count)))
