"""A cell's name: one fine-tuning run of a candidate on a subset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Cell:
    """A candidate, a subset size D, and a repeat (seed); ``name|D|repeat`` in recipes."""

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
