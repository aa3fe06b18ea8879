"""Tables of losses: two forms and three kinds of file, the published ones, and bad input."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensllm import schemas
from lensllm.curves import curves_from_cells
from lensllm.data import losses
from lensllm.data.losses import BUILTIN, LossTable, fingerprint, read
from lensllm.errors import DataError
from lensllm.store import write_table

NAN = float("nan")
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
        table.cells[["candidate", "size", "seed", table.metric]].itertuples(index=False, name=None)
    )


def long(*cells: str, header: str = "candidate,size,loss") -> str:
    """A readable long table with ``cells`` added in lines 8, 9, …"""
    fill = ",".join("0" for _ in header.split(",")[3:])
    good = [f"{c},{d},{3 - d / 1000}{',' + fill if fill else ''}" for c in "ab" for d in (1, 2, 3)]
    return "\n".join([header, *good, *cells]) + "\n"


# --- the published tables -------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILTIN)
def test_a_published_table_is_the_file_number_by_number(name: str) -> None:
    path = Path(losses.__file__).parents[1] / "tables" / f"{name}.csv"
    with path.open() as stream:
        header, *lines = list(csv.reader(stream))
    sizes = [int(title) for title in header[1:-2]]

    table = read(name)

    assert [0, *(200 * 2**k for k in range(14))] == sizes
    expected = [
        (line[0], size, 0, float(loss))
        for line in lines
        for size, loss in zip(sizes, line[1:-2], strict=True)
    ]
    assert len(expected) == 450
    assert expected == rows(table)
    assert {line[0]: line[-1] for line in lines} == table.families
    weights = table.cells.drop_duplicates("candidate").set_index("candidate")["parameters"]
    assert {line[0]: int(line[-2]) for line in lines} == weights.to_dict()
    assert table.metric == "nats_per_token"
    assert "ICML 2024" in table.citation


def test_the_oddities_told_of_the_published_tables_are_in_them() -> None:
    for name, builtin in BUILTIN.items():
        assert builtin.notes == read(name).notes
    cells = read("gigaword").cells.pivot(index="candidate", columns="size", values="nats_per_token")
    gap = cells.loc["microsoft/phi-2"] - cells.loc["MBZUAI/LaMini-GPT-1.5B"]
    np.testing.assert_allclose([-0.05, 0, 0.02], gap.iloc[-3:], atol=1e-12)
    fall = cells.loc["facebook/bart-base", 12_800] / cells.loc["facebook/bart-base", 6_400]
    assert round(fall, 2) == 0.85


def test_a_copy_of_a_published_table_is_the_same_input_and_keeps_its_citation(
    tmp_path: Path,
) -> None:
    flan = (Path(losses.__file__).parents[1] / "tables" / "flan.csv").read_bytes()
    copy = tmp_path / "mine.csv"
    copy.write_bytes(flan)

    assert fingerprint("flan") == fingerprint(str(copy)) != fingerprint("gigaword")
    table = read(str(copy))
    assert (read("flan").citation, read("flan").notes) == (table.citation, table.notes)

    copy.write_bytes(flan.replace(b"4.891325951", b"4.891325952"))
    assert fingerprint("flan") != fingerprint(str(copy))
    assert read(str(copy)).citation == ""


# --- forms and kinds of files ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [LONG, WIDE])
@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "text.parquet"])
def test_both_forms_and_every_kind_of_file_are_the_same_table(
    tmp_path: Path, text: str, kind: str
) -> None:
    path = tmp_path / f"losses.{kind}"
    match kind:
        case "csv":
            path.write_text(text)
        case "tsv":
            path.write_text(text.replace(",", "\t"))
        case "parquet":
            pd.read_csv(io.StringIO(text)).to_parquet(path)
        case "text.parquet":
            pd.read_csv(io.StringIO(text), dtype=str).to_parquet(path)

    table = read(str(path))

    assert rows(table) == EXPECTED
    assert table.families == {"org/b-1.5B": "B", "org/a-124M": "A"}
    weights = table.cells.groupby("candidate", sort=False)["parameters"].first()
    assert weights.tolist() == [1_500_000_000, pd.NA]
    assert (table.metric, table.citation) == ("nats_per_token", "")
    assert table.notes == ("1 of 8 losses are empty and were left out.",)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.replace("\n", "\r\n"), id="windows"),
        pytest.param(lambda t: t.replace("\n", "\r"), id="old-mac"),
        pytest.param(lambda t: "\ufeff" + t, id="byte-order-mark"),
        pytest.param(lambda t: t.rstrip("\n"), id="no-last-newline"),
        pytest.param(lambda t: t.replace(",", ";"), id="semicolons"),
        pytest.param(lambda t: t.replace(",", "\t"), id="tabs"),
        pytest.param(lambda t: t.replace(",", " , ").replace("\n", " \n"), id="spaces"),
        pytest.param(lambda t: "\n\n" + t.replace("\n", "\n\n"), id="blank-lines"),
        pytest.param(lambda t: t.replace("\n", ",,\n") + ",,,,,,,\n  \n", id="trailing-empties"),
        pytest.param(lambda t: t.replace("\n", '"\n"').replace(",", '","').join('""')[:-2], id="quoted"),
        pytest.param(lambda t: t.replace("size", "Training_Size").replace("config name", "Model-ID"), id="synonyms"),
        pytest.param(lambda t: t.replace(",,", ",n/a,").replace(",,", ", NaN ,"), id="words-for-gaps"),
        pytest.param(lambda t: t.replace("1000", "1.0e3").replace("200", "D=200.0" if "200," in t[:40] else "200.0"), id="number-formats"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", [LONG, WIDE])
def test_the_way_a_file_is_written_changes_nothing(tmp_path: Path, text: str, change) -> None:
    assert rows(read_text(tmp_path, change(text))) == EXPECTED


def test_thousands_separators_and_prefixes_in_sizes(tmp_path: Path) -> None:
    wide = 'LLM,"1,638,400",D=200,n 400.0,1.6e3\na,1,2,3,4\nb,5,6,7,8\n'
    long_form = "model;D;eval loss\n" + "".join(
        f"{c};{d};{x}\n"
        for c, d, x in [
            *[("a", "1,638,400", 1), ("a", "200", 2), ("a", "4e2", 3), ("a", "1_600", 4)],
            *[("b", "1638400", 5), ("b", "200.0", 6), ("b", "400", 7), ("b", "1600", 8)],
        ]
    )
    expected = [
        *[("a", 200, 0, 2.0), ("a", 400, 0, 3.0), ("a", 1600, 0, 4.0), ("a", 1638400, 0, 1.0)],
        *[("b", 200, 0, 6.0), ("b", 400, 0, 7.0), ("b", 1600, 0, 8.0), ("b", 1638400, 0, 5.0)],
    ]

    assert expected == rows(read_text(tmp_path, wide))
    assert expected == rows(read_text(tmp_path, long_form))


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    text = (
        long(header="candidate,size,loss")
        .replace("\na,", "\n001,")
        .replace("\nb,", '\n"x, ""y"" é",')
    )

    table = read_text(tmp_path, text)

    assert list(dict.fromkeys(table.cells["candidate"])) == ["001", 'x, "y" é']
    wrapped = read_text(tmp_path, text.replace("x, ", "x\n"))
    assert wrapped.cells["candidate"].iloc[-1] == 'x "y" é'


def test_the_first_column_of_text_is_the_candidate_where_no_name_says_so(tmp_path: Path) -> None:
    """As pandas writes a pivoted table, and one with a numbered index."""
    pivoted = ",200,400,800\na,1,2,3\nb,4,5,6\n"
    numbered = ",which,200,400,800\n0,a,1,2,3\n1,b,4,5,6\n"

    for text in (pivoted, numbered):
        table = read_text(tmp_path, text)
        assert table.cells["candidate"].tolist() == ["a", "a", "a", "b", "b", "b"]
        assert table.notes == ()


def test_seeds_are_rows_of_their_own_in_both_forms(tmp_path: Path) -> None:
    wide = "candidate,seed,200,400,800\na,7,1,2,3\na,1,4,,6\nb,1,7,8,9\n"
    long_form = "candidate,seed,size,loss\n" + "".join(
        f"{c},{s},{d},{x}\n"
        for c, s, values in (("a", 7, (1, 2, 3)), ("a", 1, (4, "", 6)), ("b", 1, (7, 8, 9)))
        for d, x in zip((200, 400, 800), values, strict=True)
    )
    expected = [
        *[("a", 200, 1, 4.0), ("a", 200, 7, 1.0), ("a", 400, 7, 2.0)],
        *[("a", 800, 1, 6.0), ("a", 800, 7, 3.0)],
        *[("b", 200, 1, 7.0), ("b", 400, 1, 8.0), ("b", 800, 1, 9.0)],
    ]

    assert expected == rows(read_text(tmp_path, wide))
    assert expected == rows(read_text(tmp_path, long_form))


def test_the_unit_in_a_name_sets_the_metric_and_bits_per_byte_are_preferred(tmp_path: Path) -> None:
    nats = read_text(tmp_path, long(header="candidate,size,nats_per_token"))
    bits = read_text(tmp_path, long(header="candidate,size,Bits per Byte"))
    both = read_text(
        tmp_path,
        long(header="candidate,size,nats_per_token,bits_per_byte").replace(",0\n", ",1.5\n"),
    )
    empty_bits = read_text(
        tmp_path, long(header="candidate,size,nats_per_token,bits_per_byte").replace(",0\n", ",\n")
    )

    assert (nats.metric, bits.metric) == ("nats_per_token", "bits_per_byte")
    assert both.metric == "bits_per_byte"
    assert {1.5} == set(both.cells["bits_per_byte"])
    assert nats.cells["nats_per_token"].tolist() == both.cells["nats_per_token"].tolist()
    assert empty_bits.metric == "nats_per_token"
    assert empty_bits.notes == ()


def test_weights_are_read_with_units_and_belong_to_the_candidate(tmp_path: Path) -> None:
    text = long(header="candidate,size,loss,params,family").replace(",0,0\n", ",,\n")
    text = text.replace("a,2,2.998,,", "a,2,2.998,124.5M,one").replace(
        "b,3,2.997,,", "b,3,2.997,1.5e9,"
    )

    table = read_text(tmp_path, text)

    assert table.cells["parameters"].tolist() == [124_500_000] * 3 + [1_500_000_000] * 3
    assert table.families == {"a": "one"}


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    text = "model,200,400,800,notes,accuracy\na,1,2,3,fine,.5\nb,,5,6,,.5\nc,,-,nan,diverged,\n"

    table = read_text(tmp_path, text)

    assert table.notes == (
        "4 of 9 losses are empty and were left out.",
        "Left out for having no loss at all: c.",
        "Columns that were not used: notes, accuracy.",
    )
    assert table.families is None


# --- what comes after -----------------------------------------------------------------------------


def test_cells_become_curves_and_survive_the_store_with_unknown_weights(tmp_path: Path) -> None:
    table = read_text(tmp_path, LONG)

    write_table(tmp_path, "curve/cells", table.cells)
    stored = pd.read_parquet(tmp_path / "cells.parquet")

    assert schemas.schema("curve/cells").names == list(stored.columns)
    for cells in (table.cells, stored):
        curves = curves_from_cells(cells, table.metric, 400)
        assert curves.candidates == ("org/b-1.5B", "org/a-124M")
        np.testing.assert_array_equal([200, 400], curves.sizes)
        np.testing.assert_array_equal([[2.75, 2.5], [NAN, 3.5]], curves.mean_losses)
        np.testing.assert_array_equal([4, 5], curves.zero_shot)
        np.testing.assert_array_equal([1.5e9, NAN], curves.parameters)
        assert curves.stop_times is None


def test_weights_that_nobody_gives_are_none_after_the_store(tmp_path: Path) -> None:
    table = read_text(tmp_path, long())

    write_table(tmp_path, "curve/cells", table.cells)

    for cells in (table.cells, pd.read_parquet(tmp_path / "cells.parquet")):
        assert curves_from_cells(cells, table.metric, 3).parameters is None


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_the_store_is_read_back_whole(tmp_path: Path, kind: str) -> None:
    numbers = iter(np.random.default_rng(0).uniform(1, 3, 200))
    cells = pd.DataFrame(
        [
            {
                **{"candidate": name, "family": "F", "tokenizer": name * 2},
                **{"size": size, "seed": seed, "parameters": 9},
            }
            for name in ("z", "a")
            for size in (0, 100, 200, 400)
            for seed in ((0, 1) if size else (0,))
        ]
    )
    names = schemas.schema("curve/cells").names
    for column in names:
        if column not in cells:
            cells[column] = [next(numbers) for _ in range(len(cells))]
    write_table(tmp_path, "curve/cells", cells)
    path = tmp_path / f"cells.{kind}"
    if kind == "csv":
        cells[names].to_csv(path, index=False)

    table = read(str(path))

    assert table.metric == "bits_per_byte"
    pd.testing.assert_frame_equal(cells[names], table.cells, check_dtype=False, check_exact=True)


CURVES = st.dictionaries(
    st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=8),
    st.dictionaries(
        st.tuples(st.integers(0, 10**7), st.integers(0, 2)),
        st.floats(1e-300, 1e300),
        min_size=3,
        max_size=6,
    ),
    min_size=2,
    max_size=4,
).filter(lambda c: len({d for cells in c.values() for d, _ in cells if d}) >= 3)


@given(table=CURVES, separator=st.sampled_from(",;\t"), wide=st.booleans())
def test_whatever_is_written_is_read(tmp_path_factory, table, separator: str, wide: bool) -> None:
    """Any names, sizes, seeds and losses, by Python's own CSV writer, in both forms."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator)
    sizes = list(dict.fromkeys(d for cells in table.values() for d, _ in cells))
    if wide:
        writer.writerow(["candidate", "seed", *sizes])
        for name, cells in table.items():
            for seed in dict.fromkeys(seed for _, seed in cells):
                writer.writerow(
                    [
                        name,
                        seed,
                        *(
                            repr(cells.get((d, seed), "")) if (d, seed) in cells else ""
                            for d in sizes
                        ),
                    ]
                )
    else:
        writer.writerow(["candidate", "seed", "size", "loss"])
        for name, cells in table.items():
            for (size, seed), loss in cells.items():
                writer.writerow([name, seed, size, repr(loss)])
    folder = tmp_path_factory.mktemp("table")

    found = rows(read_text(folder, stream.getvalue()))

    assert [
        (name, size, seed, loss)
        for name, cells in table.items()
        for (size, seed), loss in sorted(cells.items())
    ] == found


# --- bad input ------------------------------------------------------------------------------------

SENTENCES = {
    "negative": (long("c,1,-2"), "line 8, column 'loss': the loss of c at D = 1 is -2 and must be positive: correct it"),
    "zero": (long("c,1,0.0"), "line 8, column 'loss': the loss of c at D = 1 is 0 and must be positive"),
    "infinite": (long("c,1,inf"), "line 8, column 'loss': the loss of c at D = 1 is infinite: leave the cell of a diverged run empty"),
    "minus infinite": (long("c,1,-Infinity"), "line 8, column 'loss': the loss of c at D = 1 is infinite"),
    "too large": (long("c,1,1e999"), "line 8, column 'loss': the loss of c at D = 1 is infinite"),
    "text": (long("c,1,abc"), "line 8, column 'loss': 'abc' is no number: correct it, or leave the cell empty"),
    "blank lines count": (long("", "c,1,abc").replace("\n", "\r\n"), "line 9, column 'loss': 'abc'"),
    "text in wide": (WIDE.replace(",3.5,", ",3.5x,"), "line 3, column '400': '3.5x' is no number"),
    "negative in wide": (WIDE.replace(",3.5,", ",-1,"), "line 3, column '400': the loss of org/a-124M at D = 400 is -1"),
    "decimal comma": (WIDE.replace(",", ";").replace("2.75", "2,75"), "line 2, column '200': '2,75' has a decimal comma: write 2.75"),
    "decimal comma in commas": (WIDE.replace("2.75", "2,75"), "line 2 has 8 fields and the header 7: put names with commas into quotes, and write decimals with a point"),
    "short row": (long("c,1"), "line 8 has 2 fields and the header 3"),
    "twice": (long("a,1,2"), "a, D = 1, seed 0 stands in line 2 and in line 8: remove one, or tell repeats apart in a column seed"),
    "twice with seeds": (long("a,1,2,5", "a,1,3,5", header="candidate,size,loss,seed"), "a, D = 1, seed 5 stands in line 8 and in line 9"),
    "candidate twice in wide": (WIDE + "org/b-1.5B,1,1,1,1,,\n", "org/b-1.5B, D = 0, seed 0 stands in line 2 and in line 4"),
    "size twice": ("model,200,400,200\na,1,2,3\nb,1,2,3\n", "two columns hold the losses at D = 200: keep one"),
    "size twice, otherwise written": ("model,200,400,200.0\na,1,2,3\nb,1,2,3\n", "two columns hold the losses at D = 200"),
    "size mangled": ("model,200,400,200.1\na,1,2,3\nb,1,2,3\n", "column '200.1' is no training size: name it by the whole number of examples"),
    "negative size column": ("model,200,400,-800\na,1,2,3\nb,1,2,3\n", "column '-800' is no training size"),
    "column twice": ("model,size,loss,loss\na,1,2,3\nb,1,2,3\n", "columns 'loss' and 'loss' are both a loss: rename one"),
    "two sizes": ("model,size,n,loss\na,1,2,3\nb,1,2,3\n", "columns 'size' and 'n' are both a size: rename one ('parameters' if it counts weights)"),
    "two weights": ("model,200,400,800,size,params\na,1,2,3,9,9\nb,1,2,3,9,9\n", "columns 'size' and 'params' are both a number of weights: remove one"),
    "one candidate": (long().partition("b,")[0], "it has losses of one candidate only ('a'): give at least two to compare"),
    "one candidate after gaps": ("model,200,400,800\na,1,2,3\nb,,,\n", "one candidate only ('a')"),
    "no loss": ("model,200,400,800\na,,,\nb,,,\n", "it has losses of no candidate"),
    "two sizes above zero": ("model,0,200,400\na,1,2,3\nb,1,2,3\n", "a curve needs losses at 3 training sizes above 0 and the table has 200, 400: add sizes"),
    "zero-shot only": ("model,0\na,1\nb,1\n", "the table has none: add sizes"),
    "no header": (long().partition("\n")[2], "the first line looks like data ('2.999'): put a header above it"),
    "no header in wide": (WIDE.partition("\n")[2], "the first line looks like data"),
    "header of numbers": ("200,400,800\n1,2,3\n4,5,6\n", "the first line is numbers only"),
    "empty": ("", "the file is empty: write a header"),
    "empty but for a mark": (b"\xef\xbb\xbf", "the file is empty"),
    "empty but for separators": (" \n,,,\n\n", "the file is empty"),
    "header only": ("candidate,size,loss\n,,\n\n", "there is no row below the header: add one per candidate"),
    "single column": ("candidate size loss\na 1 2\n", "the first line is a single column ('candidate size loss'): separate columns with commas"),
    "no loss column": ("candidate,size,los\na,1,2\n", "no column 'loss' (did you mean 'los'?), nor columns named by training sizes (0, 200, 400, …); it has candidate, size, los"),
    "no size column": ("candidate,loss\na,1\n", "no column 'size', nor columns named by"),
    "no candidate column": ("size,loss,seed\n1,2,3\n", "no column of candidates: call it 'candidate'"),
    "latin-1": ("candidate,size,loss\na,1,2\né,1,2\n".encode("latin-1"), "line 3 is not UTF-8: save the file as UTF-8 CSV"),
    "utf-16": (long().encode("utf-16"), "the text is UTF-16 or binary: save it as UTF-8 CSV"),
    "utf-16 without a mark": (long().encode("utf-16-le"), "the text is UTF-16 or binary"),
    "fraction of a size": (long("c,1.5,2"), "line 8, column 'size': '1.5' is no training size: write a whole number from 0"),
    "negative size": (long("c,-1,2"), "line 8, column 'size': '-1' is no training size"),
    "blank size": (long("c,,2"), "line 8, column 'size': '' is no training size"),
    "infinite size": (long("c,inf,2"), "line 8, column 'size': 'inf' is no training size"),
    "header again": (long("candidate,size,loss"), "line 8, column 'loss': 'loss' is no number"),
    "seed": (long("c,1,2,x", header="candidate,size,loss,seed"), "line 8, column 'seed': 'x' is no seed: write a whole number"),
    "blank candidate": (long(" ,1,2"), "line 8, column 'candidate': is blank: name the candidate"),
    "blank nameless candidate": (",200,400,800\na,1,2,3\n,1,2,3\n", "line 3, the nameless column: is blank"),
    "weights": (long("c,1,2,big", header="candidate,size,loss,parameters").replace(",0\n", ",\n"), "line 8, column 'parameters': 'big' is no number of weights: write it as 124000000 or 124M"),
    "no weights": (long("c,1,2,0", header="candidate,size,loss,parameters").replace(",0\n", ",\n", 6), "line 8, column 'parameters': '0' is no number of weights"),
    "contradicting weights": (long("c,1,2,5", "c,2,2,6", header="candidate,size,loss,parameters").replace(",0\n", ",\n"), "line 9, column 'parameters': c has '6' here and '5' above: make them agree"),
    "contradicting families": (long("c,1,2,T5", "c,2,2,GPT", header="candidate,size,loss,family"), "line 9, column 'family': c has 'GPT' here and 'T5' above"),
    "open quote": ('candidate,size,loss\n"a,1,2\nb,1,2\n', "fields and the header 3"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_bad_table_is_a_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, text)

    assert str(caught.value).startswith(f"{tmp_path / 'losses.csv'}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_parquet_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"losses.parquet: cannot be read as parquet .*: write it again$"
    ):
        read_text(tmp_path, LONG, "losses.parquet")
    path = tmp_path / "bad.parquet"
    frame = pd.read_csv(io.StringIO(long("c,1,-2")))
    frame.to_parquet(path)
    with pytest.raises(
        DataError, match=r"bad.parquet: row 7, column 'loss': the loss of c at D = 1 is -2"
    ):
        read(str(path))
    frame.head(0).to_parquet(path)
    with pytest.raises(DataError, match="there is no row below the header"):
        read(str(path))
    pd.DataFrame({"a": [[1, 2], [3]]}).to_parquet(path)
    with pytest.raises(DataError, match="there are no columns of text or numbers in it"):
        read(str(path))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("flann", r"^flann: neither a file nor a published table \(did you mean 'flan'\?\): name flan or gigaword, or a \.csv, \.tsv or \.parquet file$"),
        ("Gigaword", r"did you mean 'gigaword'\?"),
        ("zzz", r"^zzz: neither a file nor a published table: name flan or gigaword"),
        ("lossses.csv", r"^lossses.csv: no such file \(did you mean 'losses.csv'\?\)$"),
        ("flan.csv", r"^flan.csv: no such file \(did you mean 'flan'\?\)$"),
        ("nowhere/flan", r"^nowhere/flan: no such file"),
        ("folder", r"^folder: is a folder: name a \.csv, \.tsv or \.parquet file$"),
        ("losses.xlsx", r"^losses.xlsx: is no \.csv, \.tsv or \.parquet file: save the table as one of them$"),
        ("x" * 300 + ".csv", r"cannot be read: File name too long|no such file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("use", [read, fingerprint])
def test_a_source_that_is_not_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use, source: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.csv").write_text(LONG)
    (tmp_path / "losses.xlsx").write_text("PK")
    (tmp_path / "folder").mkdir()

    with pytest.raises(DataError, match=sentence):
        use(source)
