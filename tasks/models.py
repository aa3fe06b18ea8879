"""Candidates as models: where each lies, what it is identified by, and its tokenizer."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensllm.config import Candidate, FineTune, Pipeline
from lensllm.errors import ModelError, suggestion
from lensllm.models import checkpoint, specs
from lensllm.models.specs import ZooSpec
from lensllm.store import Ref, Store
from tasks import pretext, pretrain, tokenizer
from tasks.stage import Step

BUILTIN = "builtin:"


@dataclass(frozen=True)
class Model:
    """A candidate whose identity is known before its weights need exist."""

    name: str
    recipe: FineTune  # its own: the pipeline's, with what the candidate has otherwise
    folder: Path  # a transformers checkpoint, once ``steps`` are made
    tokenizer: Ref | str  # its artefact, or the checksum of its files
    tokenizer_folder: Path
    params: Mapping[str, Any] = field(default_factory=dict)  # of every recipe that uses the model
    upstream: Mapping[str, Ref] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()  # what makes it, in order; none for a folder
    specification: ZooSpec | None = None  # of an embedded candidate
    family: str = ""  # the architecture, which hrb takes for kinship
    work: float = 1.0  # of one example, relative to other candidates: about its weights


def resolve(config: Pipeline, candidate: Candidate, store: Store) -> Model:
    """The model of a candidate. Raises ``ModelError`` when there is no such model."""
    recipe = config.recipe(candidate)
    if candidate.model.startswith(BUILTIN):
        return _builtin(candidate, recipe, store)
    folder = Path(candidate.model).expanduser()
    checkpoint.check(folder, config.data.max_tokens)
    weights, tokens = _fingerprints(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Model(
        candidate.name,
        recipe,
        folder,
        tokens,
        folder,
        {"model": weights},
        family=checkpoint.family(folder),
        work=size / 4,
    )


def _builtin(candidate: Candidate, recipe: FineTune, store: Store) -> Model:
    name = candidate.model.removeprefix(BUILTIN)
    if name not in specs.SPECS:
        raise ModelError(
            f"candidates: no builtin '{name}'{suggestion(name, specs.SPECS)}; "
            f"there are {', '.join(specs.SPECS)}"
        )
    text = pretext.step()
    bpe = tokenizer.step(text.ref)
    model = pretrain.step(specs.SPECS[name], text.ref, bpe.ref)
    return Model(
        candidate.name,
        recipe,
        store.path(model.ref) / "model",
        bpe.ref,
        store.path(bpe.ref) / "tokenizer",
        upstream={"model": model.ref},
        steps=(text, bpe, model),
        specification=specs.SPECS[name],
        family=specs.SPECS[name].architecture,
        work=specs.SPECS[name].work,
    )


@functools.cache
def _fingerprints(folder: Path) -> tuple[str, str]:
    """Checksums of the weights with their configuration, and of the tokenizer."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".model"))
    model = [p for p in files if p.suffix == ".safetensors" or p.name == "config.json"]
    words = [p for p in files if "token" in p.name or p.name in ("vocab.json", "merges.txt")]
    return _checksum(model), _checksum(words)


def _checksum(files: list[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            total.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
