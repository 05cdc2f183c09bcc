"""What a comparison of second stages leaves: the table, the scores, the pictures and the network."""

import json
import logging
import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.files import replace_file, write_text
from dataloaders.loaders import Loaders
from figures.comparison import Compared, close_up
from figures.sheets import evenly_spaced, save_contact_sheet
from modeling.checkpoint import load_network
from prediction import segment, short_side
from training.checkpoint import LAST
from training.two_stages import ARMS, REGULARISED, Comparison, Results

logger = logging.getLogger(__name__)

COMPARED = 3  # images in the sheet that compares the arms


def report(comparison: Comparison, loaders: Loaders) -> None:
    """Write the table, the scores, the pictures and the first variant's network, and say where they are."""
    results, folder, (first, *_) = comparison.results(), comparison.folder, comparison.variants
    runs = {arm: comparison.run_folder(comparison.seeds[0], arm) / LAST for arm in (first, "partial_ce")}
    model = folder / "model.pth.tar"
    replace_file(model, lambda temporary: shutil.copyfile(runs[first], temporary))
    known = {"seeds": comparison.seeds, "classes": loaders.class_names, "scores": results}
    write_text(folder / "results.json", json.dumps(known, indent=1) + "\n")
    table = comparison_table(results)
    write_text(folder / "table.txt", table + "\n")
    for split in ("val", "fill_in"):
        if getattr(loaders, split) is not None:
            save_comparison(comparison, loaders, folder / f"{split}.png", split)
    crop_size = comparison.settings["partial_ce"]["crop_size"]
    title = f"Scores of the last epoch, crop protocol (short side {crop_size}, centre square)"
    logger.info("\n%s\n\n%s\n\npictures and runs: %s", title, table, folder)
    with_loss, without = (percents(results, arm, "val")[0] for arm in runs)
    scored = f"{model}: the {first} network, val {with_loss:.1f}. {runs['partial_ce']}: partial CE, val {without:.1f}"
    if without > with_loss:
        logger.warning("networks: %s: here the loss does not gain; take partial CE's", scored)
    else:
        logger.info("networks: %s", scored)


def percents(results: Results, arm: str, score: str) -> list[float]:
    """Return the mIoU of an arm in percent, seed by seed; `score` is val or fill_in."""
    return [100 * final[score]["miou"] for final in results[arm]]


def gains(results: Results, arm: str, score: str) -> list[float]:
    """Return what an arm gains over partial CE, in points of mIoU, seed by seed."""
    pairs = zip(percents(results, "partial_ce", score), percents(results, arm, score), strict=True)
    return [regularised - alone for alone, regularised in pairs]


def share_of_gap(results: Results, arm: str, score: str) -> str:
    """Return as text what share of the mean gap from partial CE to full supervision an arm closes."""
    gap = statistics.mean(gains(results, "full", score))
    return f"{100 * statistics.mean(gains(results, arm, score)) / gap:.0f} %" if gap > 0 else "-"


def background_everywhere(results: Results, score: str) -> float:
    """Return the mIoU in percent of the background everywhere: its IoU is its share, and no other class is hit."""
    frequency = results["partial_ce"][0][score]["frequency"]
    return 100 * frequency[0] / sum(share > 0 for share in frequency)


def titles_of(arms: Iterable[str]) -> dict[str, str]:
    """Return what tables and pictures call the arms of a comparison."""
    return {arm: ARMS.get(arm, f"+ {arm}") for arm in arms}


def comparison_table(results: Results) -> str:
    """Return the table: mIoU in percent, mean and standard deviation over the seeds, of each arm and score."""
    scores = [name for name in ("val", "fill_in") if all(name in final for final in results["partial_ce"])]
    titles = titles_of(results)
    variants = [arm for arm in results if arm not in ("partial_ce", "full")]
    gain = {arm: "gain of the regulariser" if arm == REGULARISED else f"gain of {arm}" for arm in variants}
    share = {arm: "share of the gap closed" if arm == REGULARISED else f"share closed by {arm}" for arm in variants}
    width = max(25, *map(len, share.values())) + 1
    lines = [f"{'mIoU in %, crop protocol':<{width}}" + "".join(f"{name.replace('_', '-'):>16}" for name in scores)]

    def line(title: str, cells: Sequence[str]) -> None:
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>16}" for cell in cells))

    line("background everywhere", [f"{background_everywhere(results, name):.1f}" for name in scores])
    for arm, title in titles.items():
        line(title, [mean_and_spread(percents(results, arm, name)) for name in scores])
    for arm in variants:
        gained = [gains(results, arm, score) for score in scores]
        line(gain[arm], [mean_and_spread(points, sign="+") for points in gained])
        if len(gained[0]) > 1:
            line("  by seed", [" ".join(f"{gain:+.1f}" for gain in points) for points in gained])
    if "full" in results:
        line("gap to full supervision", [f"{statistics.mean(gains(results, 'full', name)):.1f}" for name in scores])
        for arm in variants:
            line(share[arm], [share_of_gap(results, arm, name) for name in scores])
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Return `mean ± standard deviation` of several numbers, or the only one."""
    mean = f"{statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, without a line break at its end."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *rows))


def save_comparison(comparison: Comparison, loaders: Loaders, path: Path, split: str) -> None:
    """Draw images of `split` with their scribbles, what each arm of the first seed predicts, and the truth.

    The last row is a close-up of the place in them where the first regularised loss corrects most.
    """
    dataset, seed = getattr(loaders, split).dataset, comparison.seeds[0]
    titles = titles_of(comparison.arms)
    networks = {titles[arm]: load_network(comparison.run_folder(seed, arm) / LAST) for arm in comparison.arms}
    compared = []
    for index in evenly_spaced(len(dataset), COMPARED):
        image, scribble, truth = dataset.pictures(index)
        predictions = {
            title: segment(model, image, short_side(settings)) for title, (model, settings) in networks.items()
        }
        compared.append(Compared(image, scribble, truth, predictions))
    place = close_up(compared, titles["partial_ce"], titles[next(iter(comparison.variants))])
    rows = [one.row(place[1] if place and place[0] == number else None) for number, one in enumerate(compared)]
    if place:
        rows.append(compared[place[0]].cut(place[1]).row())
    kind = "validation images" if split == "val" else "training images (only the scribbles were seen)"
    kind += "; below, a close-up of the framed square" if place else ""
    seen = set().union(*(one.classes for one in compared))
    save_contact_sheet(path, rows, loaders.class_names, kind, classes=seen)
