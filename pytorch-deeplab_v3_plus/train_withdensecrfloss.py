"""Train DeepLabv3+ on scribbles: partial cross-entropy plus the DenseCRF loss.

The recipe of the published mobilenet (PASCAL VOC 2012):

    python train_withdensecrfloss.py --backbone mobilenet --lr 0.007 --workers 6 --epochs 60 --batch-size 12 \
        --checkname deeplab-mobilenet --eval-interval 2 --dataset pascal --save-interval 2 \
        --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-rgb 15 --sigma-xy 100

Any folder of images and scribbles, without code:

    python train_withdensecrfloss.py --backbone mobilenet --data-root FOLDER \
        --densecrfloss 2e-9 --rloss-scale 0.5 --sigma-xy 100

Results go to run/<dataset>/<checkname>/experiment_<n>/.
"""

import logging
import sys
from collections.abc import Sequence

from common import distributed
from common.devices import choose_device, processes_to_launch
from common.errors import exit_status
from common.logs import configure_logging
from training import build_trainer
from training.benchmark import benchmark
from training.faults import Stopped, one_line_errors
from training.options import TrainOptions, parse_options
from training.resume import Ended

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; return the exit status."""
    configure_logging(quiet=not distributed.is_main())
    options = parse_options(argv)
    device = choose_device(options)
    if processes := processes_to_launch(options, device):
        return distributed.launch([__file__, *(sys.argv[1:] if argv is None else argv)], processes)
    with one_line_errors(options), distributed.process_group(device):
        return train(options)


def train(options: TrainOptions) -> int:
    """Train as the options say; return the exit status. In a run of several processes, each calls it."""
    try:
        trainer = build_trainer(options)
        if options.benchmark:
            logger.info("\n%s", benchmark(trainer, options.benchmark))
        else:
            trainer.fit()
    except Ended as ended:
        logger.info("%s", ended)
    except Stopped:
        return distributed.STOPPED
    return 0


if __name__ == "__main__":
    distributed.end(exit_status(main))
