"""The schedule of a trunk and its branches: steps, examples and learning rates; no torch."""

import math

COOL_DOWN = 0.2  # share of a branch's steps


def trunk_steps(size: int, batch_size: int) -> int:
    """Steps of the trunk before the branch of ``size`` examples leaves it.

    >>> trunk_steps(800, 16), trunk_steps(5, 16)
    (40, 0)
    """
    steps = math.ceil(size / batch_size)
    return steps - max(1, round(COOL_DOWN * steps))


def trunk_examples(size: int, batch_size: int) -> int:
    """Examples that the trunk takes before the branch of ``size`` examples leaves it."""
    return trunk_steps(size, batch_size) * batch_size


def learning_rate(step: int, leaves: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate of ``step`` of a branch of ``steps`` that leaves the trunk at ``leaves``."""
    rate = peak * min(1.0, (step + 1) / max(1, warmup))
    return rate if step < leaves else rate * (steps - step) / (steps - leaves)
