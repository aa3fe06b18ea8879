"""A cell: one candidate fine-tuned on one subset, by a training loop of our own.

``loop`` trains, ``accumulate`` takes the gradients of one step, ``schedule`` says at which rate and
on which examples, ``evaluate`` measures a loss, ``memory`` remembers what fits, ``resume`` goes on
where a killed cell was, ``ranks`` spreads a cell over several processes.
"""

from lensllm.training.evaluate import HeldOut, evaluate, finite
from lensllm.training.loop import Diverged, Epoch, Tuned, fine_tune
from lensllm.training.schedule import batches, learning_rate

__all__ = [
    "Diverged",
    "Epoch",
    "HeldOut",
    "Tuned",
    "batches",
    "evaluate",
    "fine_tune",
    "finite",
    "learning_rate",
]
