"""What a campaign of kills has counted, and its tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.e2e.kill_plan import MOMENTS, SERVER_FIRST, SIGNALS, Kill

LONGEST_END_SECONDS = 15.0  # after SIGINT or SIGTERM; 5 is what is promised on an idle machine


@dataclass
class Counts:
    """What a campaign has counted."""

    killed: Counter[Kill] = field(default_factory=Counter)
    commands: int = 0
    finished: int = 0  # files of artefacts that were watched
    lost: list[str] = field(default_factory=list)  # finished, and gone or changed later
    twice: list[str] = field(default_factory=list)  # cells said to be computed more than once
    drafts: int = 0  # complete, and left unpublished by a kill
    unsaid: int = 0  # cells published by a command that was killed before it said so
    differing: list[str] = field(default_factory=list)  # final tables
    left: list[str] = field(default_factory=list)  # behind, after the last command
    odd: list[str] = field(default_factory=list)  # other faults
    ends: list[tuple[float, Kill]] = field(default_factory=list)  # seconds after SIGINT, SIGTERM

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def faults(self) -> list[str]:
        """What must not be, however busy the machine is."""
        return [*self.lost, *self.twice, *self.differing, *self.left, *self.odd]

    @property
    def late(self) -> list[str]:
        """Commands that ended too late, which the campaign counts as faults, on an idle machine."""
        return [f"{seconds:.1f} s: {kill}" for seconds, kill in self.ends
                if seconds > LONGEST_END_SECONDS]  # fmt: skip

    def __str__(self) -> str:
        victims = sorted({victim for _, victim, _ in self.killed})
        lines = ["| killed by SIGINT / SIGTERM / SIGKILL | " + " | ".join(MOMENTS) + " | all |",
                 "|---" * (len(MOMENTS) + 2) + "|"]  # fmt: skip
        for victim in (*victims, "all"):
            counts = [
                sum(n for (m, v, _), n in self.killed.items()
                    if m == moment and victim in (v, "all"))
                for moment in MOMENTS
            ]  # fmt: skip
            signals = [
                sum(n for (_, v, s), n in self.killed.items() if s == way and victim in (v, "all"))
                for way in SIGNALS
            ]
            row = " | ".join(str(n or "–") for n in counts)
            lines.append(f"| {victim} | {row} | {' / '.join(map(str, signals))} |")
        seconds = sorted(end for end, _ in self.ends) or [0.0]
        after = sorted(end for end, (_, v, _) in self.ends if v == SERVER_FIRST) or [0.0]
        lines += [
            "",
            "| kills | commands | files of finished artefacts: lost or changed "
            "| cells computed twice | final tables that differ | left behind |",
            "|---" * 6 + "|",
            f"| {self.killed.total()} | {self.commands} | {len(self.lost)} of {self.finished} "
            f"| {len(self.twice)} | {len(self.differing)} | {len(self.left)} |",
            "",
            f"Seconds from SIGINT or SIGTERM to the end of a command ({len(seconds)}): "
            f"median {seconds[len(seconds) // 2]:.1f}, "
            f"nine in ten {seconds[int(0.9 * (len(seconds) - 1))]:.1f}, "
            f"longest {seconds[-1]:.1f}; "
            f"over 5 s: {sum(s > 5 for s in seconds)}; "
            f"server killed before ({len(after)}): longest {after[-1]:.1f}.",
            f"Complete drafts that a kill kept from being published: {self.drafts}. "
            f"Cells published and never said to be: {self.unsaid}.",
            *self.faults,
            *self.late,
        ]
        return "\n".join(lines)
