"""What every test shares: the folder of real data, no look-ups at the hub, and property tests that repeat exactly."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

import teachwise
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Hit, Prediction, Rationale, Score, Unusable
from teachwise.run_folder import Run, write_records

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny models: a second thread gains nothing and suffers on a busy machine
os.environ["TRANSFORMERS_OFFLINE"] = "1"

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


KINDS = {
    "examples": Example,
    "unusable": Unusable,
    "contamination": Hit,
    "scores": Score,
    "assignments": Assignment,
    "rationales": Rationale,
    "predictions": Prediction,
}


@pytest.fixture(scope="session")
def recipe_with():
    """Builds a recipe from the four keys that are enough, and whatever sections a test adds or replaces."""

    def build(**sections):
        four = {"student": "toy", "teacher": "big", "data": {"source": "q.jsonl"}, "budget": {"teacher_tokens": None}}
        return Recipe.model_validate({**four, **sections})

    return build


@pytest.fixture(scope="session")
def example_with():
    """Builds an example: `example_with("e1", split="test", answer="C")`."""

    def build(id, split="train", row=0, subject="", level=None, question="", options=("1", "2", "3"), answer="A"):
        return Example(id, row, split, subject, level, question or f"What is {id}?", options, answer)

    return build


@pytest.fixture
def put(tmp_path):
    """A run folder written by hand: `put(unit, counts, examples=[...])` finishes a unit with these tables."""
    run = Run(tmp_path / "run")

    def finish(unit, counts=None, **tables):
        folder = run.begin(unit, "by-hand")
        for name, rows in tables.items():
            write_records(folder / f"{name}.parquet", KINDS[name], rows)
        run.finish(unit, "by-hand", counts or {}, 0.0)
        return folder

    finish.run = run
    return finish


TINY_ARMS = (
    "arms={base: {policy: none}, random: {policy: random, like: banded}, banded: {policy: bands, stages:"
    " [{easy: answer, medium: answer}, {hard: rationale}]}}"
)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Small finished runs with a student in a folder of its own: `tiny_run("lora")` or `tiny_run("full")`."""
    from teachwise.toy_demo import demo

    home = tmp_path_factory.mktemp("tiny-home")
    student = shutil.copytree(Path(teachwise.__file__).parent / "toy" / "student", home / "my-student")
    runs = {}

    def finished(method):
        if method not in runs:
            os.environ["TINY_KEY"] = "sk-tiny-secret-4711"
            given = [f"student={{model: {student}, revision: v1}}", "teacher.key_env=TINY_KEY"]
            sizes = ["data.limit={train: 60, dev: 20, test: 40}", "train.epochs=1", "train.lora_r=8", TINY_ARMS]
            how = [f"train.method={method}", "evaluate={max_new_tokens: 60, batch_tokens: 1000}"]
            runs[method] = demo(*given, *sizes, *how, "validate.on_fail=warn", out=home / method).root
        return runs[method]

    return finished
