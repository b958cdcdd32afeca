"""`import teachwise as tw`: quick to import, a run in one call, its tables as data frames."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import teachwise as tw
from made_records import rationale
from teachwise.errors import DataError, RecipeError
from teachwise.recipe import load_recipe
from teachwise.records import Assignment, Prediction, Score
from teachwise.run_folder import Run, Unit, write_json
from teachwise.tasks.table import write_table

HEAVY = {"torch", "pandas", "pyarrow", "numpy", "pydantic", "rich", "transformers", "scipy", "sklearn", "openai"}


def test_the_import_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; started = time.process_time(); import teachwise; took = time.process_time() - started\n"
        f"print(sorted(set(sys.modules) & {HEAVY})); print(took)"
    )
    took = []
    for _ in range(3):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        loaded, seconds = found.stdout.splitlines()
        assert loaded == "[]"
        took.append(float(seconds))
    assert min(took) < 0.2, "seconds of processor time"


def test_what_asks_no_model_loads_no_model_library(tmp_path, table):
    code = (
        f"import sys, teachwise as tw; tw.run({str(table)!r}, out={str(tmp_path / 'run')!r}, until='prepare')\n"
        "print(sorted(set(sys.modules) & {'torch', 'transformers', 'trl', 'openai'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_every_public_name_is_there_and_a_type_checker_sees_the_same_ones():
    tree = ast.parse(Path(tw.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"teachwise.{module}" for name, module in tw._HOME.items()}
    assert set(tw.__all__) == set(seen)
    for name in tw.__all__:
        assert getattr(tw, name).__name__ == name
    assert (Path(tw.__file__).parent / "py.typed").is_file()


def test_no_module_of_the_package_hides_a_public_name():
    modules = {path.stem for path in Path(tw.__file__).parent.iterdir()}
    assert not modules & set(tw.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        tw.nope  # noqa: B018


@pytest.fixture
def table(tmp_path):
    """A recipe over 60 scored questions; nothing in it needs a model up to `route`."""
    rows = [
        {"question": f"q {n}", "options": ["one", "two"], "answer": "AB"[n % 2], "e": n % 7 + n % 2, "ok": n % 2 == 0}
        for n in range(60)
    ]
    write_table(tmp_path / "q.jsonl", rows)
    lines = [
        "student: toy",
        "teacher: big",
        f"data: {{source: {tmp_path / 'q.jsonl'}, split: {{train: 0.6, dev: 0.2, test: 0.2}}}}",
        "budget: {teacher_tokens: 0}",
        "score: {measure: column, column: e, correct: ok}",
        "validate: {min_auc: 0.1, on_fail: warn}",
    ]
    (tmp_path / "my.yaml").write_text("\n".join(lines) + "\n")
    return tmp_path / "my.yaml"


def test_a_run_in_one_call_gives_frames_and_goes_on_where_it_was(tmp_path, table, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = tw.run(str(table), "data.seed=1", until="route")
    assert done.root == Path("runs/my")
    assert load_recipe(done.root / "resolved.yaml").data.seed == 1
    both = done.scores.merge(done.examples, on="id")
    assert len(both) == 60
    assert both["options"].iloc[0] == ["one", "two"]
    assert both["correct"].dtype == bool
    assert both["value"].dtype == float
    assert done.validation["n"] == (done.examples["split"] == "train").sum()
    assigned = done.assignments
    assert set(assigned["arm"]) == {"base", "sft", "banded", "random", "distill"}
    assert list(assigned.columns)[:2] == ["arm", "seed"]
    before = (done.root / "prepare" / "manifest.json").stat().st_mtime_ns
    again = tw.run(table, "data.seed=1", out=done.root, until="route")
    assert (again.root / "prepare" / "manifest.json").stat().st_mtime_ns == before


def test_what_is_not_there_yet_is_told(tmp_path, table):
    early = tw.run(table, out=tmp_path / "run", until="prepare")
    assert "done so far: prepare" in repr(early)
    for name in ("scores", "assignments", "predictions", "comparison", "arms", "report", "validation"):
        with pytest.raises(DataError, match="is not there, wanted the result of"):
            getattr(early, name)
    with pytest.raises(RecipeError, match="did you mean"):
        tw.run(table, "trian.epochs=1", out=tmp_path / "run")
    with pytest.raises(DataError, match="no step is called 'trian'"):
        tw.run(table, out=tmp_path / "run", until="trian")


def test_a_folder_that_is_no_run_is_refused_and_its_neighbours_are_named(tmp_path, table):
    tw.run(table, out=tmp_path / "runs" / "mine", until="prepare")
    assert tw.open_run(tmp_path / "runs" / "mine").examples["id"].is_unique
    with pytest.raises(DataError, match="is no run folder") as error:
        tw.open_run(tmp_path / "runs" / "mien")
    assert "mine" in error.value.hint
    with pytest.raises(DataError, match="is no run folder"):
        tw.open_run(tmp_path)


def interval(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20}


@pytest.fixture
def compared(put, example_with):
    """A run folder written by hand, as far as `compare`."""
    examples = [example_with(f"e{n}", split="test") for n in range(3)]
    put(Unit("prepare"), examples=examples)
    put(Unit("score"), scores=[Score("e0", "answer_entropy", 0.5, None, False, None, None, 9)])
    for arm, seed in (("base", 0), ("sft", 0), ("sft", 1)):
        put(Unit("route", arm, seed), assignments=[Assignment("e0", "all", "answer", 0)])
        put(Unit("teach", arm, seed), rationales=[rationale("e0")] * (arm == "sft"))
        put(Unit("evaluate", arm, seed), predictions=[Prediction("e0", "test", "cot", "A", seed == 1, 0.1, 3, "t")] * 2)
    arms = {
        name: {
            "mode": "cot",
            "accuracy": interval(value),
            "cost": {"teacher_tokens": 7.0, "teacher_usd": None},
            "against": {} if name == "base" else {"base": {"difference": interval(0.2)}},
        }
        for name, value in (("base", 0.5), ("sft", 0.7))
    }
    put(Unit("compare"))
    comparison = {"n_test": 20, "base": "base", "control": None, "arms": arms}
    write_json(put.run.folder(Unit("compare")) / "comparison.json", comparison)
    return put.run


def test_arms_are_one_row_each_with_their_interval(compared):
    arms = compared.arms
    assert list(arms.index) == ["base", "sft"]
    assert arms.loc["sft", ["accuracy", "low", "high"]].tolist() == pytest.approx([0.7, 0.6, 0.8])
    assert arms.loc["sft", "against_base"] == 0.2
    assert arms["against_base"].isna().tolist() == [True, False]


def test_tables_of_arms_say_which_arm_and_seed(compared):
    answers = compared.predictions
    assert answers.groupby(["arm", "seed"])["correct"].sum().to_dict() == {("base", 0): 0, ("sft", 0): 0, ("sft", 1): 2}
    assert set(compared.rationales["arm"]) == {"sft"}
    assert len(compared.assignments) == 3


def test_a_run_shows_its_result_when_it_is_printed(compared):
    assert "base 50.0% (40.0% to 60.0%), sft 70.0% (60.0% to 80.0%)" in repr(compared)
    assert "20 test questions" in repr(compared)
    assert str(compared.root) in repr(compared)


def test_an_empty_folder_is_a_run_with_nothing_done(tmp_path):
    assert repr(Run(tmp_path / "none")).endswith("done so far: nothing")
