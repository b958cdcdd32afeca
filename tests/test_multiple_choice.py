import json
import time
from dataclasses import replace

import pytest

from teachwise.errors import DataError
from teachwise.records import Example, Unusable
from teachwise.tasks import Row, load_task
from teachwise.tasks.letters import read_letter
from teachwise.tasks.multiple_choice import MultipleChoice

FOUR = ["red", "green", "blue", "pink"]
TEN = [f"option {number}" for number in range(10)]
EXAMPLE = Example("id0", 0, "test", "abstract_algebra", None, "Which one?", ("red", "green", "blue"), "C")


def task_of(tmp_path, rows, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return MultipleChoice(str(path), **options)


def questions(answers, options=FOUR, **more):
    return [{"question": f"q{i}", "options": options, "answer": answer, **more} for i, answer in enumerate(answers)]


def golds(task):
    return "".join(row.answer if isinstance(row, Row) else "-" for row in task.rows())


# ------------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"question": "q", "options": FOUR, "answer": "B"},
            {"question": "question", "options": "options", "answer": "answer"},
        ),
        (
            {"Prompt": "q", "choices": FOUR, "label": "B", "topic": "x"},
            {"question": "Prompt", "options": "choices", "answer": "label", "subject": "topic"},
        ),
        (
            {"query": "q", "A": "1", "B": "2", "C": "", "gold": "B", "n": 3},
            {"question": "query", "options": ["A", "B", "C"], "answer": "gold"},
        ),
        (
            {"input": "q", "option_a": "x", "option_b": "y", "target": "B", "split": "dev"},
            {"question": "input", "options": ["option_a", "option_b"], "answer": "target", "split": "split"},
        ),
        (
            {"question": "q", "choice1": "x", "choice2": "y", "answer_index": 1},
            {"question": "question", "options": ["choice1", "choice2"], "answer": "answer_index"},
        ),
        (
            {"question": "q", "opa": "x", "opb": "y", "cop": "B", "subject_name": "s"},
            {"question": "question", "options": ["opa", "opb"], "answer": "cop", "subject": "subject_name"},
        ),
    ],
)
def test_usual_names_are_found_and_kept(tmp_path, row, wanted):
    task = task_of(tmp_path, [row])
    assert task.columns == wanted


@pytest.mark.parametrize(
    ("more", "role", "both"),
    [
        ({"label": "A"}, "answer", "answer; label"),
        ({"prompt": "p"}, "question", "question; prompt"),
        ({"category": "c", "topic": "t"}, "subject", "category; topic"),
        ({"A": "x", "B": "y"}, "options", "options; [A, B]"),
    ],
)
def test_two_candidates_are_never_guessed_between(tmp_path, more, role, both):
    task = task_of(tmp_path, questions("ABCD", **more))
    with pytest.raises(DataError) as caught:
        list(task.rows())
    assert f"each be the {role}: {both}" in caught.value.found
    assert f"data: {{columns: {{{role}: " in caught.value.hint


def test_named_columns_settle_it_and_an_empty_name_switches_off(tmp_path):
    rows = questions("AABA", label="B", category="c", topic="t", steps=3)
    names = {"answer": "label", "subject": "", "level": "steps", "options": None}
    row = next(task_of(tmp_path, rows, columns=names).rows())
    assert (row.answer, row.subject, row.level) == ("B", "", 3)


def test_unknown_and_missing_columns_say_so(tmp_path):
    with pytest.raises(DataError, match="did you mean 'answer'"):
        list(task_of(tmp_path, questions("AB"), columns={"answer": "anwser"}).rows())
    with pytest.raises(DataError, match="no column for the options among: question, answer"):
        list(task_of(tmp_path, [{"question": "q", "answer": "A"}]).rows())
    with pytest.raises(DataError, match="no source"):
        MultipleChoice()


@pytest.mark.parametrize(
    ("cell", "wanted"), [("train", "train"), ("validation", "dev"), ("TEST", "test"), ("", None), (None, None)]
)
def test_the_sources_own_split_is_kept(tmp_path, cell, wanted):
    assert next(task_of(tmp_path, questions("ABCD", split=cell)).rows()).split == wanted


def test_a_split_or_level_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 0: split 'fold1', wanted train, dev or test"):
        list(task_of(tmp_path, questions("ABCD", split="fold1")).rows())
    with pytest.raises(DataError, match="row 0: level 'hard', wanted a whole number"):
        list(task_of(tmp_path, questions("ABCD", level="hard"), columns={"level": "level"}).rows())


# ------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize(
    "cell",
    [
        FOUR,
        str(FOUR),
        json.dumps(FOUR),
        {"text": FOUR, "label": list("ABCD")},
        str({"text": FOUR, "label": list("ABCD")}),
        dict(zip("ABCDE", [*FOUR, None], strict=True)),
    ],
)
def test_options_in_one_column(tmp_path, cell):
    row = next(task_of(tmp_path, questions(["B", "A"], options=cell)).rows())
    assert (row.options, row.answer) == (tuple(FOUR), "B")


def test_separate_columns_may_end_early_but_have_no_gap(tmp_path):
    rows = [
        {"question": "q", "A": "1", "B": "2", "C": "", "D": None, "answer": "B"},
        {"question": "q", "A": "1", "B": "2", "C": "", "D": "4", "answer": "B"},
    ]
    short, gap = task_of(tmp_path, rows, answer_is="letter").rows()
    assert short.options == ("1", "2")
    assert gap == Unusable(1, "option C is empty", "q")


def test_labels_of_the_source_name_the_options(tmp_path):
    rows = [
        {"question": "q", "choices": {"text": FOUR, "label": labels}, "answerKey": answer}
        for labels, answer in [(["1", "2", "3", "4"], "2"), (["1", "2", "3", "4"], "1"), (list("ABCD"), "D")]
    ]
    assert golds(task_of(tmp_path, rows)) == "BAD"


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("answers", "options", "wanted"),
    [
        (["A", "d", "(C)", "B."], FOUR, "ADCB"),
        (["green", "pink", "red"], FOUR, "BDA"),
        ([0, 3, 1], FOUR, "ADB"),
        (["0", "3", "1"], FOUR, "ADB"),
        ([0.0, 3.0, None], FOUR, "AD-"),
        ([1, 4, 2], FOUR, "ADB"),
        (["A", "B", "Z", None], FOUR, "AB--"),
        (["30", "20"], ["10", "20", "30"], "CB"),
    ],
)
def test_auto_decides_for_the_whole_column(tmp_path, answers, options, wanted):
    assert golds(task_of(tmp_path, questions(answers, options))) == wanted


def test_a_few_rows_with_letters_as_options_do_not_change_the_column(tmp_path):
    rows = questions("BC", ["C", "B", "x"]) + questions("AAA")
    assert golds(task_of(tmp_path, rows)) == "BCAAA"


@pytest.mark.parametrize(
    ("answers", "options", "either"),
    [
        ([1, 2, 3], FOUR, "index or index_from_1"),
        ([0, 1, 2, 3, 4], FOUR, "index or index_from_1"),
        (["A", "B"], ["B", "A", "D", "C"], "letter or text"),
        (["1", "2"], ["2", "1", "0", "3"], "text or index or index_from_1"),
        (["x", "y", "A"], FOUR, "fit no way"),
    ],
)
def test_auto_asks_where_two_readings_disagree(tmp_path, answers, options, either):
    rows = questions(answers, options)
    with pytest.raises(DataError) as caught:
        list(task_of(tmp_path, rows).rows())
    assert either in caught.value.found
    assert "data: {answer_is: " in caught.value.hint


@pytest.mark.parametrize(
    ("answer_is", "wanted"), [("letter", "BA"), ("text", "AB"), ("index", "--"), ("index_from_1", "--")]
)
def test_answer_is_settles_options_that_are_letters(tmp_path, answer_is, wanted):
    rows = questions(["B", "A"], ["B", "A", "D", "C"])
    assert golds(task_of(tmp_path, rows, answer_is=answer_is)) == wanted


def test_the_answer_column_wins_over_the_index_column_and_the_row_is_noted(tmp_path):
    rows = [{**row, "answer_index": index} for row, index in zip(questions("ABCD"), [0, 1, 1, 3], strict=True)]
    task = task_of(tmp_path, rows)
    assert golds(task) == "ABCD"
    assert task.notes == ["row 2: the answer is 'C', but answer_index is '1'; the answer column counts"]
    list(task.rows())
    assert len(task.notes) == 1


# ------------------------------------------------------------------------------------------------ unusable rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": " "}, "the question is empty"),
        ({"options": ["one"]}, "the number of options is 1, wanted 2 to 26"),
        ({"options": [str(i) for i in range(27)]}, "the number of options is 27, wanted 2 to 26"),
        ({"options": ["a", "", "c"]}, "option B is empty"),
        ({"options": ["a", None, "c"]}, "option B is empty"),
        ({"options": "a, b, c"}, "the options are no list: 'a, b, c'"),
        ({"options": "['a', 'b'"}, "the options are no list: \"['a', 'b'\""),
        ({"options": "['a' 'b']"}, "the number of options is 1, wanted 2 to 26"),
        ({"options": ["x", "y", "x "]}, "the gold option 'x' stands 2 times among the options"),
        ({"answer": "E"}, "the answer 'E' is no letter of 4 options"),
        ({"answer": "green"}, "the answer 'green' is no letter of 4 options"),
        ({"answer": None}, "the answer is missing"),
        ({"answer": float("nan")}, "the answer is missing"),
    ],
)
def test_a_row_that_cannot_be_used_comes_with_its_reason(tmp_path, row, reason):
    rows = questions("AAA")
    rows[1] |= row
    found = list(task_of(tmp_path, rows).rows())
    assert [item.row for item in found] == [0, 1, 2]
    assert found[1] == Unusable(1, reason, str(row.get("question", "q1")).strip())


def test_wrong_options_may_repeat(tmp_path):
    assert golds(task_of(tmp_path, questions("AB", ["x", "y", "z", "z"]))) == "AB"


# ------------------------------------------------------------------------------------------------ prompts


def test_prompts_name_the_subject_and_letter_the_options():
    system, user = MultipleChoice("x.csv").messages(EXAMPLE, "direct")
    assert system["content"].startswith("You answer multiple-choice questions about abstract algebra.")
    assert user["content"].startswith("Which one?\n\nA. red\nB. green\nC. blue\n\n")
    assert "[[" not in user["content"]
    bare = MultipleChoice("x.csv").messages(replace(EXAMPLE, subject=""), "direct")[0]
    assert "about" not in bare["content"]


def test_thinking_asks_for_the_letter_in_brackets():
    assert "[[X]]" in MultipleChoice("x.csv").messages(EXAMPLE, "cot")[1]["content"]


def test_the_gold_answer_is_in_no_prompt():
    task = MultipleChoice("x.csv")
    for ask in (task.teacher_messages, lambda e: task.messages(e, "direct"), lambda e: task.messages(e, "cot")):
        assert ask(EXAMPLE) == ask(replace(EXAMPLE, answer="A"))


def test_every_task_takes_the_flat_data_fields():
    task = load_task(
        "multiple_choice", source="x.csv", columns={}, answer_is="auto", hub_split="test", seed=3, limit={"train": 5}
    )
    assert task.prompt_version == "mc-1"


# ------------------------------------------------------------------------------------------------ replies


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so it is [[B]]", "B"),
        ("[[ b ]]", "B"),
        ("[[A]] seemed right, but [[C]]", "C"),
        ("[[A]] although the answer is (B)", "A"),
        ("The answer is (C).", "C"),
        ("If the answer is (A), no. So the answer is (D).", "D"),
        ("the answer is: C", "C"),
        ("The correct answer is **B**.", "B"),
        ("the answer is **D. option 3**", "D"),
        ("The correct option is (e)", "E"),
        ("The answer is option F.", "F"),
        ("Answer: B", "B"),
        ("answer: a", "A"),
        ("**Final Answer:** (C)", "C"),
        ("**Final answer: C**", "C"),
        ("### Final Answer\n\n**G**", "G"),
        ("Answer: B) option 1\nbecause it fits", "B"),
        ("The answer is B because it is.", "B"),
        (r"Hence $\boxed{B}$.", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        ("The answer is (A). Wait: **C**", "C"),
        ("We choose **D. option 3**", "D"),
        ("B", "B"),
        ("b", "B"),
        (" (B)\n", "B"),
        ("**B**.", "B"),
        ("B. option 1", "B"),
    ],
)
def test_the_last_stated_answer_is_read(text, wanted):
    assert read_letter(text, TEN) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "A good question needs thought.",
        "A. It depends",
        "The answer is a matter of taste",
        "so the answer is a",
        "The answer is A proton",
        "The answer is (",
        "The answers are A and B",
        "What is the best answer:\n\nA. option 0\nB. option 1\nC. opt",
        "Which is the correct option:\n(A) option 0\n(B) option 1",
        "**A.** no, because it is cold\n**B.** no, because",
        "The answer is 7.",
        "B C",
        "I",
        "5",
    ],
)
def test_a_stray_letter_is_no_answer(text):
    assert read_letter(text, TEN[:8]) is None


@pytest.mark.parametrize("text", ["[[E]]", "The answer is (A). No: the answer is (E).", "E", "[[A]] or [[F]]"])
def test_a_letter_outside_the_options_is_unreadable(text):
    assert read_letter(text, FOUR) is None


@pytest.mark.parametrize("text", ["[[3]]", "[[10]]", "The answer is 1", "The answer is (10).", "10"])
def test_digits_are_no_option_ids(text):
    assert read_letter(text, TEN) is None


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 50_000,
        "answer" + "\n" * 50_000,
        "answer is " * 20_000,
        "**" * 50_000,
        "[[" + " " * 50_000,
        "(A) " * 30_000,
    ],
)
def test_endless_texts_are_read_in_no_time(text):
    started = time.perf_counter()
    assert read_letter(text, TEN) is None
    assert time.perf_counter() - started < 2


def test_the_reader_is_the_tasks():
    assert MultipleChoice("x.csv").read_answer(EXAMPLE, "[[C]]") == "C"
    assert MultipleChoice("x.csv").read_answer(EXAMPLE, "[[D]]") is None


@pytest.mark.parametrize("name", ["Correct Answer", "correct-answer", "CORRECT_OPTION"])
def test_a_column_s_name_may_have_spaces_hyphens_and_capitals(tmp_path, name):
    path = tmp_path / "q.csv"
    path.write_text(f"question,A,B,{name}\nWhich?,this,that,B\n", encoding="utf-8")
    (row,) = MultipleChoice(source=str(path)).rows()
    assert row.answer == "B"
