"""prepare: no row in two splits, none lost unseen, and a split that stays as the table grows.

The tests of section 6 of the design are named for the fault that they keep out.
"""

import csv
import json
from collections import Counter, defaultdict

import pytest

from teachwise.errors import DataError, GateError
from teachwise.guard import CONTAMINATION
from teachwise.prepare import distinct, into_splits, prepare_examples
from teachwise.records import Example, Hit, Unusable
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
    assert written["contamination"] == {"on_contamination": "drop", "found": [], "too_alike": 0}


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


LONG = (
    "The committee of the village meets on the last Monday of every month to talk about roads. Why does it meet at all?"
)
SHIP = "From the bridge of the ship a sailor sees two white lights and a green one. Which way is the other ship going?"
TRAVEL = "A traveller buys a ticket for the night train and finds that his seat is taken. Whom should he ask for help?"


def with_copies():
    """Thirty rows in their splits; two train rows and a dev row repeat test rows, and a train row a dev row."""
    rows = [{**cell, "split": ("train", "dev", "test")[n % 3]} for n, cell in enumerate(cells(30))]
    held = [{**rows[n], "question": question} for n, question in ((2, LONG), (2, SHIP), (1, TRAVEL))]
    again = [
        {**held[0], "question": held[0]["question"].upper(), "split": "train"},
        {**held[0], "question": held[0]["question"].replace("roads", "bridges"), "split": "train"},
        {**held[1], "question": held[1]["question"].replace("white", "yellow"), "split": "dev"},
        {**held[2], "question": f"Read well. {TRAVEL}", "split": "train"},
    ]
    return rows + held + again


def test_rows_that_repeat_held_out_questions_are_set_apart_and_the_held_out_ones_stay(prepared, put, capsys):
    counts, examples, unusable, written = prepared(with_copies())
    assert {one.row: one.reason for one in unusable} == {
        33: "repeats a test question, row 30",
        34: "nearly repeats a test question, row 30",
        35: "nearly repeats a test question, row 31",
        36: "nearly repeats a dev question, row 32",
    }
    assert {30, 31, 32} <= {example.row for example in examples}
    assert (counts["train"], counts["dev"], counts["test"], counts["contaminated"]) == (10, 11, 12, 4)
    assert counts["rows"] == 37 == len(examples) + len(unusable) + counts["not_used"]
    hits = put.run.records(UNIT, CONTAMINATION, Hit)
    assert {(hit.place, hit.held, hit.kind) for hit in hits} == {
        ("train", "test", "exact"),
        ("train", "test", "near"),
        ("train", "dev", "near"),
        ("dev", "test", "near"),
    }
    assert hits[0].text == LONG.upper() + "\nA. yes\nB. no\nC. maybe"
    assert hits[0].held_text == LONG + "\nA. yes\nB. no\nC. maybe"
    assert {"place": "train", "held": "test", "texts": 2, "exact": 1, "near": 1} in written["contamination"]["found"]
    said = " ".join(capsys.readouterr().err.split())
    assert "prepare: 3 train questions and 1 dev question repeat held-out questions: left out" in said


def test_warn_keeps_the_rows_and_says_so(prepared, put, capsys):
    counts, examples, unusable, written = prepared(with_copies(), on_contamination="warn")
    assert (len(examples), unusable, counts["contaminated"]) == (37, [], 0)
    assert len(put.run.records(UNIT, CONTAMINATION, Hit)) == 4
    assert written["contamination"]["on_contamination"] == "warn"
    assert "kept, as data.on_contamination: warn says" in " ".join(capsys.readouterr().err.split())


def test_fail_stops_the_run_and_names_the_file_that_holds_both_texts(prepared, put):
    with pytest.raises(GateError, match="3 train questions and 1 dev question repeat held-out questions") as caught:
        prepared(with_copies(), on_contamination="fail")
    assert caught.value.exit_code == 3
    assert f"{put.run.folder(UNIT) / CONTAMINATION} and mend the table" in caught.value.hint
    assert len(put.run.records(UNIT, CONTAMINATION, Hit)) == 4
    assert prepared(cells(60), on_contamination="fail")[0]["contaminated"] == 0


def test_a_train_split_that_is_nothing_but_copies_says_so(prepared):
    rows = [row for row in with_copies() if row["split"] != "train" or "maybe" not in row["options"]]
    rows.append({**with_copies()[33]})
    with pytest.raises(DataError, match=r"no train examples .*; row \d+: repeats a test question, row") as caught:
        prepared(rows)
    assert "on_contamination=warn" in caught.value.hint


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
    assert (
        counts["train"] + counts["dev"] + counts["test"] == 12_030 - 159 - counts["unusable"] - counts["contaminated"]
    )
    found = put.run.json(UNIT, "prepare.json")["contamination"]["found"]
    assert {(one["place"], one["held"]): one["near"] for one in found} == {
        ("train", "test"): 6,
        ("train", "dev"): 8,
        ("dev", "test"): 3,
    }
    assert counts["contaminated"] == 16
