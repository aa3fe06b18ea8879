"""``lensllm verify``: read and check every artefact of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lensllm.store.artifacts import Ref, Store


@dataclass(frozen=True)
class Verified:
    """The artefacts of a folder, and which of them are damaged."""

    artefacts: int
    bytes: int
    damaged: tuple[tuple[Ref, str], ...]  # and what is wrong with each
    repaired: bool

    @property
    def as_dict(self) -> dict[str, Any]:
        """The content of ``--json``."""
        return {
            "artefacts": self.artefacts,
            "bytes": self.bytes,
            "damaged": [
                {"stage": ref.stage, "key": ref.key, "fault": fault} for ref, fault in self.damaged
            ],
            "repaired": self.repaired,
        }


def verify(store: Store, *, repair: bool) -> Verified:
    """Check every artefact; with ``repair`` remove damaged ones, so that a run makes them again."""
    present = store.present()
    damaged = tuple((ref, fault) for ref in present if (fault := store.fault(ref)))
    size = sum(store.size_bytes(ref) for ref in present)
    if repair:
        for ref, _ in damaged:
            store.remove_damaged(ref)
    return Verified(len(present), size, damaged, repair)


def screen(found: Verified) -> RenderableType:
    """The terminal's table: each damaged artefact with its fault, and what to do."""
    total = f"{found.artefacts:,} artefacts, {found.bytes / 1e6:,.1f} MB"
    if not found.damaged:
        return Text(f"{total}: all as they were written.")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("artefact", no_wrap=True)
    table.add_column("fault", overflow="fold")
    for ref, fault in found.damaged:
        table.add_row(Text(f"{ref.stage}/{ref.key}"), Text(fault))
    table.title_justify = table.caption_justify = "left"
    done = "removed; the next run makes" if found.repaired else "remove with --repair; a run makes"
    table.caption = f"{total}, {len(found.damaged)} damaged: {done} what it needs of them again."
    return table
