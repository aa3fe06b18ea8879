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
    "ats": Predictor(ats.predict, needed_sizes=3),
    "hrb": Predictor(hrb.predict, needed_sizes=1),
    "blend": Mixture(("ats", "hrb"), blend.weigh),
    "stack": Mixture(("ats", "hrb"), stack.weigh),
    "lensllm": Predictor(lensllm.predict, needed_sizes=4),
    "lensllm_phase": Predictor(lensllm_phase.predict, needed_sizes=3),
    "lensllm_pooled": Predictor(lensllm_pooled.predict, needed_sizes=4),
    "pl_alpha": Predictor(nlp_metrics.pl_alpha, needed_sizes=1),
    "e_tpl_lambda": Predictor(nlp_metrics.e_tpl_lambda, needed_sizes=1),
}

# Those whose prediction depends on the kernel of the candidates.
WITH_KERNEL = ("lensllm", "lensllm_phase", "lensllm_pooled")


def needed_sizes(name: str, gamma: int) -> int:
    """The fewest observed sizes that ``name`` predicts from, where AtS's line needs ``gamma``."""
    predictor = PREDICTORS[name]
    if isinstance(predictor, Mixture):
        return max(needed_sizes(part, gamma) for part in predictor.parts)
    return gamma if name == "ats" else predictor.needed_sizes


__all__ = ["PREDICTORS", "WITH_KERNEL", "Mixture", "Prediction", "Predictor", "needed_sizes"]
