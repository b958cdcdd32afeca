"""`bench/toy.py`: its figures are those that can be worked out by hand from a run's tables."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from teachwise.records import Prediction, Score
from teachwise.run_folder import Unit, write_json
from teachwise.stats import Interval

ARMS = ("base", "sft", "banded", "random", "distill")
RIGHT_BY_MODE = {
    "base": {"direct": 0.5, "cot": 0.5, "routed": 0.5},
    "sft": {"direct": 0.5, "cot": 0.25, "routed": 0.5},
    "banded": {"direct": 0.5, "cot": 0.75, "routed": 0.75},
    "random": {"direct": 0.5, "cot": 0.75, "routed": 0.5},
    "distill": {"direct": 0.25, "cot": 1.0, "routed": 1.0},
}
"""The first so many of every four questions are right."""


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[1] / "bench" / "toy.py"
    spec = importlib.util.spec_from_file_location("bench_toy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(put, example_with):
    """Eight questions each of 1, 2 and 3 steps with four options; of every four the first two are answered right."""
    examples = [example_with(f"e{n}", split="test", level=1 + n // 8, options=tuple("wxyz")) for n in range(24)]
    put(Unit("prepare"), examples=[*examples, example_with("t", split="train", level=1)])
    put(
        Unit("score"),
        scores=[
            Score(e.id, "answer_entropy", (n % 4 >= 2) + n / 100, "A", n % 4 < 2, 0.5, 1.0, 9)
            for n, e in enumerate(examples)
        ],
    )
    for arm in ARMS:
        for seed in (0,) if arm == "base" else (0, 1):
            rows = [
                Prediction(e.id, "test", mode, "A", n % 4 < 4 * share, 0.1, 1, "A")
                for mode, share in RIGHT_BY_MODE[arm].items()
                for n, e in enumerate(examples)
            ]
            folder = put(Unit("evaluate", arm, seed), predictions=rows)
            write_json(folder / "evaluation.json", {"threshold_nats": 0.5})
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "n": 24}
    costs = {
        arm: {"mode": "routed", "accuracy": nothing, "against": {}, "cost": {"teacher_tokens": 7.0}} for arm in ARMS
    }
    write_json(put(Unit("compare")) / "comparison.json", {"arms": costs, "seeds": [0, 1]})
    return put.run


def test_the_figures_are_those_worked_out_by_hand(bench, run):
    found = bench.measure(run)
    assert (found["n_test"], found["seeds"]) == (24, [0, 1])
    assert found["base_direct"].value == 0.5
    assert found["long_sft_above_chance"].value == pytest.approx(0.5 - 0.25)
    assert found["long_distill_above_sft"].value == pytest.approx(1.0 - 0.5)
    assert found["distill_above_sft"].value == pytest.approx(0.5)
    assert found["banded_above"]["random"].value == pytest.approx(0.25)
    assert found["banded_above_random_within"]["3+ steps"].n == 8
    assert found["auc"].keys() == {"all", "1 steps", "2 steps", "3 steps"}
    assert found["auc"]["all"].value == 1.0


def test_every_target_can_be_missed_and_held(bench, run):
    found = bench.measure(run)
    held = bench.targets(found)
    assert [name for name, holds in held.items() if not holds] == [
        "3+ steps within 10 points of chance after answers only"
    ]
    flat = Interval(0.45, 0.4, 0.5, 8)
    poor = {
        **found,
        "base_direct": replace(flat, value=0.39),
        "auc": dict.fromkeys(found["auc"], flat),
        "long_distill_above_sft": replace(flat, value=0.29),
        "distill_above_sft": replace(flat, value=0.07),
    }
    assert not any(bench.targets(poor).values())
    near = replace(flat, value=-0.1)
    assert all(bench.targets({**found, "long_sft_above_chance": near}).values())


def test_the_table_in_the_readme_is_the_measured_one(bench):
    root = Path(__file__).parents[1]
    judged = json.loads((root / "bench" / "results" / "toy.json").read_text())["judged"]
    rows = re.findall(r"^\| `(\w+)`: .*$", (root / "README.md").read_text(), re.MULTILINE)
    assert rows == list(ARMS)
    for line in (root / "README.md").read_text().splitlines():
        if match := re.match(r"\| `(\w+)`: [^|]*\|[^|]*\|(.*)\|(.*)\|(.*)\|.*\|$", line):
            arm, *cells = match.groups()
            given = [judged[arm]["accuracy"], judged[arm].get("against_base"), judged[arm].get("against_random")]
            for cell, figure in zip(cells, given, strict=True):
                shown = [float(number) for number in re.findall(r"[-+]?[\d.]+", cell)]
                wanted = [100 * figure[end] for end in ("value", "low", "high")] if figure else []
                assert shown == pytest.approx(wanted, abs=0.051), (arm, cell)
