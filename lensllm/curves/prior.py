"""What is believed of a candidate's law before any of its runs is seen."""

from __future__ import annotations

from dataclasses import dataclass
from math import log


@dataclass(frozen=True)
class Prior:
    """Normal prior of (ln β, ln D0, ln E): D0^β is the rectified law's D_l, E its floor.

    The default was set on fine-tuning losses in nats per token of models up to 6.7B weights, on
    subsets of 200 to 2,000,000 examples; ``lensllm.predictors.hrb`` moves D0 with other sizes.
    """

    mean: tuple[float, float, float] = (log(0.25), 10.5, log(0.4))
    sd: tuple[float, float, float] = (0.4, 2.5, 0.8)


DEFAULT_PRIOR = Prior()
