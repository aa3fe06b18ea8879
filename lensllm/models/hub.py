"""Models on the Hugging Face hub: an id and a revision become a commit and a folder.

Configuration and tokenizer are fetched at once, weights when they are needed. All files are in the
hub's own cache (``HF_HOME``), which also serves without a network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lensllm.core.errors import ModelError
from lensllm.models import checkpoint

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^\s@]+))?")
_MAIN = "main"
_CONFIG = "config.json"
# Files beside the weights; no Python, no pickles.
_SMALL = ("config.json", "generation_config.json", checkpoint.INDEX, "tokenizer*", "vocab*",
          "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*",
          "*.model", "*.tiktoken")  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.ckpt")
_NEVER = ("*.py", "*.pkl", *_PICKLED)
_SECONDS = 15  # until the hub counts as unreachable

log = logging.getLogger("lensllm.hub")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a model."""

    repo: str
    commit: str
    folder: Path  # in the cache, with configuration and tokenizer
    weights: tuple[str, ...]
    weight_bytes: int

    @property
    def complete(self) -> bool:
        """True if the weights are there, too."""
        return all((self.folder / name).is_file() for name in self.weights)


# A branch may move while a command runs; it sees one commit.
_known: dict[tuple[str, str | None], Snapshot] = {}


def parse(model: str) -> tuple[str, str | None] | None:
    """Id and revision where ``model`` looks like ``org/name`` or ``org/name@revision``."""
    found = _ID.fullmatch(model)
    return (found["repo"], found["revision"]) if found else None


def resolve(repo: str, revision: str | None) -> Snapshot:
    """The commit that ``revision`` (a branch, tag or commit; None: main) is now.

    Without a network, the last known commit. Raises ``ModelError`` if there is no such model, or it
    may not be read or loaded safely.
    """
    if (repo, revision) not in _known:
        found = _ask(repo, revision or _MAIN)
        _known[repo, revision] = _known[repo, found.commit] = found
    return _known[repo, revision]


def _ask(repo: str, asked: str) -> Snapshot:
    from huggingface_hub import HfApi, errors

    try:
        api = HfApi(library_name="lensllm")
        info = api.model_info(repo, revision=asked, files_metadata=True, timeout=_SECONDS)
        names = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        commit = str(info.sha)
        if _CONFIG not in names:
            raise ModelError(_without_config(repo, names))
        _fetch(repo, _CONFIG, asked)  # notes in the cache which commit the revision is
        small = [n for n in names if _matches(n, _SMALL) and not _matches(n, _NEVER)]
        fetched = [_fetch(repo, name, commit) for name in small]
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise ModelError(_refused(repo, asked, error)) from None
        return _cached(repo, asked, f"answered {error.response.status_code}")
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        offline = isinstance(error, errors.OfflineModeIsEnabled)
        return _cached(repo, asked, "" if offline else "cannot be reached")
    except (OSError, ValueError) as error:  # the cache's disk, or a mirror that answers in HTML
        raise ModelError(
            f"candidates: {repo} could not be asked for ({type(error).__name__}); check that "
            f"{_endpoint()} is a hub and that its cache, HF_HOME, can be written"
        ) from None
    folder = fetched[0].parent
    weights = _weights(folder, names)
    if not weights:
        raise ModelError(_without_weights(repo, names))
    return Snapshot(repo, commit, folder, weights, sum(names.get(name, 0) for name in weights))


def download(repo: str, commit: str, names: Iterable[str]) -> dict[str, Path]:
    """Fetch files of a commit that the cache lacks; the path of each. Raises ``ModelError``."""
    from huggingface_hub import errors

    try:
        return {name: _fetch(repo, name, commit) for name in names}
    except errors.HfHubHTTPError as error:
        raise ModelError(_refused(repo, commit, error)) from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise ModelError(
            f"{repo}: its weights could not be downloaded ({type(error).__name__}); check the "
            "network and the disk's free space, and run again to go on"
        ) from None


def _fetch(repo: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, revision=revision, library_name="lensllm"))


def _cached(repo: str, asked: str, why: str) -> Snapshot:
    """The cached commit; ``why`` the hub says nothing, empty if it was not asked."""
    from huggingface_hub import constants, errors, hf_hub_download

    said = f"the hub ({_endpoint()}) {why}" if why else "HF_HUB_OFFLINE is set"
    place = f"the cache ({constants.HF_HUB_CACHE})"
    try:
        found = hf_hub_download(repo, _CONFIG, revision=asked, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        raise ModelError(
            f"candidates: {repo}@{asked} is not in {place}, there is no such folder, and {said}; "
            "download it where there is a network and copy it here, as a folder or that cache"
        ) from None
    folder = Path(found).parent
    weights = _weights(folder, [path.name for path in folder.iterdir()])
    there = [folder / name for name in weights if (folder / name).is_file()]
    size = sum(path.stat().st_size for path in there)
    snapshot = Snapshot(repo, folder.name, folder, weights, size)
    if not weights or not snapshot.complete:
        raise ModelError(
            f"candidates: {place} has {repo}@{asked} without all its weights, and {said}; "
            "run once with a network to complete it"
        )
    if why and asked != snapshot.commit:
        log.warning("%s, so %s@%s is what it was, %s", said, repo, asked, snapshot.commit[:7])
    return snapshot


def _weights(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """The files that transformers would load."""
    return tuple(checkpoint.shards(folder)) or tuple(n for n in names if n == checkpoint.WHOLE)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)


def _refused(repo: str, revision: str, error: Any) -> str:
    """The sentence for an answer of the hub, without the answer's text: it may quote a token."""
    from huggingface_hub import errors, get_token

    page = f"{_endpoint()}/{repo}"
    known = get_token() is not None
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        accept = f"accept its licence on {page}"
        if not known:
            return f"candidates: {repo} is gated: {accept}, then log in here with `hf auth login`"
        return (
            f"candidates: {repo} is gated and your account has no access yet: {accept}, and run "
            "again once access is granted"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"candidates: {repo} has no revision '{revision}'; its branches and tags are on "
            f"{page}/tree/main"
        )
    if isinstance(error, errors.DisabledRepoError):
        return f"candidates: {repo} is disabled on the hub; see {page}"
    if isinstance(error, errors.RepositoryNotFoundError):
        private = "your account has no access to it" if known else "log in with `hf auth login`"
        return (
            f"candidates: no model '{repo}' on the hub ({_endpoint()}) and no such folder; "
            f"check how its organisation and name are spelt, or, if it is private, {private}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"candidates: a file of {repo}@{revision} is gone from the hub; see {page}"
    if status == 401:
        return "candidates: the hub refuses your token; log in again with `hf auth login`"
    return f"candidates: the hub refuses {repo} (HTTP {status}); see {page}, or try again later"


def _endpoint() -> str:
    """The hub's address, without the credentials that a mirror's may hold."""
    from huggingface_hub import constants

    return re.sub(r"//[^/@]*@", "//***@", constants.ENDPOINT)


def _without_config(repo: str, names: Iterable[str]) -> str:
    if "adapter_config.json" in names:
        return (
            f"candidates: {repo} holds adapters without their model; merge them into it and give "
            "that folder"
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return (
            f"candidates: {repo} holds GGUF files; download one, `hf download {repo} {gguf[0]} "
            "--local-dir models`, and give its path"
        )
    return f"candidates: {repo} has no config.json, so it is no transformers checkpoint"


def _without_weights(repo: str, names: Iterable[str]) -> str:
    pickled = [name for name in names if _matches(name, _PICKLED)]
    has = f"only {pickled[0]}, and pickled weights are never loaded" if pickled else "none"
    return (
        f"candidates: {repo} has no safetensors weights ({has}); take a revision that has them, or "
        "load it where you trust it and use save_pretrained"
    )
