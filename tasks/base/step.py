"""A step: one artefact to be made, its label, its upstream roles, and the context of its build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lensllm.store import artifacts
from lensllm.store.artifacts import Recipe, Ref, Store

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, order=True)
class Cell:
    """A fine-tuning run: candidate, subset size D and repeat; ``name|D|repeat`` as a label."""

    candidate: str
    size: int
    repeat: int

    def __str__(self) -> str:
        return f"{self.candidate}|{self.size}|{self.repeat}"

    @staticmethod
    def parse(text: str) -> Cell:
        """The cell that ``str`` wrote as ``text``."""
        candidate, size, repeat = text.split("|")
        return Cell(candidate, int(size), int(repeat))


class Trial(NamedTuple):
    """A fine-tuning run that helps to choose a candidate's learning rate."""

    candidate: str
    learning_rate: float


Label = Cell | Trial | str | int  # "" for the only artefact of a stage


@dataclass(frozen=True)
class Step:
    """One artefact to be made, with its name for people."""

    label: str
    recipe: Recipe
    hints: Mapping[str, Any] = field(default_factory=dict)
    """Inputs of the build that do not change the result: folder of the model, device."""
    timeout_seconds: float | None = None
    weight: float = 1.0
    """Work relative to other steps of the stage, to tell how long is left."""
    in_worker: bool = True
    """Small tables are made in the command's own process."""
    after: tuple[Ref, ...] = ()
    """Artefacts it goes on from where they are there, and waits for where they are to be made."""

    @property
    def ref(self) -> Ref:
        return self.recipe.ref

    @property
    def stage(self) -> str:
        return self.recipe.stage


@dataclass(frozen=True)
class BuildContext:
    """The store that a build reads, the artefact it makes, and the folder it fills."""

    store: Store
    params: Mapping[str, Any]
    upstream: Mapping[str, Ref]
    hints: Mapping[str, Any]
    folder: Path
    ref: Ref

    def write(self, table: str, rows: pd.DataFrame | list[Any]) -> None:
        """Write ``rows`` as the table of that name in ``lensllm.store.schemas``."""
        artifacts.write_table(self.folder, table, rows)

    def table(self, role: str, table: str, columns: list[str] | None = None) -> pd.DataFrame:
        """``table`` of the artefact in the upstream ``role``; all columns unless named."""
        return self.store.table(self.upstream[role], table, columns)

    def each(self, kind: str) -> dict[str, Ref]:
        """The artefacts of a kind upstream by label: ``gpt2`` for the role ``kernel:gpt2``."""
        return labelled(self.upstream, kind)


# --- upstream roles -------------------------------------------------------------------------------
def roles(kind: str, refs: Mapping[Any, Ref]) -> dict[str, Ref]:
    """Upstream roles of a kind: ``kernel:gpt2`` for the kernel of gpt2, ``curve`` without label."""
    return {f"{kind}:{label}" if label != "" else kind: ref for label, ref in refs.items()}


def labelled(upstream: Mapping[str, Ref], kind: str) -> dict[str, Ref]:
    """The artefacts of a kind by label, in their order."""
    parts = {role: role.partition(":") for role in upstream}
    return {
        label: upstream[role] for role, (name, _, label) in parts.items() if name == kind and label
    }


def roles_of(upstream: Mapping[str, Ref], kind: str) -> list[Ref]:
    """The artefacts of a kind, with a label or without."""
    return [ref for role, ref in upstream.items() if role.partition(":")[0] == kind]


def first_row(table: str) -> Callable[[Store, Ref], dict[str, Any]]:
    """The reader of a table's first row."""

    def read(store: Store, ref: Ref) -> dict[str, Any]:
        return {str(name): value for name, value in store.table(ref, table).iloc[0].items()}

    return read
