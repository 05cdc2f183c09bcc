"""Draw a synthetic data set: ``python -m dataloaders.synthetic FOLDER --seed N``."""

from collections.abc import Sequence

from common.arguments import ArgumentParser, number
from common.errors import exit_status
from dataloaders.synthetic import SEED, TRAIN, VAL, draw_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and draw; return the exit status."""
    description = "Draw a data set of textured objects in PASCAL VOC's layout."
    parser = ArgumentParser("python -m dataloaders.synthetic", description=description)
    parser.add_argument("folder", help="folder of the data set; one that was drawn there before is replaced")
    parser.add_argument("--seed", type=number(int, 0), default=SEED, help="chooses the pictures")
    parser.add_argument("--train", type=number(int, 2), default=TRAIN, help="number of training pictures")
    parser.add_argument("--val", type=number(int, 1), default=VAL, help="number of validation pictures")
    args = parser.parse_args(argv)
    draw_dataset(args.folder, args.seed, args.train, args.val)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
