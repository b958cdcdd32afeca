"""The report in a real browser: what it shows, how it behaves, and that it asks nobody for anything."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from made_run import ARMS, NASTY, make_run
from teachwise.report import write_report
from teachwise.run_folder import Unit

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (it is in the dev extra)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome on this machine")
CARDS = "#examples-list .card"
MOST_SECONDS = 60
"""How long a busy machine may take over one thing."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    recipe, run = make_run(tmp_path_factory.mktemp("run"))
    write_report(recipe, run, Unit("report"))
    return run.folder(Unit("report"))


@pytest.fixture(scope="module")
def rows(report):
    return pq.read_table(report / "examples.parquet").to_pylist()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def complaints():
    """What pages complained of, and what they asked the network for."""
    return []


@pytest.fixture(autouse=True)
def nothing_is_complained_of(complaints):
    yield
    assert complaints == []


@pytest.fixture(scope="module")
def open_page(browser, report, complaints):
    """Opens the report: `open_page(400, color_scheme="dark")`."""
    contexts = []

    def note_request(request):
        if not request.url.startswith(("file:", "data:")):
            complaints.append(request.url)

    def open_with(width=1400, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        contexts[-1].set_default_timeout(MOST_SECONDS * 1000)
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", note_request)
        page.goto((report / "report.html").as_uri())
        return page

    yield open_with
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def opened(open_page):
    return open_page()


@pytest.fixture
def page(opened):
    """The report, opened once for all tests, with nothing asked for."""
    opened.click("#examples-form button[type=reset]")
    wait_for_text(opened, " 1 to 10 of 120 ")
    return opened


def wait_for_text(page, text):
    playwright.expect(page.locator("#examples-found")).to_contain_text(text, timeout=MOST_SECONDS * 1000)


def found(page):
    """How many questions fit, as the page says."""
    return int(re.search(r"of ([\d,]+) that fit", page.inner_text("#examples-found")).group(1).replace(",", ""))


def numbers(page):
    """The source rows of the questions shown."""
    titles = page.locator(f"{CARDS} h3").all_inner_texts()
    return [int(re.match(r"row ([\d,]+)", title).group(1).replace(",", "")) for title in titles]


def all_numbers(page):
    """The source rows of all questions that fit, page after page."""
    shown = numbers(page)
    while (
        page.is_visible(".pager .next >> nth=0")
        and page.get_attribute(".pager .next >> nth=0", "aria-disabled") == "false"
    ):
        page.click(".pager .next >> nth=0")
        shown += numbers(page)
    return shown


def choose(page, **wanted):
    for name, value in wanted.items():
        page.select_option(f"select[name={name.replace('_', '-')}]", value)


def where(rows, wanted):
    return sorted(row["row"] for row in rows if wanted(row))


def test_text_is_searched_in_questions_rationales_and_answers(page, rows):
    assert found(page) == len(rows) == 120
    page.fill("input[name=text]", "  qUESTION 17: ")
    assert numbers(page) == [17]
    page.fill("input[name=text]", "rationale of 3:")
    assert numbers(page) == [3]
    page.fill("input[name=text]", "distill thought")
    assert sorted(all_numbers(page)) == where(rows, lambda row: "distill thought" in (row["arm_distill_text"] or ""))
    page.fill("input[name=text]", "nobody wrote this")
    assert "No question fits" in page.inner_text("#examples-found")
    assert page.locator(CARDS).count() == 0
    assert not page.is_visible(".pager >> nth=0")


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"split": "=test"}, lambda row: row["split"] == "test"),
        ({"subject": "=law & <order>", "level": "=2"}, lambda row: row["subject"][0] == "l" and row["level"] == 2),
        ({"band": "=hard"}, lambda row: row["band"] == "hard"),
        ({"own": "wrong"}, lambda row: not row["student_correct"]),
        ({"rationale": "rejected"}, lambda row: row["rationale_verdict"] == "wrong"),
        (
            {"arm_2": "right", "arm_3": "wrong"},
            lambda row: row["arm_banded_correct"] and row["arm_random_states"] and not row["arm_random_correct"],
        ),
        ({"arm_0": "unreadable"}, lambda row: row["split"] != "train" and row["arm_base_states"] is None),
    ],
    ids=["split", "subject and level", "band", "student", "rationale", "one right, one wrong", "unreadable"],
)
def test_filters_leave_exactly_what_fits(page, rows, wanted, fits):
    expected = where(rows, fits)
    choose(page, **wanted)
    assert 0 < len(expected) < 120
    assert found(page) == len(expected)
    assert sorted(all_numbers(page)) == expected


def test_only_where_the_arms_disagree(page, rows):
    page.check("text=only where some arms are right")
    found_rows = all_numbers(page)
    assert sorted(found_rows) == where(rows, lambda row: len({row[f"arm_{arm}_correct"] for arm in ARMS}) > 1)
    assert 5 < len(found_rows) < 60


def test_questions_are_put_in_the_order_asked_for(page, rows):
    score = {row["row"]: row["score"] for row in rows}
    choose(page, sort="unsure")
    found_rows = all_numbers(page)
    assert len(found_rows) == 120
    scores = [score[row] for row in found_rows]
    assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
    choose(page, sort="row")
    assert numbers(page) == list(range(10))
    choose(page, sort="wrong")
    first = {row["row"]: row for row in rows}[numbers(page)[0]]
    most = max(sum(not row[f"arm_{arm}_correct"] for arm in ARMS) for row in rows if row["split"] != "train")
    assert sum(not first[f"arm_{arm}_correct"] for arm in ARMS) == most >= 3


def test_pages_turn_and_stop_at_both_ends(page):
    choose(page, sort="row")
    previous, following = (page.locator(f".pager .{name}").first for name in ("previous", "next"))
    assert previous.get_attribute("aria-disabled") == "true"
    following.click()
    assert numbers(page) == list(range(10, 20))
    assert "page 2 of 12" in page.inner_text(".pager >> nth=0")
    assert "Questions 11 to 20 of 120" in page.inner_text("#examples-found")
    for _ in range(10):
        following.click()
    assert numbers(page) == list(range(110, 120))
    assert following.get_attribute("aria-disabled") == "true"
    following.click(force=True)  # else it would be waited for
    assert numbers(page) == list(range(110, 120))
    page.locator(".pager .previous").last.click()
    assert numbers(page) == list(range(100, 110))
    assert page.evaluate("document.activeElement.id") == "examples-list"
    choose(page, split="=dev")
    assert "Questions 1 to 10 of 20" in page.inner_text("#examples-found")


def test_the_keyboard_is_enough(page, rows):
    page.focus("input[name=text]")
    page.keyboard.type("question 100:")
    assert numbers(page) == [100]
    order = []
    for _ in range(15):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    assert order[:6] == ["split", "subject", "level", "band", "own", "rationale"]
    assert order[6:14] == ["arm-0", "arm-1", "arm-2", "arm-3", "arm-4", "disagree", "sort", "Clear all"]
    assert order[14] == "what it wrote"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert rows[100]["arm_base_text"].split(",")[0][:20] in page.inner_text(f"{CARDS} details[open] pre")
    page.focus("button[type=reset]")
    page.keyboard.press("Enter")
    wait_for_text(page, " 1 to 10 of 120 ")
    page.focus(".pager .next")
    page.keyboard.press("Space")
    assert "page 2 of" in page.inner_text(".pager >> nth=0")
    assert page.evaluate("document.activeElement.className") == "next"


def test_a_question_is_told_in_full_and_its_text_is_never_markup(page, rows):
    page.fill("input[name=text]", "question 80:")
    row, card = rows[80], page.inner_text(CARDS)
    assert NASTY.strip() in card
    assert page.title() == "small: Teachwise report"
    assert f"test · {row['subject']} · level {row['level']} · {row['band']} band · score {row['score']:.3f}" in card
    assert re.search(rf"{row['answer']} .*right answer", card)
    assert re.search(rf"{row['student_answer']} .*untouched student", card)
    for arm in ARMS:
        mark = "?" if row[f"arm_{arm}_states"] is None else "✓" if row[f"arm_{arm}_correct"] else "✗"
        line = next(text for text in page.locator(".answers li").all_inner_texts() if text.startswith(arm))
        assert mark in line
        if arm != "base":
            assert f"right in {row[f'arm_{arm}_seeds_right']} of 2 seeds" in line
    page.fill("input[name=text]", "question 0:")
    page.click(f"{CARDS} summary:has-text('The teacher’s rationale')")
    assert f"The teacher’s rationale: {rows[0]['rationale_verdict']}" in page.inner_text(CARDS)
    assert rows[0]["rationale"] in page.inner_text(f"{CARDS} details[open] pre")
    assert "distill rationale" in " ".join(page.inner_text(f"{CARDS} .gave").split())


def test_without_scripts_the_first_questions_and_all_charts_are_there(page, open_page):
    bare = open_page(java_script_enabled=False)
    assert "Scripts are switched off" in bare.inner_text("#examples")
    assert "Scripts are switched off" not in page.inner_text("#examples")
    assert not bare.is_visible("#examples-form")
    assert not bare.is_visible(".pager >> nth=0")
    words = [["".join(text.split()) for text in one.locator(CARDS).all_text_contents()] for one in (bare, page)]
    assert len(words[0]) == 10
    assert words[0] == words[1], "both ways of writing a question out say the same"
    assert bare.locator("svg.chart").count() == page.locator("svg.chart").count() > 8


def test_every_chart_has_as_many_marks_as_there_are_figures(page):
    n = len(ARMS)
    charts = page.locator("svg.chart")
    by_title = {charts.nth(i).locator("title").first.text_content(): charts.nth(i) for i in range(charts.count())}
    assert by_title["Accuracy of every arm"].locator(".mark").count() == n
    assert by_title["Accuracy of every arm"].locator(".span").count() == n
    assert by_title["Accuracy against teacher tokens"].locator(".span").count() == n
    assert by_title["How well the score predicts errors (ROC curve)"].locator("path.band").count() == 1
    assert by_title["How well the score predicts errors (ROC curve)"].locator("path.curve").count() == 1
    bars = by_title["Scores of right and wrong answers"].locator("rect")
    assert bars.count() == 2 * 24 + 2
    for group, names in (("band", 3), ("level", 2), ("subject", 3)):
        assert by_title[f"Accuracy by {group}"].locator(".span").count() == n * names
    assert by_title["Training loss"].locator("path.curve").count() == 1
    assert page.locator("#training path.curve").count() == 1 + 2 + 2 + 1


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_scrolls_sideways_and_both_schemes_can_be_read(open_page, width, scheme):
    page = open_page(width, color_scheme=scheme)
    page.fill("input[name=text]", "question 80:")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
    assert (ink < 60 and paper > 230) if scheme == "light" else (ink > 200 and paper < 40)
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, svg, pre') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def boxes(page, selector):
    """Where each of these stands: left, top, right, bottom."""
    found = page.locator(selector)
    each = (found.nth(i).bounding_box() for i in range(found.count()))
    return [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in each]


def test_on_a_phone_the_first_difference_is_seen_and_a_shadow_says_that_more_follows(open_page):
    page = open_page(400)
    page.locator("#arms .scroll").scroll_into_view_if_needed()
    arm, _, against_base, *_ = boxes(page, "#arms thead th")
    assert against_base[2] <= 400
    style = "getComputedStyle(document.querySelector('#arms .scroll'))"
    assert page.evaluate(f"{style}.backgroundImage").count("linear-gradient") == 2
    assert page.evaluate(f"{style}.backgroundAttachment") == "local, scroll", (
        "what covers the shadow goes with the table"
    )
    page.evaluate("document.querySelector('#arms .scroll').scrollLeft = 200")
    assert boxes(page, "#arms thead th")[0][0] == arm[0], "the arm's name stays"
    rows = page.locator("#arms tbody tr").first
    assert rows.bounding_box()["height"] < 60


def test_four_options_stand_in_two_rows_of_two(page, open_page):
    page.fill("input[name=text]", "question 81:")
    found = boxes(page, f"{CARDS} .options li")
    assert len({left for left, *_ in found}) == len({top for _, top, *_ in found}) == 2
    assert all(bottom - top < 40 for _, top, _, bottom in found), "what marks an option stands beside it"
    phone = open_page(400)
    phone.fill("input[name=text]", "question 81:")
    assert len({left for left, *_ in boxes(phone, f"{CARDS} .options li")}) == 1
    (box,), (words,) = boxes(phone, ".check input"), boxes(phone, ".check span")
    assert box[2] < words[0], "no word under its box"


def test_no_field_stands_alone_in_its_row(page):
    tops = [top for _, top, *_ in boxes(page, "#examples-form > div.fields > label:not(.wide)")]
    assert len(tops) == 6
    assert len(set(tops)) == 1


def test_on_a_telephone_the_link_to_the_top_covers_nothing(open_page):
    page = open_page(390)
    page.evaluate("document.getElementById('teacher').scrollIntoView()")
    (_, top, _, _) = boxes(page, "a.top")[0]
    assert top > 900, "it stands at the end of the page"
    page.click("a.top")
    assert page.evaluate("scrollY") == 0


def test_the_top_is_one_click_away_and_the_pairs_are_folded(open_page):
    page = open_page()
    assert not page.is_visible("#pairs table")
    page.click("#pairs summary")
    assert page.is_visible("#pairs table")
    assert page.evaluate("scrollY") > 1000
    (_, top, _, bottom) = boxes(page, "a.top")[0]
    assert 800 < top < bottom <= 900, "at the foot of the window"
    page.click("a.top")
    assert page.evaluate("scrollY") == 0
    assert boxes(page, "a.top")[0][1] > 900, "not where it is of no use"


def test_on_paper_the_controls_go_and_the_rationales_open(open_page):
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print")
    for gone in ("nav", "a.top", "#examples-form", ".pager >> nth=0"):
        assert not page.is_visible(gone)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert "On paper stand the questions" in page.inner_text("#examples")
    card = page.locator(CARDS, has_text="The teacher’s rationale").first
    assert card.locator("pre").last.bounding_box()["height"] > 10


def test_what_the_script_reads_is_what_the_table_says(page, rows):
    held = json.loads(page.text_content("#examples-data"))
    by_row = {row["row"]: row for row in rows}
    assert len(held["examples"]) == len(rows)
    for one in held["examples"]:
        row = by_row[one["row"]]
        assert (one["question"], one["gold"], one["own"]) == (row["question"], row["answer"], row["student_answer"])
        if one["answers"]:
            assert [answer[0] for answer in one["answers"]] == [row[f"arm_{arm}_states"] for arm in ARMS]
