"""The embedded candidates as plain numbers: a dozen small language models.

They differ in architecture, size and pretraining text, so that the best one depends on the amount
of fine-tuning data. ``lensllm.models.zoo.pretrain`` builds and trains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ZooSpec:
    """One candidate: its architecture and pretraining."""

    name: str
    architecture: str  # gpt2 | gpt_neo | t5 | opt | qwen3
    width: int
    layers: int  # of encoder and decoder each, for t5
    heads: int
    mix: Mapping[str, float]  # share of each kind of text
    steps: int
    learning_rate: float
    batch: int = 16
    length: int = 64  # tokens of a training sequence
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens read in pretraining."""
        return self.steps * self.batch * self.length

    @property
    def work(self) -> float:
        """Relative cost of a token: the number of weights in the blocks."""
        return 12.0 * self.layers * self.width**2

    def describe(self) -> dict[str, Any]:
        """Settings that the weights depend on besides text and tokenizer."""
        return asdict(self)


_MIX = {"docs": 1.0, "code": 1.0, "reference": 2.0}
_ALL = (
    ZooSpec("gpt2-nano-docs", "gpt2", 48, 2, 2, {"docs": 1.0}, steps=740, learning_rate=3e-3),
    ZooSpec(
        "neo-micro-topics", "gpt_neo", 96, 2, 4, {"reference": 1.0}, steps=450, learning_rate=3e-3
    ),
    ZooSpec("t5-mini-docs", "t5", 96, 2, 4, {"docs": 1.0}, steps=350, learning_rate=5e-3),
    ZooSpec("opt-mini-prose", "opt", 128, 3, 4, {"prose": 1.0}, steps=320, learning_rate=1.5e-3),
    ZooSpec("gpt2-mini-code", "gpt2", 128, 3, 4, {"code": 1.0}, steps=370, learning_rate=2e-3),
    ZooSpec("qwen3-mini-mix", "qwen3", 160, 3, 4, _MIX, steps=350, learning_rate=1.2e-3),
    # Six more for comparisons that need a dozen: other sizes, texts and lengths of pretraining.
    ZooSpec("gpt2-nano-code", "gpt2", 48, 2, 2, {"code": 1.0}, steps=300, learning_rate=3e-3),
    ZooSpec("gpt2-micro-mix", "gpt2", 80, 2, 4, _MIX, steps=900, learning_rate=2e-3),
    ZooSpec("neo-micro-docs", "gpt_neo", 96, 2, 4, {"docs": 1.0}, steps=120, learning_rate=3e-3),
    ZooSpec("opt-micro-topics", "opt", 96, 2, 4, {"reference": 1.0}, steps=240, learning_rate=2e-3),
    ZooSpec("t5-micro-code", "t5", 64, 2, 4, {"code": 1.0}, steps=500, learning_rate=5e-3),
    ZooSpec("qwen3-micro-prose", "qwen3", 96, 2, 4, {"prose": 1.0}, steps=60, learning_rate=2e-3),
)
SPECS: dict[str, ZooSpec] = {spec.name: spec for spec in _ALL}
