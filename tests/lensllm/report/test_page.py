"""The page is complete, self-contained and safe."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
import yaml

from lensllm.report import diagnostic_tables, page

EVIL = "<script>alert('x')</script> & $co \"q\""
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that do not match."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.glue = False  # what follows belongs to the word before
        self.feed(markup)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.glue = tag == "wbr"

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if self.glue:
            self.words[-1] += data
        else:
            self.words.append(data)
        self.glue = False

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
    """One heading per stage of the pipeline; one budget and no policy need none of their own."""
    headings = re.findall(r"<h2>([^<]*)</h2>", markup)
    assert headings == [
        "Ranking", "Learning curves", "Checks", "Predictors compared", "Laws", "Kernel",
        "Curvature", "Cost", "Drift", "Configuration",
    ]  # fmt: skip


def test_curvature_carries_its_caveats(markup):
    """A bound without them would be read as a promise."""
    text = Outline(markup).text
    caveats = (
        "never ranks", "C is empirical", "single training examples", "an upper bound after one",
        "not included, and its constant is unknown", "vᵀH⁻v", "at most 200 examples",
        "one between different examples",
    )  # fmt: skip
    for words in caveats:
        assert words in text


def test_curvature_tells_both_transitions(data, markup):
    """Agreement in words, the table with both readings, and how the density was broadened."""
    text = Outline(markup).text
    assert "for 3 of 6 candidates and 2.2 doublings apart" in text
    assert "opt-mini-prose 2.25 ± 0.67 0.200 ± 0.040 2 < 1 < 1 to 2 900 300 to 5,000" in text
    assert "a Gaussian of standard deviation 0.3 on the axis, which is asinh(λ / 1)" in text
    assert "No bound is vacuous" in text


def test_layers_carry_their_errors(markup):
    """h, the mean's parts, trace and eigenvalue with theirs, and the steps behind them."""
    text = Outline(markup).text
    row = "2.40 ± 0.011 0.240 ± 1.0 × 10⁻⁵ 0.00100 480 ± 3.0 2.10 ± 0.13 5"
    assert row in text
    assert "worst case" in text


def test_curvature_that_failed_leaves_the_rest(data):
    """A candidate without any, one without a crossing, and none with a density."""
    lost, short = data.candidates[:2]
    bounds = data.bounds[data.bounds["candidate"] != lost]
    bounds = bounds[(bounds["candidate"] != short) | (bounds["size"] == 800)]
    partial = replace(
        data, bounds=bounds, layers=data.layers[data.layers["candidate"] != lost], densities={},
        crossings=data.crossings[~data.crossings["candidate"].isin([lost, short])],
        failed=[(f"curvature {lost} · D=800", "not enough memory")],
    )  # fmt: skip
    text = Outline(page.render(partial)).text
    assert "Across the curve" in text
    assert "Spectral density" not in text
    single = replace(partial, crossings=data.crossings.iloc[:0], agreement=data.agreement.iloc[:0])
    assert "Across the curve" not in Outline(page.render(single)).text


def test_kernels_tell_how_far_probes_determine_them(data, markup):
    """F(t)/F(0) by the number of probes with its errors, and what to make of it."""
    text = Outline(markup).text
    assert "Median t F(t) / F(0), 16 probes 32 probes 40 probes" in text
    row = diagnostic_tables.kernels(data)[0]
    assert " ".join(f"{share:.3f} ± {error:.2}" for share, error in row["left"]) in text
    assert "the standard error of one such set" in text


def test_overlap_is_a_column_of_the_kernels(data):
    """Unknown, or not to be told, is a dash, and where nobody has one there is no column."""
    *known, missing = data.overlaps
    markup = page.render(replace(data, overlaps={name: data.overlaps[name] for name in known}))
    kernels = markup[markup.index('aria-label="Kernels"') :].partition("</table>")[0]
    rows = [Outline(row).text for row in re.findall(r"<tr>.*?</tr>", kernels)]
    last = {row.split()[0]: " ".join(row.split()[-3:]) for row in rows[1:]}
    assert rows[0].endswith("Overlap")
    assert last[known[0]] == "0.73 ± 0.084"
    assert {name for name, cell in last.items() if cell.endswith("–")} == {known[-1], missing}
    assert "Overlap" not in page.render(replace(data, overlaps={}))


def test_all_text_from_data_is_escaped(make, raced):
    """A candidate's name is text, wherever it comes up, and so is what any table says."""
    data = raced(make([(EVIL, 10**6), ("plain", 10**6)], budgets=(400, 3200)), stop=EVIL)
    long = f"{EVIL}: 9 candidates, {', '.join([EVIL] * 9)}; {EVIL}"
    data = replace(
        data, verdict=EVIL, pipeline=EVIL, failed=[(EVIL, EVIL)], config={EVIL: EVIL},
        versions={EVIL: EVIL}, predictor=EVIL,
        all_predictions=data.all_predictions.replace({"predictor": {"stack": EVIL}}),
        fits=data.fits.replace({"law": {"vanilla": EVIL}}),
        all_scores=data.all_scores.replace({"predictor": {"stack": EVIL}}),
        comparison=data.comparison.replace({"predictor": {"rectified": EVIL}}),
        weights=data.weights.assign(predictor=EVIL, part=EVIL),
        skipped=data.skipped.assign(predictor=EVIL, reason=EVIL),
        findings=pd.concat([data.findings.assign(code=EVIL, title=EVIL, message=m)
                            for m in (EVIL, long)]),
        decisions=data.decisions.assign(dropped=EVIL), layers=data.layers.assign(layer=EVIL),
        notes=pd.DataFrame({"kind": ["citation", "note"], "text": EVIL}),
    )  # fmt: skip
    markup = page.render(data)
    assert "<script" not in markup
    outline = Outline(markup)
    assert "script" not in outline.tags
    assert outline.text.count("<script>alert('x')</script>") > 50


def test_without_truth_kernels_curvature_or_drift(make):
    """Sections of stages that did not run are left out, not left empty."""
    data = make(truth=False)
    data = replace(
        data, spectra={}, layers=data.layers.iloc[:0], bounds=data.bounds.iloc[:0], densities={},
        crossings=data.crossings.iloc[:0], agreement=data.agreement.iloc[:0],
        drift=data.drift.iloc[:0], cell_costs=data.cell_costs.iloc[:0],
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
        all_predictions=without(data.all_predictions), failed=[(f"{lost}, D = 400", "timed out")],
    )  # fmt: skip
    text = Outline(page.render(partial)).text
    assert "1 cell failed. The ranking was made without it" in text
    assert "Not ranked, for want of finished cells: t5-mini-docs." in text
    assert "t5-mini-docs (3 of 7 sizes)" in text
    assert "Failed cells Cell Reason t5-mini-docs, D = 400 timed out" in text


def test_fifty_long_names(make):
    """Every candidate has its line; the page stays below two megabytes."""
    names = [(f"organisation/{'a-very-long-name-' * 4}{i:02d}", 10**9) for i in range(50)]
    markup = page.render(make(names, examined=50))
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


def test_all_checks_passed(data):
    """Nothing found is said, not left empty, and needs no warning at the top."""
    text = Outline(page.render(replace(data, findings=data.findings.iloc[:0]))).text
    assert "Checks All checks passed." in text
    assert "found something" not in text


def test_findings_warn_at_the_top_and_are_told_below(data, markup):
    """Their number and titles lead to the sentences."""
    text = Outline(markup).text
    warning = "1 check found something to know before you rely on this: The target is far away"
    assert text.index(data.verdict) < text.index(warning) < text.index("Ranking Test loss")
    assert "LENS102 The target is far away The target is 6 doublings away; raise the" in text
    two = pd.concat([data.findings, data.findings.assign(code="LENS105", title="A curve rises")])
    text = Outline(page.render(replace(data, findings=two))).text
    assert "2 checks found something" in text
    assert "The target is far away, A curve rises" in text


def test_first_choice_and_lowest_prediction_are_both_marked(data, markup):
    """A careful choice need not be the first of the ranking; usually it is, and nothing is said."""
    assert "first choice</span>" not in markup
    first, second = data.candidates[:2]
    rows = data.all_predictions
    unsure = rows["cautious"].where(rows["candidate"] != first, 99.0)
    text = Outline(page.render(replace(data, all_predictions=rows.assign(cautious=unsure)))).text
    assert f"First choice, predicted rank 2 {second} Probability" in text
    assert f"1 {first} lowest" in text
    assert f"2 {second} first choice" in text
    assert f"{first} is predicted lower than {second}, but less surely" in text


def test_expected_regret_stands_beside_the_chance(markup):
    """At the top and in every row."""
    text = Outline(markup).text
    assert "Expected regret, bits per byte 0.020" in text
    assert "P(best) Expected regret Measured" in text


def test_scores_carry_their_confidence(markup):
    """Intervals below the three main scores, marks on clear differences, all of them in the fold."""
    text = Outline(markup).text
    assert "0.970 0.845–1.095" in text
    assert "▾ 0.020" in text
    assert "Differences from stack with 95 % intervals" in text
    assert "▾ 0.105 0.010–0.200" in text
    assert "stack = 36 % ats + 64 % hrb." in text
    assert "Skipped predictors lensllm lensllm : It needs kernels." in text


def test_several_budgets_have_a_section(make):
    """A figure and a table per score, with the mean."""
    data = make(budgets=(400, 1600, 3200))
    markup = page.render(data)
    text = Outline(markup).text
    assert "<h2>Every budget</h2>" in markup
    assert "Pearson by budget Predictor 400 1,600 3,200 Mean stack 0.770 0.870 0.970 0.870" in text
    assert 'aria-label="Scores of the predictors at every budget"' in markup


def test_a_sweep_tells_who_was_dropped_and_why(data, raced):
    """Every round's chances, the reasons, and why it ended."""
    examples = pd.DataFrame({"spent_examples": [250.0], "full_examples": [1000.0]})
    text = Outline(
        page.render(replace(raced(data, stop="one is left"), simulated_cost=examples))
    ).text
    assert "3 of 6 were dropped on the way. It stopped after D = 1,600: one is left." in text
    assert "250 training examples instead of 1,000: 75 % saved" in text
    assert "Training examples saved 75 %" in text
    assert "400 6 in, 2 out 1,600 4 in, 1 out" in text
    assert f"{data.candidates[-1]} 8 % dropped after 400 P(best) is 1.2%" in text
    assert "The line of a candidate that the sweep dropped ends there." in text
    assert "ended with its largest subset, D = 3,200" in Outline(page.render(raced(data))).text


def test_a_replay_says_whose_losses_it_ranks(data, replayed):
    """Citation and notes near the top; no section and no number of what nobody measured here."""
    markup = page.render(replayed(data))
    text = Outline(markup).text
    assert "LensLLM report · docstrings" in text
    credit = "Losses by Somebody et al. (2024). Two of them look edited."
    assert text.index(data.verdict) < text.index(credit) < text.index("Ranking Test loss")
    headings = re.findall(r"<h2>([^<]*)</h2>", markup)
    expected = ["Ranking", "Learning curves", "Checks", "Predictors compared", "Configuration"]
    assert expected == headings
    assert "Compute" not in text
    assert "Parameters" not in text
    assert "nan" not in text.lower().split()


def test_a_replay_without_truth_or_zero_shot(make, replayed):
    """The least there can be: a few losses and what they lead to."""
    data = replayed(make(truth=False))
    data = replace(data, cells=data.cells[data.cells["size"] > 0], skipped=pd.DataFrame(),
                   comparison=pd.DataFrame(), weights=pd.DataFrame())  # fmt: skip
    text = Outline(page.render(data)).text
    assert "cannot be scored" in text
    assert "pretrained model" not in text
    assert "Mixtures" not in text
    assert "Skipped" not in text
