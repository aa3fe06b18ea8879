"""Decide which pretrained language model to fine-tune: LensLLM as a library.

Every name below is loaded when it is first used, so ``import lensllm`` takes no time; the names for
tables of losses need numpy, scipy and pandas alone, and none needs a server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensllm.core.errors import LensError
    from lensllm.curves.curve import Curves
    from lensllm.laws.fit import LawFit
    from lensllm.ntk.from_texts import ntk_spectrum
    from lensllm.report.plot import plot_curves
    from lensllm.spectra.spectrum import Spectrum

_MODULES = {
    "Curves": "lensllm.curves.curve",
    "LawFit": "lensllm.laws.fit",
    "LensError": "lensllm.core.errors",
    "Spectrum": "lensllm.spectra.spectrum",
    "ntk_spectrum": "lensllm.ntk.from_texts",
    "plot_curves": "lensllm.report.plot",
}

__all__ = ["Curves", "LawFit", "LensError", "Spectrum", "ntk_spectrum", "plot_curves"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lensllm' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
