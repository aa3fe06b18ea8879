"""Candidates as models: the folder, identity and tokenizer of each."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from lensllm.config.sections import Candidate, FineTune, Pipeline
from lensllm.core.errors import ModelError, suggestion
from lensllm.data.readers import checksum
from lensllm.models import checkpoint, gguf, hub
from lensllm.models.zoo import specs
from lensllm.store.artifacts import Store
from tasks.base.model import BUILTIN, Model
from tasks.stages import dequantise, download, pretext, pretrain, tokenizer

# Files that determine what a tokenizer does; .txt are the merges of a byte-level one.
_WORDS = ("token", "vocab", "merges", "chat_template")
_SUFFIXES = (".json", ".model", ".txt", ".jinja", ".tiktoken")


def resolve(config: Pipeline, candidate: Candidate, store: Store) -> Model:
    """The model of a candidate. Raises ``ModelError`` when there is no such model."""
    settings, longest = config.finetune_of(candidate), config.data.max_tokens
    path = Path(candidate.model).expanduser()
    named = _on_hub(candidate)
    if candidate.revision and not named:
        raise ModelError(
            f"candidates: {candidate.name} has a revision, and '{candidate.model}' is not on the "
            "hub; leave it out"
        )
    if named:
        return _hub(candidate, settings, store, hub.resolve(*named), longest)
    if candidate.model.startswith(BUILTIN):
        return _builtin(candidate, settings, store, longest)
    if path.suffix == gguf.SUFFIX:
        return _gguf(candidate, settings, store, path, longest)
    if not path.exists():
        raise ModelError(f"candidates: {_missing(path)}")
    checkpoint.check(path, longest)
    weights, tokens = _fingerprints(path)
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return Model(
        candidate.name,
        settings,
        path,
        tokens,
        path,
        {"model": weights},
        family=checkpoint.family(path),
        work=size / 4,
    )


def pinned(config: Pipeline) -> Pipeline:
    """``config`` with the commit that each hub model's revision is now: what replays it."""
    candidates = []
    for candidate in config.candidates:
        if named := _on_hub(candidate):
            found = hub.resolve(*named)
            candidate = candidate.model_copy(update={"model": found.repo, "revision": found.commit})
        candidates.append(candidate)
    return config.model_copy(update={"candidates": tuple(candidates)})


def _on_hub(candidate: Candidate) -> tuple[str, str | None] | None:
    """Id and revision, where the model is one on the hub; a path that exists is not."""
    named = hub.parse(candidate.model)
    if not named or candidate.model.startswith((".", "~")):
        return None
    path = Path(candidate.model)
    if path.exists() or path.suffix == gguf.SUFFIX:
        return None
    repo, revision = named
    if revision and candidate.revision and revision != candidate.revision:
        raise ModelError(
            f"candidates: {candidate.name} has two revisions, {revision} and "
            f"{candidate.revision}; leave one out"
        )
    return repo, revision or candidate.revision


def _missing(path: Path) -> str:
    """No such path: what may have been meant."""
    others = map(str, path.parent.iterdir()) if path.parent.is_dir() else ()
    return (
        f"no such folder: {path}{suggestion(str(path), others)}; give a folder with a transformers "
        "checkpoint, or org/name of a model on the hub"
    )


def _hub(
    candidate: Candidate, settings: FineTune, store: Store, found: hub.Snapshot, longest: int
) -> Model:
    checkpoint.check_settings(found.folder, longest)
    fetched = download.step(found)
    if not found.complete and store.has(fetched.ref):
        store.remove(fetched.ref)  # somebody emptied the cache
    return Model(
        candidate.name,
        settings,
        found.folder,
        _checksum(_words(found.folder)),
        found.folder,
        upstream={"model": fetched.ref},
        steps=(fetched,),
        family=checkpoint.family(found.folder),
        work=max(found.weight_bytes, 4) / 4,
    )


def _gguf(
    candidate: Candidate, settings: FineTune, store: Store, path: Path, longest: int
) -> Model:
    family = gguf.check(path, longest)
    made = dequantise.step(candidate.name, path, checksum(path))
    folder = store.path(made.ref) / "model"
    return Model(
        candidate.name,
        settings,
        folder,
        made.ref,
        folder,
        upstream={"model": made.ref},
        steps=(made,),
        configuration=path,
        family=family,
        work=2.0 * path.stat().st_size,  # about four bits a weight
    )


def _builtin(candidate: Candidate, settings: FineTune, store: Store, longest: int) -> Model:
    name = candidate.model.removeprefix(BUILTIN)
    if name in gguf.PACKAGED:
        return _gguf(candidate, settings, store, gguf.packaged(name), longest)
    known = [*specs.SPECS, *gguf.PACKAGED]
    if name not in specs.SPECS:
        raise ModelError(
            f"candidates: no builtin '{name}'{suggestion(name, known)}; "
            f"there are {', '.join(known)}"
        )
    text = pretext.step()
    bpe = tokenizer.step(text.ref)
    model = pretrain.step(specs.SPECS[name], text.ref, bpe.ref)
    return Model(
        candidate.name,
        settings,
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
    weights = sorted(folder.glob("*.safetensors"))
    return _checksum([folder / "config.json", *weights]), _checksum(_words(folder))


def _words(folder: Path) -> list[Path]:
    """The files of its tokenizer."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in _SUFFIXES
        and (path.suffix == ".model" or any(word in path.name for word in _WORDS))
    )


def _checksum(files: list[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + bytes.fromhex(checksum(path)))
    return total.hexdigest()
