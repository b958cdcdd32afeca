"""The charts: marks where the figures say, and none that hide one another."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_report import make, many
from teachwise import charts, drawing


def test_groups_are_in_reading_order_and_too_many_get_a_table_alone():
    arms = many()["comparison"]["arms"]
    assert charts.group_chart(arms, "by_subject") == ""
    assert charts.group_chart(arms, "by_level")
    assert charts.group_names(arms, "by_band") == ["easy", "medium", "hard"]
    assert charts.group_names(arms, "by_level") == ["2", "10"]
    assert charts.group_names({}, "by_band") == []


def test_many_arms_look_different_and_those_of_one_price_do_not_hide_one_another():
    assert len({drawing.symbol(index) for index in range(40)}) == 40
    arms = many()["comparison"]["arms"]
    for arm in arms.values():
        arm["cost"]["teacher_tokens"] = 0.0
    picture = ElementTree.fromstring(charts.budget_chart(arms))
    places = [line.get("x1") for line in picture.iter("line") if line.get("class").startswith("span")]
    assert len(places) == len(set(places)) == len(arms)


WIDE = {"narrow": (0.42, 0.40, 0.46), "wide": (0.60, 0.45, 0.70)}


def with_intervals():
    arms = make(names=tuple(WIDE), control=None)["comparison"]["arms"]
    for name, found in WIDE.items():
        row = {**dict(zip(("value", "low", "high"), found, strict=True)), "n": 50}
        arms[name] |= {"accuracy": row, "by_level": {"1": row}}
    return arms


def shares_at(picture, names):
    """Where the axis of shares puts them: a line through the first and the last of its labels."""
    labels = [one for one in picture.iter("text") if one.get("class") == "tick" and one.text.endswith("%")]
    ends = [(float(one.text[:-1]) / 100, float(one.get(names[0])) - names[1]) for one in (labels[0], labels[-1])]
    (low, start), (high, end) = ends
    return lambda share: start + (share - low) / (high - low) * (end - start)


@pytest.mark.parametrize(
    ("draw", "axis", "label"),
    [
        (charts.arm_chart, "x", 0),
        (lambda arms: charts.group_chart(arms, "by_level"), "x", 0),
        (charts.budget_chart, "y", 4),
    ],
)
def test_every_interval_reaches_from_its_lower_to_its_upper_end(draw, axis, label):
    picture = ElementTree.fromstring(draw(with_intervals()))
    at = shares_at(picture, (axis, label))
    spans = [one for one in picture.iter("line") if one.get("class").startswith("span")]
    assert len(spans) == 2
    for span, (_, low, high) in zip(spans, WIDE.values(), strict=True):
        assert float(span.get(f"{axis}1")) == pytest.approx(at(low), abs=0.2)
        assert float(span.get(f"{axis}2")) == pytest.approx(at(high), abs=0.2)
        other = "y" if axis == "x" else "x"
        assert span.get(f"{other}1") == span.get(f"{other}2")
    (circle,) = [one for one in picture.iter("circle") if "n = 50" in (one.find("title").text or "")]
    assert float(circle.get(f"c{axis}")) == pytest.approx(at(WIDE["narrow"][0]), abs=0.2)


def test_the_bars_of_the_histogram_have_the_lengths_of_their_counts():
    found = {"edges": [0, 1, 2], "correct": [8, 4], "wrong": [2, 0]}
    picture = ElementTree.fromstring(charts.score_histogram(found))
    bars = [bar for bar in picture.iter("rect") if (bar.find("title").text or "").startswith(("0.00", "1.00"))]
    heights = [float(bar.get("height")) for bar in bars]
    assert heights == [200, 50, 100, 0]
    tops = [float(bar.get("y")) for bar in bars]
    assert tops[0] + 200 == tops[2] + 100 == tops[1] == tops[3]
    assert "square-root" not in charts.score_histogram(found)
    towering = {"edges": list(range(25)), "correct": [1000, *[4] * 23], "wrong": [4] * 24}
    assert "square-root scale" in charts.score_histogram(towering)


def test_an_empty_histogram_and_an_empty_curve_say_why():
    assert "No scores" in charts.score_histogram({"edges": [0, 1], "correct": [0], "wrong": [0]})
    assert "all answers were right" in charts.roc_chart([], [], None, None, None)
    assert "No loss" in charts.loss_chart([])
    assert "Nothing was assigned" in charts.band_bars({"base": []})


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_cover_the_range_in_few_equal_steps(low, width):
    found = drawing.ticks(low, low + width)
    steps = [after - before for before, after in pairwise(found)]
    assert 1 <= len(steps) <= 7
    assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9
    assert found[0] <= low + 1e-6 * max(steps)
    assert found[-1] >= low + width - 1e-6 * max(steps)


def test_the_chart_of_prices_puts_free_arms_in_a_strip_at_zero():
    arms = make(names=("base", "sft", "banded", "distill"))["comparison"]["arms"]
    arms["sft"]["cost"]["teacher_tokens"] = 0.0
    picture = ElementTree.fromstring(charts.budget_chart(arms))
    (strip,) = [box for box in picture.iter("rect") if box.get("class") == "zone"]
    edge = float(strip.get("x")) + float(strip.get("width"))
    places = [float(line.get("x1")) for line in picture.iter("line") if line.get("class").startswith("span")]
    assert [place < edge for place in places] == [True, True, False, False]
    arms["banded"]["cost"]["teacher_tokens"] = arms["distill"]["cost"]["teacher_tokens"] / 1e6
    cheap = dict.fromkeys("abcde", arms["banded"])
    picture = ElementTree.fromstring(charts.budget_chart({**arms, **cheap}))
    places = [float(line.get("x1")) for line in picture.iter("line") if line.get("class").startswith("span")]
    assert sum(place < edge for place in places) == 2, "an arm that pays a little is not drawn among the free ones"
    assert "zone" not in charts.budget_chart({"banded": arms["banded"]})


def test_the_band_of_the_curve_is_drawn_around_it():
    band = [(0.0, 0.1, 0.5), (0.5, 0.4, 0.9), (1.0, 1.0, 1.0)]
    picture = ElementTree.fromstring(charts.roc_chart([(0, 0), (1, 1)], band, 0.8, 0.7, 0.9))
    (drawn,) = [one for one in picture.iter("path") if one.get("class") == "band"]
    assert len(drawn.get("d").split("L")) == 6
    assert "band" not in [
        one.get("class") for one in ElementTree.fromstring(charts.roc_chart([(0, 0), (1, 1)], [], 0.8, 0.7, 0.9)).iter()
    ]


@pytest.mark.parametrize(
    ("borders", "names"),
    [
        ([0.7, 1.5], ["easy", "medium", "hard"]),
        ([0.7, 1.99], ["easy", "medium", "hard ▸"]),
        ([0.01, 1.2], ["◂ easy", "medium", "hard"]),
        ([0.01, 0.02], ["◂ easy", "◂ medium", "hard"]),
        ([1.98, 1.99], ["easy", "medium ▸", "hard ▸"]),
        ([0.9, 0.91], ["easy", "◂ medium", "hard"]),
    ],
)
def test_the_histogram_names_every_band_and_no_name_stands_on_another(borders, names):
    found = {"edges": [0.0, 1.0, 2.0], "correct": [8, 4], "wrong": [2, 1]}
    picture = ElementTree.fromstring(charts.score_histogram(found, borders))
    labels = [one for one in picture.iter("text") if re.search("easy|medium|hard", one.text)]
    assert [one.text for one in labels] == names
    ends = [(float(one.get("x")), drawing.LETTER * len(one.text) / 2) for one in labels]
    assert all(a + half <= b - other for (a, half), (b, other) in pairwise(ends))
    assert ends[0][0] - ends[0][1] >= 51
    assert ends[-1][0] + ends[-1][1] <= 409


@pytest.mark.parametrize("first", [100, 2])
def test_the_names_of_stages_stand_above_the_curve_and_beside_one_another(first):
    stages = [{"loss_curve": [[1, 3.0], [n, 0.1]], "updates": n} for n in (first, 100)]
    picture = ElementTree.fromstring(charts.loss_chart(stages))
    names = [one for one in picture.iter("text") if one.text.startswith("stage")]
    assert [one.text for one in names] == ["stage 1", "stage 2"]
    highest = min(float(line.get("y1")) for line in picture.iter("line") if line.get("class") == "grid")
    assert all(float(one.get("y")) <= highest - 8 for one in names)
    places = [float(one.get("x")) for one in names]
    assert places[1] - places[0] >= 7 * drawing.LETTER


def test_every_measure_has_its_bar_and_its_figures_said_aloud():
    found = {"auc": 0.71, "auc_low": 0.69, "auc_high": 0.73, "n": 1200}
    none = {"auc": None, "auc_low": None, "auc_high": None, "n": 0}
    picture = str(charts.measure_chart({"answer_entropy": found, "<b>": {**found, "auc": 0.4}, "lost": none}, 0.6))
    assert "answer_entropy: AUC 0.710 (0.690 to 0.730)" in picture
    assert "&lt;b&gt;" in picture
    assert picture.count('class="band"') == 2
    assert "lost · 0 questions" in picture
    assert "No AUC" in str(charts.measure_chart({"lost": none}, 0.6))
