"""The report's page and its charts, from data made by hand: no run, no model."""

import math
import re
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from rich.console import Console

from teachwise import charts
from teachwise.report import histogram, number, page, percent, points, result_table, took

NASTY = """<b>&"'arm"""
LONG = "an arm whose name somebody made far longer than any table or chart has room for, with reasons"
TEACHER_TOKENS = {"tokens": 12345.0, "prompt_tokens": 10000.0, "completion_tokens": 2345.0}
LEDGER = {"prompt_tokens": 30_000, "completion_tokens": 7000, "lost_tokens": 12}
UNITS = [{"unit": "prepare", "key": "0123456789abcdef", "seconds": 75.2}]
VOID = {"meta", "link", "br", "circle", "line", "path", "polygon", "rect"}


def interval(value, n=200):
    return {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05), "n": n}


def auc(value=0.8, n=300):
    ends = (None, None) if value is None else (value - 0.04, value + 0.04)
    return {"auc": value, "auc_low": ends[0], "auc_high": ends[1], "n": n, "accuracy": 0.7}


def arm_data(name, place, others, seeds, subjects):
    accuracy = interval(0.71 + 0.0123 * place)
    modes = {
        mode: {"accuracy": interval(0.4 + 0.0107 * place + step), "unreadable": 0.015, "generated_tokens": 12.3 + place}
        for mode, step in (("direct", 0.0), ("cot", 0.1), ("routed", 0.2))
    }
    bought = 100 * place
    gap = {"value": -0.031, "low": -0.05, "high": -0.01, "n": 200}
    pair = {"difference": gap, "mcnemar": [{"only_a": 3, "only_b": 9, "p": 0.146}] * seeds}
    return {
        "arm": name.split(" (")[0],
        "mode": "routed",
        "accuracy": accuracy,
        "modes": {**modes, "routed": {**modes["routed"], "accuracy": accuracy}},
        "by_subject": {subject: interval(0.6, 7) for subject in subjects},
        "by_band": {band: interval(0.5 + 0.1 * place % 0.5, 60) for band in ("hard", "easy", "medium")},
        "by_level": {"10": interval(0.2), "2": interval(0.9)},
        "per_seed": [accuracy["value"]] * seeds,
        "cost": {
            **{f"teacher_{kind}": n * place for kind, n in TEACHER_TOKENS.items()},
            "rationales_bought": float(bought),
            "rationales_kept": bought * 0.9,
            "rejected": {"wrong": bought * 0.1, "unreadable": 0.0, "truncated": 0.0, "failed": 0.0},
            "trained_tokens": 54321.0 + place,
        },
        "against": {other: pair for other in others if other != name},
    }


def make(names=("base", "banded", "random"), control="random", seeds=1, subjects=("calc", "week"), **changes):
    """The data of a finished run; `changes` replace whole sections."""
    assigned = [
        {"stage": 0, "band": "easy", "give": "answer", "rows": 75},
        {"stage": 1, "band": "hard", "give": "rationale", "rows": 25},
        {"stage": -1, "band": "medium", "give": "drop", "rows": 200},
    ]
    stage = {"loss_curve": [[5, 0.9], [10, 0.4]], "updates": 12, "rows": 75, "passes": 3.0}
    arms = {name: arm_data(name, place, names, seeds, subjects) for place, name in enumerate(names)}
    data = {
        "note": "Made by hand: figures say nothing.",
        "recipe": {
            "student": {"model": "tiny"},
            "teacher": {"model": "wise", "base_url": "http://127.0.0.1:8000/v1", "key_env": None},
            "budget": {"teacher_tokens": 99_000},
            "validate": {"min_auc": 0.6, "on_fail": "warn"},
            "on_rejected": "drop",
            "train": {"max_length": 2048},
        },
        "prepare": {
            "counts": {"train": 300, "dev": 50, "test": 200, "rows": 560, "unusable": 4, "repeats": 6, "not_used": 0},
            "shared_questions": [{"question": "what is it?", "splits": ["test", "train"], "rows": [1, 2]}] * 7,
            "notes": ["Read as letters."],
            "set_apart": {"repeats": 6, "no answer": 4},
        },
        "validation": {
            **auc(),
            "by": {subject: auc(None if len(subjects) > 9 else 0.7, 12) for subject in subjects},
            "by_level": {"1": auc(0.9), "2": auc(0.6)},
            "test": auc(0.78, 200),
            "curve": [[0.0, 0.0], [0.2, 0.7], [1.0, 1.0]],
            "measure": "answer_entropy",
            "min_auc": 0.6,
            "verdict": "PASS",
        },
        "histogram": histogram([0.1, 0.2, 0.9, 1.4, 1.5], [True, True, False, True, False]),
        "comparison": {
            "n_test": 200,
            "n_dev": 50,
            "seeds": list(range(seeds)),
            "base": "base" if "base" in arms else None,
            "control": control,
            "arms": arms,
            "intervals_cover": "questions and training seeds",
            "sentences": [f"{name}: {one['accuracy']['value']:.1%} in plain words." for name, one in arms.items()],
        },
        "routes": {one["arm"]: {"assigned": assigned, "teach": {}, "skipped": 3} for one in arms.values()},
        "losses": {one["arm"]: [stage, stage] for one in arms.values()},
        "ledger": {**LEDGER, "requests": {"done": 100, "failed": 2}},
        "provenance": {"versions": {"teachwise": "0.1.0"}, "python": "3.11.7", "machine": "Linux", "units": UNITS},
    }
    return {**data, **changes}


def no_auc():
    data = make()
    nothing = {**auc(None, 4), "accuracy": 1.0}
    data["validation"] |= {**nothing, "by": {"": nothing}, "by_level": {}, "curve": [], "verdict": "FAIL"}
    data["validation"]["test"] = {**auc(None, 0), "accuracy": None}
    data["histogram"] = histogram([0.0] * 4, [True] * 4)
    return data


def no_teacher():
    data = make(names=("base",), control=None, subjects=("",), ledger={}, losses={}, routes={}, note=None)
    for group in ("by_band", "by_level"):
        data["comparison"]["arms"]["base"].pop(group)
    data["comparison"]["arms"]["base"] |= {"accuracy": interval(1.0), "arm": "base"}
    data["prepare"] |= {"shared_questions": [], "notes": [], "set_apart": {}}
    data["recipe"] |= {"teacher": None, "budget": {"teacher_tokens": None}}
    return data


def odd_losses():
    empty = {"loss_curve": [], "updates": 3, "rows": 5, "passes": 1.0}
    single = {**empty, "loss_curve": [[1, 0.5]]}
    broken = {**empty, "loss_curve": [[1, math.nan], [2, math.inf]]}
    return make(losses={"base": [empty], "banded": [single, empty], "random": [broken]})


def many():
    subjects = [f"subject {i}" for i in range(60)]
    return make(names=(NASTY, LONG, *(f"arm{i}" for i in range(9))), control=LONG, seeds=3, subjects=subjects)


CASES = {"plain": make, "no_auc": no_auc, "no_teacher": no_teacher, "odd_losses": odd_losses, "many": many}


class Reader(HTMLParser):
    """What a page holds: its tags, its visible text, and whether it is well formed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words, self.loose_tables = [], [], [], 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "table" and not any(kind == "scroll" for _, kind in self.open):
            self.loose_tables += 1
        if tag not in VOID or not self.get_starttag_text().endswith(">") or tag in ("circle", "rect", "polygon"):
            self.open.append((tag, attrs.get("class")))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1][0] not in ("style", "pre"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module", params=CASES)
def shown(request):
    """Data, the page made from it, and what the page holds."""
    data = CASES[request.param]()
    html = page(data)
    found = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    return SimpleNamespace(data=data, html=html, reader=Reader(html), pictures=list(map(ElementTree.fromstring, found)))


def test_the_page_is_well_formed_and_every_table_scrolls_in_its_own_box(shown):
    assert not shown.reader.open
    assert not shown.reader.loose_tables


def test_the_page_needs_nothing_from_outside(shown):
    assert "@import" not in shown.html
    assert "url(" not in shown.html
    for tag, attrs in shown.reader.tags:
        assert tag not in ("script", "iframe", "object", "img")
        for name in ("src", "href", "srcset"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    places = {attrs["id"] for _, attrs in shown.reader.tags if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in shown.reader.tags if tag == "a"} <= places


def test_every_arm_is_there_with_its_figures(shown):
    html, text = shown.html, shown.reader.text
    for name, arm in shown.data["comparison"]["arms"].items():
        assert str(escape(name)) in html
        own, mode = arm["accuracy"], arm["modes"][arm["mode"]]
        assert f"{own['value']:.1%}" in text
        assert f"{own['low']:.1%} to {own['high']:.1%}" in text
        assert f"{arm['cost']['teacher_tokens']:,.0f}" in text
        assert f"{arm['cost']['trained_tokens']:,.0f}" in text
        assert f"{mode['generated_tokens']:.1f}" in text
        for other in arm["modes"].values():
            assert f"{other['accuracy']['value']:.1%}" in text


def test_nothing_empty_is_printed_and_sentences_do_not_run_together(shown):
    text = shown.reader.text
    assert not re.search(r"\b(nan|inf|None|Undefined|True|False)\b|Markup\(|\{[{%]", text)
    assert not re.search(r"[a-z%)][.:;][A-Z]", text)


def test_the_note_comes_first_then_the_verdict_then_the_arms():
    html, data = page(make()), make()
    body = html[html.index("<main>") : html.index("</body>")]
    order = [data["note"], "</strong>: 71.0% in plain words.", 'id="arms"', 'id="modes"', 'id="pairs"', 'id="score"']
    order += ['id="teacher"', 'id="training"', 'id="groups"', 'id="data"', 'id="provenance"']
    places = [body.index(one) for one in order]
    assert places == sorted(places)
    assert Reader(body).text.startswith(data["note"])


def test_values_are_escaped_wherever_they_stand():
    data = make(names=(NASTY, "random"), subjects=(NASTY, "week"), note=NASTY)
    data["prepare"] |= {"notes": [NASTY], "set_apart": {NASTY: 1}}
    data["prepare"]["shared_questions"] = [{"question": NASTY, "splits": ["dev", "train"], "rows": [1, 2]}]
    data["recipe"]["student"]["model"] = NASTY
    data["validation"]["measure"] = NASTY
    html = page(data)
    assert "<b>" not in html
    assert not re.search("&amp;(amp|lt|gt|#)", html)
    assert html.count(str(escape(NASTY))) > 20


def test_without_a_random_control_the_page_says_what_is_missing():
    text = Reader(page(make(control=None))).text
    assert "No arm is a random control" in text
    assert "points against" not in text


def test_a_gap_is_marked_only_when_its_interval_leaves_zero_out():
    data = make(names=("a", "random"))
    gap = data["comparison"]["arms"]["a"]["against"]["random"]
    assert "▼ −3.1" in Reader(page(data)).text.split("and ▼ mark")[0]
    gap["difference"] = {"value": -0.02, "low": -0.05, "high": 0.01, "n": 200}
    assert "▼ −2.0" not in Reader(page(data)).text


def test_several_seeds_show_each_seed_and_each_p():
    data = make(seeds=3)
    data["comparison"]["arms"]["base"]["per_seed"] = [0.71]
    text = Reader(page(data)).text
    assert "p = 0.146, 0.146, 0.146" in text
    assert "seed 2" in text
    assert "71.0% (not trained: the same for every seed)" in text
    assert "With one seed" not in text


def test_levels_where_the_score_only_guesses_are_named():
    data = make()
    assert "Here it holds within every level" in Reader(page(data)).text
    data["validation"]["by_level"]["2"] = auc(0.5)
    assert "does not tell right from wrong within level 2 :" in Reader(page(data)).text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("PASS", "whole interval lies above"), ("WEAK", "the estimate reaches it"), ("FAIL", "warn and go on")],
)
def test_the_gate_is_told_in_words(verdict, words):
    data = make()
    data["validation"]["verdict"] = verdict
    assert words in Reader(page(data)).text


def test_rejected_rationales_and_the_ledger_are_told():
    text = Reader(page(make())).text
    assert "100 done, 2 failed" in text
    assert "37,012 tokens of a budget of 99,000" in text
    assert "left out, in every arm alike" in text
    kept = make()
    kept["recipe"]["on_rejected"] = "answer"
    assert "trained on with its answer alone" in Reader(page(kept)).text


def test_every_picture_is_xml_with_a_title_and_a_description(shown):
    assert shown.pictures
    for picture in shown.pictures:
        if picture.get("aria-hidden") == "true":
            continue
        assert picture.get("role") == "img"
        assert [part.tag for part in picture][:2] == ["title", "desc"]
        assert all(picture.find(name).text for name in ("title", "desc"))


def test_nothing_is_drawn_outside_a_picture(shown):
    for picture in shown.pictures:
        _, _, width, height = map(float, picture.get("viewBox").split())
        for part in picture.iter():
            for names, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
                for name in names:
                    assert -1 <= float(part.get(name, 0)) <= limit + 1, ElementTree.tostring(part)


def test_labels_fit_the_picture(shown):
    narrow = 5.5  # a letter in a narrow font; a wide one is left to the eye
    for picture in shown.pictures:
        for text in picture.iter("text"):
            x, width = float(text.get("x")), narrow * len(text.text or "")
            left = x - width * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            assert left > -8, text.text
            assert left + width < charts.WIDTH + 12, text.text


def test_groups_are_in_reading_order_and_too_many_get_a_table_alone():
    arms = many()["comparison"]["arms"]
    assert charts.group_chart(arms, "by_subject") == ""
    assert charts.group_chart(arms, "by_level")
    assert "All 60 subjects" in Reader(page(many())).text
    assert charts.group_names(arms, "by_band") == ["easy", "medium", "hard"]
    assert charts.group_names(arms, "by_level") == ["2", "10"]
    assert charts.group_names({}, "by_band") == []


def test_many_arms_look_different_and_those_of_one_price_do_not_hide_one_another():
    assert len({charts.symbol(index) for index in range(40)}) == 40
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
    assert "all answers were right" in charts.roc_chart([], None, None, None)
    assert "No loss" in charts.loss_chart([])
    assert "Nothing was assigned" in charts.band_bars({"base": []})


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_cover_the_range_in_few_equal_steps(low, width):
    found = charts.ticks(low, low + width)
    steps = [after - before for before, after in pairwise(found)]
    assert 1 <= len(steps) <= 7
    assert max(steps) - min(steps) <= 1e-6 * max(steps) + 1e-9
    assert found[0] <= low + 1e-6 * max(steps)
    assert found[-1] >= low + width - 1e-6 * max(steps)


def test_figures_in_words():
    assert [percent(0.8346), percent(None), percent(math.nan)] == ["83.5%", "–", "–"]
    assert [points(0.0004), points(-0.0004), points(-0.02)] == ["0.0", "0.0", "−2.0"]
    assert [number(1234567), number(-0.5, 1)] == ["1,234,567", "−0.5"]
    assert [took(59.94), took(60), took(3725)] == ["59.9 s", "1 min 0 s", "1 h 2 min"]


def test_every_score_lies_in_one_bar():
    found = histogram([0.0, 0.5, 1.0, 1.0], [True, False, True, False], bins=4)
    assert found == {"edges": [0, 0.25, 0.5, 0.75, 1], "correct": [1, 0, 0, 1], "wrong": [0, 0, 1, 1]}


def test_the_terminal_table_has_every_arm():
    console = Console(width=200, record=True, file=StringIO())
    console.print(result_table(make()["comparison"]))
    text = console.export_text()
    assert all(name in text for name in ("base", "banded", "random", "72.2", "12,345"))
