"""From the options of a comparison of second stages to the comparison."""

import itertools
import logging
import math
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from common.arguments import COUNT, integers, option, options_from, switch
from common.devices import choose_device
from common.errors import InputError
from dataloaders.images import image_size
from dataloaders.loaders import Loaders, make_data_loader
from dataloaders.options import DataOptions
from training.build import load_data
from training.identity import data_facts, file_facts, fingerprint
from training.options import ADAMW_RATE, FROM_RANDOM, POSITIVE, TrainOptions, build_parser, parse_options, preset_for
from training.two_stages import ARMS, FIRST_STAGES, REGULARISED, UNREGULARISED, Comparison, check_not_taken

logger = logging.getLogger(__name__)


class Stages(NamedTuple):
    """How long the stages of a preset are, and the rate of the second with the preset's optimizer."""

    steps: tuple[int, int]
    optimizer: str
    lr: float


# Of the presets from the bundled weights.
STAGES, STAGES_FROM_RANDOM = Stages((600, 600), "adamw", ADAMW_RATE), Stages((1350, 360), "sgd", 0.003)


@dataclass(frozen=True)
class ComparisonOptions:
    """comparison"""

    stage1_epochs: int | None = option(
        None,
        "epochs of partial cross-entropy alone (default: 20; with presets from the bundled weights as many as make "
        f"{STAGES.steps[0]} steps; from random weights {STAGES_FROM_RANDOM.steps[0]})",
        **COUNT,
    )
    stage2_epochs: int | None = option(
        None,
        "epochs of the second stage, for each arm (default: 10; with those presets, as many as make "
        f"{STAGES.steps[1]} steps; from random weights {STAGES_FROM_RANDOM.steps[1]})",
        **COUNT,
    )
    stage2_lr: float | None = option(
        None, "learning rate of stage 2 (default: as stage 1, or the preset's)", type=POSITIVE, metavar="RATE"
    )
    seeds: tuple[int, ...] = option(
        (1,), "repeat the comparison with each of these seeds (default: 1)", type=integers, metavar="A,B,..."
    )
    regulariser: tuple[str, ...] | None = option(
        None,
        "a further regularised loss, beside --densecrfloss or instead of it; repeatable",
        action="append",
        metavar="NAME=WEIGHT",
    )
    variant: tuple[str, ...] | None = option(
        None,
        "a regularised second stage under this name, in place of the one that the other options describe; repeatable. "
        "Its options are all its losses and whatever else differs: 'potts=--regulariser potts=1'",
        action="append",
        metavar="NAME=OPTIONS",
    )
    full: bool = switch("also train with full supervision, the upper bound")
    jobs: int = option(1, "trainings that run at the same time", **COUNT)
    output: str = option("run/two_stages", "where all runs and the table go", metavar="FOLDER")


def variants_of(own: ComparisonOptions) -> dict[str, tuple[str, ...]]:
    """Return the regularised second stages, name -> options; raise InputError for names that cannot be used."""
    if not own.variant:
        return {REGULARISED: tuple(word for text in own.regulariser or () for word in ("--regulariser", text))}
    if own.regulariser:
        raise InputError("--regulariser: with --variant, give it among the options of the variants that shall have it")
    variants: dict[str, tuple[str, ...]] = {}
    for text in own.variant:
        name, _, options = text.partition("=")
        if not re.fullmatch(r"\w[\w.-]*", name) or name in {*ARMS, *FIRST_STAGES, *variants}:
            raise InputError(f"--variant: expected NAME=OPTIONS with a name of its own, found {text!r}")
        try:
            variants[name] = (*UNREGULARISED, *shlex.split(options))
        except ValueError as error:
            raise InputError(f"--variant {name}: {error} in {options!r}") from None
    return variants


def default_preset(words: Sequence[str]) -> str | None:
    """Return the preset for these options of the training: None where they name a regularised loss themselves.

    It is the one that suits the short side of the training images (their median).
    """
    if any(word.split("=")[0] in ("--densecrfloss", "--regulariser") for word in words):
        return None
    data = options_from(DataOptions, build_parser(allow_abbrev=False).parse_args(words))
    files = make_data_loader(replace(data, batch_size=2, test_batch_size=1)).train.dataset.image_files
    side = statistics.median(min(image_size(file)) for file in files)
    name = preset_for(side)
    logger.info("neither a preset nor a regularised loss is asked for: --preset %s, as short sides are %g", name, side)
    return name


def stages_of(preset: str | None, options: TrainOptions) -> Stages | None:
    """Return the stages of a preset that has its own, None for others."""
    if preset not in FROM_RANDOM:
        return None
    return STAGES_FROM_RANDOM if options.pretrained == "none" else STAGES


def lengths(own: ComparisonOptions, stages: Stages | None, steps_per_epoch: int) -> tuple[int, int]:
    """Return the epochs of both stages."""
    usual = (20, 10) if stages is None else [math.ceil(steps / steps_per_epoch) for steps in stages.steps]
    return own.stage1_epochs or usual[0], own.stage2_epochs or usual[1]


def build_comparison(own: ComparisonOptions, preset: str | None, rest: Sequence[str]) -> tuple[Comparison, Loaders]:
    """Return the comparison that these options describe, and its data; `rest` are the options of all trainings.

    Raises InputError where something in it is wrong, before anything is trained.
    """
    variants = variants_of(own)
    check_not_taken([*rest, *itertools.chain(*variants.values())])
    preset = preset or default_preset([*rest, *itertools.chain(*variants.values())])
    rest = ["--preset", preset, *rest] if preset else rest
    options = parse_options(rest, allow_abbrev=False)  # of all trainings
    files: dict[str, str] = {}
    settings = {"partial_ce": fingerprint(replace(options, densecrfloss=0.0), {})["settings"]}
    for name, words in variants.items():
        regularised = parse_options([*rest, *words], allow_abbrev=False) if words else options
        settings[name] = fingerprint(regularised, {})["settings"]
        files |= file_facts(regularised)
        if not regularised.regularisers:
            what = "--densecrfloss" if name == REGULARISED else f"--regulariser among the options of --variant {name}"
            raise InputError(f"there is nothing to compare: give the regulariser a weight with {what}")
    device = choose_device(options)
    loaders, surveys = load_data(options, device)  # fails early, and makes the synthetic data once
    data = data_facts(loaders, surveys) | files
    truth = surveys.get("fill_in")
    if own.full:
        full = replace(options, data=replace(options.data, supervision="full"), no_val=True)
        truth = load_data(full, device)[1]["train"]
    if truth:
        data["training truth"] = truth.digests["labels"]
    stages = stages_of(preset, options)
    rate_given = any(word.split("=")[0] == "--lr" for word in rest)
    rate = stages.lr if stages and stages.optimizer == options.optimizer and not rate_given else None
    comparison = Comparison(
        folder=Path(own.output),
        seeds=own.seeds,
        stage_epochs=lengths(own, stages, len(loaders.train)),
        options=tuple(rest),
        variants=variants,
        data=data,
        settings=settings,
        full=own.full,
        stage2_lr=own.stage2_lr or rate,
    )
    return comparison, loaders
