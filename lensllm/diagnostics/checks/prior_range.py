"""LENS109: the sizes are not those the default predictor's priors were set on."""

from __future__ import annotations

import numpy as np

from lensllm.diagnostics.checks.check import Check, Context, Finding
from lensllm.predictors.hrb import LARGEST, SMALLEST

CODE = "LENS109"
TIP = "compare with ats, which has no priors"
# moved by no more than this factor, the prior changes predictions less than seeds do
NEAR = 4.0


def find(context: Context) -> list[Finding]:
    """Whether hrb moves its prior of the transition far along with the sizes."""
    smallest = context.curves.sizes.min(initial=np.inf)
    if smallest >= SMALLEST / NEAR and context.target <= LARGEST * NEAR:
        return []
    message = (
        f"Sizes from {smallest:,.0f} to {context.target:,.0f} are not within "
        f"{SMALLEST:,.0f}–{LARGEST:,.0f}, for which the priors of hrb were set, so they are "
        f"rescaled; {TIP}."
    )
    return [Finding(CODE, "", message)]


CHECK = Check(CODE, "Sizes outside the range of the priors", TIP, find)
