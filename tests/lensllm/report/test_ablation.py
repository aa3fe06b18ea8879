"""The page of an ablation: complete, self-contained and safe."""

import re

import pytest

from lensllm.report import ablation
from tests.lensllm.report.ablated import ablated
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
