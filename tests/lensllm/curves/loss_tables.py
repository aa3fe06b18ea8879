"""Tables of losses as texts, for the tests of how they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from lensllm.core.errors import DataError
from lensllm.curves.tables import LossTable, read

LONG = """\
candidate,size,loss,seed,parameters,family
org/b-1.5B,400,2.5,0,1500000000,B
org/b-1.5B,200,2.75,0,1500000000,B
org/b-1.5B,0,4,0,1500000000,B
org/b-1.5B,1000,2.25,0,1500000000,B
org/a-124M,0,5,0,,A
org/a-124M,200,,0,,A
org/a-124M,400,3.5,0,,A
org/a-124M,1000,3.25,0,,A
"""
WIDE = """\
config name,0,1000,200,400,size,family
org/b-1.5B,4,2.25,2.75,2.5,1500000000,B
org/a-124M,5,3.25,,3.5,,A
"""
EXPECTED = [
    ("org/b-1.5B", 0, 0, 4.0),
    ("org/b-1.5B", 200, 0, 2.75),
    ("org/b-1.5B", 400, 0, 2.5),
    ("org/b-1.5B", 1000, 0, 2.25),
    ("org/a-124M", 0, 0, 5.0),
    ("org/a-124M", 400, 0, 3.5),
    ("org/a-124M", 1000, 0, 3.25),
]


def read_text(folder: Path, text: str | bytes, name: str = "losses.csv") -> LossTable:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(str(path))


def rows(table: LossTable) -> list[tuple[str, int, int, float]]:
    return list(
        table.cells[["candidate", "size", "repeat", table.metric]].itertuples(
            index=False, name=None
        )
    )


def long(*cells: str, header: str = "candidate,size,loss") -> str:
    """A readable long table with ``cells`` added in lines 8, 9, …"""
    fill = ",".join("0" for _ in header.split(",")[3:])
    good = [f"{c},{d},{3 - d / 1000}{',' + fill if fill else ''}" for c in "ab" for d in (1, 2, 3)]
    return "\n".join([header, *good, *cells]) + "\n"


def refusal(folder: Path, text: str | bytes) -> str:
    """The sentence that says what is wrong with a table, without the name of its file."""
    with pytest.raises(DataError) as caught:
        read_text(folder, text)
    file, said = f"{folder / 'losses.csv'}: ", str(caught.value)
    assert said.startswith(file)
    assert "\n" not in said
    return said.removeprefix(file)


def families(table: LossTable) -> dict[str, str]:
    """The family of every candidate that has one."""
    known = table.cells[table.cells["family"] != ""].groupby("candidate")["family"]
    assert (known.nunique() == 1).all()
    return known.first().to_dict()
