"""Learning-rate schedules: pure functions of progress, returning the factor of the base rate."""

import math

SCHEDULES = ("poly", "step", "cos")


def rate_factor(schedule: str, step: int, steps: int, *, steps_per_drop: int) -> float:
    """Return the factor of the learning rate before step `step` of `steps`.

    `poly` is (1 - step/steps)^0.9 (Chen et al. 2018, DeepLab), `cos` a half cosine, and `step` a tenth every
    `steps_per_drop` steps.
    """
    if schedule == "poly":
        return (1 - step / steps) ** 0.9
    if schedule == "cos":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 0.1 ** (step // steps_per_drop)
