"""Segment image files one batch after another and write what was asked for."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common import distributed
from common.errors import InputError
from common.files import make_folder, replace_file
from dataloaders.class_names import check_class_names
from dataloaders.images import id_of_file, listing, write_label
from dataloaders.labels import VOC_CLASSES
from dataloaders.layout import CLASS_FILE, PREDICTION, REFINED, read_class_names
from dataloaders.loaders import new_loader
from dataloaders.transforms import to_tensor
from DenseCRFLoss import DenseCRFLoss
from figures.colours import colour
from figures.matrices import save_gradient
from figures.overlay import area_percentage, class_shares, overlay
from modeling.checkpoint import class_mismatch
from modeling.network import Network
from prediction.files import ImageFiles, find_images, output_names
from prediction.options import InferenceOptions
from prediction.predict import (
    keep_scribbles,
    labels_and_confidence,
    labels_on_scribbles,
    predict,
    probabilities,
    short_side,
)

logger = logging.getLogger(__name__)

# No ending ends another: two images' results have the same name only if the images have.
COLOUR, OVERLAY, CONFIDENCE = "_colour.png", "_overlay.png", "_confidence.png"  # and PREDICTION and REFINED
PROBABILITIES, GRADIENT = "_probabilities.npz", "_grad_seg_class_{}.png"


class Segmenter:
    """A network, in evaluation mode and with its checkpoint's settings, and what the options make of its output."""

    def __init__(self, options: InferenceOptions, network: Network, settings: dict[str, Any]) -> None:
        self.options, self.network, self.settings = options, network, settings
        self.size = short_side(settings) if options.crop_size is None else options.crop_size
        self.class_names = settings.get("class_names")
        if not self.class_names:
            numbers = [f"class {k}" for k in range(settings["num_classes"])]
            self.class_names, origin = numbers, "numbers"
            if len(numbers) == len(VOC_CLASSES):
                self.class_names, origin = VOC_CLASSES, "those of PASCAL VOC"
            logger.info("%s has no class names: taking %s", options.checkpoint, origin)
        check_class_names(self.class_names, options.checkpoint)
        self.crf = options.mean_field()
        if options.several_views and options.rloss_weight:
            raise InputError("--rloss-weight reports on a single view: leave out --scales and --flip")
        self.folder = Path(options.output_directory)

    def segment(self, words: Sequence[str]) -> int:
        """Segment the images that `words` name and return the exit status.

        A file that cannot be read is reported and skipped; the status is then 1, or 2 when none could be read.
        """
        files = find_images(words)
        self._prepare_folder(files)
        self._check_length(files)
        scribbles = self._find_scribbles(files)
        self._warn_of_earlier(output_names(files))
        total, mine = len(files), slice(distributed.rank(), None, distributed.world_size())
        files, names = files[mine], iter(output_names(files)[mine])
        logger.setLevel(logging.INFO)  # each process reports its own images
        images = ImageFiles(files, self.size, self.options.center_crop, scribbles, len(self.class_names))
        workers = max(0, min(self.options.workers, len(files) - 1))
        # Images differ in size, so that a batch is a list.
        batches = new_loader(images, workers, batch_size=self.options.batch_size, collate_fn=list)
        failed, hidden = 0, None if distributed.is_main() else True
        bar = tqdm(total=len(files), unit="image", desc="segmenting", disable=hidden)
        with logging_redirect_tqdm(), bar:
            for batch in batches:
                readable = []
                for item in batch:
                    name = next(names)
                    if isinstance(item, InputError):
                        failed += 1
                        bar.write(f"error: {item}", file=sys.stderr)
                    else:
                        readable.append((name, *item))
                logits_of_each = self._logits([(image, pixels) for _, image, pixels, _ in readable])
                for item, logits in zip(readable, logits_of_each, strict=True):
                    self.write(*item, logits)
                bar.update(len(batch))
        failed = sum(distributed.gather(failed))
        if total > 1 and distributed.is_main():
            logger.info("%d of %d images segmented into %s", total - failed, total, self.folder)
        return 0 if not failed else 1 if failed < total else 2

    def _logits(self, items: Sequence[tuple[Image.Image, Tensor]]) -> Iterator[Tensor]:
        """Yield the logits (K, h, w) of several images in their order; those of the same size are run together.

        Of several views it is the logarithm of their mean probabilities (K, H, W), image by image.
        """
        options = self.options
        how = {"tile": options.tile, "batch_size": options.batch_size, "whole": not options.center_crop}
        if options.several_views:
            how |= {"scales": options.scales, "flip": options.flip}
            for image, pixels in items:
                views = predict(self.network, pixels[None], **how, original=to_tensor(image)[None])
                yield probabilities(views, (image.height, image.width), options.interpolation)[0].log()
            return
        groups: dict[torch.Size, list[int]] = {}
        for index, (_, pixels) in enumerate(items):
            groups.setdefault(pixels.shape, []).append(index)
        found = {}
        for indices in groups.values():
            (logits,) = predict(self.network, torch.stack([items[index][1] for index in indices]), **how)
            found.update(zip(indices, logits, strict=True))
        yield from (found[index] for index in range(len(items)))

    def write(
        self, name: str, image: Image.Image, inputs: Tensor, scribbles: np.ndarray | None, logits: Tensor
    ) -> None:
        """Write the results of one image (H, W) from the network's input (3, h, w) and its logits (K, h, w)."""
        size, interpolation = (image.height, image.width), self.options.interpolation
        if self.options.probabilities or self.crf or (self.options.confidence and scribbles is not None):
            soft = probabilities([logits[None]], size, interpolation)[0]
            soft = soft if scribbles is None else keep_scribbles(soft, scribbles)
        if scribbles is None:
            labels, confidence = (plane.numpy() for plane in labels_and_confidence(logits, size, interpolation))
        else:
            labels = labels_on_scribbles(logits, size, scribbles, interpolation).numpy()
            confidence = soft.amax(0).cpu().numpy() if self.options.confidence else None
        path = self._save(name + PREDICTION, lambda file: write_label(file, labels))
        logger.info("%s: %s", path, ", ".join(class_shares(labels, self.class_names).values()))
        if self.options.confidence:
            self._save_picture(name + CONFIDENCE, (255 * confidence).round().astype(np.uint8))
        if self.options.probabilities:
            self._save(name + PROBABILITIES, lambda file: save_probabilities(file, soft, self.class_names))
        shown = labels
        if self.crf:
            refined = self.crf(to_tensor(image).to(soft.device)[None], soft[None])[0]
            refined = refined if scribbles is None else keep_scribbles(refined, scribbles)
            shown = refined.argmax(0).byte().cpu().numpy()
            path = self._save(name + REFINED, lambda file: write_label(file, shown))
            logger.info("%s: the DenseCRF changes %s", path, area_percentage((shown != labels).mean()))
        self._save_picture(name + COLOUR, colour(shown))
        self._save_picture(name + OVERLAY, overlay(image, shown, self.class_names))
        if self.options.rloss_weight:
            self._write_gradient(name, inputs, logits)

    def _write_gradient(self, name: str, inputs: Tensor, logits: Tensor) -> None:
        """Report the DenseCRF loss and draw its gradient with respect to the probabilities, for each class."""
        options = self.options
        if min(inputs.shape[1:]) * options.rloss_scale < 1:
            logger.warning("%s: --rloss-scale %g leaves nothing of it; no gradient", name, options.rloss_scale)
            return
        kernel = options.sigma_rgb, options.sigma_xy, options.rloss_scale
        how = {"size_free": options.size_free, "normalised_kernel": options.normalised_kernel}
        loss = DenseCRFLoss(options.rloss_weight, *kernel, **how)
        image, soft = inputs.to(logits.device).float()[None], logits.softmax(0)[None].requires_grad_()
        value = loss(image, soft, torch.ones_like(image[:, 0]))
        value.backward()
        logger.info("DenseCRF loss: %.6g", value.item())
        for k, plane in enumerate(soft.grad[0].cpu().numpy()):
            title = f"gradient of the DenseCRF loss, {self.class_names[k]}"
            save_gradient(self.folder / (name + GRADIENT.format(k)), plane, title)
        logger.info("%s: gradients of classes 0-%d", self.folder / (name + GRADIENT.format("<k>")), len(logits) - 1)

    def _save(self, name: str, write: Callable[[Path], object]) -> Path:
        replace_file(self.folder / name, write)
        return self.folder / name

    def _save_picture(self, name: str, picture: Image.Image | np.ndarray) -> None:
        self._save(name, lambda file: Image.fromarray(np.asarray(picture)).save(file, format="PNG"))

    def _find_scribbles(self, files: Sequence[Path]) -> dict[str, Path]:
        if self.options.scribbles is None:
            return {}
        if self.options.center_crop:
            raise InputError("--scribbles goes with whole images: leave out --center-crop")
        scribbles = listing(Path(self.options.scribbles), (".png",))
        names = Counter(id_of_file(file.name) for file in files)
        if twice := next((name for name, count in names.items() if count > 1 and name in scribbles), None):
            raise InputError(f"--scribbles: several images are called {twice}; segment their folders one by one")
        known = len(names.keys() & scribbles.keys())
        if not known:
            raise InputError(
                f"expected scribbles named like the images, such as {files[0].stem}.png, found none in "
                f"{self.options.scribbles}: correct --scribbles"
            )
        classes = Path(self.options.scribbles).resolve().parent / CLASS_FILE
        if os.path.lexists(classes) and (problem := class_mismatch(self.settings, read_class_names(classes))):
            raise InputError(f"{self.options.checkpoint}: {problem} ({classes}); the scribbles are of other classes")
        logger.info("scribbles of %d of %d images: their strokes are kept, with no other classes", known, len(files))
        return scribbles

    def _prepare_folder(self, files: Sequence[Path]) -> None:
        """Make the folder; refuse to segment pictures that an earlier call has written there, or to overwrite them."""
        endings = tuple(Path(ending).stem for ending in (PREDICTION, COLOUR, OVERLAY, CONFIDENCE, REFINED))
        folder = os.path.realpath(self.folder)
        for file in files:
            end = next((end for end in endings if file.stem.endswith(end)), None)
            within = os.path.dirname(os.path.realpath(file)) == folder
            if end and (within or _has_results(file.parent, file.stem.removesuffix(end))):
                raise InputError(
                    f"{file}: looks like a result of an earlier call; keep results outside the folder of the images, "
                    "or name the images one by one"
                )
        make_folder(self.folder, "choose another --output_directory")

    @property
    def _kinds(self) -> dict[str, Any]:
        """The endings of results, and whether they are written; that of gradients has * for the class."""
        kinds = {PREDICTION: True, COLOUR: True, OVERLAY: True, REFINED: self.crf}
        kinds |= {CONFIDENCE: self.options.confidence, PROBABILITIES: self.options.probabilities}
        return kinds | {GRADIENT.format("*"): self.options.rloss_weight}

    def _check_length(self, files: Sequence[Path]) -> None:
        """Refuse an image of which a result would have a longer name than the file system takes."""
        last = str(len(self.class_names) - 1)
        end = max((kind.replace("*", last) for kind, written in self._kinds.items() if written), key=len)
        most = os.pathconf(self.folder, "PC_NAME_MAX")
        for file, name in zip(files, output_names(files), strict=True):
            if (length := len(os.fsencode(name + end))) > most:
                what = f"expected names of results of at most {most} bytes in {self.folder}, found {length}"
                raise InputError(f"{what} for that ending in {end} of {file}: shorten the image's name")

    def _warn_of_earlier(self, names: Sequence[str]) -> None:
        """Log what an earlier call left there for these images, and which of it is not written again."""
        kinds = self._kinds
        ends = {kind: kind.replace("*", "0") for kind in kinds}  # of class 0, which every network has
        there = [kind for kind in kinds if any(os.path.exists(self.folder / (name + ends[kind])) for name in names)]
        stay = " ".join(f"*{kind}" for kind in there if not kinds[kind])
        also = f"; {stay} of that call stay: delete them, or choose another --output_directory" if stay else ""
        if there:
            logger.warning("%s: results of an earlier call for these images are replaced%s", self.folder, also)


def _has_results(folder: Path, name: str) -> bool:
    """Whether a folder has the results of an image, at least those that every call writes."""
    return all((folder / (name + end)).is_file() for end in (PREDICTION, COLOUR, OVERLAY))


def save_probabilities(path: Path, probabilities: Tensor, class_names: Sequence[str]) -> None:
    """Write `probabilities` (K, H, W) as float16 and `class_names` into an .npz file."""
    half = probabilities.cpu().numpy().astype(np.float16)
    with open(path, "wb") as file:  # given a name, NumPy would add a suffix
        np.savez_compressed(file, probabilities=half, class_names=np.array(class_names, str))
