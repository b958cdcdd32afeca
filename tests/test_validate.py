"""validate: do scores predict errors? The figures, the verdict, and what is said when there is no answer."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from teachwise import cli
from teachwise.errors import DataError, GateError
from teachwise.pipeline import gate
from teachwise.records import Confident, Score
from teachwise.run_folder import Unit
from teachwise.tasks.table import read_table, write_table
from teachwise.validate import FOLLOWS, MIN_GROUP, auc_by_group, auc_summary, validate_scores, validate_table, verdict

FIGURES = {"auc", "auc_low", "auc_high", "n", "accuracy"}


def rows_of(n, subject="law", start=0):
    """n rows whose score is higher where the student is wrong, with some overlap."""
    return [
        {"entropy": (i % 10) / 10 + 0.35 * (i % 3 == 0), "correct": i % 3 != 0, "subject": subject}
        for i in range(start, start + n)
    ]


def test_the_summary_by_hand():
    found = auc_summary([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    assert set(found) == FIGURES
    assert (found["auc"], found["n"], found["accuracy"]) == (0.75, 4, 0.5)
    assert 0 <= found["auc_low"] < 0.75 < found["auc_high"] <= 1


@pytest.mark.parametrize(("wrong", "accuracy"), [([True] * 3, 0.0), ([False] * 3, 1.0), ([], None)])
def test_answers_of_one_kind_have_no_auc(wrong, accuracy):
    found = auc_summary([0.1, 0.2, 0.3][: len(wrong)], wrong)
    assert found == {"auc": None, "auc_low": None, "auc_high": None, "n": len(wrong), "accuracy": accuracy}
    assert verdict(found, 0.0) == "FAIL"


@pytest.mark.parametrize(
    ("auc", "low", "high", "min_auc", "wanted"),
    [
        (0.71, 0.69, 0.73, 0.60, "PASS"),
        (0.71, 0.60, 0.80, 0.60, "PASS"),
        (0.62, 0.58, 0.66, 0.60, "WEAK"),
        (0.62, 0.48, 0.76, 0.60, "WEAK"),
        (0.60, 0.55, 0.65, 0.60, "WEAK"),
        (0.59, 0.40, 0.78, 0.60, "NO SEPARATION"),
        (0.45, 0.40, 0.50, 0.60, "NO SEPARATION"),
        (0.58, 0.56, 0.60, 0.60, "FAIL"),
        (0.20, 0.10, 0.30, 0.60, "FAIL"),
        (None, None, None, 0.60, "FAIL"),
        (0.50, 0.45, 0.55, 0.0, "PASS"),
    ],
)
def test_the_verdict(auc, low, high, min_auc, wanted):
    assert verdict({"auc": auc, "auc_low": low, "auc_high": high}, min_auc) == wanted
    assert wanted in FOLLOWS


def test_small_groups_are_counted_but_get_no_auc():
    rows = rows_of(MIN_GROUP, "law") + rows_of(MIN_GROUP - 1, "art")
    found = auc_by_group([r["entropy"] for r in rows], [not r["correct"] for r in rows], [r["subject"] for r in rows])
    assert list(found) == ["art", "law"]
    assert found["law"]["auc"] > 0.5
    assert found["art"]["auc"] is found["art"]["auc_low"] is found["art"]["auc_high"] is None
    assert (found["art"]["n"], found["law"]["n"]) == (MIN_GROUP - 1, MIN_GROUP)
    assert found["art"]["accuracy"] == pytest.approx(12 / 19)


# any table


def test_a_tables_own_columns_with_groups():
    rows = rows_of(60, "law") + rows_of(30, "art")
    found = validate_table(rows, "entropy", "correct", "subject")
    assert set(found) == FIGURES | {"by", "gini", "deciles", "calibration", "confidently_wrong"}
    assert set(found["by"]) == {"law", "art"}
    assert set(found["by"]["law"]) == FIGURES
    assert found["auc"] > 0.6
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["n"] == 90 == sum(group["n"] for group in found["by"].values())
    assert validate_table(rows, "entropy", "correct") == {**found, "by": {}}


@pytest.mark.parametrize("words", [(True, False), ("yes", "no"), ("True", "FALSE"), (1, 0), ("1", "0"), (1.0, 0.0)])
def test_truth_is_understood_in_every_usual_spelling(words):
    rows = [{**row, "correct": words[0] if row["correct"] else words[1]} for row in rows_of(40)]
    assert validate_table(rows, "entropy", "correct") == validate_table(rows_of(40), "entropy", "correct")


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("entropy", float("nan"), "t.csv: row 3: entropy is nan, wanted a finite number"),
        ("entropy", float("inf"), "t.csv: row 3: entropy is inf, wanted a finite number"),
        ("entropy", None, "t.csv: row 3: entropy is None, wanted a finite number"),
        ("entropy", "high", "t.csv: row 3: entropy is 'high', wanted a finite number"),
        ("correct", None, "t.csv: row 3: correct is None, wanted true or false"),
        ("correct", "maybe", "t.csv: row 3: correct is 'maybe', wanted true or false"),
        ("correct", 0.5, "t.csv: row 3: correct is 0.5, wanted true or false"),
    ],
)
def test_a_cell_that_is_no_number_or_no_truth_is_named_with_its_row(column, cell, message):
    rows = rows_of(6)
    rows[3][column] = cell
    with pytest.raises(DataError) as caught:
        validate_table(rows, "entropy", "correct", source="t.csv")
    assert caught.value.found.startswith(message)


def test_a_missing_column_suggests_the_near_one():
    with pytest.raises(DataError, match="no column 'entropi'") as caught:
        validate_table(rows_of(6), "entropi", "correct")
    assert "did you mean 'entropy'" in caught.value.hint


# the command


@pytest.fixture
def validate(monkeypatch, capsys):
    """Runs `teachwise validate` in this process; returns its exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["teachwise", "validate", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_the_real_table_gives_the_known_figures(validate, shared_data):
    table = shared_data / "mmlu_pro_qwen25_3b_entropy.parquet"
    columns = pq.read_schema(table).names
    correct = next(name for name in columns if "correct" in name)
    entropy = next(name for name in columns if "entropy" in name)
    category = next(name for name in columns if name == "category")
    code, out, _ = validate(table, "--score", entropy, "--correct", correct, "--by", category, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["auc"] == pytest.approx(0.7093, abs=5e-5)
    assert found["auc_low"] == pytest.approx(0.6995, abs=5e-5)
    assert found["auc_high"] == pytest.approx(0.7191, abs=5e-5)
    assert found["accuracy"] == pytest.approx(0.3620, abs=5e-5)
    assert found["n"] == 12_030
    assert len(found["by"]) == 14
    assert sum(group["n"] for group in found["by"].values()) == 12_030
    rows = read_table(str(table))
    for name, group in found["by"].items():
        own = [row for row in rows if row[category] == name]
        wrong = [not row[correct] for row in own]
        assert group["auc"] == pytest.approx(roc_auc_score(wrong, [row[entropy] for row in own]), abs=1e-12)
    assert found["gini"] == pytest.approx(2 * found["auc"] - 1)
    assert [ten["n"] for ten in found["deciles"]] == [1203] * 10
    assert found["deciles"][0]["accuracy"] == pytest.approx(0.7531, abs=5e-5)
    assert found["deciles"][9]["accuracy"] < 0.2
    assert found["confidently_wrong"]["n"] == 3008
    assert 0.25 < found["confidently_wrong"]["value"] < 0.45
    assert found["calibration"]["ece"] < 0.02


def test_the_table_on_the_screen_has_a_row_per_group_also_for_a_group_called_all(validate, tmp_path):
    write_table(tmp_path / "t.csv", rows_of(40, "all") + rows_of(5, "art"))
    code, out, _ = validate(tmp_path / "t.csv", "--score", "entropy", "--correct", "correct", "--by", "subject")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [line[0] for line in lines] == ["AUC", "all", "all", "art"]
    assert [line[-2] for line in lines[1:]] == ["45", "40", "5"]
    assert lines[3][1:3] == ["-", "-"]


def test_a_nan_row_is_named_by_the_command_too(validate, tmp_path):
    write_table(tmp_path / "t.csv", [*rows_of(5), {**rows_of(1)[0], "entropy": float("nan")}])
    code, out, err = validate(tmp_path / "t.csv", "--score", "entropy", "--correct", "correct")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 't.csv'}: row 5: entropy is 'nan', wanted a finite number\n  hint: ")


# the step


@pytest.fixture
def validated(put, example_with, recipe_with):
    """Runs the step on a hand-made run; `right` says by split and place whether the student was right."""

    def run(right, min_auc=0.6, on_fail="stop", level=None):
        examples = [
            example_with(f"{split}{n}", split, n, "law" if n % 2 else "art", level, f"q {split} {n}")
            for split, answers in right.items()
            for n in range(len(answers))
        ]
        truth = {f"{split}{n}": one for split, answers in right.items() for n, one in enumerate(answers)}
        put(Unit("prepare"), examples=examples)
        put(
            Unit("score"),
            scores=[Score(e.id, "answer_entropy", e.row / 10, "A", truth[e.id], 0.5, 1.0, 9) for e in examples],
        )
        unit, recipe = Unit("validate"), recipe_with(validate={"min_auc": min_auc, "on_fail": on_fail})
        put.run.begin(unit, "k")
        counts = validate_scores(recipe, put.run, unit)
        return counts, put.run.json(unit, "validation.json"), recipe

    return run


SURE = [True] * 30 + [False] * 30  # row n has score n / 10: the high scores are wrong
UNSURE = SURE[::-1]


def test_the_gate_reads_train_rows_only_and_shows_test_apart(validated):
    counts, found, _ = validated({"train": SURE, "dev": UNSURE, "test": UNSURE})
    assert (found["auc"], found["n"], found["verdict"]) == (1.0, 60, "PASS")
    assert found["test"]["auc"] == 0.0
    assert found["test"]["n"] == 60
    assert set(found["by"]) == {"art", "law"}
    assert found["by_level"] == {}
    assert counts["verdict"] == "PASS"
    assert found["curve"][0] == [0, 0]
    assert found["curve"][-1] == [1, 1]


def test_levels_are_shown_apart_where_every_example_has_one(validated):
    assert set(validated({"train": SURE, "test": SURE}, level=3)[1]["by_level"]) == {"3"}


@pytest.mark.parametrize(
    ("on_fail", "right", "said"),
    [("stop", UNSURE, "ROC AUC 0.000 (95% interval"), ("stop", [True] * 9, "cannot be measured (accuracy 1.00, n=9)")],
)
def test_a_failed_gate_stops_with_a_sentence_and_a_way_on(validated, put, on_fail, right, said):
    _, found, recipe = validated({"train": right, "test": SURE}, on_fail=on_fail)
    assert found["verdict"] == "FAIL"
    with pytest.raises(GateError) as caught:
        gate(recipe, put.run)
    assert said in caught.value.found
    assert ("is under min_auc 0.6" in caught.value.found) == (right is UNSURE)
    assert "validate.on_fail=warn" in caught.value.hint


@pytest.mark.parametrize(("on_fail", "trusted"), [("warn", True), ("random", False)])
def test_a_failed_gate_may_be_passed_knowingly(validated, put, capsys, on_fail, trusted):
    _, _, recipe = validated({"train": UNSURE, "test": SURE}, on_fail=on_fail)
    assert gate(recipe, put.run) is trusted
    assert ("WARNING" if on_fail == "warn" else "warning") in capsys.readouterr().err


def test_a_score_that_says_nothing_passes_no_gate(validated):
    right = [bool(one) for one in np.random.default_rng(0).integers(0, 2, 200)]
    _, found, _ = validated({"train": right, "test": SURE})
    assert found["verdict"] == "NO SEPARATION"
    assert 0.4 < found["auc"] < 0.6


def test_the_table_of_the_docs_is_read_from_any_kind_of_file(tmp_path):
    write_table(tmp_path / "t.tsv", rows_of(30))
    found = validate_table(read_table(str(tmp_path / "t.tsv")), "entropy", "correct")
    assert found == validate_table(rows_of(30), "entropy", "correct")


# every measure


def test_every_measure_is_judged_on_its_own_rows_and_set_against_the_driving_one(put, example_with, recipe_with):
    lot, n = np.random.default_rng(1), 200
    examples = [example_with(f"e{i}", "train", i, "law" if i % 2 else "art", 1, "q" * (1 + i % 40)) for i in range(n)]
    examples += [example_with(f"t{i}", "test", n + i) for i in range(20)]
    right = lot.integers(0, 2, len(examples)).astype(bool)
    good = ~right + lot.normal(0, 0.5, len(examples))
    by_name = {"answer_entropy": good, "margin": lot.normal(size=len(examples)), "mine": np.where(right, 0.0, 1.0)}
    rows = [
        Score(e.id, name, None if name == "mine" and i % 4 == 0 else float(value), "A", bool(ok), 0.5, 1.0, 9)
        for name, values in by_name.items()
        for i, (e, value, ok) in enumerate(zip(examples, values, right, strict=True))
    ]
    put(Unit("prepare"), examples=examples)
    put(Unit("score"), scores=rows)
    unit = Unit("validate")
    put.run.begin(unit, "k")
    counts = validate_scores(recipe_with(), put.run, unit)
    found = put.run.json(unit, "validation.json")
    measures = found["measures"]
    assert list(measures) == ["answer_entropy", "margin", "mine"]
    assert counts["measures"] == 3
    assert (found["measure"], found["auc"], found["n"]) == ("answer_entropy", measures["answer_entropy"]["auc"], 200)
    assert found["auc"] == pytest.approx(roc_auc_score(~right[:200], good[:200]))
    assert {name: one["verdict"] for name, one in measures.items()} == {
        "answer_entropy": "PASS",
        "margin": "NO SEPARATION",
        "mine": "PASS",
    }
    assert measures["margin"]["follows"] == FOLLOWS["NO SEPARATION"]
    assert {name: one["no_value"] for name, one in measures.items()} == {"answer_entropy": 0, "margin": 0, "mine": 50}
    assert measures["mine"]["n"] == measures["mine"]["behind"]["n"] == 150
    assert measures["mine"]["behind"]["high"] < 0, "the driving one is worse"
    assert measures["margin"]["behind"]["low"] > 0, "the driving one is better"
    assert measures["answer_entropy"]["behind"] is None
    assert measures["margin"]["asks"] == "1 forward pass"
    assert measures["mine"]["kind"] == "column"
    assert measures["answer_entropy"]["within"]["value"] == pytest.approx(found["auc"], abs=0.1)
    listed = put.run.records(unit, "confidently_wrong.parquet", Confident)
    own = [one for one in listed if one.measure == "answer_entropy"]
    surest = np.argsort(good[:200])[:50]
    assert [one.id for one in own] == [f"e{i}" for i in surest if not right[i]]
    assert measures["answer_entropy"]["confidently_wrong"]["value"] == pytest.approx(len(own) / 50)
    assert (own[0].predicted, own[0].answer) == ("A", "A")
