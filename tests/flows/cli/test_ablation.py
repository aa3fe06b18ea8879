"""What the command line tells of an ablation: JSON without gaps, a CSV, a screen that fits."""

import io
import json
from collections.abc import Collection
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.ablation import Summary, screen
from flows.running.ablated import by_setting, rows
from tests.lensllm.report.ablated import ablated


def summary(failing: Collection[int] = (), **shape: int) -> Summary:
    data = ablated(failing=failing, **shape)
    return Summary(
        pipeline="demo",
        points=data.points,
        candidates=data.candidates,
        keys=data.keys,
        failures=tuple((f"point {place}", "out of [memory]") for place in failing),
        folder=Path("reports/demo-ablation"),
        computed=3,
        cached=40,
    )


def shown(found: Summary, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(found, width))
    return console.file.getvalue()


def test_the_json_is_strict_and_its_settings_are_values():
    said = json.loads(json.dumps(summary(failing=(2,)).as_dict, allow_nan=False))
    assert said["points"][1]["settings"] == {"law.tau": 5.0, "finetune.learning_rate": 0.0005}
    assert said["points"][0]["reference"] is True
    assert said["points"][2]["failed"] == "every cell of <point 2> failed"
    assert said["points"][2]["kendall"] is None
    assert [row["values"] for row in said["keys"]] == [[3.0, 8.0], [0.0005]]
    assert [row["reference"] for row in said["keys"]] == [5.0, 0.001]
    assert {row["point"] for row in said["candidates"]} == set(range(9)) - {2}
    assert said["failed"] == [{"step": "point 2", "reason": "out of [memory]"}]
    assert said["report"].endswith("ablation.html")


def test_a_csv_has_a_column_per_setting():
    table = by_setting(summary().points)
    assert list(table.columns[:3]) == ["point", "law.tau", "finetune.learning_rate"]
    assert list(table["law.tau"]) == ["5"] * 3 + ["3"] * 3 + ["8"] * 3
    assert "settings" not in table


def test_rows_for_people_are_short_and_say_how_many_transitions_are_seen():
    first, second, *_ = rows(summary().points)
    point = summary().points.iloc[0]
    assert (first[""], second[""]) == ("own", "1")
    assert (first["tau"], first["learning_rate"]) == ("5", "0.001")
    assert first["AtS (seen)"].endswith(f"({point['ats_seen']})")
    assert first["PearCorr"] == f"{point['pearson']:.3f}"
    assert "PearCorr" not in rows(ablated(truth=False).points)[0]


@pytest.mark.parametrize("width", [70, 80, 110])
@pytest.mark.parametrize("keys", [1, 2])
def test_the_screen_fits_and_breaks_no_number(width: int, keys: int):
    found = summary(keys=keys)
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    for line in rows(found.points):
        assert f" {line['Kendall']} " in text
        assert line["choice"] in text
    assert "law.tau" in text
    assert "computed 3 artefacts, 40 were cached" in text


def test_a_wide_screen_has_every_column():
    text = shown(summary(), 110)
    assert all(word in text for word in ("regret", "PearCorr", "doublings", "D*", "AtS"))


def test_the_screen_names_what_failed():
    text = shown(summary(failing=(2,)), 110)
    assert "failed: point 2: out of [memory]" in text
    assert " failed " in text.split("How far")[0]


def test_a_long_list_of_points_is_cut():
    text = shown(summary(keys=4), 110)
    assert "… and 12 more on the page." in text
