"""Train in two stages and tell what the DenseCRF loss is worth.

    python train_two_stages.py --preset 40 --dataset synthetic --backbone mobilenet --pretrained none --seeds 1,2,3

Stage 1 is partial cross-entropy alone; stage 2 goes on from it with and without the DenseCRF loss, for the same number
of steps. Options that are not listed here go to train_withdensecrfloss.py (see its --help). Prints and keeps a table of
mIoU and a sheet of pictures; repeated with the same --output it keeps the trainings that have ended.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from common.arguments import HelpFormatter, add_switch, integers, number
from common.errors import InputError, exit_status
from common.files import replace_file, write_text
from common.logs import configure_logging
from dataloaders.loaders import make_data_loader
from training.checkpoint import LAST
from training.options import parse_options
from training.two_stages import Comparison, comparison_table, save_comparison

logger = logging.getLogger(__name__)

# Options of the training script that the comparison decides.
TAKEN = {
    "--epochs",
    "--start_epoch",
    "--start-epoch",
    "--seed",
    "--supervision",
    "--resume",
    "--ft",
    "--checkname",
    "--run-root",
    "--eval-interval",
    "--no-val",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script's own options."""
    parser = argparse.ArgumentParser(
        description="Two-stage training with and without the DenseCRF loss; further options go to the training script.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stage1-epochs", type=number(int, 1), default=20, metavar="N", help="epochs of partial cross-entropy alone"
    )
    parser.add_argument(
        "--stage2-epochs", type=number(int, 1), default=10, metavar="N", help="epochs of the second stage, for each arm"
    )
    parser.add_argument(
        "--stage2-lr",
        type=number(float, 0, above=True),
        metavar="RATE",
        help="learning rate of stage 2 (default: as stage 1)",
    )
    parser.add_argument(
        "--seeds",
        type=integers,
        default=[1],
        metavar="A,B,...",
        help="repeat the comparison with each of these seeds (default: 1)",
    )
    parser.add_argument(
        "--regulariser",
        action="append",
        metavar="NAME=WEIGHT",
        help="a further regularised loss, beside --densecrfloss or instead of it; repeatable",
    )
    add_switch(parser, "--full", help="also train with full supervision, the upper bound")
    parser.add_argument(
        "--jobs", type=number(int, 1), default=1, metavar="N", help="trainings that run at the same time"
    )
    parser.add_argument("--output", default="run/two_stages", metavar="FOLDER", help="where all runs and the table go")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit status."""
    configure_logging()
    own, rest = build_parser().parse_known_args(argv)
    for word in rest:
        if word.split("=")[0] in TAKEN:
            raise InputError(f"{word} is set by the stages themselves: see the options of this script (--help)")
    regularised = [word for text in own.regulariser or () for word in ("--regulariser", text)]
    options = parse_options([*rest, *regularised])
    if not options.regularisers:
        raise InputError("there is nothing to compare: give the regulariser a weight with --densecrfloss")
    comparison = Comparison(
        folder=Path(own.output),
        seeds=tuple(own.seeds),
        stage_epochs=(own.stage1_epochs, own.stage2_epochs),
        options=tuple(rest),
        variants={"regularised": tuple(regularised)},
        full=own.full,
        stage2_lr=own.stage2_lr,
    )
    loaders = make_data_loader(options.data)  # fails early, and makes the synthetic data once
    comparison.train(own.jobs)
    trained = comparison.run_folder(own.seeds[0], "regularised") / LAST
    replace_file(comparison.folder / "model.pth.tar", lambda temporary: shutil.copyfile(trained, temporary))
    table = comparison_table(comparison.results())
    write_text(comparison.folder / "table.txt", table + "\n")
    for split in ("val", "fill_in"):
        if getattr(loaders, split) is not None:
            save_comparison(comparison, loaders, comparison.folder / f"{split}.png", split)
    logger.info(
        "\nScores of the last epoch, crop protocol (short side %d, centre square)\n\n%s\n\npictures and runs: %s",
        options.data.crop_size,
        table,
        comparison.folder,
    )
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
