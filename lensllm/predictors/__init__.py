"""Predictors, one per file. To add one: write its ``predict``, or the ``weigh`` of a
mixture, and give it a line here."""

from lensllm.predictors import (
    ats,
    blend,
    hrb,
    lensllm,
    lensllm_phase,
    lensllm_pooled,
    model_size,
    nlp_metrics,
    rectified,
    stack,
    sub_tuning,
    vanilla,
    zero_shot,
)
from lensllm.predictors.prediction import Mixture, Prediction, Predictor

PREDICTORS: dict[str, Predictor | Mixture] = {
    "zero_shot": Predictor(zero_shot.predict, needed_sizes=0),
    "model_size": Predictor(model_size.predict, needed_sizes=1),
    "sub_tuning": Predictor(sub_tuning.predict, needed_sizes=1),
    "vanilla": Predictor(vanilla.predict, needed_sizes=3),
    "rectified": Predictor(rectified.predict, needed_sizes=4),
    "ats": Predictor(ats.predict, needed_sizes=2, with_line=True),
    "hrb": Predictor(hrb.predict, needed_sizes=1),
    "blend": Mixture(("ats", "hrb"), blend.weigh),
    "stack": Mixture(("ats", "hrb"), stack.weigh),
    "lensllm": Predictor(lensllm.predict, needed_sizes=4, with_kernel=True),
    "lensllm_phase": Predictor(lensllm_phase.predict, needed_sizes=3, with_kernel=True),
    "lensllm_pooled": Predictor(lensllm_pooled.predict, needed_sizes=4, with_kernel=True),
    "pl_alpha": Predictor(nlp_metrics.pl_alpha, needed_sizes=1, with_weights=True),
    "e_tpl_lambda": Predictor(nlp_metrics.e_tpl_lambda, needed_sizes=1, with_weights=True),
}

_SINGLE = {name: made for name, made in PREDICTORS.items() if isinstance(made, Predictor)}
WITH_KERNEL = tuple(name for name, made in _SINGLE.items() if made.with_kernel)
# Those that a table of losses is enough for.
OF_LOSSES = tuple(
    name
    for name in PREDICTORS
    if name not in _SINGLE or not (_SINGLE[name].with_kernel or _SINGLE[name].with_weights)
)


def needed_sizes(name: str, gamma: int) -> int:
    """The fewest observed sizes that ``name`` predicts from, where AtS's line needs ``gamma``."""
    predictor = PREDICTORS[name]
    if isinstance(predictor, Mixture):
        return max(needed_sizes(part, gamma) for part in predictor.parts)
    return max(predictor.needed_sizes, gamma if predictor.with_line else 0)


__all__ = [
    "OF_LOSSES",
    "PREDICTORS",
    "WITH_KERNEL",
    "Mixture",
    "Prediction",
    "Predictor",
    "needed_sizes",
]
