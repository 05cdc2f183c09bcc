"""Run a training that signals strike at chosen moments, and go on with --resume auto: what test_resume.py runs.

    killed_training.py KILL:4,TERM:9,... WHOLE OPTIONS OF THE TRAINING...

Each process counts its moments: the start of every training step, evaluation and writing of a checkpoint, and the
moment before a file takes its place. At the moment given it sends itself the signal; INT2 is Ctrl-C twice. One process
after the other is forked from this one, at last one that trains without strikes, with WHOLE as --run-root. Prints the
exit status of each. No pictures are drawn, which takes longer than the training.
"""

import itertools
import os
import signal
import sys

import train_withdensecrfloss
from common.errors import exit_status
from training import checkpoint
from training.trainer import Trainer

moments = itertools.count(1)
Trainer.draw = lambda self: None


def before(function, signals: list[int], at: int):
    """Return `function` with a moment before it."""

    def struck(*args, **kwargs):
        if next(moments) == at:
            for number in signals:
                os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return struck


def train(strike: str | None, words: list[str]) -> int:
    """Run the script in a process of its own and return its exit status, negative for a signal."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if strike is not None:
        name, at = strike.split(":")
        name, signals = (name[:3], 2) if name == "INT2" else (name, 1)
        strikes = [getattr(signal, f"SIG{name}")] * signals, int(at)
        Trainer.train_step = before(Trainer.train_step, *strikes)
        Trainer.evaluate = before(Trainer.evaluate, *strikes)
        checkpoint.torch.save = before(checkpoint.torch.save, *strikes)
        checkpoint.os.replace = before(checkpoint.os.replace, *strikes)
    status = 1
    try:
        status = exit_status(lambda: train_withdensecrfloss.main(words))
    finally:
        sys.stdout.flush()
        os._exit(status)


def main(strikes: str, whole: str, *words: str) -> None:
    """Train under the strikes, each in a process, to the end without one, and once more undisturbed."""
    for strike in [*strikes.split(","), None]:
        print(f"{strike}: status {train(strike, [*words, '--resume', 'auto'])}", flush=True)
    print(f"whole: status {train(None, [*words, '--run-root', whole])}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
