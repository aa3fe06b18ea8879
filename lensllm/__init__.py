"""Decide which pretrained language model to fine-tune: LensLLM as a library.

A table of losses is enough to rank models:

>>> import pandas as pd
>>> import lensllm
>>> losses = pd.DataFrame(
...     {"model": ["a", "b"], 200: [3.1, 2.9], 400: [2.8, 2.7], 800: [2.5, 2.6], 1600: [2.3, 2.5]}
... )
>>> ranking = lensllm.rank_curves(lensllm.read_curves(losses), target=6_400)
>>> ranking["candidate"].tolist()
['a', 'b']

Every name is loaded when it is first used. Those for tables of losses need numpy, scipy and pandas
alone, and none needs a server.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensllm.core.errors import LensError
    from lensllm.curves.curve import Curves
    from lensllm.curves.tables import read_curves
    from lensllm.laws import LawFit, fit_law
    from lensllm.ntk.kernel import ntk_spectrum
    from lensllm.predictors import PREDICTORS, predict
    from lensllm.report.plot import plot_curves
    from lensllm.report.reading import read_result
    from lensllm.report.result import Result
    from lensllm.selection.ranking import rank_curves, score_ranking
    from lensllm.spectra.spectrum import Spectrum

__all__ = [
    "PREDICTORS",
    "Curves",
    "LawFit",
    "LensError",
    "Result",
    "Spectrum",
    "fit_law",
    "ntk_spectrum",
    "plot_curves",
    "predict",
    "rank_curves",
    "read_curves",
    "read_result",
    "run",
    "score_ranking",
]

_MODULES = {
    "PREDICTORS": "lensllm.predictors",
    "Curves": "lensllm.curves.curve",
    "LawFit": "lensllm.laws",
    "LensError": "lensllm.core.errors",
    "Result": "lensllm.report.result",
    "Spectrum": "lensllm.spectra.spectrum",
    "fit_law": "lensllm.laws",
    "ntk_spectrum": "lensllm.ntk.kernel",
    "plot_curves": "lensllm.report.plot",
    "predict": "lensllm.predictors",
    "rank_curves": "lensllm.selection.ranking",
    "read_curves": "lensllm.curves.tables",
    "read_result": "lensllm.report.reading",
    "score_ranking": "lensllm.selection.ranking",
}


def __getattr__(name: str) -> Any:
    """Load a public name; ``run`` is what the package above has registered as an entry point."""
    if name in _MODULES:
        found = getattr(import_module(_MODULES[name]), name)
    elif points := entry_points(group="lensllm", name=name):
        found = next(iter(points)).load()
    else:
        raise AttributeError(f"module 'lensllm' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
