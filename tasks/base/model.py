"""A candidate as a model whose identity is known before its weights exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensllm.config.sections import FineTune
from lensllm.models.zoo.specs import ZooSpec
from lensllm.store.artifacts import Ref
from tasks.base.step import Step

BUILTIN = "builtin:"


@dataclass(frozen=True)
class Model:
    """A candidate whose identity is known before its weights need exist."""

    name: str
    settings: FineTune  # of its training: the pipeline's, with the candidate's overrides
    folder: Path  # a transformers checkpoint, once ``steps`` are made
    tokenizer: Ref | str  # its artefact, or the checksum of its files
    tokenizer_folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)  # of every recipe that uses the model
    upstream: Mapping[str, Ref] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()  # what makes it, in order; none for a folder
    configuration: Path | None = None  # what tells its shape before ``steps`` are made
    specification: ZooSpec | None = None  # of an embedded candidate
    family: str = ""  # the architecture, which hrb takes for kinship
    work: float = 1.0  # of one example, relative to other candidates: about its weights
