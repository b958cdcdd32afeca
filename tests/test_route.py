"""route: from scores to assignments, for every arm of a recipe and for any table."""

from collections import Counter

import numpy as np
import pytest

from teachwise.errors import DataError
from teachwise.records import Assignment, Score
from teachwise.route import assign, is_randomised, route_arm, route_table
from teachwise.run_folder import Unit, write_json
from teachwise.tasks.table import read_table, write_table

STAGES = [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]
ARMS = {
    "base": {"policy": "none"},
    "sft": {"policy": "all", "give": "answer"},
    "distill": {"policy": "all", "give": "rationale"},
    "banded": {"policy": "bands", "edges": [0.25, 0.75], "stages": STAGES},
    "hardest": {"policy": "bands", "edges": [0.5, 0.9], "stages": [{"hard": "rationale"}]},
    "random": {"policy": "random", "like": "banded"},
    "random_hardest": {"policy": "random", "like": "hardest"},
}
IDS = [f"e{number:02d}" for number in range(20)]
VALUES = np.arange(20.0)


@pytest.mark.parametrize(
    ("arm", "wanted"),
    [
        ("base", {(-1, "drop"): 20}),
        ("sft", {(0, "answer"): 20}),
        ("distill", {(0, "rationale"): 20}),
        ("banded", {(0, "answer"): 15, (1, "rationale"): 5}),
        ("hardest", {(0, "rationale"): 2, (-1, "drop"): 18}),
        ("random", {(0, "answer"): 15, (1, "rationale"): 5}),
        ("random_hardest", {(0, "rationale"): 2, (-1, "drop"): 18}),
    ],
)
def test_every_arm_of_a_recipe_gives_what_it_says(recipe_with, arm, wanted):
    found = assign(recipe_with(arms=ARMS), arm, IDS, VALUES, seed=0)
    assert Counter((one.stage, one.give) for one in found) == wanted
    assert {one.id for one in found} == set(IDS)


def test_the_control_draws_anew_for_every_seed_and_the_banded_arm_does_not(recipe_with):
    recipe = recipe_with(arms=ARMS)
    draws = {frozenset(assign(recipe, "random", IDS, VALUES, seed)) for seed in range(3)}
    banded = {frozenset(assign(recipe, "banded", IDS, VALUES, seed)) for seed in range(3)}
    assert (len(draws), len(banded)) == (3, 1)


@pytest.fixture
def routed(put, example_with, recipe_with):
    """Routes an arm of a run of 20 train examples (and others that score higher still) after a verdict."""

    def route(arm, verdict="PASS", on_fail="stop", seed=0):
        train = [example_with(one, row=row) for row, one in enumerate(IDS)]
        rest = [example_with(f"{split}{n}", split) for split in ("dev", "test") for n in range(10)]
        ids = [*IDS, *(one.id for one in rest)]
        scores = [Score(one, "m", 100.0 - place, "A", True, 0.5, 1.0, 1) for place, one in enumerate(reversed(ids))]
        put(Unit("prepare"), examples=[*rest, *train])
        put(Unit("score"), scores=scores)
        write_json(put(Unit("validate")) / "validation.json", {"verdict": verdict})
        recipe, unit = recipe_with(arms=ARMS, validate={"on_fail": on_fail}), Unit("route", arm, seed)
        put.run.begin(unit, "k")
        counts = route_arm(recipe, put.run, unit)
        return counts, put.run.records(unit, "assignments.parquet", Assignment), is_randomised(recipe, put.run, arm)

    return route


def test_bands_are_cut_on_train_rows_alone(routed):
    counts, found, _ = routed("banded")
    assert counts == {"answers": 15, "rationales": 5, "dropped": 0}
    assert {one.id for one in found} == set(IDS)
    assert {one.id for one in found if one.band == "hard"} == set(IDS[15:])


@pytest.mark.parametrize(
    ("arm", "verdict", "on_fail", "at_random"),
    [
        ("banded", "FAIL", "random", True),
        ("hardest", "FAIL", "random", True),
        ("banded", "FAIL", "warn", False),
        ("banded", "WEAK", "random", False),
        ("banded", "PASS", "random", False),
        ("sft", "FAIL", "random", False),
        ("random", "FAIL", "random", False),
    ],
)
def test_on_fail_random_shuffles_only_arms_that_follow_the_scores_and_says_so(routed, arm, verdict, on_fail, at_random):
    counts, found, said = routed(arm, verdict, on_fail)
    plain_counts, plain, _ = routed(arm)
    assert counts.get("randomised", False) is at_random
    assert said is at_random
    assert {name: counts[name] for name in plain_counts} == plain_counts
    assert (set(found) != set(plain)) is at_random
    assert Counter((one.stage, one.give) for one in found) == Counter((one.stage, one.give) for one in plain)


# tables


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_route_table_adds_the_column_band_and_leaves_the_rest(tmp_path, suffix):
    rows = [{"q": f"question {n}", "entropy": n / 10} for n in (3, 0, 2, 1)]
    source, out = tmp_path / f"in{suffix}", tmp_path / "new" / f"out{suffix}"
    write_table(source, rows)
    assert route_table(str(source), "entropy", (0.25, 0.75), out) == {"easy": 1, "medium": 2, "hard": 1}
    found = read_table(str(out))
    assert [row.pop("band") for row in found] == ["hard", "easy", "medium", "medium"]
    assert found == read_table(str(source))


def test_route_table_breaks_ties_by_content_whatever_the_order_of_the_rows(tmp_path):
    rows = [{"q": f"question {n}", "entropy": 0.5} for n in range(12)]
    found = []
    for name, some in (("a.jsonl", rows), ("b.jsonl", rows[::-1])):
        write_table(tmp_path / name, some)
        route_table(str(tmp_path / name), "entropy", (0.25, 0.75), tmp_path / f"out-{name}")
        found.append({row["q"]: row["band"] for row in read_table(str(tmp_path / f"out-{name}"))})
    assert found[0] == found[1]
    assert Counter(found[0].values()) == {"easy": 3, "medium": 6, "hard": 3}


def test_route_table_takes_rows_that_repeat(tmp_path):
    write_table(tmp_path / "t.jsonl", [{"q": "same", "entropy": 0.5}] * 4)
    sizes = route_table(str(tmp_path / "t.jsonl"), "entropy", (0.25, 0.75), tmp_path / "out.jsonl")
    assert sizes == {"easy": 1, "medium": 2, "hard": 1}


@pytest.mark.parametrize("cell", [float("nan"), None, "", "high", float("inf")])
def test_route_table_names_the_row_that_is_no_number_and_writes_nothing(tmp_path, cell):
    write_table(tmp_path / "t.jsonl", [{"entropy": 0.5}, {"entropy": 0.1}, {"entropy": cell}])
    with pytest.raises(DataError, match=r"row 2: entropy is .* wanted a finite number"):
        route_table(str(tmp_path / "t.jsonl"), "entropy", (0.25, 0.75), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_too_few_examples_for_the_edges_are_refused_before_anything_is_bought(recipe_with):
    with pytest.raises(DataError, match="2 train examples leave a band empty") as caught:
        assign(recipe_with(arms=ARMS), "banded", IDS[:2], VALUES[:2], seed=0)
    assert "edges" in caught.value.hint
