"""How long the parts of a training step take, and how much memory."""

import itertools

from common.devices import peak_memory
from common.stopwatch import Stopwatch
from training.trainer import Trainer

WARM_UP = 3  # steps that do not count: compiling, choosing algorithms, growing buffers


def benchmark(trainer: Trainer, steps: int) -> str:
    """Take `steps` training steps, after a few that do not count, and return a table of milliseconds by part."""
    step = trainer.step
    trainer.model.train()
    step.clock = Stopwatch(step.device)
    batches = trainer.timed(itertools.chain.from_iterable(itertools.repeat(trainer.loaders.train)))
    for number, batch in enumerate(itertools.islice(batches, WARM_UP + steps)):
        if number == WARM_UP:
            step.reset()
        trainer.train_step(batch)
        trainer.read_losses()
    total = step.clock.total
    parts = {"waiting for data" if name == "data" else name: value for name, value in step.clock.seconds.items()}
    parts["the rest"] = total - sum(parts.values())
    lines = [f"{'ms a step':<24}{'':>10}{'share':>8}"]
    lines += [f"{name:<24}{1000 * value / steps:>10.1f}{value / total:>8.0%}" for name, value in parts.items()]
    lines += [
        f"{'whole step':<24}{1000 * total / steps:>10.1f}{1:>8.0%}",
        f"{'images a second':<24}{step.images / total:>10.1f}",
        f"{'peak memory, MiB':<24}{peak_memory(step.device):>10.0f}",
    ]
    return "\n".join(lines)
