"""Blend: the mean of AtS and HRB in log loss. They fail in different places."""

from __future__ import annotations

import numpy as np

from lensllm.curves.curve import Array


def weigh(errors: Array, horizons: Array) -> Array:
    """Equal weights (K,), whatever the errors (C, K, M) were."""
    count = errors.shape[1]
    return np.full(count, 1 / count)
