"""The worth of repeated epochs: several on N examples are as good as one on more of them.

The form is that of Muennighoff et al. (2023, eq. 5): each repetition is worth less than the one
before. Its constant is measured on fine-tuning, where repetition pays less than in pretraining.
"""

import math

_REPEATS = 1.25  # R*, at which a repetition's worth has fallen to 1/e


def effective_size(size: int, epochs: int) -> int:
    """Examples of which one epoch gives the loss of ``epochs`` epochs on ``size`` examples.

    >>> effective_size(6400, 1), effective_size(6400, 3)
    (6400, 12785)
    """
    return round(size * (1 + _REPEATS * (1 - math.exp(-(epochs - 1) / _REPEATS))))
