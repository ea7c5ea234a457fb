"""Charts as data: what they show, drawn as PNG and for a browser."""

import json

import pytest
from hostile_text import HOSTILE

from hf_mutual_kd.reports import figures
from hf_mutual_kd.reports.charts import DASHES, Gain, curves_chart, gains_chart, levels_chart, lines_chart
from hf_mutual_kd.reports.curves import Curves
from hf_mutual_kd.reports.figures import DARK, LIGHT, draw
from hf_mutual_kd.reports.interactive import chart_json, themes


def test_only_intervals_without_zero_are_filled():
    """A gain within noise that looks like one."""
    gains = {"a": Gain(0.02, 0.01, 0.03, [0.01, 0.03]), "b": Gain(-0.02, -0.03, -0.01), "c": Gain(0.01, -0.01, 0.03)}
    gains["d"] = Gain(0.5, None, None)
    means = [one for one in gains_chart(gains, "points", 100).series if one.name == "mean"]
    assert [(one.color, one.hollow) for one in means] == [
        ("mutual", False),
        ("control", False),
        ("soft", True),
        ("soft", True),
    ]
    assert [list(one.x) for one in means] == [[2.0], [-2.0], [1.0], [50.0]]


def test_lines_can_be_told_apart():
    """Two peers in one colour and dash, or shares that are drawn a hundred times too low."""
    lines = {f"peer-{index}": [(0, 0.25), (9, 0.5)] for index in range(4 * 6)}
    chart = lines_chart(lines, "share, %", scale=100)
    assert len({(one.color, one.line) for one in chart.series}) == 24
    assert {one.line for one in chart.series} == set(DASHES)
    assert all(list(one.y) == [25.0, 50.0] for one in chart.series)


def test_levels_have_a_mark_per_seed_in_the_row_of_their_peer():
    """A control's mark in another peer's row."""
    rows = {"a": {"start": [0.5], "control": [0.6, 0.7], "after": [0.8, 0.9]}, "b": {"start": [0.1], "after": [0.2]}}
    start, control, after = levels_chart(rows, "accuracy, %").series
    assert (list(start.x), list(start.y)) == ([50.0, 10.0], [0.0, 1.0])
    assert [round(y) for y in control.y] == [0, 0]
    assert [round(y) for y in after.y] == [0, 0, 1]
    assert list(after.x) == pytest.approx([80, 90, 20])


def test_a_browser_gets_the_same_numbers_and_no_markup():
    """Colours that no theme has, a legend with every seed, or a name that ends the script."""
    curves = Curves(mutual=[[(0, 0.5), (8, 0.75)], [(0, 0.5), (8, 0.7)]], control=[[(0, 0.5), (8, 0.6)]])
    found = json.loads(chart_json(curves_chart(curves, "accuracy, %", 8)))
    assert [(trace["name"], trace["showlegend"]) for trace in found["data"]] == [
        ("with its peers", True),
        ("with its peers", False),
        ("control", True),
    ]
    assert found["data"][1]["y"] == [50.0, 70.0]
    assert found["layout"]["shapes"][0]["x0"] == 8
    text = chart_json(lines_chart({name: [(0, 1.0), (1, 2.0)] for name in HOSTILE}, "<b>"))
    assert "<" not in text
    assert [trace["name"] for trace in json.loads(text)["data"]] == HOSTILE
    known = json.loads(themes())
    used = {word[1:] for word in json.dumps(json.loads(text)).split('"') if word.startswith("@")}
    assert used <= set(known["light"]) == set(known["dark"])


def test_a_figure_carries_its_chart_and_both_themes():
    """A page whose chart shows something else than the picture that it replaces."""
    chart = lines_chart({"a": [(0, 1.0), (1, 2.0)]}, "loss")
    figure = draw("a", "A line.", chart)
    assert figure.chart is chart
    assert figure.light != figure.dark
    assert draw("b", "Nothing.", lambda canvas, theme: None).chart is None
    assert LIGHT.color("peer 7") == LIGHT.peers[1]
    assert DARK.color("ground") == DARK.ground


@pytest.mark.parametrize("outside", [False, True], ids=["within", "legend outside"])
def test_places_taken_from_the_light_figure_are_its_own(outside, monkeypatch):
    """A dark figure, which is not laid out again, whose labels are cut."""
    chart = levels_chart({"a" * 12: {"start": [0.5]}}, "accuracy") if outside else lines_chart({"a": [(0, 1)]}, "loss")
    monkeypatch.setattr(figures, "LIGHT", DARK)
    figure = draw("a", "Both in the same theme.", chart)
    assert figure.light == figure.dark
