"""Train in two stages to measure what the DenseCRF loss is worth.

    python train_two_stages.py --data-root DATA --full --seeds 1,2,3

Stage 1 is partial cross-entropy alone; stage 2 continues from it with and without the DenseCRF loss, for the same
number of steps; with --variant several regularised losses compete. Options that are not listed here go to
train_withdensecrfloss.py (see its --help); with neither a preset nor a regularised loss, the preset for small images of
this size is taken. Prints and keeps a table of mIoU and a sheet of pictures; repeated with the same --output it skips
finished trainings.
"""

import sys
from collections.abc import Sequence

from common import distributed
from common.arguments import ArgumentParser, add_options, options_from
from common.errors import InputError, exit_status
from common.logs import configure_logging
from training.options import add_preset
from training.two_stages_options import ComparisonOptions, build_comparison
from training.two_stages_report import report


def build_parser() -> ArgumentParser:
    """Return the parser of this script's own options."""
    about = "Two-stage training with and without the DenseCRF loss; further options go to the training script."
    parser = ArgumentParser(description=about, allow_abbrev=False)
    add_preset(parser, "a recipe for images of this size")
    add_options(parser, ComparisonOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit status."""
    configure_logging()
    own, rest = build_parser().parse_known_args(argv)
    if distributed.world_size() > 1:
        raise InputError("expected no torchrun: this script starts trainings itself, which --gpu-ids shares among GPUs")
    comparison, loaders = build_comparison(options_from(ComparisonOptions, own), own.preset, rest)
    comparison.train(own.jobs)
    report(comparison, loaders)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
