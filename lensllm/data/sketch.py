"""A uniform sample of distinct contents from one pass: those with the smallest hashes.

A bottom-k sketch (Cohen and Kaplan 2007): the sample does not depend on the order of the rows.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


def digest(*parts: str) -> int:
    """96 bits of the content: two of 10⁹ contents are equal with probability 10⁻¹¹."""
    total = hashlib.blake2b(digest_size=12, person=b"lensllm")
    for part in parts:
        content = part.encode()
        total.update(len(content).to_bytes(8) + content)
    return int.from_bytes(total.digest())


@dataclass
class Sketch(Generic[T]):
    """The ``keep`` contents with the smallest digests, in the order in which they came."""

    keep: int
    rows: int = 0  # seen, repeated ones too
    _found: dict[int, T] = field(default_factory=dict)
    _times: dict[int, int] = field(default_factory=dict)
    _largest: list[int] = field(default_factory=list)  # a heap of negative digests

    def add(self, content: int, item: T) -> None:
        """See ``item``, whose content has this digest; the first of equal ones is kept."""
        self.rows += 1
        if content in self._times:
            self._times[content] += 1
            return
        if len(self._times) == self.keep:
            if content > -self._largest[0]:
                return
            out = -heapq.heapreplace(self._largest, -content)
            del self._found[out], self._times[out]
        else:
            heapq.heappush(self._largest, -content)
        self._found[content], self._times[content] = item, 1

    def __contains__(self, content: int) -> bool:
        return content in self._times

    @property
    def items(self) -> list[T]:
        return list(self._found.values())

    @property
    def distinct(self) -> int:
        """The number of distinct contents, exact while all are kept or none is repeated.

        The mean count of those kept, a uniform sample, estimates that of all.
        """
        if not self._times:
            return 0
        return round(self.rows * len(self._times) / sum(self._times.values()))
