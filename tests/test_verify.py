"""Verify: what a reply is worth, whatever stands in it; figures by band computed by hand and on real rationales."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_records import rationale
from teachwise.records import Example
from teachwise.request import Reply, Request, no_reply
from teachwise.sampling import bands_of
from teachwise.tasks.multiple_choice import MultipleChoice
from teachwise.tasks.table import read_table
from teachwise.tasks.toy import Toy
from teachwise.teacher.prices import Price
from teachwise.teacher.verify import (
    FAILURE,
    REASONS,
    Keep,
    band_row,
    by_band,
    is_kept,
    is_loop,
    judged,
    next_request,
    teacher_verdict,
    verdict_of,
)

EXAMPLE = Example("e", 0, "train", "", None, "3 + 4 ?", ("5", "6", "7", "8"), "C")
FIRST = Request("big", ({"role": "user", "content": "3 + 4 ?"},), 100, 0.5, "1")
RIGHT, WRONG, MUTE = (Reply(text, "stop", 10, 20) for text in ("so 7 [[C]]", "so 6 [[B]]", "it is hard to say"))
CUT = Reply("so 7 [[C]] and then", "length", 10, 100)
REFUSED = Reply("", "content_filter", 10, 0)
LOST, FAILED = no_reply("cut off", "unanswered"), no_reply("status 400")


@pytest.mark.parametrize(
    ("reply", "verdict", "stated"),
    [
        (RIGHT, "correct", "C"),
        (replace(RIGHT, finish_reason="what a server calls it"), "correct", "C"),
        (WRONG, "wrong", "B"),
        (MUTE, "unreadable", None),
        (replace(RIGHT, text="so 9 [[Z]]"), "unreadable", None),
        (replace(RIGHT, text=""), "unreadable", None),
        (replace(RIGHT, text="", reasoning="so 7 [[C]]"), "unreadable", None),
        (CUT, "truncated", "C"),
        (replace(CUT, text="so 6 [[B]]"), "truncated", "B"),
        (replace(CUT, text=""), "truncated", None),
        (REFUSED, "refused", None),
        (LOST, "unknown", None),
        (FAILED, "failed", None),
        (no_reply("status 500", "unavailable"), "failed", None),
        (None, "unpaid", None),
    ],
)
def test_the_verdict_follows_from_the_raw_reply(reply, verdict, stated):
    assert verdict_of(EXAMPLE, reply, Toy()) == (verdict, stated)


def test_every_verdict_has_its_words():
    found = {verdict_of(EXAMPLE, one, Toy())[0] for one in (RIGHT, WRONG, MUTE, CUT, REFUSED, LOST, FAILED, None)}
    assert found == set(REASONS) - {"contaminated"}, "that one is the guard's"


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (Keep(), {"correct"}),
        (Keep(samples=3, longer=True), {"correct"}),
        (Keep(wants_correct=False), {"correct", "wrong", "unreadable"}),
    ],
)
def test_what_is_kept(keep, kept):
    assert {verdict for verdict in REASONS if is_kept(verdict, keep)} == kept


# ------------------------------------------------------------------------------------------- any text at all

TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(["[[", "]]", "A", "C", "[[C]]", "answer", ":", "\\boxed{", "}", "**", "(C)", " ", "\n"])
    ).map("".join),
)
FINISHES = st.sampled_from(["stop", "length", "content_filter", "unknown", ""])
REPLIES = st.one_of(
    st.none(),
    st.sampled_from([LOST, FAILED]),
    st.builds(
        lambda text, finish, read, written, cached: Reply(text, finish, read, written, cached_tokens=min(read, cached)),
        TEXTS | st.sampled_from([RIGHT.text, WRONG.text]),
        FINISHES,
        *[st.integers(0, 10**6)] * 3,
    ),
)
KEEPS = st.builds(Keep, st.booleans(), st.integers(1, 4), st.booleans(), st.booleans())


@given(REPLIES)
def test_no_text_breaks_the_reading_of_it(reply):
    for task in (Toy(), MultipleChoice(source="q.jsonl")):
        verdict, stated = verdict_of(EXAMPLE, reply, task)
        assert verdict in REASONS
        assert stated is None or stated in "ABCD"
        if verdict == "correct":
            assert stated == "C"


@given(st.lists(REPLIES, min_size=16, max_size=16), KEEPS)
def test_asking_again_always_ends_and_what_is_kept_states_the_gold_answer(replies, keep):
    tries, request = [], FIRST
    while request:
        tries.append((request, replies[len(tries)]))
        request = next_request(EXAMPLE, tries, Toy(), keep)
    assert len(tries) <= keep.samples + keep.longer
    assert sorted(limits := [request.max_tokens for request, _ in tries]) == limits, "the longer limit stays"
    assert len({request.key for request, _ in tries}) == len(tries), "the same request again would give the same reply"
    assert {request.max_tokens for request, _ in tries} <= {100, 200 if keep.longer else 100}
    found = judged(EXAMPLE, tries, Toy(), keep)
    assert found.kept == (is_kept(found.verdict, keep) and bool(found.text.strip())), "nothing is learnt from nothing"
    if found.kept and keep.wants_correct:
        assert found.stated == "C"
    verdicts = [verdict_of(EXAMPLE, reply, Toy())[0] for _, reply in tries]
    assert not any(is_kept(verdict, keep) for verdict in verdicts[:-1]), "nothing is bought once one is kept"
    assert found.first == verdicts[0]


@given(st.lists(REPLIES, min_size=1, max_size=5), KEEPS)
def test_an_example_costs_what_its_tries_cost(replies, keep):
    found = judged(EXAMPLE, [(replace(FIRST, sample=n), reply) for n, reply in enumerate(replies)], Toy(), keep)
    there = [reply for reply in replies if reply]
    assert found.requests == len(there)
    assert found.prompt_tokens == sum(reply.prompt_tokens for reply in there)
    assert found.completion_tokens == sum(reply.completion_tokens for reply in there)
    assert found.cached_tokens == sum(reply.cached_tokens for reply in there) <= found.prompt_tokens
    assert 0 <= found.unusable_tokens <= found.tokens
    assert found.kept or found.unusable_tokens == found.tokens


# ---------------------------------------------------------------------------------------------- asking again


def asked(keep, *replies):
    """The requests that are made where these replies come, as (sample, limit), and what becomes of the example."""
    tries, request, left = [], FIRST, iter(replies)
    while request:
        tries.append((request, next(left)))
        request = next_request(EXAMPLE, tries, Toy(), keep)
    assert not list(left), "asked less often than it has replies"
    return [(request.sample, request.max_tokens) for request, _ in tries], judged(EXAMPLE, tries, Toy(), keep)


def test_what_is_not_kept_is_asked_for_again_as_another_sample():
    requests, found = asked(Keep(samples=3), WRONG, MUTE, RIGHT)
    assert requests == [(0, 100), (1, 100), (2, 100)]
    assert (found.verdict, found.first, found.kept, found.text) == ("correct", "wrong", True, RIGHT.text)
    assert (found.requests, found.tokens, found.unusable_tokens) == (3, 90, 60)
    requests, found = asked(Keep(samples=2), WRONG, MUTE)
    assert (found.verdict, found.kept, found.text, found.unusable_tokens) == ("unreadable", False, MUTE.text, 60)


def test_a_reply_that_was_cut_off_is_asked_for_once_with_twice_the_limit():
    assert asked(Keep(longer=True), CUT, RIGHT)[0] == [(0, 100), (0, 200)]
    requests, found = asked(Keep(longer=True), CUT, CUT)
    assert requests == [(0, 100), (0, 200)]
    assert (found.verdict, found.kept) == ("truncated", False)
    assert asked(Keep(), CUT)[0] == [(0, 100)]
    assert asked(Keep(longer=True), WRONG)[0] == [(0, 100)]
    assert asked(Keep(samples=3, longer=True), CUT, WRONG, CUT, CUT)[0] == [(0, 100), (0, 200), (1, 200), (2, 200)]
    assert asked(Keep(samples=2, longer=True), WRONG, CUT, RIGHT)[0] == [(0, 100), (1, 100), (1, 200)]


@pytest.mark.parametrize("reply", [REFUSED, LOST, FAILED, None])
def test_another_sample_of_what_was_refused_or_never_came_is_not_asked_for(reply):
    assert asked(Keep(samples=5, longer=True), reply)[0] == [(0, 100)]


def test_what_the_budget_could_not_bear_a_second_time_is_unpaid_and_its_first_text_is_kept_to_be_read():
    _, found = asked(Keep(samples=2), WRONG, None)
    assert (found.verdict, found.first, found.kept, found.text) == ("unpaid", "wrong", False, WRONG.text)
    assert (found.requests, found.tokens, found.unusable_tokens) == (1, 30, 30)


# ----------------------------------------------------------------------------------------- by band, by hand

BANDS = {"a": "hard", "b": "hard", "c": "hard", "d": "easy", "e": "hard"}
ROWS = [
    rationale("a", prompt_tokens=100, completion_tokens=50),
    rationale("b", first="wrong", requests=2, prompt_tokens=200, completion_tokens=110, kept_prompt_tokens=100,
              kept_completion_tokens=50),
    rationale("c", "wrong", prompt_tokens=100, completion_tokens=70, loops=True),
    rationale("d", "truncated", prompt_tokens=100, completion_tokens=99),
    rationale("e", "unpaid"),
]  # fmt: skip


def test_rationales_by_band_by_hand():
    found = by_band([*ROWS, *ROWS, rationale("z", "refused")], BANDS, Price(10.0, 20.0))
    assert list(found) == ["easy", "hard", "all"]
    hard = found["hard"]
    assert (hard["n"], hard["kept"], hard["correct"], hard["wrong"], hard["unpaid"]) == (4, 2, 2, 1, 1)
    assert (hard["stated"], hard["agreement"]) == (3, 1 / 3), "of the first replies: asking again proves no teacher"
    assert (hard["tokens"], hard["unusable_tokens"], hard["median_tokens"]) == (630, 160 + 170, 55)
    assert hard["unusable_usd"] == pytest.approx((100 * 10 + 60 * 20 + 100 * 10 + 70 * 20) / 1e6)
    assert (hard["loops"], hard["unproven"]) == (1, 0)
    assert (found["easy"]["truncated"], found["easy"]["agreement"]) == (1, None)
    assert (found["all"]["refused"], found["all"]["unusable_tokens"]) == (1, 11)
    assert by_band(ROWS, BANDS)["hard"]["unusable_usd"] is None


def test_of_two_arms_one_of_which_could_not_pay_the_paid_rationale_counts():
    for rows in ([rationale("a", "unpaid"), rationale("a")], [rationale("a"), rationale("a", "unpaid")]):
        assert (by_band(rows, {})["all"]["unpaid"], by_band(rows, {})["all"]["kept"]) == (0, 1)


def test_no_agreement_is_claimed_where_the_answer_was_shown():
    row = band_row([rationale("a", gold_shown=True), rationale("b", "wrong", gold_shown=True)])
    assert (row["stated"], row["agreement"], row["unproven"], row["gold_shown"]) == (0, None, 1, 2)
    row = band_row([rationale("a"), rationale("b", "wrong", kept=True), rationale("c", "unreadable")])
    assert (row["unproven"], row["agreement"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("verdicts", "verdict", "n", "usable"),
    [
        ({"correct": 5, "wrong": 5}, "PASS", 10, 5),
        ({"correct": 4, "wrong": 5}, FAILURE, 9, 4),
        ({"correct": 4, "wrong": 3, "unpaid": 50}, "PASS", 7, 4),
        ({"correct": 4, "truncated": 2, "refused": 1, "failed": 1, "unknown": 1}, FAILURE, 9, 4),
    ],
)
def test_the_teacher_is_judged_by_the_hard_rationales_that_were_paid(verdicts, verdict, n, usable):
    names = [name for name, times in verdicts.items() for _ in range(times)]
    hard = [rationale(str(number), name, kept=name in ("correct", "wrong")) for number, name in enumerate(names)]
    rows = [*hard, *(rationale(f"easy {number}") for number in range(99))]
    found = teacher_verdict(by_band(rows, {str(number): "hard" for number in range(99)}), 0.5)
    assert (found["verdict"], found["band"], found["n"], found["usable"]) == (verdict, "hard", n, usable)
    assert found["low"] < found["share"] == usable / n < found["high"]


def test_without_a_hard_rationale_the_teacher_is_not_judged_and_without_bands_all_count():
    assert teacher_verdict({}, 0.5)["verdict"] == "NOT ASKED"
    assert teacher_verdict(by_band([rationale("a", "unpaid")], {"a": "hard"}), 0.5)["verdict"] == "NOT ASKED"
    assert teacher_verdict(by_band([rationale("a")], {"a": "easy"}), 0.5)["verdict"] == "NOT ASKED"
    found = teacher_verdict(by_band([rationale("a", "wrong")], {}), 0.5)
    assert (found["verdict"], found["band"]) == (FAILURE, "all")


def test_a_teacher_that_saw_the_answers_can_fail_but_not_pass():
    shown = [rationale(str(n), "correct" if n else "truncated", gold_shown=True) for n in range(4)]
    assert teacher_verdict(by_band(shown, {}), 0.5)["verdict"] == "NOT JUDGED"
    assert teacher_verdict(by_band(shown, {}), 0.9)["verdict"] == FAILURE


# ------------------------------------------------------------------------------------------------- real texts


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("", False),
        ("no " * 60, False),
        ("no " * 80, True),
        ("A long start that says one thing after another. " + "so 7 is prime . " * 60, True),
        (
            "".join(f"Step {n}: {n} times {n + 1} is {n * (n + 1)}, which leaves {997 % (n + 2)}. " for n in range(40)),
            False,
        ),
    ],
)
def test_a_text_that_ends_in_a_loop_is_known(text, loops):
    assert is_loop(text) is loops


@pytest.fixture(scope="module")
def recorded(shared_data):
    """Real rationales, judged, and the bands of their questions by the student's entropy."""
    rows = read_table(str(shared_data / "mmlu_pro_qwen25_3b_entropy.parquet"))
    told = read_table(str(shared_data / "mmlu_pro_teacher_llama31_70b.parquet"))
    texts, task = {row["question_id"]: row["rationale"] for row in told}, MultipleChoice(source="q.jsonl")
    found = []
    for row in rows:
        id, options = f"{row['question_id']:05d}", tuple(row["options"])
        example = Example(id, 0, "train", row["category"], None, row["question"], options, row["answer"])
        text = texts[row["question_id"]]
        found.append(judged(example, [(FIRST, Reply(text, "stop", 100, len(text.split())))], task, Keep()))
    entropy = {one.id: row["entropy"] for one, row in zip(found, rows, strict=True)}
    return found, bands_of(entropy, list(entropy), (0.25, 0.75))


def test_a_real_teacher_by_band_of_a_real_students_entropy(recorded):
    found = by_band(*recorded)
    assert [row["n"] for row in found.values()] == [3008, 6014, 3008]
    assert [round(row["correct"] / row["n"], 3) for row in found.values()] == [0.786, 0.603, 0.512]
    assert [row["unreadable"] for row in found.values()] == [19, 118, 116]
    assert [row["kept"] for row in found.values()] == [row["correct"] for row in found.values()]
    shares = [row["unusable_tokens"] / row["tokens"] for row in found.values()]
    assert shares == sorted(shares)
    assert found["easy"]["median_tokens"] < found["medium"]["median_tokens"] < found["hard"]["median_tokens"]
    verdict = teacher_verdict(found, 0.5)
    assert (verdict["verdict"], round(verdict["low"], 3), round(verdict["high"], 3)) == ("PASS", 0.494, 0.529)
    assert teacher_verdict(found, 0.52)["verdict"] == FAILURE


def test_loops_of_a_real_teacher_are_mostly_texts_that_state_no_answer(recorded):
    loops = Counter(one.verdict for one in recorded[0] if one.loops)
    assert loops == {"unreadable": 174, "wrong": 5, "correct": 3}
