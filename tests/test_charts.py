"""The charts: marks where the figures say, and none that hide one another."""

import re
from itertools import pairwise
from xml.etree import ElementTree

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


def test_the_histogram_names_the_bands_it_has_room_for():
    found = {"edges": [0.0, 1.0, 2.0], "correct": [8, 4], "wrong": [2, 1]}
    names = re.findall(r">(easy|medium|hard)<", charts.score_histogram(found, [0.7, 1.99]))
    assert names == ["easy", "medium"]
