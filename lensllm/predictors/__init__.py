"""The predictors by name. To add one, write its function or dataclass and give it a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lensllm.core.errors import ConfigError, suggestion
from lensllm.curves.curve import Array, Curves
from lensllm.laws import fit_rectified, fit_vanilla
from lensllm.predictors import baselines, mixtures
from lensllm.predictors.ats import AtS
from lensllm.predictors.fitted_laws import LensLLM, fitted
from lensllm.predictors.hrb import DEFAULT_PRIOR, Hrb, Prior
from lensllm.predictors.predictor import (
    Function,
    Input,
    Mixture,
    Prediction,
    Predictor,
    settings,
)


def _weights(name: str) -> Function:
    return Function(partial(baselines.by_weight_metric, name), 1, reads=("heavy_tails",))


PREDICTORS: dict[str, Predictor | Mixture] = {
    "zero_shot": Function(baselines.zero_shot, needed_sizes=0),
    "model_size": Function(baselines.model_size, needed_sizes=1),
    "sub_tuning": Function(baselines.sub_tuning, needed_sizes=1),
    "vanilla": Function(partial(fitted, fit_vanilla), needed_sizes=3),
    "rectified": Function(partial(fitted, fit_rectified), needed_sizes=4),
    "ats": AtS(),
    "hrb": Hrb(),
    "blend": Mixture(("ats", "hrb"), mixtures.equal_weights),
    "stack": Mixture(("ats", "hrb"), mixtures.least_error_weights),
    "lensllm": LensLLM("prediction"),
    "lensllm_phase": LensLLM("phase"),
    "lensllm_pooled": LensLLM("pooled"),
    "pl_alpha": _weights("pl_alpha"),
    "e_tpl_lambda": _weights("e_tpl_lambda"),
}

Registry = Mapping[str, Predictor | Mixture]


def with_settings(
    changes: Mapping[str, Mapping[str, Any]], registry: Registry = PREDICTORS
) -> dict[str, Predictor | Mixture]:
    """The predictors, those named in ``changes`` with other settings.

    >>> with_settings({"ats": {"tau": 3.0}})["ats"]
    AtS(gamma=3, tau=3.0)
    """
    changed = {name: replace(registry[name], **values) for name, values in changes.items()}  # type: ignore[type-var]
    return {**registry, **changed}


def parts(name: str, registry: Registry = PREDICTORS) -> tuple[str, ...]:
    """The predictors that ``name`` mixes; itself alone when it is no mixture."""
    predictor = registry[name]
    return predictor.parts if isinstance(predictor, Mixture) else (name,)


def plain(name: str, registry: Registry = PREDICTORS) -> Predictor:
    """The predictor ``name``, which must be no mixture."""
    predictor = registry[name]
    assert not isinstance(predictor, Mixture), f"{name} is a mixture"
    return predictor


def needed_sizes(name: str, registry: Registry = PREDICTORS) -> int:
    """The fewest observed sizes that ``name`` predicts from."""
    return max(plain(part, registry).needed_sizes for part in parts(name, registry))


def reads(name: str, registry: Registry = PREDICTORS) -> set[Input]:
    """The inputs that ``name`` reads beside the losses."""
    return {source for part in parts(name, registry) for source in plain(part, registry).reads}


def names_reading(source: Input) -> tuple[str, ...]:
    """The predictors, without mixtures, that read an input."""
    return tuple(name for name in PREDICTORS if parts(name) == (name,) and source in reads(name))


def check_name(name: str, where: str = "predictor", registry: Registry = PREDICTORS) -> None:
    """Raise ConfigError, which begins with ``where``, when there is no predictor ``name``."""
    if name not in registry:
        raise ConfigError(
            f"{where}: no predictor '{name}'{suggestion(name, registry)}; "
            f"there are {', '.join(registry)}"
        )


def predict(curves: Curves, target: float, predictor: Predictor | str = "hrb") -> Array:
    """(M,) losses at ``target`` examples by a predictor that is no mixture.

    NaN for a candidate whose curve is too short. Raises ConfigError when there is no such
    predictor, and DataError when the curves lack what it needs. Mixtures are weighed by a backtest:
    see ``lensllm.selection.ranking.rank``.

    >>> sizes = np.array([100.0, 200.0, 400.0, 800.0])
    >>> curves = Curves(("gpt2",), sizes, 3 * sizes[None, :, None] ** -0.1)
    >>> predict(curves, 6400, AtS(gamma=4)).round(4)
    array([1.2488])
    """
    if isinstance(predictor, str):
        check_name(predictor)
        predictor = plain(predictor)
    loss: Array = predictor.predict(curves, np.array([float(target)])).loss[:, 0]
    return loss


__all__ = [
    "DEFAULT_PRIOR",
    "PREDICTORS",
    "AtS",
    "Function",
    "Hrb",
    "Input",
    "LensLLM",
    "Mixture",
    "Prediction",
    "Predictor",
    "Prior",
    "Registry",
    "check_name",
    "names_reading",
    "needed_sizes",
    "parts",
    "plain",
    "predict",
    "reads",
    "settings",
    "with_settings",
]
