"""Columns known by their names, and values that are no losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lensllm.curves.loss_tables import WIDE, long, read_text, refusal, rows


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
    assert table.families == {"a": "one"}


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
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_bad_table_is_a_sentence(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text)
