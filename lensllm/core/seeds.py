"""Random streams: every draw comes from (seed, purpose, indices), never from a shared generator."""

import hashlib

import numpy as np


def _sequence(seed: int, purpose: str, *indices: int | str) -> np.random.SeedSequence:
    text = "\x1f".join([purpose, *map(str, indices)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.SeedSequence([seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])


def generator(seed: int, purpose: str, *indices: int | str) -> np.random.Generator:
    """A NumPy generator of its own for one purpose, e.g. ``generator(0, "subset", 1)``."""
    return np.random.default_rng(_sequence(seed, purpose, *indices))


def integer(seed: int, purpose: str, *indices: int | str) -> int:
    """A 63-bit seed for libraries that want an integer (``torch.manual_seed``)."""
    state = _sequence(seed, purpose, *indices).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
