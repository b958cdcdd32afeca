"""`bench/guard.py`: its plants are what they are called, and on real questions the guard finds what the docs say."""

import importlib.util
import random
import re
from pathlib import Path

import pytest

from teachwise.overlap import words

LEAST = {
    "word_for_word": 1.0,
    "case_points_spaces": 1.0,
    "options_shuffled": 1.0,
    "wrong_options_replaced": 0.99,
    "sentence_added": 0.95,
    "sentence_removed": 0.9,
    "one_word_in_ten": 0.95,
    "one_word_in_five": 0.5,
}
"""Share of the planted copies that must be found, on GSM8K and on MMLU-Pro."""
MOST = {"other_numbers": 0.0, "another_question_about_it": 0.02, "unplanted": 0.002}
"""Share of different questions that may be taken for copies."""


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[1] / "bench" / "guard.py"
    spec = importlib.util.spec_from_file_location("bench_guard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", ["gsm8k", "mmlu_pro"])
def test_copies_are_found_and_different_questions_left_alone(bench, shared_data, source):
    read, file = bench.SOURCES[source]
    if not (shared_data / file).is_file():
        pytest.skip(f"no {file}")
    found = bench.measure(source, read(shared_data))
    shares = {kind: found[kind]["found"] / found[kind]["n"] for kind in (*LEAST, *MOST) if found[kind]["n"]}
    assert {kind: share for kind, share in shares.items() if share < LEAST.get(kind, 0)} == {}
    assert {kind: share for kind, share in shares.items() if share > MOST.get(kind, 1)} == {}
    assert len(shares) >= len(LEAST) + len(MOST) - 2
    assert found["precision"] > 0.99


def test_the_toy_loses_no_row(bench):
    found = bench.measure("toy", bench.toy(Path()))
    assert found["unplanted"] == {"n": 2000, "found": 0, "repeats_by_hand": 0}
    assert found["other_numbers"]["found"] == 0
    assert found["word_for_word"]["found"] == found["options_shuffled"]["found"] == found["n_held"] == 2600


def test_a_teachers_texts_recite_what_was_put_into_them(bench, shared_data):
    if not (shared_data / bench.TEACHER).is_file():
        pytest.skip(f"no {bench.TEACHER}")
    found = bench.measure_texts(shared_data)
    assert found["recited"]["found"] > 0.9 * found["recited"]["n"]
    assert found["unplanted"]["found"] < 0.001 * found["unplanted"]["n"]


def test_the_plants_are_what_they_are_called(bench, example_with):
    question = "A farmer keeps 48 hens in a barn. How many eggs has he when every hen lays 5 eggs a week?"
    one = example_with("e", question=question, options=("240", "53", "43"), answer="A")
    other = example_with("o", question="The sea is deep. Which fish lives there?", options=("cod", "cat", "cow"))
    planter = bench.Planter([other] * 30, random.Random(0))
    plants = {kind: getattr(planter, kind)(one) for kind in (*bench.COPIES, *bench.DIFFERENT)}
    gold = {kind: plant.options[plant.letters.index(plant.answer)] for kind, plant in plants.items()}
    assert {kind for kind in plants if gold[kind] != "240"} == {"another_question_about_it"}
    assert words(plants["case_points_spaces"].question) == words(question)
    assert plants["case_points_spaces"].question != question
    assert sorted(plants["options_shuffled"].options) == sorted(one.options)
    assert set(plants["wrong_options_replaced"].options) == {"240", "cat", "cow"}
    assert question in plants["sentence_added"].question
    assert len(plants["sentence_added"].question) > len(question)
    assert plants["sentence_removed"].question in question
    before = question.split()
    for kind, n in (("one_word_in_ten", 2), ("one_word_in_five", 4)):
        changed = [new for new, old in zip(plants[kind].question.split(), before, strict=True) if new != old]
        assert len(changed) == n
    assert re.findall(r"\d+", plants["other_numbers"].question) != ["48", "5"]
    assert re.sub(r"\d", "", plants["other_numbers"].question) == re.sub(r"\d", "", question)
    assert plants["another_question_about_it"].question == "A farmer keeps 48 hens in a barn. Which fish lives there?"
