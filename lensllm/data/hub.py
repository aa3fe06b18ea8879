"""Data sets of the Hugging Face hub, or a copy of one in a folder, by the datasets library."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lensllm.core.errors import DataError
from lensllm.data import readers
from lensllm.data.readers import Rows, Table

PREFIX = "hub:"
_BATCH = 1000  # rows in memory at a time
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ADVICE = (
    "check the name; a gated one wants hf auth login and its licence accepted; without network, "
    "fetch it where there is one (hf download --repo-type dataset) and give hub: and the folder"
)


def is_hub(source: str) -> bool:
    """True for ``hub:…``, and for ``org/name`` where there is no such file."""
    if source.startswith(PREFIX):
        return True
    return bool(_ID.fullmatch(source)) and not Path(source).suffix and not Path(source).exists()


def identity(source: str, config: str | None, split: str, revision: str | None) -> dict[str, Any]:
    """The commit, or the checksum of a folder's files, which determines the rows."""
    name = source.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision:
            raise DataError(f"data.revision: {folder} is a folder and has no revisions; leave it")
        total = hashlib.sha256()
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts):
            name_and_content = f"{path.relative_to(folder).as_posix()}\0{readers.checksum(path)}\n"
            total.update(name_and_content.encode())
        version = {"files": total.hexdigest()}
    else:
        version = {"commit": _commit(name, revision)}
    return {**version, "config": config, "split": split}


def open_table(
    source: str, config: str | None, split: str, revision: str | None, most_bytes: int
) -> Table:
    """One split, whose rows have at most so many bytes.

    Raises ``DataError`` when there is no such data set, configuration or split.
    """
    name = source.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    rows = _load(name, folder, config, split, revision)
    if not len(rows):
        raise DataError(f"{source}: the split '{split}' is empty")

    def read(columns: Collection[str]) -> Rows:
        number = 0
        for batch in rows.select_columns(sorted(columns)).iter(_BATCH):
            for values in zip(*batch.values(), strict=True):
                number += 1
                if sum(len(value) for value in values if isinstance(value, str)) > most_bytes:
                    raise readers.too_long(f"{source}: row {number}", most_bytes)
                yield number, dict(zip(batch, values, strict=True))

    label = f"{folder.name if folder.is_dir() else name}:{split}"
    return Table(f"{name}, split {split}", label, tuple(rows.column_names), read)


def _load(name: str, folder: Path, config: str | None, split: str, revision: str | None) -> Any:
    import datasets

    datasets.disable_progress_bars()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            saved = datasets.load_from_disk(folder)
            if isinstance(saved, dict) and split not in saved:
                known = ", ".join(saved)
                raise DataError(f"data.split: {name} has no split '{split}'; it has {known}")
            return saved[split] if isinstance(saved, dict) else saved
        if folder.is_dir():
            return datasets.load_dataset(str(folder), config, split=split)
        commit = _commit(name, revision)
        return datasets.load_dataset(name, config, split=split, revision=commit)
    except DataError:
        raise
    except Exception as error:  # the library and its readers each raise their own
        said = str(error).lower()
        advice = "set data.split" if "split" in said else _ADVICE
        advice = "set data.config" if "config" in said else advice
        raise DataError(f"data.source: {name}: {_first_line(error)}; {advice}") from None


def _commit(name: str, revision: str | None) -> str:
    """The commit that ``revision`` is now, from the hub or, without network, from its cache."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not _ID.fullmatch(name):
        raise DataError(f"data.source: {name} is neither a folder here nor org/name of a data set")
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        info = HfApi().dataset_info(name, revision=revision, timeout=10)
        return str(info.sha)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status is not None and status < 500:
            raise DataError(f"data.source: {name}: {_first_line(error)}; {_ADVICE}") from None
    except (OfflineModeIsEnabled, OSError, RuntimeError, ValueError):
        pass  # no network: the cache may know
    except Exception as error:  # the client's own network errors
        if "onnect" not in type(error).__name__ and "imeout" not in type(error).__name__:
            raise
    cache = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    known = cache / "refs" / (revision or "main")
    if known.is_file():
        return known.read_text().strip()
    raise DataError(
        f"data.source: {name} is no folder here, the hub cannot be reached, and the cache does "
        f"not have it; {_ADVICE}"
    )


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).strip().split("\n", 1)[0].rstrip(".")
