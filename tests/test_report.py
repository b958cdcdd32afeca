"""The report's page and its charts, from data made by hand: no run, no model."""

import base64
import hashlib
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from markupsafe import escape
from rich.console import Console

from made_records import rationale
from made_report import NASTY, PRICE, auc, cut_short, html_of, interval, make, many, questions, teacher_data
from made_run import make_run
from teachwise import browse, drawing
from teachwise.guard import CONTAMINATION
from teachwise.records import Example, Hit, Score
from teachwise.report import example_rows, histogram, page, report_data, result_table, write_report
from teachwise.run_folder import Unit, write_records
from teachwise.stats import roc_band
from teachwise.teacher.prices import Price

VOID = {"meta", "link", "br", "circle", "line", "path", "polygon", "rect", "input", "wbr"}


def no_auc():
    data = make()
    nothing = {**auc(None, 4), "accuracy": 1.0}
    data["validation"] |= {**nothing, "by": {"": nothing}, "by_level": {}, "curve": [], "verdict": "FAIL"}
    data["validation"]["test"] = {**auc(None, 0), "accuracy": None}
    data["histogram"] = histogram([0.0] * 4, [True] * 4)
    data |= {"roc_band": [], "bands": {}}
    return data


def no_teacher():
    data = make(names=("base",), control=None, subjects=("",), ledger={}, losses={}, routes={}, note=None)
    for group in ("by_band", "by_level"):
        data["comparison"]["arms"]["base"].pop(group)
    data["comparison"]["arms"]["base"] |= {"accuracy": interval(1.0), "arm": "base"}
    data["prepare"] |= {"notes": [], "set_apart": {}}
    data["contamination"] |= {"found": [], "said": "", "n_hits": 0, "first": []}
    data["recipe"] |= {"teacher": None, "budget": {"teacher_tokens": None, "usd": None}}
    data["comparison"]["teacher"] = teacher_data({})
    return data


def odd_losses():
    empty = {"loss_curve": [], "updates": 3, "rows": 5, "passes": 1.0}
    single = {**empty, "loss_curve": [[1, 0.5]]}
    broken = {**empty, "loss_curve": [[1, math.nan], [2, math.inf]]}
    return make(losses={"base": [empty], "banded": [single, empty], "random": [broken]})


def failing_teacher():
    return taught(MIXED, usd=0.5)


CASES = {
    "plain": make,
    "no_auc": no_auc,
    "no_teacher": no_teacher,
    "odd_losses": odd_losses,
    "failing_teacher": failing_teacher,
    "many": many,
}


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
        if self.open and self.open[-1][0] not in ("style", "script", "pre"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module", params=CASES)
def shown(request):
    """Data, the page made from it, and what the page holds."""
    data = CASES[request.param]()
    html = html_of(data)
    found = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    return SimpleNamespace(data=data, html=html, reader=Reader(html), pictures=list(map(ElementTree.fromstring, found)))


def test_the_page_is_well_formed_and_every_table_scrolls_in_its_own_box(shown):
    assert not shown.reader.open
    assert not shown.reader.loose_tables


def test_the_page_needs_nothing_from_outside(shown):
    assert "@import" not in shown.html
    assert "url(" not in shown.html
    for tag, attrs in shown.reader.tags:
        assert tag not in ("iframe", "object", "img")
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
    html, data = html_of(make()), make()
    body = html[html.index("<main>") : html.index("</body>")]
    order = [data["note"], "<h1>", "No: banded did worse than both", "Not settled:", 'id="arms"', 'id="groups"']
    order += ['id="score"', 'id="teacher"', 'id="examples"', 'id="training"', 'id="modes"', 'id="pairs"']
    order += ['id="contamination"', 'id="failed"', 'id="provenance"']
    places = [body.index(one) for one in order]
    assert places == sorted(places)
    assert Reader(body).text.startswith(data["note"])


def test_too_many_subjects_are_folded_away():
    assert "All 60 subjects" in Reader(html_of(many())).text


def test_values_are_escaped_wherever_they_stand():
    data = make(names=(NASTY, "random"), subjects=(NASTY, "week"), note=NASTY)
    data["prepare"] |= {"notes": [NASTY], "set_apart": {NASTY: 1}}
    data["contamination"]["first"] = [{"text": NASTY, "held_text": NASTY, "held": "dev", "share": 0.5}]
    data["recipe"]["student"]["model"] = NASTY
    data["validation"]["measure"] = NASTY
    html = html_of(data)
    assert NASTY[:4] not in html
    assert not re.search("&amp;(amp|lt|gt|#)", html)
    assert html.count(str(escape(NASTY))) > 20


def test_without_a_random_control_the_page_says_what_is_missing():
    text = Reader(html_of(make(control=None))).text
    assert "since no arm is a random control" in text
    assert "against random" not in text


def test_a_gap_is_marked_only_when_its_interval_leaves_zero_out():
    data = make(names=("a", "random"))
    gap = data["comparison"]["arms"]["a"]["against"]["random"]
    assert "▼ −3.1" in Reader(html_of(data)).text.split("and ▼ mark")[0]
    gap["difference"] = {"value": -0.02, "low": -0.05, "high": 0.01, "n": 200}
    assert "▼ −2.0" not in Reader(html_of(data)).text


def test_several_seeds_show_each_seed_and_each_p():
    data = make(seeds=3)
    data["comparison"]["arms"]["base"]["per_seed"] = [0.71]
    text = Reader(html_of(data)).text
    assert "p = 0.146 each" in text
    assert "seed 2" in text
    assert "71.0% (not trained: the same for every seed)" in text
    assert "With one seed" not in text


def test_levels_where_the_score_only_guesses_are_named():
    data = make()
    assert "Here it holds within every level" in Reader(html_of(data)).text
    data["validation"]["by_level"]["2"] = auc(0.5)
    assert "does not tell right from wrong within level 2 :" in Reader(html_of(data)).text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("PASS", "whole interval lies above"), ("WEAK", "the estimate reaches it"), ("FAIL", "warn and go on")],
)
def test_the_gate_is_told_in_words(verdict, words):
    data = make()
    data["validation"]["verdict"] = verdict
    assert words in Reader(html_of(data)).text


def test_rejected_rationales_and_the_ledger_are_told():
    text = Reader(html_of(make())).text
    assert "100 ok, 2 failed" in text
    assert "37,012 tokens of a budget of 99,000" in text
    assert "left out, in every arm alike" in text
    assert "not known: budget.prices says what this teacher" in text
    kept = make()
    kept["recipe"]["on_rejected"] = "answer"
    assert "trained on with its answer alone" in Reader(html_of(kept)).text


def taught(bands, usd=None, **changes):
    """Data of a report about a teacher with these verdicts; `usd` per arm where prices are known."""
    data = make(price=PRICE if usd else None)
    data["comparison"]["teacher"] = teacher_data(bands, price=Price(**PRICE) if usd else None, **changes)
    for place, arm in enumerate(data["comparison"]["arms"].values()):
        arm["cost"]["teacher_usd"] = usd and usd * place
    data["ledger"] |= {"usd": usd or 0.0, "unpriced": 0}
    return data


def table_of(html, label):
    """The cells of a table, row by row."""
    (table,) = re.findall(rf'aria-label="{label}">\s*<table>(.*?)</table>', html, re.DOTALL)
    rows = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[:-1]]
    return [[" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in row] for row in rows]


MIXED = {
    "easy": {"correct": 19, "truncated": 1},
    "hard": {"correct": 4, "wrong": 6, "refused": 1, "unknown": 1, "unpaid": 8},
}


def test_the_teacher_is_judged_by_band_with_what_was_spent_in_vain():
    html = html_of(taught(MIXED, usd=0.5, prompt_tokens=100, completion_tokens=50))
    head, *rows = table_of(html, "The teacher by band")
    easy, hard = (dict(zip(head, row, strict=True)) for row in rows)
    assert easy == {
        "band": "easy", "bought": "20", "kept": "19 95.0%", "agreement": "100.0% of 19",
        "tokens spent in vain": "150 5.0%", "money spent in vain": "$0.0006", "wrong": "0", "unreadable": "0",
        "cut off": "1", "refused": "0", "unknown": "0", "not bought": "0", "repeats itself": "0",
        "tokens written, median": "50",
    }  # fmt: skip
    assert (hard["bought"], hard["kept"]) == ("12", "4 33.3%"), "of those that were bought, not of those wanted"
    assert (hard["agreement"], hard["wrong"]) == ("40.0% of 10", "6")
    assert (hard["tokens spent in vain"], hard["not bought"]) == ("1,050 63.6%", "8")
    text = Reader(html).text
    assert "TEACHER FAILURE Of 12 rationales for hard questions, 33.3% (13.8% to 60.9%) state the right answer" in text
    assert "TEACHER FAILURE: only 4 of 12" in text.partition("Contents")[0].partition("The arms")[0]
    assert "$0.50, at prices from May 2026" in text


def test_where_no_price_is_known_no_money_is_told():
    html = html_of(taught(MIXED))
    assert not {"money spent in vain", "money"} & {
        *table_of(html, "The teacher by band")[0],
        *table_of(html, "Rationales")[0],
    }
    assert "what that is in money is not known" in Reader(html).text
    assert "$" not in Reader(html).text


def test_a_teacher_on_this_machine_is_called_free():
    data = taught(MIXED)
    data["is_free"] = True
    text = Reader(html_of(data)).text
    assert "in money free, on this machine" in text
    assert "not known" not in text


def test_a_band_of_which_nothing_was_bought_has_no_share():
    hard = table_of(html_of(taught({"easy": {"correct": 2}, "hard": {"unpaid": 3}})), "The teacher by band")[2]
    assert hard[:3] == ["hard", "0", "0 –"]


def test_a_kind_of_reply_that_did_not_occur_has_no_column():
    head = table_of(html_of(taught({"hard": {"correct": 9}})), "The teacher by band")[0]
    assert {"wrong", "unreadable", "cut off"} <= set(head)
    assert not {"refused", "failed", "unknown", "not bought"} & set(head)


def test_no_agreement_is_claimed_where_the_teacher_saw_the_answers():
    html = html_of(taught({"hard": {"correct": 9}}, gold_shown=True))
    assert dict(zip(*table_of(html, "The teacher by band"), strict=True))["agreement"] == "–"
    text = Reader(html).text
    assert "none is claimed here, because the teacher saw the answers" in text
    assert text.count("The teacher saw the answers:") == 2, "at the top and beside the table"


def test_wrong_rationales_that_were_learnt_from_are_told():
    data = taught({"hard": {"correct": 6, "wrong": 3}}, kept=True)
    data["recipe"]["keep"] = "all"
    text = Reader(html_of(data)).text
    assert text.count("Wrong rationales were learnt from: 3 that do not state the right answer") == 2
    assert "Wrong and unreadable ones are learnt from too" in text


def test_a_ledger_that_other_runs_share_is_called_so():
    data = make()
    data["recipe"]["teacher"]["ledger"] = "shared.sqlite"
    assert "and for every other run that shares this ledger" in Reader(html_of(data)).text


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
            assert left + width < drawing.WIDTH + 12, text.text


def test_every_score_lies_in_one_bar():
    found = histogram([0.0, 0.5, 1.0, 1.0], [True, False, True, False], bins=4)
    assert found == {"edges": [0, 0.25, 0.5, 0.75, 1], "correct": [1, 0, 0, 1], "wrong": [0, 0, 1, 1]}


def printed(comparison, width):
    console = Console(width=width, record=True, file=StringIO(), soft_wrap=True)
    console.print(result_table(comparison, width))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_terminal_table_tells_money_where_it_is_known(width):
    comparison = make(names=("base", "sft", "banded", "random", "distill"))["comparison"]
    for place, arm in enumerate(comparison["arms"].values()):
        arm["cost"]["teacher_usd"] = 1.25 * place
    text = printed(comparison, width)
    assert all(usd in text for usd in ("$0.00", "$1.25", "$5.00"))
    assert max(map(len, text.splitlines())) <= width
    assert ("12,345 $1.25" in text) == (width >= 100)


@pytest.mark.parametrize("width", [80, 99, 100, 200])
def test_the_terminal_table_has_every_arm_and_all_of_its_figures(width):
    names = ("base", "sft", "banded", "random", "distill")
    comparison = make(names=names)["comparison"]
    gap = {"value": -0.281, "low": -0.333, "high": -0.123, "n": 200}
    for arm in comparison["arms"].values():
        for pair in arm["against"].values():
            pair["difference"] = gap
    text = printed(comparison, width)
    assert all(name in text for name in (*names, "72.2", "(67.2-77.2)", "12,345", "49,380"))
    assert text.count("-28.1") == text.count("(-33.3 -12.3)") == 8
    assert "…" not in text
    assert ("72.2 (67.2-77.2)" in text) == (width >= 100)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_what_an_arm_is_not_stands_under_the_terminal_table(width):
    data = make(names=("base", "sft", "banded*", "random*", "distill"), control="random*")
    comparison = cut_short(data, **{"banded*": 10, "random*": 43})["comparison"]
    lines = printed(comparison, width).rstrip().splitlines()
    assert max(map(len, lines)) <= width
    assert [line.strip() for line in lines[-2:]] == [
        "banded*: partial, 10 of 200 rationales not bought",
        "random*: partial, 43 of 300 rationales not bought",
    ]
    assert all(any(name in line for line in lines[:-2]) for name in ("banded*", "random*", "72.2", "12,345"))


def test_what_an_arm_is_not_stands_under_the_table_of_arms():
    data = cut_short(make(names=("base", "banded*", "random")), **{"banded*": 10})
    text = Reader(html_of(data)).text.partition("The arms")[2]
    assert text.count("partial, 10 of 100 rationales not bought") == 2, "where it is introduced, and under the table"


def test_a_rejected_rationale_that_became_an_answer_is_told_where_questions_are_missing():
    data = make(names=("base", "banded", "random"), ledger={**make()["ledger"], "requests": {"ok": 15}})
    data["recipe"]["on_rejected"] = "answer"
    for route in data["routes"].values():
        route["skipped"] = {}
    text = Reader(html_of(data)).text
    assert "banded: 10 of 100, random: 20 of 200 rationales were not fit to learn from; their answers were" in text
    assert "Each question was learnt from" not in text
    assert "All 15 were answered. Replies that were not fit" in text
    for arm in data["comparison"]["arms"].values():
        arm["cost"]["rationales_kept"] = arm["cost"]["rationales_bought"]
    assert "Each question was learnt from as its arm asked." in Reader(html_of(data)).text


def test_an_arm_without_kept_rationales_is_called_so_where_it_is_introduced():
    data = make()
    data["comparison"]["arms"]["random"]["cost"]["rationales_kept"] = 0
    words = "control: the treatments of banded, given to questions picked by lot; it kept none of its 200 rationales"
    assert words in Reader(html_of(data)).text


def test_without_a_verdict_the_page_does_not_say_whom_it_is_about():
    data = make()
    assert "The verdict is about banded" in Reader(html_of(data)).text
    for arm in data["comparison"]["arms"].values():
        arm["modes"][arm["mode"]]["unreadable"] = 1.0
    text = Reader(html_of(data)).text
    assert "No arm wrote a readable answer" in text
    assert "The verdict is about" not in text


def test_without_a_curve_nothing_explains_one():
    assert "Flag questions from" in Reader(html_of(make())).text
    assert "Flag questions from" not in Reader(html_of(no_auc())).text


def test_the_columns_that_matter_most_come_first():
    tables = html_of(make()).replace("&nbsp;", " ").split("<thead>")[1:]
    heads = [re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)[:4] for table in tables]
    assert ["arm", "accuracy", "points against base", "points against random"] in heads
    assert ["arm", "kept", "bought", "wrong"] in heads
    for name in ("split", "subject", "level"):
        assert [name, "AUC", "95% interval", "questions"] in heads


def test_the_policy_lets_exactly_the_inlined_style_and_script_through(shown):
    policy = next(attrs["content"] for tag, attrs in shown.reader.tags if attrs.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inlined,) = re.findall(rf"<{tag}>(.*?)</{tag}>", shown.html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for _, attrs in shown.reader.tags for name in attrs)


def test_the_questions_lie_in_the_page_as_data_that_cannot_end_their_script(shown):
    (text,) = re.findall(r'id="examples-data">(.*?)</script>', shown.html, re.DOTALL)
    assert "<" not in text
    held = json.loads(text)
    assert [arm["name"] for arm in held["arms"]] == list(shown.data["comparison"]["arms"])
    assert len(held["examples"]) == 15
    assert any(one["question"].startswith(NASTY) for one in held["examples"])


def test_figures_that_are_cut_from_the_page_are_named_on_it():
    data = make()
    rows, arms = questions(data, per_split=40)
    some = browse.sample(rows, arms, room=20_000)
    text = Reader(page(data, some)).text
    assert f"{len(some['rows'])} of 120 questions are here" in text
    assert "examples.parquet" in text
    for kind, (held, there) in some["kinds"].items():
        assert f"{kind} {held} {there}" in text
    assert "All 15 questions are here" in Reader(html_of(data)).text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), n_train=48, n_dev=12, n_test=30)


@pytest.fixture(scope="module")
def written(finished):
    recipe, run = finished
    return run, write_report(recipe, run, Unit("report"))


def test_all_that_the_page_tells_of_the_score_is_about_train_questions_alone(finished):
    recipe, run = finished
    data = report_data(recipe, run)
    ids = {one.id for one in run.records(Unit("prepare"), "examples.parquet", Example) if one.split == "train"}
    train = [one for one in run.records(Unit("score"), "scores.parquet", Score) if one.id in ids]
    train.sort(key=lambda one: one.value)
    values, right = [one.value for one in train], [one.correct for one in train]
    assert data["histogram"] == histogram(values, right)
    assert sum(data["histogram"]["correct"]) == sum(right)
    of_train = roc_band(np.array(values), ~np.array(right))
    assert [at for at, *_ in data["roc_band"]] == [at for at, *_ in of_train]
    assert np.array(data["roc_band"]) == pytest.approx(np.array(of_train), abs=0.005)
    for name, (first, last) in {"easy": (0, 12), "medium": (12, 36), "hard": (36, 48)}.items():
        share = sum(right[first:last]) / (last - first)
        told = {"n": last - first, "low": values[first], "high": values[last - 1], "right": share}
        assert data["bands"][name] == told


def test_the_whole_table_of_questions_lies_beside_the_page(written):
    run, counts = written
    folder = run.folder(Unit("report"))
    table = pq.read_table(folder / "examples.parquet").to_pylist()
    assert counts == {"bytes": (folder / "report.html").stat().st_size, "examples": 90, "of": 90}
    assert len(table) == 90
    comparison = run.json(Unit("compare"), "comparison.json")
    test = [row for row in table if row["split"] == "test"]
    assert len({one["mode"] for one in comparison["arms"].values()}) > 1, "else a wrong mode would not be seen"
    for arm, one in comparison["arms"].items():
        answers = pq.read_table(run.folder(Unit("evaluate", arm, 0)) / "predictions.parquet").to_pylist()
        first = {answer["id"]: answer for answer in answers if answer["mode"] == one["mode"]}
        told = [(row[f"arm_{arm}_text"], row[f"arm_{arm}_states"], row[f"arm_{arm}_correct"]) for row in test]
        assert told == [tuple(first[row["id"]][name] for name in ("text", "stated", "correct")) for row in test]
    seeds_right = sum(row["arm_banded_seeds_right"] for row in test)
    assert seeds_right / 60 == pytest.approx(comparison["arms"]["banded"]["accuracy"]["value"])
    in_band = {name: one["n"] for name, one in comparison["arms"]["base"]["by_band"].items()}
    assert Counter(row["band"] for row in test) == in_band
    train = [row for row in table if row["split"] == "train"]
    assert {row["arm_distill_gave"] for row in train} == {"rationale"}
    assert {row["arm_banded_gave"] for row in train} == {"answer", "rationale"}
    assert all(row["rationale"] and row["arm_base_text"] is None for row in train)


@pytest.mark.parametrize(
    ("on_rejected", "wanted"), [("drop", "it was left out"), ("answer", "its answer was trained on")]
)
def test_the_questions_tell_what_this_recipe_does_with_rejected_rationales(finished, on_rejected, wanted):
    recipe, run = finished
    write_report(recipe.model_copy(update={"on_rejected": on_rejected}), run, Unit(on_rejected))
    html = (run.folder(Unit(on_rejected)) / "report.html").read_text(encoding="utf-8")
    (text,) = re.findall(r'id="examples-data">(.*?)</script>', html, re.DOTALL)
    rejected = [gave for one in json.loads(text)["examples"] for gave in one["gave"] or () if "rejected" in gave]
    assert len(rejected) >= 4
    assert set(rejected) == {f"rationale, rejected as wrong; {wanted}"}


def test_held_out_questions_in_training_texts_are_counted_and_shown_side_by_side():
    text = Reader(html_of(make())).text
    assert "2 train questions repeat held-out questions: left out before anything was trained." in text
    assert "The first of them, side by side" in text
    assert "What is it? A. This what IS it A. this (test) 100.0%" in text
    assert "17 of the 250 held-out questions are so much like one another" in text
    assert "every rationale too" not in text
    kept = make()
    kept["contamination"] |= {"on_contamination": "warn", "rationales": True, "too_alike": 0}
    text = Reader(html_of(kept)).text
    assert "kept, as the recipe asks, so every arm may look better than it is." in text
    assert "every rationale too" in text
    assert "so much like one another" not in text
    assert "No text repeats a held-out question" in Reader(html_of(no_teacher())).text


def test_hits_of_all_steps_are_told_once_however_many_arms_have_them(tmp_path):
    recipe, run = make_run(tmp_path, n_train=48, n_dev=12, n_test=30)
    assert report_data(recipe, run)["contamination"] == {
        "on_contamination": "drop", "found": [], "too_alike": 0, "said": "", "n_hits": 0, "first": [],
        "rationales": False,
    }  # fmt: skip
    near = [Hit("train", "test", "near", 0.6, f"t{n}", "x", f"mine {n}", "theirs") for n in range(9)]
    said = Hit("rationale", "dev", "recited", 0.9, "t1", "d", "so they say", "theirs")
    write_records(run.folder(Unit("prepare")) / CONTAMINATION, Hit, near)
    for arm in ("distill", "banded"):
        write_records(run.folder(Unit("teach", arm, 0)) / CONTAMINATION, Hit, [said])
    found = report_data(recipe, run)["contamination"]
    assert found["said"] == "9 train questions and 1 rationale repeat held-out questions"
    assert [one["texts"] for one in found["found"]] == [9, 1]
    assert (found["n_hits"], len(found["first"]), found["rationales"]) == (10, 5, True)
    assert found["first"][0]["held_text"] == "theirs"


def test_the_page_of_a_run_tells_its_hashes_and_what_was_skipped(written):
    run, _ = written
    html = (run.folder(Unit("report")) / "report.html").read_text(encoding="utf-8")
    digest = hashlib.sha256((run.root / "compare" / "comparison.json").read_bytes()).hexdigest()
    assert digest in html.replace("<wbr>", "")
    text = Reader(html).text
    assert "rationale wrong 4" in text
    assert "1 cut off, 1 failed, 1 unknown (counted as spent), of 5 in the ledger" in text
    assert text.count("seed 0") >= 2


def test_of_two_arms_one_of_which_could_not_pay_the_paid_rationale_is_shown(finished, monkeypatch):
    recipe, run = finished
    real, unit = run.records, Unit("teach", "distill", recipe.seeds[-1])

    def without_money(one, name, kind):
        rows = real(one, name, kind)
        return [rationale(row.id, "unpaid") for row in rows] if (one, name) == (unit, "rationales.parquet") else rows

    monkeypatch.setattr(run, "records", without_money)
    rows = example_rows(recipe, run, run.json(Unit("compare"), "comparison.json"))
    assert "unpaid" not in {row["rationale_verdict"] for row in rows}
