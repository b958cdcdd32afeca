"""`teachwise check` refuses what a run would refuse, and says what a run would meet."""

import json
import subprocess
import sys

import pytest
import yaml

from complaint import assert_told, content_of, teachwise, write_recipe
from teachwise.tasks.table import write_table

ROWS = [
    {
        "question": f"What is {n}?",
        "options": ["one", "two", "three"],
        "answer": "ABC"[n % 3],
        "split": ("train", "train", "train", "dev", "test")[n % 5],
    }
    for n in range(30)
]
MENDED = {
    "a missing table": (["data.source=HERE/other.jsonl"], "HERE/other.jsonl: no such file", "give a"),
    "a misspelt column": (["data.columns.question=qestion"], "HERE/q.jsonl: no column 'qestion'", "did you mean"),
    "no dev rows": (["data.columns.split=''", "data.split={train: 0.98, dev: 0.01, test: 0.01}"], "prepare: ", "split"),
    "a student that is not there": (
        ["student=HERE/model"],
        "model 'HERE/model': there is no such folder",
        "config.json",
    ),
    "a local teacher that is not there": (
        ["teacher={model: HERE/big, engine: hf}"],
        "model 'HERE/big': there is no such folder",
        "",
    ),
    "a proxy that is not there": (
        ["score={also: [gain], proxy: HERE/small}"],
        "model 'HERE/small': there is no such folder",
        "config.json",
    ),
    "a score column that is not there": (
        ["score={measure: column, column: entrpy, correct: right}"],
        "HERE/q.jsonl: no column 'entrpy'",
        "it has",
    ),
}


@pytest.fixture
def recipe(tmp_path):
    write_table(tmp_path / "q.jsonl", ROWS)
    (tmp_path / "my.yaml").write_text(
        "student: toy\nteacher: {model: big, key_env: TEACHER_API_KEY}\n"
        f"data: {{source: {tmp_path / 'q.jsonl'}}}\nbudget: {{teacher_tokens: 1000}}\n"
    )
    return tmp_path / "my.yaml"


@pytest.mark.parametrize("name", MENDED)
def test_what_a_run_refuses_check_refuses_in_the_same_words(recipe, tmp_path, monkeypatch, name):
    monkeypatch.setenv("TEACHER_API_KEY", "sk-123456789")
    overrides, place, hint = MENDED[name]
    words = [one.replace("HERE", str(tmp_path)) for one in overrides]
    before = content_of(tmp_path)
    code, out, err = teachwise("check", recipe, *words)
    assert (code, out) == (2, "")
    assert_told(err, place.replace("HERE", str(tmp_path)), "", hint)
    assert content_of(tmp_path) == before
    if "teacher" not in name and "student" not in name:
        assert teachwise("run", recipe, *words, "--out", tmp_path / "run")[2].splitlines()[-2:] == err.splitlines()


def test_check_says_how_many_questions_there_are_and_that_the_key_is_missing(recipe, monkeypatch):
    monkeypatch.delenv("TEACHER_API_KEY", raising=False)
    code, out, err = teachwise("check", recipe)
    assert code == 0
    assert err.splitlines() == [
        "ok: 18 train, 6 dev, 6 test questions",
        "note: TEACHER_API_KEY is not set yet; route needs no key, teach does",
    ]
    assert yaml.safe_load(out)["data"]["source"].endswith("q.jsonl")
    assert "note" not in teachwise("check", recipe, "arms={sft: {policy: all, give: answer}}")[2]
    monkeypatch.setenv("TEACHER_API_KEY", "two words")
    code, _, err = teachwise("check", recipe)
    assert code == 2
    assert_told(err, "teacher.key_env: the environment variable TEACHER_API_KEY holds blanks", "")


def test_check_opens_the_toy_and_leaves_the_hub_alone(monkeypatch):
    assert teachwise("check", "toy")[2] == "ok: 1,500 train, 400 dev, 1,000 test questions\n"
    monkeypatch.setattr("teachwise.tasks.table._read_hub", lambda *_: 1 / 0)
    code, _, err = teachwise("check", "mmlu_pro_qwen2.5_3b")
    assert code == 0
    assert err.startswith("ok: every field; TIGER-Lab/MMLU-Pro is on the hub and was not opened")


def test_check_of_many_rows_loads_no_torch(tmp_path):
    options = [f"a fairly long option number {n}" for n in range(10)]
    rows = [{"question": f"Question {n}? " + "word " * 40, "options": options, "answer": "A"} for n in range(12_000)]
    write_table(tmp_path / "q.parquet", rows)
    path = write_recipe(tmp_path)
    code = (
        "import sys; from teachwise.recipe import load_recipe; from teachwise.check import look_over\n"
        f"look_over(load_recipe({str(path)!r}, ['data.source={tmp_path / 'q.parquet'}', 'score={{}}']))\n"
        "import json; print(json.dumps([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


LONG = "A traveller buys a ticket for the night train and finds that his seat is taken. Whom should he ask for help?"


@pytest.mark.parametrize(("policy", "done"), [("drop", "left out"), ("warn", "kept"), ("fail", "a run would stop")])
def test_copies_of_held_out_questions_are_counted(recipe, tmp_path, policy, done):
    copies = [{**ROWS[4], "question": LONG}, {**ROWS[4], "question": f"{LONG} Say why.", "split": "train"}]
    write_table(tmp_path / "q.jsonl", ROWS + copies)
    code, _, err = teachwise("check", recipe, f"data.on_contamination={policy}")
    n_train = 18 if policy == "drop" else 19
    assert code == 0
    assert f"{n_train} train, 6 dev, 7 test questions; 1 train question repeats held-out questions: {done}" in err
