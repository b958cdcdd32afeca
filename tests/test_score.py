"""score: every example gets its own row's measured value, or its own answer's entropy, whatever order the work took."""

import csv
import math

import pytest

from teachwise.engines.facts import AnswerFacts
from teachwise.errors import DataError
from teachwise.measures import SOURCES, Asking, find_measure
from teachwise.prepare import prepare_examples
from teachwise.records import Example, Score, Unusable, driving
from teachwise.run_folder import Unit
from teachwise.score import answered, measured_scores, score_examples, score_rows, warn_unreadable
from teachwise.tasks.multiple_choice import MultipleChoice

PREPARE, SCORE = Unit("prepare"), Unit("score")

# a score that was measured elsewhere

MEASURED = [
    # split, question, unsure, right
    ("train", "", "0.05", "false"),  # row 0 cannot be used: it asks nothing
    ("train", "asked twice", "0.15", "false"),  # row 1 gives way to row 2, which is in test
    ("test", "asked twice", "1.25", "true"),
    ("train", "first", "2.35", "true"),
    ("dev", "second", "0.45", "false"),
    ("train", "second, rather", "3.55", "false"),
    ("train", "first", "9.65", "false"),  # row 6 repeats row 3
    ("test", "third", "0.75", "false"),
    ("train", "fourth", "4.85", "true"),
]
KEPT = {2: (1.25, True), 3: (2.35, True), 4: (0.45, False), 5: (3.55, False), 7: (0.75, False), 8: (4.85, True)}


@pytest.fixture
def measured(tmp_path, recipe_with, put):
    """Prepares and scores a table of measured scores; gives the examples, the scores and the counts."""

    def score(rows=MEASURED):
        table = tmp_path / "measured.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["split", "question", "A", "B", "answer", "unsure", "right"])
            writer.writerows([split, question, "1", "2", "A", unsure, right] for split, question, unsure, right in rows)
        recipe = recipe_with(
            data={"source": str(table)}, score={"measure": "column", "column": "unsure", "correct": "right"}
        )
        run = put.run
        run.begin(PREPARE, "k")
        run.finish(PREPARE, "k", prepare_examples(recipe, run, PREPARE), 0.0)
        run.begin(SCORE, "k")
        counts = score_examples(recipe, run, SCORE)
        examples = run.records(PREPARE, "examples.parquet", Example)
        return examples, driving(run.records(SCORE, "scores.parquet", Score)), counts

    return score


def test_a_measured_score_is_that_of_the_examples_own_row_where_rows_before_it_were_set_apart(measured, put):
    examples, scores, counts = measured()
    assert sorted(row.row for row in put.run.records(PREPARE, "unusable.parquet", Unusable)) == [0, 1, 6]
    assert [example.row for example in examples] == list(KEPT)
    assert [score.id for score in scores] == [example.id for example in examples]
    assert {e.row: (s.value, s.correct) for e, s in zip(examples, scores, strict=True)} == KEPT
    assert {(score.measure, score.predicted, score.gold_probability) for score in scores} == {("unsure", None, None)}
    assert counts == {"scored": 6, "train_accuracy": round(2 / 3, 4), "unreadable": 0}


def test_a_measured_score_follows_its_example_and_not_the_examples_order(example_with):
    rows = [{"u": number / 10, "ok": number % 3 == 0} for number in range(6)]
    examples = [example_with(f"e{row}", row=row) for row in (4, 0, 5, 2)]
    scores = measured_scores(examples, rows, "u", "ok", "t.csv")
    assert [(score.id, score.value, score.correct) for score in scores] == [
        ("e4", 0.4, False),
        ("e0", 0.0, True),
        ("e5", 0.5, False),
        ("e2", 0.2, False),
    ]


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "inf", "-inf", "unsure"])
def test_a_measured_score_that_is_no_finite_number_is_named_by_its_row(measured, cell):
    rows = [(*row[:2], cell, row[3]) if number == 5 else row for number, row in enumerate(MEASURED)]
    with pytest.raises(DataError) as caught:
        measured(rows)
    assert f"measured.csv: row 5: unsure is {cell!r}, wanted a finite number" in caught.value.found


@pytest.mark.parametrize("cell", ["", "nan", "2", "maybe"])
def test_a_measured_correctness_that_is_no_truth_value_is_named_by_its_row(measured, cell):
    rows = [(*row[:3], cell) if number == 7 else row for number, row in enumerate(MEASURED)]
    with pytest.raises(DataError) as caught:
        measured(rows)
    assert f"measured.csv: row 7: right is {cell!r}, wanted true or false" in caught.value.found


@pytest.mark.parametrize("cell", [None, float("nan")])
def test_a_missing_number_of_a_typed_table_is_named_by_its_row(example_with, cell):
    rows = [{"u": 0.1, "ok": True}, {"u": 0.2, "ok": True}, {"u": cell, "ok": True}]
    with pytest.raises(DataError, match=r"t\.parquet: row 2: u is (None|nan), wanted a finite number"):
        measured_scores([example_with("e", row=2)], rows, "u", "ok", "t.parquet")


# the student's own answer entropy


class Echo:
    """A student whose answer to a prompt can be told from the prompt; it notes the batches it is given."""

    def __init__(self, tokens):
        self.chat, self.tokens, self.batches = self, tokens, []

    def prompt_ids(self, conversations):
        return [self._ids(messages) for messages in conversations]

    def _ids(self, messages):
        (number,) = (n for n in range(len(self.tokens)) if f"question {n:02d} " in messages[-1]["content"])
        return [number] * _length(number)

    def option_ids(self, letters):
        return [[place] for place in range(len(letters))]

    def gold_id(self, answer):
        return "ABC".index(answer)

    def decode(self, ids):
        return self.tokens[ids[0]]

    def answer_facts(self, prompts, options, golds):
        self.batches.append([prompt[0] for prompt in prompts])
        return [_facts(prompt[0], len(own)) for prompt, own in zip(prompts, options, strict=True)]


def _facts(number, n_options):
    """The token's id is the question's number; option k has the probability (k + number + 1) / 100."""
    logs = tuple(math.log((place + number + 1) / 100) for place in range(n_options))
    return AnswerFacts(number, number / 100, 5.0, -0.1, -3.0, logs, logs, 0.5, 1.0)


def _length(number):
    return 3 + 7 * number % 10


@pytest.fixture
def scored(example_with, tmp_path):
    """Scores one example for each token that the student answers; the gold answers are A, B, C in turn."""

    def score(tokens):
        examples = [
            example_with(f"e{n:02d}", question=f"question {n:02d} ?", answer="ABC"[n % 3]) for n in range(len(tokens))
        ]
        engine = Echo(tokens)
        asking = Asking(examples, MultipleChoice("none.csv"), lambda: engine, None, tmp_path / "work", 24)
        known = answered(examples, {"answer": SOURCES["answer"].gather(asking)})
        warn_unreadable(known.answers)
        return engine, score_rows("answer_entropy", find_measure("answer_entropy")(known), known)

    return score


def test_scores_come_back_in_the_order_of_the_examples_however_they_were_batched(scored):
    engine, scores = scored(["A"] * 10)
    assert len(engine.batches) > 3
    worked = [number for batch in engine.batches for number in batch]
    assert worked != sorted(worked)
    assert [score.id for score in scores] == [f"e{n:02d}" for n in range(10)]
    assert [score.value for score in scores] == [n / 100 for n in range(10)]
    assert [score.prompt_tokens for score in scores] == [_length(n) for n in range(10)]
    assert [score.correct for score in scores] == [n % 3 == 0 for n in range(10)]
    assert [score.gold_probability for score in scores] == pytest.approx([(n % 3 + n + 1) / 100 for n in range(10)])
    assert [score.option_mass for score in scores] == pytest.approx([(3 * n + 6) / 100 for n in range(10)])


def test_more_than_a_tenth_of_unreadable_answers_is_warned_of_and_counted_as_wrong(scored, capsys):
    _, scores = scored(["A", "B", "the", "A", "B", "C", "I", "B", "C", "A"])
    said = capsys.readouterr().err
    assert "warning" in said
    assert "2 of 10 answers begin with no option letter" in said
    assert [score.id for score in scores if score.predicted is None] == ["e02", "e06"]
    assert not any(score.correct for score in scores if score.predicted is None)


@pytest.mark.parametrize(("n_letters", "is_loud"), [(0, True), (1, False), (5, False)])
def test_a_student_that_hardly_ever_answers_with_a_letter_is_loudly_warned_of(scored, capsys, n_letters, is_loud):
    scored(["A"] * n_letters + ["the"] * (10 - n_letters))
    said = capsys.readouterr().err
    assert "begin with no option letter" in said
    assert ("WARNING score: this student hardly ever answers with a letter" in said) == is_loud
    assert ("take an instruct or chat model" in said) == is_loud


def test_a_tenth_of_unreadable_answers_is_no_cause_for_a_warning(scored, capsys):
    _, scores = scored(["A", "B", "the", "A", "B", "C", "A", "B", "C", "A"])
    assert sum(score.predicted is None for score in scores) == 1
    assert "begin with no option" not in capsys.readouterr().err


# which rows drive


def test_the_first_measures_rows_drive_and_a_row_without_a_value_is_taken_for_the_least_sure():
    def row(id, measure, value):
        return Score(id, measure, value, "A", True, 0.5, 0.9, 7)

    rows = [
        row("a", "one", 0.5),
        row("b", "one", None),
        row("c", "one", 2.0),
        row("a", "two", 9.0),
        row("b", "two", 8.0),
    ]
    found = driving(rows)
    assert [(one.id, one.measure, one.value) for one in found] == [
        ("a", "one", 0.5),
        ("b", "one", 2.0),
        ("c", "one", 2.0),
    ]
    assert found[0].prompt_tokens == 7
    with pytest.raises(DataError, match="two has no value for any example"):
        driving([row("a", "two", None)])
    with pytest.raises(DataError, match="has no value"):
        driving([])
