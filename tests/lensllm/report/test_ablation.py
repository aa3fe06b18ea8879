"""The page and the figure of an ablation."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lensllm.report import ablation, style
from tests.lensllm.report.ablated import TARGET, ablated
from tests.lensllm.report.test_page import Outline


@pytest.fixture(scope="module", name="markup")
def _markup() -> str:
    return ablation.render(ablated())


def rows(markup: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section, without their tags."""
    body = markup.split(f'<section id="{section}">')[1].split("</table>")[0]
    return [
        [
            " ".join(re.sub(r"<[^>]*>", " ", cell.replace("<wbr>", "")).split())
            for cell in re.findall(r"<t[dh]\b.*?</t[dh]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    ]


def test_equal_data_give_equal_text(markup: str):
    assert markup == ablation.render(ablated())


def test_nothing_is_fetched_and_nothing_runs(markup: str):
    outline = Outline(markup)
    assert not {"script", "iframe", "object", "img"} & set(outline.tags)
    for address in outline.values("href") + outline.values("xlink:href"):
        assert address.startswith("#") or address == "data:,"
    assert any("default-src 'none'" in (value or "") for value in outline.values("content"))


@pytest.mark.parametrize("failing", [(), (2,)])
def test_ids_are_unique_and_links_lead_somewhere(failing: tuple[int, ...]):
    outline = Outline(ablation.render(ablated(failing=failing)))
    ids = outline.values("id")
    assert sorted(set(ids)) == sorted(ids)
    assert {a[1:] for a in outline.values("href") if a.startswith("#")} <= set(ids)


def test_the_answer_stands_at_the_top(markup: str):
    data, text = ablated(), Outline(markup).text
    assert text.index(data.verdict) < text.index("One setting at a time Each row")
    assert "9 of 9" in text


def test_every_key_and_every_point_has_its_row(markup: str):
    data = ablated()
    keys, points = rows(markup, "keys"), rows(markup, "points")
    assert [row[:3] for row in keys[1:]] == [
        ["law.tau", "5", "3, 8"],
        ["finetune.learning_rate", "0.001", "0.0005, 0.002"],
    ]
    assert len(points) == 1 + 9
    assert points[1][:4] == ["0", "5", "0.001", data.points["choice"][0]]
    assert [row[5] for row in points[1:]] == [f"{v:.3f}" for v in data.points["truth_kendall"]]


def test_ranks_are_those_of_every_point(markup: str):
    data = ablated()
    table = rows(markup, "ranks")
    ranks = data.candidates.set_index(["candidate", "point"])["rank"]
    for name, *places in table[1:]:
        assert places == [f"{ranks[name, point]:.0f}" for point in range(9)]


def test_what_failed_is_named_and_escaped():
    markup = ablation.render(ablated(failing=(2, 4)))
    text = Outline(markup).text
    assert "7 of 9" in text
    assert "every cell of <point 2> failed" in text
    assert "finetune <b>x</b> · D=100" in text
    assert "<b>x</b>" not in markup
    points = rows(markup, "points")
    assert points[3][3:] == ["failed"]
    assert {len(row) for row in rows(markup, "ranks")} == {8}


def test_without_a_truth_nothing_is_said_of_it():
    text = Outline(ablation.render(ablated(truth=False))).text
    assert "PearCorr" not in text
    assert "True order" not in text
    assert "Order, Kendall" in text


def test_a_reference_that_failed_still_has_a_page():
    text = Outline(ablation.render(ablated(failing=(0,)))).text
    assert "nothing to compare with" in text


def test_one_setting_of_two_words_is_enough():
    data = ablated(keys=1, truth=False)
    assert Outline(ablation.render(data)).text.count("law.tau") > 3


def drawn_lines(axes) -> list:
    """Those in the coordinates of the data."""
    return [line for line in axes.get_lines() if line.get_transform() == axes.transData]


@pytest.mark.parametrize("keys", [1, 2, 4])
def test_a_column_of_three_panels_for_every_key(keys: int):
    data = ablated(keys=keys)
    titles = [axes.get_title(loc="left") for axes in ablation.figure(data).axes]
    assert [t for t in titles if t] == list(data.keys["key"])
    assert len(titles) == 3 * keys


def test_values_ascend_with_the_pipelines_own_shaded():
    ranks, _, _, rate, *_ = ablation.figure(ablated()).axes
    assert [t.get_text() for t in ranks.get_xticklabels()] == ["3", "5", "8"]
    assert [t.get_text() for t in rate.get_xticklabels()] == ["0.0005", "0.001", "0.002"]
    (band,) = rate.patches
    assert band.get_x() < 1 < band.get_x() + band.get_width()


def test_words_begin_with_the_pipelines_own():
    source, *_, flag = ablation.figure(ablated(keys=4)).axes[6::3]
    assert source.get_xticklabels()[0].get_text().startswith("builtin")
    assert [t.get_text() for t in flag.get_xticklabels()] == ["true", "false"]


def test_lines_are_the_ranks_at_the_points_that_move_the_key_alone():
    data = ablated()
    drawn = ablation.figure(data).axes[3]  # the learning rate's
    ranks = data.candidates.set_index(["candidate", "point"])["rank"]
    expected = {name: [ranks[name, p] for p in (1, 0, 2)] for name in data.candidate_names}
    by_colour = {look.colour: name for name, look in data.looks.items()}
    found = {
        by_colour[to_hex(line.get_color())]: list(line.get_ydata()) for line in drawn_lines(drawn)
    }
    assert expected == found
    assert drawn.yaxis_inverted()


def test_agreement_is_that_of_the_points():
    data = ablated()
    drawn = ablation.figure(data).axes[1]
    points = data.points.loc[[3, 0, 6]]  # τ = 3, 5, 8
    found = [list(line.get_ydata()) for line in drawn_lines(drawn)]
    assert found == [list(points[c]) for c in ("pearson", "kendall", "truth_kendall")]


def test_without_a_truth_the_order_alone_is_drawn():
    data = ablated(truth=False)
    (line,) = drawn_lines(ablation.figure(data).axes[1])
    assert list(line.get_ydata()) == list(data.points.loc[[3, 0, 6], "kendall"])


def test_transitions_stay_within_what_can_be_seen():
    data = ablated(count=12)
    drawn = ablation.figure(data).axes[5]
    sizes = np.concatenate([line.get_ydata() for line in drawn_lines(drawn)])
    assert sizes.min() >= 100
    assert sizes.max() <= TARGET
    assert list(drawn.get_yticks()) == [100, 3200, TARGET]


def test_a_failed_point_is_a_gap():
    data = ablated(failing=(1,))
    drawn = ablation.figure(data).axes[3]
    assert all(np.isnan(line.get_ydata()[0]) for line in drawn_lines(drawn))
    assert all(np.isfinite(line.get_ydata()[1:]).all() for line in drawn_lines(drawn))


def test_of_fifty_candidates_few_stand_out_the_choices_among_them():
    data = ablated(count=50)
    named = [name for name, look in data.looks.items() if look is not style.CROWD]
    assert len(named) == len(style.PALETTE)
    assert set(data.points["choice"]) <= set(named)
    drawn = ablation.figure(data).axes[0]
    assert len(drawn_lines(drawn)) == 50
    assert sum(to_hex(line.get_color()) == style.OTHERS for line in drawn_lines(drawn)) == 42


@pytest.mark.parametrize("layout", [style.WIDE, style.NARROW])
@pytest.mark.parametrize("count", [6, 50])
def test_names_neither_collide_nor_leave_the_figure(count: int, layout: style.Layout):
    drawing = ablation.figure(ablated(count=count, keys=3), layout)
    FigureCanvasAgg(drawing).draw()
    for axes in drawing.axes:
        extents = sorted((t.get_window_extent() for t in axes.texts), key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(extents))
        assert all(drawing.bbox.x0 <= box.x0 and box.x1 <= drawing.bbox.x1 for box in extents)
    labels = [t.get_window_extent() for t in drawing.texts]
    assert min(box.x0 for box in labels) >= drawing.bbox.x0
    ticks = [t.get_window_extent() for a in drawing.axes for t in a.get_yticklabels()]
    assert max(box.x1 for box in labels) <= min(box.x0 for box in ticks if box.width)
