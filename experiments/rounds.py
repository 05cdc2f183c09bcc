"""What do rounds of drawing, training and correcting bring? The annotation page with a simulated user, and a forest.

    PYTHONPATH=pytorch-deeplab_v3_plus python experiments/rounds.py --data-root FOLDER

The user draws on some images and has a round trained exactly as the page does (page.rounds); then draws on the three
images of which the network is least sure, adds a stroke to three of those drawn on, in the largest wrong place of each,
and trains on from the network. Beside it: the same with images at random; and scikit-image's trainable segmentation, a
random forest with the settings of its example, on the same strokes. Its masks too keep the strokes and have only the
classes drawn.

Images hold one, two or all classes of objects: those that hold no other, and where they are too few, images in which
the other objects count as background. Everything that is drawn comes from the full truth of FOLDER, by default a set
of dataloaders.synthetic. A table says how well measures of uncertainty order the images by the share of wrong pixels
in their masks. Writes rounds.md (tables), rounds.json and rounds.png to --output; repeated, it keeps what has ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import sys
import zlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from common.arguments import ArgumentParser, add_options, integers, number
from common.errors import InputError, exit_status
from common.files import link_or_copy, make_folder, new_folder, replace_file, write_text
from common.logs import configure_logging
from dataloaders.class_names import is_background
from dataloaders.images import image_size, listing, read_image, read_label, value_counts, write_label
from dataloaders.labels import PADDING
from dataloaders.layout import (
    CLASS_FILE,
    IMAGES,
    SCRIBBLES,
    TRUTH,
    list_files,
    read_class_names,
    write_class_names,
)
from dataloaders.strokes import pillow_stroke
from dataloaders.synthetic import SEED, TRAIN, VAL, draw_dataset
from dataloaders.synthetic.scribbles import USUAL, component_strokes, components, simulate_scribbles
from dataloaders.transforms import resize_short_side, to_tensor
from evaluation.scores import ConfusionMatrix, near_border
from figures.plotting import new_figure, save_figure
from modeling.checkpoint import load_network
from page.rounds import (
    MODEL,
    PREDICTED,
    PREDICTIONS,
    TRAINED_ON,
    RoundSettings,
    new_round,
    read_record,
    rounds_in,
    run_round,
    scaled_strokes,
)
from page.uncertainty import uncertainty_map
from prediction.predict import keep_scribbles, predict, probabilities, short_side
from training.run_folder import read_records
from training.two_stages_report import markdown_table, mean_and_spread

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

logger = logging.getLogger(__name__)

ORDERS = ("uncertainty", "random")
MORE = 3  # images that are drawn on after each round, and images drawn on that get one more stroke
NETWORK, FOREST = "network", "forest"
METHODS = {NETWORK: "the page", FOREST: "forest"}
SETS = {"drawn": "drawn on at first", "others": "never drawn on", "all": "all images"}
MEASURED = ("drawn on", "not drawn on")
COLOURS = {"uncertainty": "tab:blue", "random": "tab:orange"}
LINES = {NETWORK: "-", FOREST: ":"}
# Settings of a round that the command line has.
SETTINGS = ("steps", "crf_steps", "crop_size", "batch_size", "densecrfloss", "more")

Scores = dict[str, Any]


# The data and the user


def objects_held(source: Path, num_classes: int) -> dict[str, frozenset[int]]:
    """Return the objects in each image of a data set that has its truth."""
    images, truth = list_files(source, IMAGES), list_files(source, TRUTH)
    held = {}
    for image_id in tqdm(sorted(images.keys() & truth.keys()), desc="reading the truth", disable=None, leave=False):
        counts = value_counts(read_label(truth[image_id], num_classes))
        held[image_id] = frozenset(np.flatnonzero(counts[1:PADDING] > 0) + 1)
    if not held:
        raise InputError(f"expected images with full truth in {source / TRUTH}, found none")
    return held


def choose_objects(held: Mapping[str, AbstractSet[int]], num_classes: int, count: int) -> tuple[int, ...]:
    """Return the classes, `count` of them, besides which the most images hold no other."""
    some = {objects for objects in held.values() if 0 < len(objects) <= count}
    times = {objects: sum(other == objects for other in held.values()) for objects in some}

    def images(chosen: tuple[int, ...]) -> int:
        return sum(times[objects] for objects in some if objects.issubset(chosen))

    return max(combinations(range(1, num_classes), count), key=images)


def choose_images(
    held: Mapping[str, AbstractSet[int]], objects: Sequence[int], drawn: int, others: int, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Choose images to draw on, for each class in turn, and others; raise InputError where there are too few."""
    only, mixed = [], []
    for image_id in rng.permutation(sorted(held)).tolist():
        if held[image_id] & set(objects):
            (only if held[image_id] <= set(objects) else mixed).append(image_id)
    missing = drawn + others - len(only)
    if missing > len(mixed):
        raise InputError(
            f"expected {drawn + others} images that hold the objects {', '.join(map(str, objects))}, found "
            f"{len(only) + len(mixed)}: lower --others"
        )
    if missing > 0:
        logger.warning("%d of %d images hold other objects too, which count as background", missing, drawn + others)
    pool, chosen = only + mixed[: max(0, missing)], []
    for turn in range(drawn):
        rest = [image_id for image_id in pool if image_id not in chosen]
        wanted = objects[turn % len(objects)]
        chosen.append(next((image_id for image_id in rest if wanted in held[image_id]), rest[0]))
    return chosen, [image_id for image_id in pool if image_id not in chosen][:others]


def make_data(
    source: Path, target: Path, objects: Sequence[int], ids: tuple[Sequence[str], Sequence[str]], seed: int
) -> None:
    """Make a data set of the images to draw on, with strokes, and the others; other objects become background."""
    names = read_class_names(source / CLASS_FILE)
    images, truth = list_files(source, IMAGES), list_files(source, TRUTH)
    values = np.zeros(256, dtype=np.uint8)
    values[list(objects)] = np.arange(1, len(objects) + 1)
    values[PADDING:] = range(PADDING, 256)
    with new_folder(target) as made:
        for kind in (TRUTH, SCRIBBLES):
            make_folder(made / kind)
        for image_id in (*ids[0], *ids[1]):
            link_or_copy(images[image_id], made / IMAGES / images[image_id].name)
            write_label(made / TRUTH / f"{image_id}.png", values[read_label(truth[image_id], len(names))])
        write_class_names(made, [names[0], *(names[value] for value in objects)])
        for image_id in ids[0]:
            draw_on(made, image_id, seed)


def draw_on(data: Path, image_id: str, seed: int) -> None:
    """Draw strokes on an image, as preparation/simulation.py does: the same for the same seed."""
    rng = np.random.default_rng([seed, zlib.crc32(image_id.encode())])
    label = read_label(data / TRUTH / f"{image_id}.png", PADDING)
    write_scribbles(data, image_id, simulate_scribbles(label, rng))


def write_scribbles(data: Path, image_id: str, label: np.ndarray) -> None:
    """Write the scribbles of an image into a new file: the one before may be that of another order too, by a link."""
    replace_file(data / SCRIBBLES / f"{image_id}.png", lambda path: write_label(path, label))


def wrong_part(truth: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Return the largest connected part of one class, bool (H, W), where a mask is wrong, and that class.

    None where the errors are small.
    """
    wrong = [
        (part, int(value))
        for value in np.unique(truth[truth < PADDING])
        for part in components((truth == value) & (mask != value))
        if part.mean() >= USUAL.smallest
    ]
    return max(wrong, key=lambda found: found[0].sum(), default=None)


def correct(data: Path, folder: Path, order: str, seed: int) -> None:
    """Draw after the round in `folder`: on three images more, and a stroke more on three that were drawn on.

    It starts from the strokes of that round, so that a correction that was interrupted is made again.
    """
    uncertainty = last_uncertainty(folder)
    drawn = listing(folder / TRAINED_ON, (".png",))
    rng = np.random.default_rng([seed, int(folder.name)])
    if order == "random":
        ids = rng.permutation(sorted(uncertainty)).tolist()
    else:
        ids = sorted(uncertainty, key=lambda image_id: (-uncertainty[image_id], image_id))
    for image_id in [image_id for image_id in ids if image_id not in drawn][:MORE]:
        draw_on(data, image_id, seed)
    corrected = 0
    for image_id in [image_id for image_id in ids if image_id in drawn]:
        if corrected == MORE:
            break
        truth = read_label(data / TRUTH / f"{image_id}.png", PADDING)
        mask = read_label(folder / PREDICTIONS / f"{image_id}.png", PADDING)
        found = wrong_part(truth, mask)
        if found:
            stroke = next(component_strokes(*found, USUAL.share * truth.size, rng))
            label = read_label(drawn[image_id], PADDING)
            label[pillow_stroke(stroke.path, stroke.width, label.shape) & stroke.room] = stroke.value
            write_scribbles(data, image_id, label)
            corrected += 1


def last_uncertainty(folder: Path) -> dict[str, float]:
    """Return the uncertainty of each image in the last prediction of a round."""
    return {line["id"]: line["uncertainty"] for line in read_records(folder / PREDICTED)}


# The network and the forest


def ended_round(data: Path, number: int, settings: RoundSettings) -> Path:
    """Return the folder of a round, from 1 on, after training it or what is missing of it."""
    rounds = rounds_in(data)
    if len(rounds) < number:
        folder = new_round(data, settings, rounds[-1] / MODEL if rounds else None)
    else:
        folder = rounds[number - 1]
    if read_record(folder)["phase"] != "finished":
        run_round(folder)
        if read_record(folder)["stopped"]:
            shutil.rmtree(folder)
            raise InputError("stopped by a signal: repeated, the study begins with this round again")
    return folder


def run_forest(data: Path, nth: int, seed: int) -> None:
    """Train a random forest on the strokes of a round that has ended; write its masks of all images."""
    folder, target = rounds_in(data)[nth - 1], data / FOREST / str(nth)
    if target.is_dir():
        return
    features, forest_type, fit = forest_tools()
    images, drawn = list_files(data, IMAGES), listing(folder / TRAINED_ON, (".png",))
    num_classes = len(read_class_names(data / CLASS_FILE))
    points, values = [], []
    for image_id, path in drawn.items():
        label = read_label(path, num_classes)
        points.append(features(np.asarray(read_image(images[image_id])))[label < PADDING])
        values.append(label[label < PADDING])
    forest = forest_type(n_estimators=50, max_depth=10, max_samples=0.05, random_state=seed)
    fit(np.concatenate(values).astype(int) + 1, np.concatenate(points), forest)  # 0 is unlabelled
    with new_folder(target) as made:
        for image_id, path in tqdm(sorted(images.items()), desc="forest", unit="image", disable=None, leave=False):
            image = np.asarray(read_image(path))
            soft = torch.zeros(num_classes, *image.shape[:2])
            found = forest.predict_proba(features(image).reshape(image.shape[0] * image.shape[1], -1))
            soft[forest.classes_ - 1] = torch.from_numpy(found.T.reshape(-1, *image.shape[:2])).float()
            if image_id in drawn:
                soft = keep_scribbles(soft, read_label(drawn[image_id], num_classes))
            write_label(made / f"{image_id}.png", soft.argmax(0).byte().numpy())


def forest_tools() -> tuple[Any, ...]:
    """Return the parts of scikit-image's example: features, forest, fit; raise InputError where they are missing."""
    try:
        from skimage.feature import multiscale_basic_features
        from skimage.future import fit_segmenter
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise InputError(
            "expected scikit-image and scikit-learn for the forest: pip install scikit-image scikit-learn, or leave it "
            "out with --no-forest"
        ) from None
    how = {"intensity": True, "edges": False, "texture": True, "sigma_min": 1, "sigma_max": 16, "channel_axis": -1}
    return partial(multiscale_basic_features, **how), RandomForestClassifier, fit_segmenter


# Scores


def miou(data: Path, masks: Path, ids: Sequence[str]) -> float:
    """Return the mIoU of the masks of some images, pixels of all images together."""
    matrix = ConfusionMatrix(len(read_class_names(data / CLASS_FILE)))
    for image_id in ids:
        truth, mask = (read_label(folder / f"{image_id}.png", PADDING) for folder in (data / TRUTH, masks))
        matrix.update(torch.from_numpy(truth), torch.from_numpy(mask))
    return matrix.scores()["miou"]


def _margin(soft: Tensor) -> float:
    return uncertainty_map(soft).mean().item()


def _inside(soft: Tensor) -> float:
    inside = ~near_border(soft.argmax(0)[None], 4)[0]
    return uncertainty_map(soft)[inside].mean().nan_to_num().item()


def _entropy(soft: Tensor) -> float:
    return torch.special.entr(soft).sum(0).mean().item()


def _expected(soft: Tensor) -> float:
    """Return 1 - the mIoU of the mask were the probabilities right; a class counts as its highest probability."""
    mask = F.one_hot(soft.argmax(0), len(soft)).permute(2, 0, 1)
    hit, found, expected = (values.sum((1, 2)) for values in (soft * mask, mask, soft))
    weights = soft.amax((1, 2))
    union = (found + expected - hit).clamp(min=1e-9)  # of a class that is impossible: 0, as is its weight
    return 1 - ((weights * hit / union).sum() / weights.sum()).item()


MEASURES = {
    "1 - margin, mean": _margin,
    "1 - margin, mean off the borders": _inside,
    "entropy, mean": _entropy,
    "1 - expected mIoU": _expected,
}
"""By name: from the probabilities (K, h, w) of an image to its uncertainty. The first is the page's."""


@torch.inference_mode()
def measure(data: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return the rank correlation of each measure with the share of wrong pixels in a round's masks, by `MEASURED`.

    An image that was drawn on keeps its strokes, as in the mask.
    """
    kept = folder / "correlations.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    network, settings = load_network(folder / MODEL)
    images, drawn = list_files(data, IMAGES), listing(folder / TRAINED_ON, (".png",))
    rows: dict[str, list[list[float]]] = {which: [] for which in MEASURED}
    for image_id, path in tqdm(sorted(images.items()), desc="measuring", disable=None, leave=False):
        pixels = to_tensor(resize_short_side(read_image(path), short_side(settings)))
        (logits,) = predict(network, pixels[None])
        soft = probabilities([logits], tuple(logits.shape[2:]))[0]
        if image_id in drawn:
            soft = keep_scribbles(soft, scaled_strokes(read_label(drawn[image_id], PADDING), soft.shape[:0:-1]))
        truth, mask = (read_label(one / f"{image_id}.png", PADDING) for one in (data / TRUTH, folder / PREDICTIONS))
        wrong = float((truth != mask)[truth < PADDING].mean())
        rows[MEASURED[image_id not in drawn]].append([wrong, *(rate(soft) for rate in MEASURES.values())])
    found = {}
    for which, some in rows.items():
        wrong, *rated = zip(*some, strict=True)
        found[which] = {name: rank_correlation(values, wrong) for name, values in zip(MEASURES, rated, strict=True)}
    write_text(kept, json.dumps(found) + "\n")
    return found


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's correlation of two lists without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


# The study


def run_case(case: Path, settings: RoundSettings, rounds: int, with_forest: bool) -> dict[str, list[Path]]:
    """Run all rounds of both orders, whose first round is one; return their folders by order."""
    first = case / "first"
    logger.info("=== %s: round 1", case)
    measure(first, ended_round(first, 1, settings))
    if with_forest:
        run_forest(first, 1, settings.seed)
    folders: dict[str, list[Path]] = {}
    for order in ORDERS:
        data, folders[order] = case / order, []
        if not data.is_dir():
            with new_folder(data) as made:
                shutil.copytree(first, made, copy_function=_link, dirs_exist_ok=True)
        for nth in range(1, rounds + 1):
            logger.info("=== %s: round %d, order: %s", case, nth, order)
            if len(rounds_in(data)) < nth:
                correct(data, folders[order][-1], order, settings.seed)
            folders[order].append(ended_round(data, nth, settings))
            if with_forest:
                run_forest(data, nth, settings.seed)
    return folders


def _link(source: str, target: str) -> None:
    link_or_copy(Path(source), Path(target))


def score_case(case: Path, folders: Mapping[str, Sequence[Path]], methods: Sequence[str]) -> dict[str, list[Scores]]:
    """Return the scores of a case by order, round by round.

    The sets of images are the same in all rounds of both orders: `drawn` are those drawn on before the first round,
    `others` those that nobody ever draws on, and `all` the whole folder.
    """
    drawn, *later = (set(listing(folder / TRAINED_ON, (".png",))) for rounds in folders.values() for folder in rounds)
    results: dict[str, list[Scores]] = {}
    for order, rounds in folders.items():
        data, results[order] = case / order, []
        images = list_files(data, IMAGES).keys()
        sets = {"drawn": sorted(drawn), "others": sorted(images - drawn.union(*later)), "all": sorted(images)}
        for nth, folder in enumerate(rounds, 1):
            masks = {NETWORK: folder / PREDICTIONS, FOREST: data / FOREST / str(nth)}
            scores: Scores = {
                "images": len(listing(folder / TRAINED_ON, (".png",))),
                "minutes": read_record(folder)["seconds"] / 60,
                "correlation": measure(data, folder),
            }
            for method in methods:
                scores[method] = {name: 100 * miou(data, masks[method], ids) for name, ids in sets.items()}
            results[order].append(scores)
    return results


Results = dict[int, dict[int, dict[str, list[Scores]]]]  # by number of classes, draw, and order; one for each round


def scores_of(draws: Mapping[int, Mapping[str, list[Scores]]], order: str, nth: int, *names: str) -> list[float]:
    """Return a score of a round, draw by draw; `names` lead to it, such as a method and a set of images."""
    found = []
    for orders in draws.values():
        value: Any = orders[order][nth - 1]
        for name in names:
            value = value[name]
        found.append(value)
    return found


def orders_of(nth: int) -> tuple[str, ...]:
    """Return the orders in which a round differs: the first is the same in all."""
    return ORDERS if nth > 1 else ORDERS[:1]


def score_table(results: Results, methods: Sequence[str], rounds: int) -> str:
    """Return a Markdown table: mIoU of every method on every set of images."""
    rows = []
    for classes, draws in results.items():
        for nth in range(1, rounds + 1):
            for order in orders_of(nth):
                cells = [scores_of(draws, order, nth, method, name) for name in SETS for method in methods]
                images = str(scores_of(draws, order, nth, "images")[0])
                shown = order if nth > 1 else ""
                rows.append([str(classes), str(nth), shown, images, *map(mean_and_spread, cells)])
    titles = [f"{title}, {METHODS[method]}" for title in SETS.values() for method in methods]
    return markdown_table(["object classes", "round", "order", "images", *titles], rows)


def difference_table(results: Results, methods: Sequence[str], rounds: int) -> str:
    """Return a Markdown table: what a round gains, and who is ahead of whom."""
    rows = []
    for classes, draws in results.items():
        for nth in range(1, rounds + 1):
            pairs = {}
            for order in orders_of(nth):
                suffix = f", {order}" if nth > 1 else ""
                if nth > 1:
                    pairs[f"gain of the round{suffix}"] = (order, nth, NETWORK), (order, nth - 1, NETWORK)
                if FOREST in methods:
                    pairs[f"ahead of the forest{suffix}"] = (order, nth, NETWORK), (order, nth, FOREST)
            if nth > 1:
                pairs["uncertainty ahead of random"] = tuple((order, nth, NETWORK) for order in ORDERS)
            for what, (one, other) in pairs.items():
                gaps = [np.subtract(scores_of(draws, *one, name), scores_of(draws, *other, name)) for name in SETS]
                rows.append([str(classes), str(nth), what, *(mean_and_spread(gap.tolist(), "+") for gap in gaps)])
    return markdown_table(["object classes", "round", "what", *SETS.values()], rows)


def ordering_table(results: Results, rounds: int) -> str:
    """Return a Markdown table: the rank correlation of every measure of uncertainty with the error."""
    rows = []
    for classes, draws in results.items():
        for nth in range(1, rounds + 1):
            for which in MEASURED:
                found = [
                    statistics.mean(
                        value
                        for order in orders_of(nth)
                        for value in scores_of(draws, order, nth, "correlation", which, name)
                    )
                    for name in MEASURES
                ]
                rows.append([str(classes), str(nth), which, *(f"{value:.2f}" for value in found)])
    return markdown_table(["object classes", "round", "images", *MEASURES], rows)


def tables(results: Results, methods: Sequence[str], rounds: int) -> str:
    """Return all tables with a line above each."""
    parts = {
        "mIoU in %, mean ± standard deviation over the draws:": score_table(results, methods, rounds),
        "Differences in points, draw by draw:": difference_table(results, methods, rounds),
        "Rank correlation (Spearman) of the uncertainty of the images with the share of wrong pixels in their masks, "
        "mean over draws and orders:": ordering_table(results, rounds),
    }
    return "\n\n".join(f"{title}\n\n{table}" for title, table in parts.items())


def draw(path: Path, results: Results, methods: Sequence[str], rounds: int) -> None:
    """Draw the scores against the rounds: a column for each number of classes, a dot for each draw."""
    shown = {name: SETS[name] for name in ("drawn", "others")}
    figure = new_figure(1.2 + 2.9 * len(results), 5.2)
    grid = figure.subplots(len(shown), len(results), squeeze=False, sharex=True, sharey="row")
    at = range(1, rounds + 1)
    for column, (classes, draws) in zip(grid.T, results.items(), strict=True):
        column[0].set_title(f"{classes} object class{'es' if classes > 1 else ''}", fontsize=9)
        column[-1].set_xlabel("round", fontsize=9)
        column[-1].set_xticks(at)
        for axes, name in zip(column, shown, strict=True):
            for order in ORDERS:
                for method in methods:
                    values = [scores_of(draws, order, nth, method, name) for nth in at]
                    how = {"color": COLOURS[order], "label": f"{METHODS[method]}, {order}"}
                    axes.plot(at, [statistics.mean(some) for some in values], LINES[method], **how)
                    axes.plot(at, values, "o", color=COLOURS[order], alpha=0.4, markersize=4, markeredgewidth=0)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    for axes, title in zip(grid[:, 0], shown.values(), strict=True):
        axes.set_ylabel(f"mIoU, images {title}, %", fontsize=9)
    grid[-1, 0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def build_parser() -> ArgumentParser:
    """Return the parser of the study."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="data set with full truth (default: drawn)")
    parser.add_argument(
        "--classes", type=integers, metavar="A,B,...", help="numbers of object classes (default: 1, 2 and all)"
    )
    parser.add_argument("--draws", type=integers, default="1,2,3", metavar="A,B,...", help="of images and strokes")
    parser.add_argument("--rounds", type=number(int, 1), default=3, metavar="N", help="of drawing and training")
    parser.add_argument("--drawn", type=number(int, 2), default=10, metavar="M", help="images to draw on at first")
    parser.add_argument("--others", type=number(int, 2), default=100, metavar="N", help="images beside them")
    parser.add_argument("--no-forest", action="store_true", help="leave the random forest out")
    parser.add_argument("--output", type=Path, default=Path("run/rounds"), metavar="FOLDER", help="for everything")
    add_options(parser, RoundSettings, only=SETTINGS)
    parser.set_defaults(**dict.fromkeys(SETTINGS))  # those of the page for images of this size
    return parser


def take_folder(args: argparse.Namespace) -> None:
    """Make the folder of the study; refuse one that holds another study."""
    names = ("data_root", "drawn", "others", *SETTINGS)
    text = json.dumps({name: getattr(args, name) for name in names}, default=str) + "\n"
    path = args.output / "settings.json"
    make_folder(args.output, "choose another --output")
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(
            f"{path}: this folder holds a study with other settings; choose another --output, or delete it"
        )
    write_text(path, text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study that the command line describes; return the exit status."""
    configure_logging()
    args = build_parser().parse_args(argv)
    methods = [NETWORK] if args.no_forest else list(METHODS)
    least = 2 * MORE * (args.rounds - 1) + 2
    if args.others < least:
        raise InputError(f"--others: expected at least {least} images for {args.rounds} rounds, found {args.others}")
    if FOREST in methods:
        forest_tools()  # what is missing is said now, not after the first round
    source = args.data_root or args.output / "data"
    if not args.data_root and not source.is_dir():
        draw_dataset(source, SEED, TRAIN, VAL)
    names = read_class_names(source / CLASS_FILE)
    if not is_background(names[0]):
        raise InputError(f"expected the background as class 0, found '{names[0]}' in {source / CLASS_FILE}")
    numbers = args.classes or sorted({1, min(2, len(names) - 1), len(names) - 1})
    if wrong := [count for count in numbers if not 1 <= count < len(names)]:
        raise InputError(f"--classes: expected 1 to {len(names) - 1} object classes, found {wrong[0]}")
    held = objects_held(source, len(names))
    given = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    results: Results = {}
    for count in numbers:
        objects = choose_objects(held, len(names), count)
        logger.info("=== %s", ", ".join(names[value] for value in objects))
        results[count] = {}
        for one in args.draws:
            case = args.output / f"classes_{count}" / f"draw_{one}"
            data = case / "first"
            ids = None
            if not data.is_dir():
                ids = choose_images(held, objects, args.drawn, args.others, np.random.default_rng([one, count]))
            take_folder(args)  # not before all that is asked for can be had
            if ids:
                make_data(source, data, objects, ids, one)
            settings = RoundSettings.fitting([image_size(path) for path in list_files(data, IMAGES).values()])
            settings = replace(settings, seed=one, **given)
            folders = run_case(case, settings, args.rounds, FOREST in methods)
            results[count][one] = score_case(case, folders, methods)
            text = tables(results, methods, args.rounds) + "\n"
            write_text(args.output / "rounds.md", text)
            write_text(args.output / "rounds.json", json.dumps(results, indent=1) + "\n")
            draw(args.output / "rounds.png", results, methods, args.rounds)
    logger.info("\n%s\nresults: %s", text, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
