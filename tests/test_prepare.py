"""prepare: no row in two splits, none lost unseen, and a split that stays as the table grows.

The tests of section 6 of the design are named for the fault that they keep out.
"""

import csv
import json
from collections import Counter, defaultdict

import pytest

from teachwise.errors import DataError
from teachwise.prepare import distinct, into_splits, prepare_examples, shared_questions
from teachwise.records import Example, Unusable
from teachwise.run_folder import Unit
from teachwise.sections import Data
from teachwise.tasks import Row
from teachwise.tasks.table import write_table

UNIT = Unit("prepare")


def row(number, question="", split=None, options=("1", "2", "3"), answer="A"):
    return Row(number, question or f"question {number}", options, answer, split=split)


def kept(rows):
    return {row.id: row for row in rows}


def splits_of(examples):
    return {example.id: example.split for example in examples}


# repeats


@pytest.mark.parametrize(
    ("splits", "winner"),
    [
        (("train", "test"), 1),
        (("test", "train"), 0),
        (("train", "dev", "test"), 2),
        (("train", "dev"), 1),
        ((None, "train"), 1),
        ((None, None), 0),
        (("test", "test"), 0),
    ],
)
def test_training_rows_that_are_test_rows_stay_in_test_alone(splits, winner):
    rows = [row(number, "same", split) for number, split in enumerate(splits)]
    found, repeats = distinct(rows)
    assert list(found.values()) == [rows[winner]]
    assert {one.row for one in repeats} == set(range(len(rows))) - {winner}
    assert all(one.reason == f"repeats row {winner}" for one in repeats)


def test_repeats_with_conflicting_answers_are_noted():
    rows = [row(0, "same", answer="B"), row(1, "same", answer="C"), row(2, "same", answer="B")]
    found, repeats = distinct(rows)
    assert [one.answer for one in found.values()] == ["B"]
    assert [(one.row, one.reason) for one in repeats] == [
        (1, "repeats row 0, with another answer (B)"),
        (2, "repeats row 0"),
    ]


def test_white_space_makes_no_new_question_but_other_options_do():
    rows = [row(0, "What is it?"), row(1, " What  is\nit? "), row(2, "What is it?", options=("3", "2", "1"))]
    found, repeats = distinct(rows)
    assert [one.row for one in found.values()] == [0, 2]
    assert [one.row for one in repeats] == [1]


# splits


def test_splits_are_stable_when_rows_are_added_or_shuffled():
    few = [row(number) for number in range(0, 300, 3)]
    many = [row(number) for number in reversed(range(300))]
    before, after = splits_of(into_splits(kept(few), Data())), splits_of(into_splits(kept(many), Data()))
    assert before.items() <= after.items()


def test_unseeded_or_remainder_dropping_splits():
    rows = kept(row(number) for number in range(997))
    one, again, other = (splits_of(into_splits(rows, Data(seed=seed))) for seed in (0, 0, 1))
    assert len(one) == 997
    assert one == again
    assert one != other
    sizes = Counter(one.values())
    assert abs(sizes["train"] - 798) < 50
    assert min(sizes["dev"], sizes["test"]) > 60


def test_the_same_question_text_stays_in_one_split_whatever_its_options():
    rows = [
        row(2 * n + k, f"{space}Question {n}?", options=options)
        for n in range(200)
        for k, (space, options) in enumerate([("", ("1", "2")), (" ", ("2", "1"))])
    ]
    found = defaultdict(set)
    for example in into_splits(kept(rows), Data()):
        found[example.row // 2].add(example.split)
    assert len(found) == 200
    assert all(len(splits) == 1 for splits in found.values())


def test_the_tables_own_split_is_kept():
    rows = [row(0, split="test"), row(1, split="train"), row(2, split="dev")]
    assert [example.split for example in into_splits(kept(rows), Data())] == ["test", "train", "dev"]


def test_examples_come_in_source_order():
    rows = [row(number) for number in (5, 3, 9, 0)]
    assert [example.row for example in into_splits(kept(rows), Data())] == [0, 3, 5, 9]


def test_shares_that_leave_rows_over_leave_them_out():
    data = Data.model_validate({"split": {"train": 0.2, "dev": 0.2, "test": 0.2}})
    found = into_splits(kept(row(number) for number in range(1000)), data)
    assert 540 < len(found) < 660


# limits


def test_limits_are_nested_and_do_not_move_rows_between_splits():
    rows = kept(row(number) for number in range(500))
    whole = splits_of(into_splits(rows, Data()))
    some = splits_of(into_splits(rows, Data.model_validate({"limit": {"train": 100, "test": 20}})))
    fewer = splits_of(into_splits(rows, Data.model_validate({"limit": {"train": 30, "test": 20}})))
    assert some.items() <= whole.items()
    assert fewer.items() <= some.items()
    sizes = Counter(some.values())
    assert (sizes["train"], sizes["test"]) == (100, 20)
    assert sizes["dev"] == Counter(whole.values())["dev"]


def test_a_limit_above_what_there_is_takes_all():
    rows = kept(row(number) for number in range(50))
    assert into_splits(rows, Data.model_validate({"limit": {"train": 10_000}})) == into_splits(rows, Data())


# questions in two splits


def test_near_contamination_is_listed_with_its_rows(example_with):
    examples = [
        example_with("a", "train", row=0, question="What is it?"),
        example_with("b", "test", row=4, question=" what IS  it?"),
        example_with("c", "train", row=5, question="Another?"),
        example_with("d", "train", row=6, question="Another?"),
        example_with("e", "dev", row=7, question="Third?"),
        example_with("f", "test", row=8, question="Third?"),
    ]
    assert shared_questions(examples) == [{"question": "what is it?", "splits": ["test", "train"], "rows": [0, 4]}]


# the step


@pytest.fixture
def prepared(put, tmp_path, recipe_with):
    """Prepares a table and returns the counts, the examples, what was set apart, and prepare.json."""

    def prepare(cells, **data):
        write_table(tmp_path / "q.jsonl", cells)
        recipe = recipe_with(data={"source": str(tmp_path / "q.jsonl"), **data})
        put.run.begin(UNIT, "k")
        counts = prepare_examples(recipe, put.run, UNIT)
        examples = put.run.records(UNIT, "examples.parquet", Example)
        unusable = put.run.records(UNIT, "unusable.parquet", Unusable)
        return counts, examples, unusable, put.run.json(UNIT, "prepare.json")

    return prepare


def cells(n):
    return [{"question": f"q{i}", "options": ["yes", "no", "maybe"], "answer": "ABC"[i % 3]} for i in range(n)]


def test_unusable_rows_are_kept_with_their_reason_and_every_row_is_counted(prepared):
    rows = cells(60)
    rows[3]["answer"] = "D"
    rows[7]["question"] = ""
    rows.append({**rows[10], "answer": "A"})
    counts, examples, unusable, written = prepared(rows)
    assert {one.row: one.reason for one in unusable} == {
        3: "the answer 'D' is no letter of 3 options",
        7: "the question is empty",
        60: "repeats row 10, with another answer (B)",
    }
    assert counts["rows"] == 61 == len(examples) + len(unusable) + counts["not_used"]
    assert (counts["unusable"], counts["repeats"], counts["not_used"]) == (2, 1, 0)
    assert Counter(example.split for example in examples) == {s: counts[s] for s in ("train", "dev", "test")}
    assert written["counts"] == counts
    assert written["shared_questions"] == []


def test_no_id_stands_twice_and_no_training_row_is_a_test_row(prepared):
    rows = [{**cell, "split": split} for split in ("train", "validation", "test") for cell in cells(9)]
    counts, examples, _, _ = prepared(
        rows
        + [{**cells(20)[n], "split": "train"} for n in range(9, 20)]
        + [{**cells(40)[n], "split": "dev"} for n in range(30, 40)]
    )
    assert len({example.id for example in examples}) == len(examples) == 30
    assert {example.question for example in examples if example.split == "test"} == {f"q{n}" for n in range(9)}
    assert (counts["train"], counts["dev"], counts["test"], counts["repeats"]) == (11, 10, 9, 18)


def test_limits_count_what_is_not_used(prepared):
    counts, examples, _, _ = prepared(cells(200), limit={"train": 50})
    assert counts["train"] == 50
    assert counts["not_used"] == 200 - len(examples) > 0


@pytest.mark.parametrize(("n", "missing"), [(1, "train|dev|test"), (3, "dev|test|train")])
def test_an_empty_split_is_an_error_that_says_which(prepared, n, missing):
    found = f"prepare: .*: no ({missing}) examples \\({n} rows read, {n} usable\\)"
    with pytest.raises(DataError, match=found) as caught:
        prepared(cells(n))
    assert "data.split" in caught.value.hint


def test_the_same_table_gives_the_same_ids_and_splits_from_any_kind_of_file(prepared, tmp_path, put, recipe_with):
    _, first, _, _ = prepared(cells(60))
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "options", "answer"])
        writer.writeheader()
        writer.writerows({**cell, "options": json.dumps(cell["options"])} for cell in cells(60))
    prepare_examples(recipe_with(data={"source": str(tmp_path / "q.csv")}), put.run, UNIT)
    assert put.run.records(UNIT, "examples.parquet", Example) == first


def test_repeats_of_the_real_table_are_found(shared_data, put, recipe_with):
    source = str(shared_data / "mmlu_pro_qwen25_3b_entropy.parquet")
    recipe = recipe_with(data={"task": "mmlu_pro", "source": source})
    put.run.begin(UNIT, "k")
    counts = prepare_examples(recipe, put.run, UNIT)
    assert counts["rows"] == 12_030
    assert counts["repeats"] == 159
    assert counts["train"] + counts["dev"] + counts["test"] == 12_030 - 159 - counts["unusable"]
    assert put.run.json(UNIT, "prepare.json")["shared_questions"] == []
