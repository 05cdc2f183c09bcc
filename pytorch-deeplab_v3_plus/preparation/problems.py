"""The kinds of problems that a data set can have, and the report on what was found."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataloaders.inspection import CLASS_0, CLASS_NEVER, NO_BACKGROUND, NUMBER_ANEW, OBJECT_255, TRAIN_AND_VAL
from dataloaders.layout import ARRAY_ADVICE
from dataloaders.thinning import TOO_THIN

ERROR, WARNING, NOTE = "error", "warning", "note"


class Kind(NamedTuple):
    """A kind of problem."""

    level: str
    meaning: str
    advice: str
    fix: str | None = None  # what a corrected copy does about it, where that is safe


LEFT_OUT = "is left out of the lists"
KINDS = {
    "list": Kind(ERROR, "a list cannot be used", "write one id a line, or delete ImageSets to split by name"),
    "listed twice": Kind(ERROR, "an id is in a list more than once", "remove the repeated lines", "is listed once"),
    "train and val": Kind(ERROR, TRAIN_AND_VAL, "remove it from one list", "is kept for validation only"),
    "missing": Kind(ERROR, "a listed file is missing", "add the file, or remove the id from the list", LEFT_OUT),
    "unreadable": Kind(ERROR, "a file cannot be read", "replace it, or remove the id from the list", LEFT_OUT),
    "label mode": Kind(ERROR, "a label map is not an 8-bit PNG of class numbers (mode P or L)",
        "colours: import_scribbles.py masks; else save the class numbers with 8 bits"),
    "label mode, plain": Kind(ERROR, "a label map is not an 8-bit PNG of class numbers, but its content is unambiguous",
        "save the class numbers with 8 bits", "is written as class numbers"),
    "label file": Kind(ERROR, "a label map is not a PNG, so that training does not find it",
        "save it as PNG", "is written as PNG"),
    "label file, lossy": Kind(ERROR, "a label map is a JPEG or WebP whose compression changes class numbers",
        "export it as PNG", LEFT_OUT),
    "label file, array": Kind(ERROR, "a label map is an array of NumPy or MATLAB, which no script reads", ARRAY_ADVICE,
        LEFT_OUT),
    "label values": Kind(ERROR, "a label map has values that are no class", "correct the map, or the list of classes"),
    "label size": Kind(ERROR, "a label map does not have the size of its image",
        "draw or export it at the image's size"),
    "EXIF rotation, labels not turned": Kind(ERROR,
        "a photograph carries an EXIF rotation, and its labels fit it only without",
        "save the photograph without its EXIF tag", "is saved unrotated, without the tag"),
    "0 for unlabelled": Kind(ERROR, "thin strokes on 0 and no 255: unlabelled pixels would be trained as background",
        "write 255 where nothing is drawn", "gets 255 for 0 (its background strokes, if any, are lost)"),
    "no labels": Kind(WARNING, "scribbles without a labelled pixel teach nothing", "draw some, or remove the id"),
    "no background": Kind(
        ERROR, NO_BACKGROUND, "scribble the background too, or, where whole objects are outlined, import with --truth"
    ),
    "class 0": Kind(WARNING, CLASS_0, "if the value 0 is the background, name it so in the first line of the classes"),
    "background in few": Kind(WARNING, "most images have no background scribbles", "scribble the background too"),
    "class never": Kind(WARNING, CLASS_NEVER,
        "label it or drop it; 255 is no class, but means 'not labelled'"),
    "class rarely": Kind(WARNING, "a class is labelled in one or two images only", "label it in more images"),
    "255 for the object": Kind(ERROR, OBJECT_255, NUMBER_ANEW),
    "value 254": Kind(WARNING, "a label map holds 254, which means padding: no loss applies there",
        "write 255 for unlabelled"),
    "contradiction": Kind(WARNING, "scribbles contradict the ground truth of their image",
        "look at the contact sheet: which is right?"),
    "contradiction everywhere": Kind(ERROR, "the scribbles contradict the ground truth",
        "do both number the classes alike?"),
    "palette": Kind(WARNING, "a palette has VOC's colours in another order: numbers count, not colours",
        "if the colours are right: import_scribbles.py masks"),
    "full masks": Kind(NOTE, "scribbles that label nearly every pixel", "nothing, if that is intended"),
    "look-alikes": Kind(WARNING, "a validation image looks like a training image", "are they the same scene?"),
    "few images": Kind(ERROR, "fewer than two training images", "add images, or ids to train.txt"),
    "no validation": Kind(ERROR, "no image is for validation",
        "move the ids of some images from train.txt to val.txt, or train with --no-val"),
    "nothing to score": Kind(ERROR, "no validation image has a labelled pixel: there is nothing to score on",
        "label some, or train with --no-val"),
    "no fill-in score": Kind(WARNING,
        "the ground truth of the training images has no labelled pixel: there is no fill-in score",
        "correct it, or delete these files"),
    "too thin": Kind(WARNING, TOO_THIN,
        "draw wider strokes (import_scribbles.py --width), or train at a larger --base-size and --crop-size"),
    "pages": Kind(WARNING, "a file has several pages or frames, of which only the first is read",
        "save each as a file of its own"),
    "no scribbles": Kind(WARNING, "there are no scribbles, only ground truth",
        "simulate_scribbles.py draws some; or train with --supervision full"),
    "no truth": Kind(NOTE, "there is no ground truth", "scores are then measured on the scribbles of the val list"),
    "not listed": Kind(NOTE, "a scribbled image is in no list", "add its id to a list to use it"),
    "no image": Kind(WARNING, "a label map has no image", "do the file names match?"),
    "sub-folder": Kind(WARNING, "a sub-folder is not looked into", "move its files up, images and label maps alike"),
    "grey levels": Kind(WARNING,
        "16-bit images differ in how many bits they use: different 8 of them are read, so the brightness differs",
        "save all with 8 bits, scaled alike"),
    "16 bits": Kind(NOTE, "an image of 16 bits is read with 8", "nothing: inference reads it the same way"),
    "transparency": Kind(NOTE, "transparent pixels are read as white", "nothing, if that is intended"),
    "EXIF rotation": Kind(NOTE,
        "a photograph carries an EXIF rotation and is turned upright: its labels must be drawn upright too",
        "nothing, if the contact sheet looks right", "is saved upright, without the tag"),
}  # fmt: skip
EXAMPLES = 3  # files named for each kind of problem in the text


class Problem(NamedTuple):
    """One thing that is wrong."""

    kind: str
    file: str = ""  # relative to the data set's folder; empty where it is about the whole set
    detail: str = ""
    id: str = ""  # the image's, where it is about one


@dataclass
class Item:
    """What is known of one image."""

    id: str
    problems: list[Problem] = field(default_factory=list)
    size: tuple[int, int] | None = None
    scribbles: np.ndarray | None = None  # pixels of each value, int64 (256,)
    truth: np.ndarray | None = None  # the same
    thinned: dict[int, np.ndarray] = field(default_factory=dict)  # by short side: see thinning.thinned_out
    wrong: int = 0  # scribbled pixels that contradict the truth
    compared: int = 0  # pixels with a class in both
    bits: int | None = None  # in use, of a 16-bit image
    digest: bytes = b""
    thumbnail: np.ndarray | None = None


@dataclass
class Report:
    """The result of check_dataset."""

    folder: Path
    class_names: tuple[str, ...]
    lists: dict[str, list[str]]  # ids of train and val
    items: dict[str, Item]
    problems: list[Problem]

    @property
    def scribbled(self) -> list[Item]:
        """The training images whose scribbles can be read."""
        items = (self.items[i] for i in self.lists["train"] if i in self.items)
        return [item for item in items if item.scribbles is not None]

    @property
    def scribbles(self) -> list[np.ndarray]:
        """Pixels of each value, int64 (256,), in the scribbles of each of them."""
        return [item.scribbles for item in self.scribbled]

    @property
    def truth(self) -> np.ndarray:
        """Pixels of each value, int64 (256,), in all truth that can be read."""
        counts = (item.truth for item in self.items.values() if item.truth is not None)
        return sum(counts, np.zeros(256, dtype=np.int64))

    def count(self, level: str) -> int:
        """Return how many problems have a level."""
        return sum(KINDS[problem.kind].level == level for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and text."""
        train = np.array([np.zeros(256, dtype=np.int64), *self.scribbles])
        scribbles = train.sum(0)
        keys = "name", "scribbled_pixels", "scribbled_images", "truth_pixels"
        columns = self.class_names, scribbles.tolist(), (train > 0).sum(0).tolist(), self.truth.tolist()
        found = sorted({item.size for item in self.items.values() if item.size}, key=math.prod)
        sizes = [f"{width}x{height}" for width, height in found] or ["unknown"]
        kinds = {problem.kind for problem in self.problems}
        ordered = [k for level in (ERROR, WARNING, NOTE) for k in KINDS if k in kinds and KINDS[k].level == level]
        files = {k: [{"file": p.file, "detail": p.detail} for p in self.problems if p.kind == k] for k in ordered}
        return {
            "folder": str(self.folder),
            "images": {name: len(ids) for name, ids in self.lists.items()},
            "sizes": {"smallest": sizes[0], "largest": sizes[-1], "different": len(sizes)},
            "labelled_share": round(float(scribbles[: len(self.class_names)].sum() / max(1, scribbles.sum())), 6),
            "classes": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=False)],
            "problems": [{"kind": kind, **KINDS[kind]._asdict(), "files": files[kind]} for kind in ordered],
        }

    def as_text(self) -> str:
        """Return a page to read."""
        content = self.as_json()
        images, sizes, classes = content["images"], content["sizes"], content["classes"]
        lines = [
            f"{self.folder}: {images['train']:,} training and {images['val']:,} validation images, "
            f"{sizes['smallest']}{' to ' + sizes['largest'] if sizes['different'] > 1 else ''} pixels, "
            f"scribbles on {content['labelled_share']:.2%} of the training pixels",
            "",
            f"{'class':<20} {'of the scribbles':>16} {'training images':>16} {'of the truth':>13}",
        ]
        scribbled, true = (sum(row[key] for row in classes) for key in ("scribbled_pixels", "truth_pixels"))
        for value, row in enumerate(classes):
            truth = f"{row['truth_pixels'] / true:.1%}" if true else "-"
            lines.append(
                f"{value:>3} {row['name']:<16} {row['scribbled_pixels'] / max(1, scribbled):>16.1%} "
                f"{row['scribbled_images']:>16,} {truth:>13}"
            )
        for kind in content["problems"]:
            files = kind["files"]
            places = list(filter(None, (": ".join(filter(None, entry.values())) for entry in files)))
            times = f" ({len(files):,}x)" if places else ""  # what concerns the whole folder has no place
            lines += ["", f"{kind['level'].upper()}: {kind['meaning']}{times}"]
            lines += [f"    {place}" for place in places[:EXAMPLES]]
            lines += [f"    ... and {len(files) - EXAMPLES:,} more"] if len(files) > EXAMPLES else []
            lines += [f"    -> {kind['advice']}" + (f"; --fix: {kind['fix']}" if kind["fix"] else "")]
        counts = [(self.count(level), level) for level in (ERROR, WARNING, NOTE)]
        lines += ["", ", ".join(f"{count} {level}{'s' * (count != 1)}" for count, level in counts)]
        return "\n".join(lines)
