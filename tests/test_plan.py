"""plan: what is wanted, what it costs, what the budget bears; and nobody spends much without a yes."""

import json
from contextlib import closing
from itertools import pairwise
from types import SimpleNamespace

import pytest
from werkzeug import Response

from teachwise import consent, plan_text
from teachwise.consent import ask_before_buying, threshold_passed
from teachwise.errors import GateError, TeacherError
from teachwise.pipeline import make_plan, run_recipe
from teachwise.plan import PILOT, Planned, pilot_of, plan, plan_pilot, spread
from teachwise.recipe import load_recipe
from teachwise.records import Assignment, Score, read_records
from teachwise.request import Reply
from teachwise.run_folder import Unit
from teachwise.tasks import load_task
from teachwise.tasks.table import write_table
from teachwise.teach import requests_for
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import Price
from teachwise.wishes import basis_for, rate_of, wishes
from test_console import Terminal, answer_after, teachwise

N = 40
ARMS = {
    "base": {"policy": "none"},
    "banded": {"policy": "bands", "stages": [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]},
    "distill": {"policy": "all", "give": "rationale"},
}
UNITS = [Unit("teach", arm) for arm in ARMS]
FAR = "https://api.example.com/v1"


@pytest.fixture
def recipe(recipe_with):
    def build(teacher=None, budget=None, **sections):
        section = {"model": "big", "base_url": FAR, "max_tokens": 100, **(teacher or {})}
        given = {"teacher_tokens": None, **(budget or {})}
        return recipe_with(teacher=section, budget=given, arms=ARMS, **sections)

    return build


@pytest.fixture
def routed(put, example_with):
    """A routed run of 40 train questions: 10 hard ones for `banded`, all for `distill`."""
    examples = [example_with(f"e{n:02}", row=n) for n in range(N)] + [example_with("test", split="test", row=N)]
    put(Unit("prepare"), examples=examples)
    put(Unit("score"), scores=[Score(e.id, "m", e.row / N, "A", True, 0.5, 1.0, 9) for e in examples])
    train = examples[:N]
    hard = [Assignment(e.id, "hard", "rationale", 1) for e in train[-10:]]
    put(Unit("route", "base"), assignments=[Assignment(e.id, "all", "drop", -1) for e in train])
    put(Unit("route", "banded"), assignments=hard)
    put(Unit("route", "distill"), assignments=[Assignment(e.id, "all", "rationale", 0) for e in train])
    return SimpleNamespace(run=put.run, train=train)


def buy_by_hand(recipe, routed, examples, reply=lambda number: Reply("so [[A]]", "stop", 50, 30)):
    """Replies for some examples in the ledger."""
    task = load_task(recipe.data.task, **recipe.data.task_options())
    requests = requests_for(recipe, task, examples)
    with closing(Ledger(recipe.ledger_at(routed.run.root))) as ledger:
        ledger.reserve(requests, price=recipe.price)
        ledger.settle([(request, reply(number)) for number, request in enumerate(requests)])
    return requests


def made(recipe, routed):
    return plan(recipe, routed.run, UNITS)


# what is wanted


def test_each_distinct_rationale_is_counted_once_and_each_arm_is_shown_alone(recipe, routed):
    found = made(recipe(), routed)
    assert (found.wanted, found.open, found.basis, found.n_seen) == (40, 40, "bounds", 0)
    assert {name: (arm.wanted, arm.open) for name, arm in found.arms.items()} == {
        "base": (0, 0), "banded": (10, 10), "distill": (40, 40),
    }  # fmt: skip
    task = load_task("multiple_choice", source="q.jsonl")
    bound = sum(request.upper_bound_tokens for request in requests_for(recipe(), task, routed.train))
    assert (found.tokens.expected, found.tokens.high) == (None, bound)
    assert found.arms["distill"].tokens == found.tokens
    assert found.usd is None


def test_rows_are_in_the_order_of_buying_and_name_band_score_and_arms(recipe, routed):
    rows = made(recipe(), routed).rows
    assert [row.id for row in rows[:10]] == [f"e{n}" for n in range(30, 40)]
    assert {row.band for row in rows[:10]} == {"hard"}
    assert (rows[0].arms, rows[-1].arms) == (("banded", "distill"), ("distill",))
    assert sorted(row.row for row in rows) == list(range(N))


def test_what_is_in_the_ledger_is_not_bought_again_and_serves_to_judge_by(recipe, routed):
    asked = recipe()
    buy_by_hand(asked, routed, routed.train[:16], lambda n: Reply("so [[A]]", "stop", 50, 20 + n))
    found = made(asked, routed)
    assert (found.wanted, found.open, found.basis, found.n_seen) == (40, 24, "ledger", 16)
    assert found.tokens.expected == pytest.approx(24 * (50 + 27.5), rel=0.02)
    assert found.tokens.low < found.tokens.expected < found.tokens.high < 24 * 150
    alone = found.arms["distill"].tokens
    assert alone.expected == pytest.approx(found.tokens.expected + sum(50 + 20 + n for n in range(16)))
    assert found.thin == ["hard", "medium"]
    assert "few of them to hard and medium questions" in plan_text.line(found)


def test_replies_to_other_prompts_or_of_other_models_tell_nothing(recipe, routed):
    buy_by_hand(recipe({"model": "small"}), routed, routed.train[:16])
    buy_by_hand(recipe({"max_tokens": 50}), routed, routed.train[:16])
    assert made(recipe(), routed).n_seen == 0


def test_rejected_replies_lead_to_the_next_request_as_the_recipe_says(recipe, routed):
    asked = recipe({"temperature": 0.7}, keep="correct_or_ask_again(3)")
    buy_by_hand(asked, routed, routed.train[:20], lambda n: Reply(f"so [[{'AB'[n % 2]}]]", "stop", 50, 30))
    found = made(asked, routed)
    assert found.open == 30  # 10 were wrong and are asked again, 20 were never asked
    assert found.requests.expected == pytest.approx(10 * (1 + 0.5) + 20 * (1 + 0.5 + 0.25))
    assert found.tokens.expected == pytest.approx(80 * found.requests.expected, rel=0.02)
    assert made(recipe({"temperature": 0.7}), routed).open == 20


def test_reading_an_answer_is_free_so_another_rule_needs_no_money(recipe, routed):
    asked = recipe()
    buy_by_hand(asked, routed, routed.train, lambda n: Reply("no answer", "stop", 50, 30))
    assert made(asked, routed).open == 0
    assert "nothing is to be bought" in plan_text.line(made(asked, routed))


# what it costs and what the budget bears


def test_money_is_priced_and_named(recipe, routed):
    asked = recipe(budget={"prices": {"input": 2.0, "output": 10.0}})
    buy_by_hand(asked, routed, routed.train[:10])
    found = made(asked, routed)
    assert found.price == Price(2.0, 10.0, batch_share=asked.budget.prices.batch_share)
    assert found.usd.expected == pytest.approx(30 * (50 * 2 + 30 * 10) / 1e6, rel=0.02)
    assert found.arms["distill"].usd.expected == pytest.approx(found.usd.expected + 10 * (50 * 2 + 30 * 10) / 1e6)
    assert "prices of the recipe" in plan_text.page(found, "run")


@pytest.mark.parametrize(
    ("budget", "n"),
    [({"teacher_tokens": 80 * 25 + 200}, 25), ({"requests": 25}, 25), ({"usd": 0.0251, "teacher_tokens": None}, 24)],
)
def test_the_cap_allows_as_many_as_it_says_and_cuts_the_arms_that_come_last(recipe, routed, budget, n):
    prices = {"input": 10.0, "output": 10.0}
    asked = recipe(budget={**budget, "prices": prices})
    buy_by_hand(asked, routed, routed.train[-10:])
    found = made(asked, routed)
    there = 10
    assert found.borne.expected == pytest.approx(n - there, abs=3)
    assert found.borne.low <= found.borne.expected <= found.borne.high < found.open
    assert (found.arms["banded"].borne, found.arms["distill"].borne) == (10, there + found.borne.expected)


def test_a_cap_holds_at_the_bound_where_nothing_is_known(recipe, routed):
    bound = made(recipe(), routed).tokens.high
    found = made(recipe(budget={"teacher_tokens": int(bound / 2)}), routed)
    assert found.borne.expected is None
    assert found.borne.low == pytest.approx(20, abs=1)
    assert "for sure" in plan_text.line(found)
    nothing = made(recipe(budget={"teacher_tokens": 10}), routed)
    assert nothing.borne.high == 0
    assert "bears none of it" in plan_text.line(nothing)


def test_time_is_known_from_replies_and_limits_alone(recipe, routed):
    assert made(recipe(), routed).seconds is None
    limited = made(recipe({"requests_per_minute": 10}), routed).seconds
    assert (limited.low, limited.expected) == (240, None)
    assert rate_of([0.0, 1.0]) is None
    assert rate_of([n / 2 for n in range(20)]) == 2.0
    assert "not known" in plan_text.page(made(recipe(), routed), "run")


def test_the_students_size_is_read_from_its_files(recipe, routed):
    found = made(recipe(train={"method": "full"}), routed).training
    assert (found.parameters, found.memory_bytes) == (372_416, 16 * 372_416)
    assert made(recipe(student="nobody/has-this-one"), routed).training is None


def test_few_examples_without_bands_are_planned_too(recipe, put, example_with):
    examples = [example_with("a"), example_with("b", row=1)]
    put(Unit("prepare"), examples=examples)
    put(Unit("score"), scores=[Score(e.id, "m", 0.1, "A", True, None, None, 9) for e in examples])
    for unit in UNITS:
        put(unit.of("route"), assignments=[Assignment("a", "all", "rationale", 0)])
    found = plan(recipe(), put.run, UNITS)
    assert (found.wanted, found.rows[0].band) == (1, "all")


def test_an_arm_less_recipe_asks_nothing(recipe, put, routed):
    found = plan(recipe(), routed.run, UNITS[:1])
    assert plan_text.page(found, "run") == "no arm wants a rationale: nothing is asked of the teacher"


# the pilot


def test_a_pilot_is_spread_over_the_scores(recipe, routed):
    found = wishes(recipe(), routed.run, UNITS)
    chosen = spread(found, PILOT)
    assert len({wish.example.id for wish in chosen}) == PILOT
    ranks = [int(wish.example.id[1:]) for wish in chosen]
    assert ranks == sorted(ranks)
    assert max(later - sooner for sooner, later in pairwise(ranks)) <= 3
    assert (ranks[0], ranks[-1]) == (pytest.approx(1, abs=1), pytest.approx(38, abs=1))
    assert spread(found[:5], PILOT) == sorted(found[:5], key=lambda wish: wish.score)


@pytest.fixture
def written(tmp_path, httpserver):
    """A recipe file that needs no model up to `teach`."""
    rows = [
        {
            "question": f"What is {n}?",
            "options": ["one", "two", "three"],
            "answer": "ABC"[n % 3],
            "entropy": (n % 10) / 10 + 0.5 * (n % 3 == 0),
            "right": n % 3 != 0,
            "split": ("train", "train", "train", "dev", "test")[n % 5],
        }
        for n in range(90)
    ]
    write_table(tmp_path / "q.jsonl", rows)

    def write(teacher=None, **budget):
        lines = [
            "student: toy",
            f"teacher: {json.dumps({'model': 'big', 'base_url': httpserver.url_for('/v1'), **(teacher or {})})}",
            f"data: {{source: {tmp_path / 'q.jsonl'}}}",
            f"budget: {json.dumps({'teacher_tokens': 900_000, **budget})}",
            "score: {measure: column, column: entropy, correct: right}",
        ]
        (tmp_path / "my.yaml").write_text("\n".join(lines) + "\n")
        return tmp_path / "my.yaml"

    return write


PRICES = {"input": 1000.0, "output": 1000.0}


def test_a_pilot_is_paid_kept_and_judged_by_and_a_second_one_is_not_bought(written, tmp_path, httpserver):
    answer_after(httpserver, 0)
    path, out = written(), tmp_path / "run"
    before, _ = make_plan(path, out=out)
    assert (before.basis, httpserver.log) == ("bounds", [])
    found, root = make_plan(path, out=out, pilot=True)
    assert (found.basis, found.n_seen, found.wanted - found.open) == ("pilot", PILOT, PILOT)
    assert found.tokens.expected == pytest.approx(59 * found.open, rel=0.02)
    assert len(httpserver.log) == PILOT
    assert make_plan(path, out=out, pilot=True)[0].basis == "ledger"
    assert len(httpserver.log) == PILOT
    run_recipe(load_recipe(path), out, until="teach")
    assert len(httpserver.log) == 54, "nothing that the pilot bought is asked again"
    rows = read_records(root / "plan.parquet", Planned)
    assert len(rows) == 54


def test_a_pilot_keeps_within_the_budget(written, tmp_path, httpserver):
    answer_after(httpserver, 0)
    found, _ = make_plan(written(requests=5), out=tmp_path / "run", pilot=True)
    assert (len(httpserver.log), found.n_seen, found.basis) == (5, 5, "bounds")


def test_a_failed_pilot_is_a_message(written, tmp_path, httpserver):
    httpserver.expect_request("/v1/chat/completions").respond_with_response(Response("{}", 401))
    with pytest.raises(TeacherError, match="refuses"):
        make_plan(written(), out=tmp_path / "run", pilot=True)


def test_nobody_pays_for_a_pilot_without_a_yes_either(written, tmp_path, httpserver):
    answer_after(httpserver, 0)
    path, out = written(prices=PRICES), tmp_path / "run"
    with pytest.raises(GateError, match="nobody said yes"):
        make_plan(path, out=out, pilot=True)
    assert httpserver.log == []
    assert make_plan(path, out=out, pilot=True, yes=True)[0].basis == "pilot"
    assert len(httpserver.log) == PILOT
    assert make_plan(path, out=out, pilot=True)[0].basis == "ledger", "nothing is to be bought, so nobody is asked"


def test_a_pilot_is_asked_about_with_what_it_can_cost_alone(recipe, routed):
    asked = recipe({"temperature": 0.7, "on_truncated": "ask_longer"}, keep="correct_or_ask_again(3)")
    chosen = pilot_of(asked, routed.run, UNITS)
    found = plan_pilot(asked, routed.run, chosen)
    assert (found.open, found.requests.high) == (PILOT, PILOT)
    assert found.most_tokens == sum(wish.open.upper_bound_tokens for wish in chosen)


def test_a_pilot_comes_as_the_recipe_has_replies_delivered(written, tmp_path, httpserver):
    answer_after(httpserver, 0)
    with pytest.raises(GateError, match=f"{PILOT} requests wait to be answered"):
        make_plan(written({"delivery": "files"}, prices=PRICES), out=tmp_path / "run", pilot=True)
    assert httpserver.log == []
    assert len((tmp_path / "run" / "offline" / "requests-001.jsonl").read_text().splitlines()) == PILOT


# the question before buying


def passed(recipe, routed):
    return threshold_passed(made(recipe, routed), recipe)


def test_the_high_end_in_dollars_counts_capped_by_the_budget(recipe, routed):
    prices = {"prices": {"input": 1000.0, "output": 1000.0}}
    assert passed(recipe(budget=prices), routed)[1] == "budget.ask_above_usd"
    assert passed(recipe(budget={**prices, "usd": 0.9}), routed) is None
    assert passed(recipe(budget={**prices, "teacher_tokens": 900}), routed) is None
    assert passed(recipe(budget={**prices, "ask_above_usd": 1e6}), routed) is None
    assert passed(recipe(budget={**prices, "requests": 0}), routed) is None
    assert passed(recipe(budget={**prices, "requests": 2}), routed) is None
    assert passed(recipe(budget={**prices, "requests": 4}), routed)[0] < "up to $2"
    assert passed(recipe(budget={**prices, "ask_above_usd": None}), routed) is None


def test_what_was_bought_before_a_price_was_known_counts_at_the_price_of_today(recipe, routed):
    buy_by_hand(recipe(), routed, routed.train[:10])
    found = made(recipe(budget={"usd": 0.9, "prices": PRICES}), routed)
    assert found.spent.usd == pytest.approx(10 * 80 * 1000 / 1e6)
    assert found.borne.high == 0, "no request more can be borne by the ten cents that are left"


def test_a_threshold_is_passed_above_it_and_not_at_it(recipe, routed):
    prices, bound = {"input": 1000.0, "output": 1000.0}, int(made(recipe(), routed).tokens.high)
    assert passed(recipe(budget={"ask_above_tokens": bound}), routed) is None
    assert passed(recipe(budget={"ask_above_tokens": bound - 1}), routed) is not None
    most = made(recipe(budget={"prices": prices}), routed).most_usd
    assert passed(recipe(budget={"prices": prices, "ask_above_usd": most}), routed) is None
    assert passed(recipe(budget={"prices": prices, "ask_above_usd": most - 1e-6}), routed) is not None


def test_what_only_goes_into_files_or_is_in_a_batch_is_no_question(recipe, routed):
    prices = {"prices": {**PRICES, "batch_share": 0.5}}
    assert passed(recipe({"delivery": "files"}, prices), routed) is None
    asked = recipe({"delivery": "batch"}, prices)
    live = made(recipe(budget=prices), routed)
    assert made(asked, routed).usd.high == pytest.approx(live.usd.high / 2)
    task = load_task(asked.data.task, **asked.data.task_options())
    with closing(Ledger(asked.ledger_at(routed.run.root))) as ledger:
        requests = requests_for(asked, task, routed.train)
        ledger.reserve(requests, price=asked.price, is_batch=True)
        ledger.hand_over(requests, "one")
        ledger.mark_sent("one")
    found = made(asked, routed)
    assert (found.open, found.under_way) == (0, 40)
    assert threshold_passed(found, asked) is None
    assert "0 of them are there, 40 in a batch" in plan_text.line(found)


def test_where_no_price_is_known_tokens_count(recipe, routed):
    assert passed(recipe(), routed) is None
    what, field = passed(recipe(budget={"ask_above_tokens": 1000}), routed)
    assert ("of unknown price" in what, field) == (True, "budget.ask_above_tokens")
    assert passed(recipe(budget={"ask_above_tokens": 1000, "teacher_tokens": 999}), routed) is None


def test_a_teacher_on_this_machine_is_free_unless_it_has_a_price(recipe, routed):
    here = {"base_url": "http://127.0.0.1:8000/v1"}
    assert passed(recipe(here, {"ask_above_tokens": 0}), routed) is None
    assert passed(recipe(here, {"prices": PRICES}), routed) is not None


def test_without_a_terminal_and_a_yes_nothing_is_bought(recipe, routed, monkeypatch):
    asked = recipe(budget={"prices": PRICES})
    found = made(asked, routed)
    monkeypatch.setattr(consent, "can_ask", lambda: False)
    with pytest.raises(GateError) as error:
        ask_before_buying(found, asked, is_agreed=False)
    assert error.value.exit_code == 3
    assert "--yes" in error.value.hint
    assert "teachwise plan" in error.value.hint
    ask_before_buying(found, asked, is_agreed=True)


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_the_plan_is_shown_and_the_answer_counts(recipe, routed, monkeypatch, capsys, answer):
    asked, questions = recipe(budget={"prices": PRICES}), []
    monkeypatch.setattr(consent, "can_ask", lambda: True)
    monkeypatch.setattr(consent, "ask", lambda question: questions.append(question) or answer)
    if answer:
        ask_before_buying(made(asked, routed), asked, is_agreed=False)
    else:
        with pytest.raises(GateError, match="did not say yes"):
            ask_before_buying(made(asked, routed), asked, is_agreed=False)
    assert questions[0].startswith("spend up to $")
    assert "teacher   big at api.example.com" in capsys.readouterr().err


def test_a_run_stops_before_the_first_paid_call_and_keeps_everything(written, tmp_path, httpserver):
    answer_after(httpserver, 0)
    loaded = load_recipe(written(prices=PRICES))
    with pytest.raises(GateError, match="nobody said yes"):
        run_recipe(loaded, tmp_path / "run", until="teach")
    assert httpserver.log == []
    assert (tmp_path / "run" / "score" / "manifest.json").exists()
    run_recipe(loaded, tmp_path / "run", until="route")
    run_recipe(loaded, tmp_path / "run", until="teach", yes=True)
    assert len(httpserver.log) == 54
    run_recipe(loaded, tmp_path / "run", until="teach")  # nothing is left to buy, so nobody is asked


@pytest.mark.parametrize(("keys", "code", "n"), [(b"y\n", 0, 54), (b"\n", 3, 0)], ids=["yes", "no"])
def test_a_person_is_asked_on_a_real_terminal(written, tmp_path, httpserver, keys, code, n):
    answer_after(httpserver, 0)
    terminal = Terminal(teachwise("teach", written(prices=PRICES), "--out", tmp_path / "run"), columns=100)
    terminal.read(until=lambda shown: any("[y/N]" in line for line in shown), seconds=60)
    shown = "\n".join(terminal.shown)
    assert "spend up to $" in shown
    assert "to buy    54 of 54 rationales" in shown
    assert not any(mark in shown for mark in "▸✓"), "the picture stands over the question"
    assert httpserver.log == []
    terminal.press(keys)
    assert terminal.ended() == code
    assert len(httpserver.log) == n
    assert f"? {'yes' if n else 'no'}" in (tmp_path / "run" / "run.log").read_text()


def test_what_waits_in_the_ledger_of_a_killed_run_is_counted(recipe, routed):
    asked = recipe()
    task = load_task(asked.data.task, **asked.data.task_options())
    ledger = Ledger(asked.ledger_at(routed.run.root))
    ledger.reserve(requests_for(asked, task, routed.train[:4]))
    ledger.close()  # as if the process had died
    found = made(asked, routed)
    assert found.open == 40
    assert found.spent.requests == 4
    assert basis_for(asked, routed.run, wishes(asked, routed.run, UNITS))[0].seen == []


def test_the_plan_as_json_has_every_question(written, tmp_path, capsys, monkeypatch):
    from teachwise import cli

    monkeypatch.setattr("sys.argv", ["teachwise", "plan", str(written()), "--json", "--out", str(tmp_path / "run")])
    cli.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["wanted"], len(found["rows"]), found["tokens"]["expected"]) == (54, 54, None)
    assert set(found["arms"]["banded"]) == {"wanted", "open", "tokens", "usd", "borne"}
