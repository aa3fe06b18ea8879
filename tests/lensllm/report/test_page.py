"""The page is complete, self-contained and safe."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
import yaml

from lensllm.report import page

EVIL = "<script>alert('x')</script> & $co \"q\""
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not match."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        self.words.append(data)

    def values(self, name):
        """Every value of the attribute ``name``."""
        return [value for key, value in self.attributes if key == name]

    @property
    def text(self):
        """What a reader sees, on one line."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def markup(data):
    """The page of the complete run."""
    return page.render(data)


def test_equal_data_give_equal_bytes(data, markup):
    """No clocks, no random ids."""
    assert markup == page.render(data)


def test_nothing_is_fetched_and_nothing_runs(markup):
    """No script, no source, no address but within the page; the browser is told to refuse all."""
    outline = Outline(markup)
    assert not {"script", "iframe", "object", "img"} & set(outline.tags)
    assert outline.values("src") == []
    for address in outline.values("href") + outline.values("xlink:href"):
        assert address.startswith("#") or address == "data:,"
    assert all(inner.startswith("#") for inner in re.findall(r"url\(([^)]*)\)", markup))
    assert "@import" not in markup
    assert any("default-src 'none'" in (value or "") for value in outline.values("content"))


def test_ids_are_unique_and_links_lead_somewhere(markup):
    """Two variants of each figure share the page without sharing ids."""
    outline = Outline(markup)
    ids = outline.values("id")
    assert sorted(set(ids)) == sorted(ids)
    targets = {address[1:] for address in outline.values("href") if address.startswith("#")}
    assert targets <= set(ids)


def test_the_answer_stands_at_the_top(data, markup):
    """Verdict, first choice and the check against the truth, in words."""
    text = Outline(markup).text
    assert data.verdict in text
    assert text.index(data.verdict) < text.index("Ranking Test loss")
    assert "Was it right? Yes." in text


def test_every_section_is_there(markup):
    """One heading per stage of the pipeline."""
    headings = re.findall(r"<h2>([^<]*)</h2>", markup)
    assert headings == [
        "Ranking", "Learning curves", "Predictors compared", "Laws", "Kernel", "Curvature",
        "Cost", "Drift", "Configuration",
    ]  # fmt: skip


def test_curvature_carries_its_caveats(markup):
    """A bound without them would be read as a promise."""
    text = Outline(markup).text
    for words in ("never ranks", "C is empirical", "single training examples", "not included"):
        assert words in text
    assert "vᵀH⁻v" in text


def test_all_text_from_data_is_escaped(make):
    """A candidate's name is text, wherever it comes up."""
    data = make([(EVIL, 10**6), ("plain", 10**6)])
    data = replace(
        data, verdict=EVIL, pipeline=EVIL, failed=[(EVIL, EVIL)], config={EVIL: EVIL},
        versions={EVIL: EVIL}, default_predictor=EVIL,
        predictions=data.predictions.replace({"predictor": {"stack": EVIL}}),
        fits=data.fits.replace({"law": {"vanilla": EVIL}}),
    )  # fmt: skip
    markup = page.render(data)
    assert "<script" not in markup
    outline = Outline(markup)
    assert "script" not in outline.tags
    assert outline.text.count("<script>alert('x')</script>") > 10


def test_without_truth_kernels_curvature_or_drift(make):
    """Sections of stages that did not run are left out, not left empty."""
    data = make(truth=False)
    data = replace(
        data, kernels={}, layers={}, bounds=data.bounds.iloc[:0], drift=data.drift.iloc[:0],
        machine=data.machine.iloc[:0],
    )  # fmt: skip
    markup = page.render(data)
    headings = re.findall(r"<h2>([^<]*)</h2>", markup)
    assert not {"Kernel", "Curvature", "Drift"} & set(headings)
    text = Outline(markup).text
    assert "Was it right? Not known." in text
    assert "True rank" not in text
    assert "cannot be scored" in text


def test_a_candidate_that_failed_is_named(data):
    """Missing cells are told at the top, beside the ranking and in a list."""
    lost = "t5-mini-docs"

    def without(frame: pd.DataFrame, keep: int = -1) -> pd.DataFrame:
        return frame[(frame["candidate"] != lost) | (frame.get("size", keep + 1) <= keep)]

    partial = replace(
        data, cells=without(data.cells, 200), fits=without(data.fits),
        predictions=without(data.predictions), failed=[(f"{lost}, D = 400", "timed out")],
    )  # fmt: skip
    text = Outline(page.render(partial)).text
    assert "1 cell failed. The ranking was made without it" in text
    assert "Not ranked, for want of finished cells: t5-mini-docs." in text
    assert "t5-mini-docs (3 of 7 sizes)" in text
    assert "Failed cells Cell Reason t5-mini-docs, D = 400 timed out" in text


def test_fifty_long_names(make):
    """Every candidate has its line; the page stays below two megabytes."""
    names = [(f"organisation/{'a-very-long-name-' * 4}{i:02d}", 10**9) for i in range(50)]
    markup = page.render(make(names))
    text = Outline(markup).text
    assert all(name in text for name, _ in names)
    assert len(markup) < 2_000_000


def test_a_sweep_that_cost_more_than_it_saved_says_so(data):
    """Small targets do not repay a dense sweep."""
    dear = data.cost.assign(spent_flops=1.5 * data.cost["full_flops"])
    text = Outline(page.render(replace(data, cost=dear))).text
    assert "Compute spent in excess 50 %" in text
    assert "too dense for so small a target" in text


def test_configuration_can_be_copied_back(data, markup):
    """What is printed parses to what was run."""
    text = re.search(r"<pre>(.*?)</pre>", markup, flags=re.DOTALL)
    assert text is not None
    assert dict(data.config) == yaml.safe_load(text.group(1))
