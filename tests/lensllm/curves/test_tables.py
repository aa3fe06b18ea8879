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

from lensllm.core.errors import DataError
from lensllm.curves import tables
from lensllm.curves.curve import curves_from_cells
from lensllm.curves.tables import PUBLISHED, fingerprint, read
from lensllm.store import schemas
from lensllm.store.artifacts import write_table
from tests.lensllm.curves.loss_tables import (
    EXPECTED,
    LONG,
    WIDE,
    families,
    long,
    read_text,
    refusal,
    rows,
)

NAN = float("nan")

# --- the published tables -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_table_is_the_file_number_by_number(name: str) -> None:
    path = Path(tables.__file__).with_name("published") / f"{name}.csv"
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
    assert {line[0]: line[-1] for line in lines} == families(table)
    weights = table.cells.drop_duplicates("candidate").set_index("candidate")["parameters"]
    assert {line[0]: int(line[-2]) for line in lines} == weights.to_dict()
    assert table.metric == "nats_per_token"
    assert "ICML 2024" in table.citation


def test_the_oddities_told_of_the_published_tables_are_in_them() -> None:
    for name, notes in PUBLISHED.items():
        assert read(name).notes == notes
    cells = read("gigaword").cells.pivot(index="candidate", columns="size", values="nats_per_token")
    gap = cells.loc["microsoft/phi-2"] - cells.loc["MBZUAI/LaMini-GPT-1.5B"]
    np.testing.assert_allclose([-0.05, 0, 0.02], gap.iloc[-3:], atol=1e-12)
    fall = cells.loc["facebook/bart-base", 12_800] / cells.loc["facebook/bart-base", 6_400]
    assert round(fall, 2) == 0.85


def test_a_copy_of_a_published_table_is_the_same_input_and_keeps_its_citation(
    tmp_path: Path,
) -> None:
    flan = (Path(tables.__file__).with_name("published") / "flan.csv").read_bytes()
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
    assert families(table) == {"org/b-1.5B": "B", "org/a-124M": "A"}
    weights = table.cells.groupby("candidate", sort=False)["parameters"].first()
    assert weights.tolist() == [1_500_000_000, pd.NA]
    assert (table.metric, table.citation) == ("nats_per_token", "")
    assert table.notes == ("1 of 8 losses are empty and were left out.",)


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


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    text = "model,200,400,800,notes,accuracy\na,1,2,3,fine,.5\nb,,5,6,,.5\nc,,-,nan,diverged,\n"

    table = read_text(tmp_path, text)

    assert table.notes == (
        "4 of 9 losses are empty and were left out.",
        "Left out for having no loss at all: c.",
        "Columns that were not used: notes, accuracy.",
    )
    assert families(table) == {}


# --- columns by their names ----------------------------------------------------------------------


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


def test_the_first_column_of_text_is_the_candidate_where_no_name_says_so(tmp_path: Path) -> None:
    """As pandas writes a pivoted table, and one with a numbered index."""
    pivoted = ",200,400,800\na,1,2,3\nb,4,5,6\n"
    numbered = ",which,200,400,800\n0,a,1,2,3\n1,b,4,5,6\n"

    for text in (pivoted, numbered):
        table = read_text(tmp_path, text)
        assert table.cells["candidate"].tolist() == ["a", "a", "a", "b", "b", "b"]
        assert table.notes == ()


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
    assert families(table) == {"a": "one"}


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
                **{"size": size, "repeat": repeat, "parameters": 9},
            }
            for name in ("z", "a")
            for size in (0, 100, 200, 400)
            for repeat in ((0, 1) if size else (0,))
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
        st.floats(1e-300, 1e6),
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


def test_a_fine_grid_is_said_to_be_thinned(tmp_path: Path) -> None:
    text = "model,size,loss\n" + "".join(f"{c},{d},2\n" for c in "ab" for d in range(1, 61))

    assert read_text(tmp_path, text).notes == (
        "Of 60 training sizes predictors read 24 up to the budget at most, evenly spread in log "
        "size.",
    )


# --- bad input ------------------------------------------------------------------------------------

SENTENCES = {
    "size twice": ("model,200,400,200\na,1,2,3\nb,1,2,3\n", "two columns hold the losses at D = 200: keep one"),
    "size twice, otherwise written": ("model,200,400,200.0\na,1,2,3\nb,1,2,3\n", "two columns hold the losses at D = 200"),
    "size mangled": ("model,200,400,200.1\na,1,2,3\nb,1,2,3\n", "column '200.1' is no training size: name it by the whole number of examples"),
    "negative size column": ("model,200,400,-800\na,1,2,3\nb,1,2,3\n", "column '-800' is no training size"),
    "column twice": ("model,size,loss,loss\na,1,2,3\nb,1,2,3\n", "columns 'loss' and 'loss' are both a loss: rename one"),
    "two sizes": ("model,size,n,loss\na,1,2,3\nb,1,2,3\n", "columns 'size' and 'n' are both a size: rename one ('parameters' if it counts weights)"),
    "two weights": ("model,200,400,800,size,params\na,1,2,3,9,9\nb,1,2,3,9,9\n", "columns 'size' and 'params' are both a number of weights: remove one"),
    "no header": (long().partition("\n")[2], "the first line looks like data ('2.999'): put a header above it"),
    "no header, whole losses": ("a,100,3\na,200,2.8\nb,100,3.5\nb,200,3.1\n", "the first line looks like data ('100'): put a header above it"),
    "no header in wide": (WIDE.partition("\n")[2], "the first line looks like data"),
    "header of numbers": ("200,400,800\n1,2,3\n4,5,6\n", "the first line is numbers only"),
    "no loss column": ("candidate,size,los\na,1,2\n", "no column 'loss' (did you mean 'los'?), nor columns named by training sizes (0, 200, 400, …); it has candidate, size, los"),
    "no size column": ("candidate,loss\na,1\n", "no column 'size', nor columns named by"),
    "no candidate column": ("size,loss,seed\n1,2,3\n", "no column of candidates: call it 'candidate'"),
    "fraction of a size": (long("c,1.5,2"), "line 8, column 'size': '1.5' is no training size: write a whole number from 0"),
    "negative size": (long("c,-1,2"), "line 8, column 'size': '-1' is no training size"),
    "blank size": (long("c,,2"), "line 8, column 'size': '' is no training size"),
    "infinite size": (long("c,inf,2"), "line 8, column 'size': 'inf' is no training size"),
    "seed": (long("c,1,2,x", header="candidate,size,loss,seed"), "line 8, column 'seed': 'x' is no seed: write a whole number"),
    "weights": (long("c,1,2,big", header="candidate,size,loss,parameters").replace(",0\n", ",\n"), "line 8, column 'parameters': 'big' is no number of weights: write it as 124000000 or 124M"),
    "no weights": (long("c,1,2,0", header="candidate,size,loss,parameters").replace(",0\n", ",\n", 6), "line 8, column 'parameters': '0' is no number of weights"),
    "contradicting weights": (long("c,1,2,5", "c,2,2,6", header="candidate,size,loss,parameters").replace(",0\n", ",\n"), "line 9, column 'parameters': c has '6' here and '5' above: make them agree"),
    "contradicting families": (long("c,1,2,T5", "c,2,2,GPT", header="candidate,size,loss,family"), "line 9, column 'family': c has 'GPT' here and 'T5' above"),
    "negative": (long("c,1,-2"), "line 8, column 'loss': the loss of c at D = 1 is -2 and must be positive: correct it"),
    "zero": (long("c,1,0.0"), "line 8, column 'loss': the loss of c at D = 1 is 0 and must be positive"),
    "infinite": (long("c,1,inf"), "line 8, column 'loss': the loss of c at D = 1 is infinite: leave the cell of a diverged run empty"),
    "minus infinite": (long("c,1,-Infinity"), "line 8, column 'loss': the loss of c at D = 1 is infinite"),
    "too large": (long("c,1,1e999"), "line 8, column 'loss': the loss of c at D = 1 is infinite"),
    "absurd": (long("c,1,1e30"), "line 8, column 'loss': the loss of c at D = 1 is 1e+30, which no mean loss is: correct it"),
    "runs as candidates": (long(*(f"run{i},{d},2" for i in range(1000) for d in (1, 2, 3))), "1,002 candidates in the column 'candidate', of at most 1,000: call the column of models 'candidate'"),
    "negative in wide": (WIDE.replace(",3.5,", ",-1,"), "line 3, column '400': the loss of org/a-124M at D = 400 is -1"),
    "twice": (long("a,1,2"), "a, D = 1, seed 0 stands in line 2 and in line 8: remove one, or tell repeats apart in a column seed"),
    "twice with seeds": (long("a,1,2,5", "a,1,3,5", header="candidate,size,loss,seed"), "a, D = 1, seed 5 stands in line 8 and in line 9"),
    "candidate twice in wide": (WIDE + "org/b-1.5B,1,1,1,1,,\n", "org/b-1.5B, D = 0, seed 0 stands in line 2 and in line 4"),
    "one candidate": (long().partition("b,")[0], "it has losses of one candidate only ('a'): give at least two to compare"),
    "one candidate after gaps": ("model,200,400,800\na,1,2,3\nb,,,\n", "one candidate only ('a')"),
    "no loss": ("model,200,400,800\na,,,\nb,,,\n", "it has losses of no candidate"),
    "two sizes above zero": ("model,0,200,400\na,1,2,3\nb,1,2,3\n", "a curve needs losses at 3 training sizes above 0 and the table has 200, 400: add sizes"),
    "zero-shot only": ("model,0\na,1\nb,1\n", "the table has none: add sizes"),
    "blank candidate": (long(" ,1,2"), "line 8, column 'candidate': is blank: name the candidate"),
    "blank nameless candidate": (",200,400,800\na,1,2,3\n,1,2,3\n", "line 3, the nameless column: is blank"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_bad_table_is_a_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("flann", r"^flann: neither a file nor a published table \(did you mean 'flan'\?\): name flan or gigaword, or a \.csv, \.tsv or \.parquet file$"),
        ("Gigaword", r"did you mean 'gigaword'\?"),
        ("zzz", r"^zzz: neither a file nor a published table: name flan or gigaword"),
        ("lossses.csv", r"^lossses.csv: no such file \(did you mean 'losses.csv'\?\)$"),
        ("flan.csv", r"^flan.csv: no such file \(did you mean 'flan'\?\)$"),
        ("nowhere/flan", r"^nowhere/flan: no such file"),
        ("", r"^no table: name flan or gigaword, or a"),
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


# --- DataFrames -----------------------------------------------------------------------------------


def test_the_columns_of_cells_are_those_of_the_store() -> None:
    assert tuple(schemas.schema("curve/cells").names) == tables.CELL_COLUMNS


@pytest.mark.parametrize("text", [LONG, WIDE])
@pytest.mark.parametrize("dtype", [None, str], ids=["numbers", "texts"])
def test_a_data_frame_is_the_same_table_as_its_file(text: str, dtype: type | None) -> None:
    frame = pd.read_csv(io.StringIO(text), dtype=dtype)

    table = read(frame)

    assert rows(table) == EXPECTED
    assert families(table) == {"org/b-1.5B": "B", "org/a-124M": "A"}
    weights = table.cells.groupby("candidate", sort=False)["parameters"].first()
    assert weights.tolist() == [1_500_000_000, pd.NA]
    assert table.notes == ("1 of 8 losses are empty and were left out.",)


def test_the_index_of_a_data_frame_may_name_candidates() -> None:
    long_form = pd.read_csv(io.StringIO(LONG))
    pivoted = long_form.pivot(index="candidate", columns="size", values="loss")
    unnamed = pivoted.rename_axis(index=None, columns=None)
    filtered = long_form[long_form["size"] >= 0].sample(frac=1, random_state=0)
    expected = sorted(EXPECTED)

    for frame in (pivoted, unnamed, filtered, long_form.set_index(["candidate", "seed"])):
        before = frame.copy()
        assert sorted(rows(read(frame))) == expected
        pd.testing.assert_frame_equal(before, frame)
    assert read(filtered).notes == ("1 of 8 losses are empty and were left out.",)


FRAMES = {
    "negative": (pd.DataFrame({"model": ["a", "b"], 1: [1, -2], 2: [1, 1], 3: [1, 1]}), "my runs: row 2, column '1': the loss of b at D = 1 is -2"),
    "text": (pd.DataFrame({"model": ["a", "b"], 1: [1, "x"], 2: [1, 1], 3: [1, 1]}), "my runs: row 2, column '1': 'x' is no number"),
    "no row": (pd.DataFrame({"model": [], 1: [], 2: [], 3: []}), "my runs: there is no row below the header"),
    "nothing": (pd.DataFrame(), "my runs: there is no row below the header"),
    "no losses": (pd.DataFrame({"model": ["a", "b"], "size": [1, 2]}), "my runs: no column 'loss'"),
    "too wide": (pd.DataFrame([range(10_001)]), "my runs: it has 10,001 columns, of at most 10,000"),
    "too long": (pd.DataFrame(np.zeros((2_000_001, 5), dtype=np.int8)), "my runs: it has 10,000,005 cells, of at most 10,000,000"),
}  # fmt: skip


@pytest.mark.parametrize(("frame", "sentence"), FRAMES.values(), ids=FRAMES)
def test_a_bad_data_frame_is_a_sentence(frame: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        read(frame, "my runs")
    assert str(caught.value).startswith(sentence)
