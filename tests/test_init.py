"""init: what a table holds is said as a run would read it, and the recipe it writes runs."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from teachwise import cli
from teachwise.errors import DataError, RecipeError
from teachwise.init import _flow, start_recipe
from teachwise.pipeline import run
from teachwise.prepare import prepare_examples
from teachwise.recipe import load_recipe
from teachwise.records import Example
from teachwise.request import Request
from teachwise.run_folder import Run, Unit
from teachwise.stats import wilson
from teachwise.tasks import load_task
from teachwise.tasks.table import write_table

STUDENT = "toy"


def rows(n, **more):
    """n questions with three options each in a list, whose answers are letters."""
    return [
        {"question": f"What is {i} and {i}?", "options": [str(i), str(2 * i + 1), "none"], "answer": "ABC"[i % 3]}
        | {name: value(i) for name, value in more.items()}
        for i in range(n)
    ]


def spread(n, names="ABC"):
    """n questions with one column per option."""
    return [
        {"question": f"What is {i}?", **{name: f"{i}{name}" for name in names}, "answer": names[i % len(names)]}
        for i in range(n)
    ]


def write(path, table):
    if path.suffix == ".json":
        path.write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    else:
        write_table(path, table)
    return path


def prepared(recipe, tmp_path):
    """Sizes of the splits that a run makes of the recipe."""
    store = Run(tmp_path / "prepared")
    store.begin(Unit("prepare"), "key")
    return prepare_examples(recipe, store, Unit("prepare"))


def examples(tmp_path):
    """What was prepared."""
    return Run(tmp_path / "prepared").records(Unit("prepare"), "examples.parquet", Example)


LABELLED = [
    {"query": f"q{i}", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "12"[i % 2]}
    for i in range(40)
]
KINDS = {
    "lists.jsonl": rows(40),
    "lists.json": rows(40),
    "lists.parquet": rows(40, subject=lambda i: "ab"[i % 2]),
    "columns.csv": spread(40),
    "columns.tsv": spread(40, "ABCDE"),
    "labelled.jsonl": LABELLED,
    "texts.csv": [{**row, "answer": row[row["answer"]]} for row in spread(40)],
    "indexes.jsonl": rows(40, answer=lambda i: i % 3),
    "two subjects.jsonl": rows(40, subject=lambda i: "s", category=lambda i: "c"),
    "own split.csv": [{**row, "split": ("train", "train", "dev", "test")[i % 4]} for i, row in enumerate(spread(40))],
    "no dev.csv": [{**row, "split": ("train", "test")[i % 2]} for i, row in enumerate(spread(40))],
    "odd split.csv": [{**row, "split": ("train", "holdout")[i % 2]} for i, row in enumerate(spread(40))],
    "level.jsonl": rows(40, level=lambda i: "hard"),
    "thirty.csv": spread(30),
    "twelve.csv": spread(12),
    "many.jsonl": rows(1500),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_recipe_of_any_usual_table_checks_and_splits_it_three_ways(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, KINDS[name])
    said = start_recipe(name, tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    sizes = prepared(recipe, tmp_path)
    assert sizes["unusable"] == 0
    for split in ("train", "dev", "test"):
        assert sizes[split] >= 1
        assert f"{split} {sizes[split]:,}" in said, "it says other sizes than the run has"
    assert recipe.budget.teacher_tokens


NAMES = [
    "my table.csv",
    "it's.csv",
    'a "b".csv',
    "Prüfung 試験.csv",
    "a: b #c.csv",
    "{x}, [y].csv",
    "yes.csv",
    "100.csv",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_gives_a_recipe_and_commands_that_a_shell_understands(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, spread(40))
    said = start_recipe(name, student="of: a # kind")
    commands = [shlex.split(line, comments=True) for line in said.splitlines() if line.startswith("  teachwise ")]
    assert [command[1] for command in commands] == ["check", "plan", "run"]
    for command in commands:
        assert len(command) == 3
        recipe = load_recipe(command[2])
        assert recipe.data.source == name
        assert recipe.student.model == "of: a # kind"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
        max_leaves=6,
    )
)
def test_values_are_read_back_as_they_were_written(value):
    line = _flow(value)
    assert "\n" not in line
    assert yaml.safe_load(f"key: {{inner: {line}}}") == {"key": {"inner": value}}


def test_what_was_understood_is_said(tmp_path):
    table = [
        *spread(60),
        {**spread(1)[0], "answer": "B"},
        {"question": "", "A": "1", "B": "2", "C": "3", "answer": "A"},
    ]
    table += [{"question": f"odd {i}", "A": "1", "B": "2", "C": "", "answer": "C"} for i in range(9)]
    said = start_recipe(str(write(tmp_path / "q.csv", table)), tmp_path / "r.yaml")
    assert "71 rows, 60 distinct questions" in said
    assert "columns A, B, C; 3 each" in said
    assert "by its letter" in said
    assert "11 rows are not used" in said
    assert "9 x  the answer 'C' is no letter of 2 options: row 62, 63, 64, 65, 66, 67, and 3 more" in said
    assert "1 x  repeats row 0, with another answer (A): row 60" in said
    assert "1 x  the question is empty: row 61" in said


def test_copies_of_held_out_questions_are_not_counted_as_train(tmp_path):
    long = (
        "A traveller buys a ticket for the night train and finds that his seat is taken. Whom should he ask for help?"
    )
    table = rows(40, split=lambda i: ("train", "train", "dev", "test")[i % 4])
    table += [{**table[3], "question": long}, {**table[3], "question": f"{long} Say why.", "split": "train"}]
    recipe = tmp_path / "r.yaml"
    said = start_recipe(str(write(tmp_path / "q.jsonl", table)), recipe)
    assert "train 20, dev 10, test 11" in said
    assert "1 x  nearly repeats a test question, row 40: row 41" in said
    assert "note: 1 train question repeats held-out questions" in said
    assert prepared(load_recipe(recipe), tmp_path)["train"] == 20
    kept = start_recipe(str(tmp_path / "q.jsonl"), tmp_path / "w.yaml", overrides=["data.on_contamination=warn"])
    assert "train 21, dev 10, test 11" in kept
    assert "note: 1 train question repeats held-out questions" in kept


def test_subjects_are_counted_and_one_of_two_is_chosen_openly(tmp_path):
    table = rows(40, subject=lambda i: "law" if i % 4 else "art", category=lambda i: "c")
    said = start_recipe(str(write(tmp_path / "q.jsonl", table)), tmp_path / "r.yaml")
    assert "column 'subject'; 2 in all: law 30, art 10" in said
    assert load_recipe(tmp_path / "r.yaml").data.columns.subject == "subject"


def test_few_rows_are_told_to_prove_nothing_and_many_are_not(tmp_path):
    few = start_recipe(str(write(tmp_path / "few.csv", spread(30))), tmp_path / "few.yaml")
    many = start_recipe(str(write(tmp_path / "many.csv", spread(2000))), tmp_path / "many.yaml")
    assert "prove nothing" in few
    assert "prove nothing" not in many
    assert load_recipe(tmp_path / "few.yaml").validation.on_fail == "warn"
    assert load_recipe(tmp_path / "many.yaml").validation.on_fail == "stop"
    assert load_recipe(tmp_path / "many.yaml").data.split.train == 0.8


def with_sizes(train, dev=20, test=20):
    """Questions whose table says their split."""
    splits = ["train"] * train + ["dev"] * dev + ["test"] * test
    return [{**row, "split": split} for row, split in zip(spread(len(splits)), splits, strict=True)]


@pytest.mark.parametrize(("n_train", "gate", "on_rejected"), [(199, "warn", "answer"), (200, "stop", "drop")])
def test_below_two_hundred_train_questions_the_recipe_is_milder_and_says_so(tmp_path, n_train, gate, on_rejected):
    start_recipe(str(write(tmp_path / "q.csv", with_sizes(n_train))), tmp_path / "r.yaml")
    recipe, text = load_recipe(tmp_path / "r.yaml"), (tmp_path / "r.yaml").read_text()
    assert (recipe.validation.on_fail, recipe.on_rejected) == (gate, on_rejected)
    assert ("too few to judge the score by" in text) == (n_train < 200)


@pytest.mark.parametrize(
    ("words", "gate", "on_rejected"),
    [
        (["validate.min_auc=0.55"], "warn", "answer"),
        (["validate.on_fail=stop"], "stop", "answer"),
        (["on_rejected=drop"], "warn", "drop"),
        (["validate={min_auc: 0.55, on_fail: random}", "on_rejected=drop"], "random", "drop"),
    ],
)
def test_the_comments_on_few_questions_say_what_the_recipe_does(tmp_path, words, gate, on_rejected):
    start_recipe(str(write(tmp_path / "q.csv", spread(40))), tmp_path / "r.yaml", overrides=words)
    recipe, text = load_recipe(tmp_path / "r.yaml"), (tmp_path / "r.yaml").read_text()
    assert (recipe.validation.on_fail, recipe.on_rejected) == (gate, on_rejected)
    assert recipe.validation.min_auc == (0.55 if "min_auc" in words[0] else 0.6)
    assert ("the gate warns instead of stopping" in text) == (gate == "warn")
    assert ("is rejected gets its answer" in text) == (on_rejected == "answer")
    assert ("Leave both out" in text) == (gate == "warn" and on_rejected == "answer")


def test_the_budget_pays_for_every_train_question_of_a_small_table_and_hardly_more(tmp_path):
    start_recipe(str(write(tmp_path / "q.csv", spread(40))), tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    prepared(recipe, tmp_path)
    task, max_tokens = load_task(recipe.data.task, **recipe.data.task_options()), recipe.teacher.max_tokens
    asked = [task.teacher_messages(one) for one in examples(tmp_path) if one.split == "train"]
    most = sum(Request("big", tuple(one), max_tokens, 0.0, "1").upper_bound_tokens for one in asked)
    assert most <= recipe.budget.teacher_tokens < 1.1 * most
    assert f"This lets it explain all {len(asked)} train" in (tmp_path / "r.yaml").read_text()


def test_a_budget_of_ones_own_is_not_said_to_last(tmp_path):
    start_recipe(
        str(write(tmp_path / "q.csv", spread(40))), tmp_path / "r.yaml", overrides=["budget.teacher_tokens=900"]
    )
    text = (tmp_path / "r.yaml").read_text()
    assert load_recipe(tmp_path / "r.yaml").budget.teacher_tokens == 900
    assert "This lets" not in text
    assert re.search(r"About \d\d_000 would let it explain all", text)


@pytest.mark.parametrize(("n_test", "points"), [(64, 12), (100, 10), (400, 5)])
def test_how_far_the_test_questions_can_tell_is_half_a_95_percent_interval_of_a_coin(tmp_path, n_test, points):
    path = write(tmp_path / "q.csv", with_sizes(30, test=n_test))
    said = start_recipe(str(path), tmp_path / "r.yaml")
    assert f"{n_test} test questions tell an accuracy to within about {points} points" in said
    half = wilson(n_test // 2, n_test).high - 0.5
    assert points == pytest.approx(100 * half, rel=0.1)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.task=toy", "data.task: toy makes its own questions, wanted a task that reads "),
        ("data.task=toy_open", "data.task: toy_open makes its own questions"),
        ("data.source=other.csv", "data.source: is other.csv, wanted "),
        ("data={}", "data.source: is None, wanted "),
    ],
)
def test_a_recipe_that_would_not_read_the_table_is_refused(tmp_path, word, message):
    with pytest.raises(DataError) as error:
        start_recipe(str(write(tmp_path / "q.csv", spread(40))), tmp_path / "r.yaml", overrides=[word])
    assert error.value.found.startswith(message)
    assert error.value.hint.startswith(f"leave {message.partition(':')[0]} out")
    assert not (tmp_path / "r.yaml").exists()


def test_a_column_that_names_one_answer_everywhere_is_pointed_out(tmp_path):
    table = rows(40, answer=lambda i: "B")
    said = start_recipe(str(write(tmp_path / "q.jsonl", table)), tmp_path / "r.yaml")
    assert "40 of 40 answers are B" in said


def test_overrides_are_kept_in_the_recipe(tmp_path):
    table = [{"Frage": row["question"], **{k: v for k, v in row.items() if k != "question"}} for row in spread(40)]
    path = write(tmp_path / "q.csv", table)
    words = ["data.columns.question=Frage", "train.epochs=1", "arms={base: {policy: none}}", "data.seed=3"]
    start_recipe(str(path), tmp_path / "r.yaml", "my/student", "big", words)
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.data.columns.question, recipe.data.seed, recipe.train.epochs) == ("Frage", 3, 1)
    assert (recipe.student.model, recipe.teacher.model, list(recipe.arms)) == ("my/student", "big", ["base"])
    assert recipe.teacher.key_env is None


def test_a_recipe_that_is_there_is_kept_unless_told(tmp_path):
    path, out = write(tmp_path / "q.csv", spread(40)), tmp_path / "r.yaml"
    out.write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        start_recipe(str(path), out)
    assert out.read_text() == "mine"
    start_recipe(str(path), out, is_forced=True)
    assert load_recipe(out)


MISTAKES = [
    (
        [{"qeustion": "x", "A": "1", "B": "2", "anwser": "A"}],
        (),
        "no column for question, answer among: qeustion, A, B",
    ),
    ([{"question": "x", "answer": "A"}], (), "no column for options among: question, answer; wanted options (options,"),
    (spread(40), ("data.columns.answer=anwser",), "no column 'anwser'"),
    (spread(5), (), "can be used: 5 of 5 rows, wanted at least 12"),
    ([{**row, "answer": "Z"} for row in spread(40)], (), "fit no way of naming an option"),
    ([{**row, "label": "A"} for row in spread(40)], (), "several columns could each be the answer: answer; label"),
    ([{**row, "answer": "2", "C": str(i)} for i, row in enumerate(spread(40))], (), "could be index or index_from_1"),
]


@pytest.mark.parametrize(("table", "words", "message"), MISTAKES)
def test_a_hopeless_table_is_told_why_and_what_to_type_and_nothing_is_written(tmp_path, table, words, message):
    path, out = write(tmp_path / "q.csv", table), tmp_path / "r.yaml"
    with pytest.raises(DataError) as error:
        start_recipe(str(path), out, overrides=words)
    assert message in error.value.found
    assert error.value.hint
    assert not out.exists()


def test_the_hint_of_a_misspelt_column_is_a_command_that_works(tmp_path):
    table = [
        {"qeustion": r["question"], "A": r["A"], "B": r["B"], "anwser": "AB"[i % 2]} for i, r in enumerate(spread(40))
    ]
    path = write(tmp_path / "my table.csv", table)
    with pytest.raises(DataError) as error:
        start_recipe(str(path), tmp_path / "r.yaml")
    command = shlex.split(error.value.hint.partition("teachwise ")[2])
    assert command[:2] == ["init", str(path)]
    start_recipe(command[1], tmp_path / "r.yaml", overrides=command[2:])
    assert load_recipe(tmp_path / "r.yaml").data.columns.question == "qeustion"


def test_a_file_that_is_not_there_is_guessed_and_a_wrong_field_is_named(tmp_path):
    write(tmp_path / "questions.csv", spread(40))
    with pytest.raises(DataError, match=r"questoins\.csv: no such file") as error:
        start_recipe(str(tmp_path / "questoins.csv"), tmp_path / "r.yaml")
    assert "did you mean" in error.value.hint
    assert "questions.csv" in error.value.hint
    with pytest.raises(RecipeError, match="did you mean 'columns'"):
        start_recipe(str(tmp_path / "questions.csv"), tmp_path / "r.yaml", overrides=["data.colums.answer=x"])


def test_init_loads_no_model_library(tmp_path):
    path = write(tmp_path / "q.csv", spread(40))
    heavy = {"torch", "transformers", "datasets", "trl", "openai", "pandas"}
    code = (
        "import sys, pathlib; from teachwise.init import start_recipe\n"
        f"start_recipe(sys.argv[1], pathlib.Path(sys.argv[2])); print(sorted(set(sys.modules) & {heavy}))"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "r.yaml")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_thirty_rows_written_by_hand_lead_to_a_report_and_a_verdict(tmp_path, monkeypatch, httpserver, capsys):
    message = {"role": "assistant", "content": "so [[ A ]]"}
    usage = {"prompt_tokens": 50, "completion_tokens": 9, "total_tokens": 59}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    reply = {"id": "1", "object": "chat.completion", "created": 0, "model": "big", "choices": [choice], "usage": usage}
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "hand.csv", spread(30))
    start_recipe("hand.csv", None, "toy", "big")
    quick = ["train.epochs=1", "evaluate.max_new_tokens=8", "student.device=cpu"]
    done = run("hand.yaml", f"teacher.base_url={httpserver.url_for('/v1')}", *quick)
    assert done.root.name == "hand"
    assert done.report.stat().st_size > 10_000
    assert list(done.arms.index) == ["base", "sft", "banded", "random", "distill"]
    assert len(done.rationales) > 0
    capsys.readouterr()
    cli._show_result(done, "report")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    after = lines[next(i for i, line in enumerate(lines) if "95% intervals" in line) + 1]
    assert re.match(r"((Yes|No|Partly|Not settled): .*\bbanded\b|No arm wrote a readable answer).*\.$", after)
    assert lines[-1] == f"report:   {done.report}"


def test_the_column_that_asks_is_taken_for_the_question_not_the_longest(tmp_path):
    path = tmp_path / "q.csv"
    rows = [f"Was ist {n}?,a rather long text that asks nothing {n} | and goes on,A" for n in range(20)]
    path.write_text("\n".join(["Frage,Auswahl,Antwort", *rows]), encoding="utf-8")
    with pytest.raises(DataError) as refused:
        start_recipe(str(path), tmp_path / "r.yaml")
    assert "data.columns.question=Frage" in refused.value.hint
