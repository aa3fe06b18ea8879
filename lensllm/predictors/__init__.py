"""Predictors, one per file. To add one: write its ``predict`` and give it a line here."""

from lensllm.predictors import (
    ats,
    lensllm,
    lensllm_phase,
    model_size,
    rectified,
    sub_tuning,
    vanilla,
    zero_shot,
)
from lensllm.predictors.prediction import Prediction, Predictor

# growth: as measured over 1–8 doublings on the tables of Lin et al. 2024 (LensLLM: its law's)
PREDICTORS: dict[str, Predictor] = {
    "zero_shot": Predictor(zero_shot.predict, needed_sizes=0, growth=0.0),
    "model_size": Predictor(model_size.predict, needed_sizes=1, growth=0.0),
    "sub_tuning": Predictor(sub_tuning.predict, needed_sizes=1),
    "vanilla": Predictor(vanilla.predict, needed_sizes=3),
    "rectified": Predictor(rectified.predict, needed_sizes=4, growth=1.6),
    "ats": Predictor(ats.predict, needed_sizes=3),
    "lensllm": Predictor(lensllm.predict, needed_sizes=4, growth=1.6),
    "lensllm_phase": Predictor(lensllm_phase.predict, needed_sizes=3),
}

__all__ = ["PREDICTORS", "Prediction", "Predictor"]
