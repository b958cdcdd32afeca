"""What every test shares: the folder of real data, no look-ups at the hub, and property tests that repeat exactly."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Prediction, Rationale, Score, Unusable
from teachwise.run import Run, write_records

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
