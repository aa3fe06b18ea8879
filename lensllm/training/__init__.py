"""A cell: one candidate fine-tuned on one subset.

``loop`` trains by a schedule, ``accumulate`` computes the gradients of one step, ``evaluate`` a
loss, ``memory`` finds batch sizes that fit, ``resume`` keeps checkpoints, ``ranks`` shards a cell
over several processes, ``throughput`` times a candidate.
"""

from lensllm.training.evaluate import EvaluationResult, evaluate, require_finite
from lensllm.training.loop import (
    Diverged,
    Epoch,
    TrainingResult,
    batches,
    fine_tune,
    learning_rate,
)

__all__ = [
    "Diverged",
    "Epoch",
    "EvaluationResult",
    "TrainingResult",
    "batches",
    "evaluate",
    "fine_tune",
    "learning_rate",
    "require_finite",
]
