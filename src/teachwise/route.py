"""Route: decide for every train example whether it gets nothing, its answer, or the teacher's rationale.

in   prepare/examples.parquet                            Example
in   score/scores.parquet                                Score
in   validate/validation.json                            the verdict: arms that follow scores may be routed at random
out  route/ARM/seed-S/round-R/assignments.parquet        Assignment: one row per example and stage
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teachwise.errors import DataError
from teachwise.policies import FOLLOW_SCORES, POLICIES, Options, randomised
from teachwise.recipe import Recipe
from teachwise.records import FAILING, Assignment, Example, Score, by_id, driving
from teachwise.run_folder import Run, Unit, content_hash, write_records
from teachwise.sampling import band_sizes, cut_bands
from teachwise.tasks.table import check_writable, numbers, read_table, usable, write_table

GATE_SEED = 1_000_003
"""Added to the seed of an arm that a failed gate turned into a random one, so that it is no copy of its control."""


def assign(recipe: Recipe, arm: str, ids: Sequence[str], values: np.ndarray, seed: int) -> list[Assignment]:
    """The assignments of an arm.

    Args:
        recipe: The recipe; only the arm's section is read.
        arm: Its name.
        ids: N train examples.
        values: (N,) their scores, higher = less sure.
        seed: Seed of what is random in the policy.

    Raises:
        DataError: a band would be empty: there are too few examples for the arm's edges.
    """
    spec = recipe.arms[arm]
    if spec.policy == "random" and spec.like:
        return randomised(assign(recipe, spec.like, ids, values, seed), seed)
    if spec.policy == "bands" and 0 in band_sizes(len(ids), spec.edges):
        raise DataError(
            f"route: arm {arm}: {len(ids):,} train examples leave a band empty with edges {list(spec.edges)}",
            f"give more train examples, or move arms.{arm}.edges away from 0 and 1",
        )
    stages = tuple(stage.gives for stage in recipe.stages_of(arm))
    return POLICIES[spec.policy](ids, values, Options(edges=spec.edges, stages=stages))


def route_arm(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Assign every train example for one arm and seed; return how many get what."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    train = [example.id for example in examples if example.split == "train"]
    values = np.array([scores[one].value for one in train])
    assignments = assign(recipe, unit.arm, train, values, unit.seed)
    at_random = is_randomised(recipe, run, unit.arm)
    if at_random:
        assignments = randomised(assignments, unit.seed + GATE_SEED)
    write_records(run.folder(unit) / "assignments.parquet", Assignment, assignments)
    gives = Counter(one.give for one in assignments)
    counts = {"answers": gives["answer"], "rationales": gives["rationale"], "dropped": gives["drop"]}
    return {**counts, "randomised": True} if at_random else counts


def is_randomised(recipe: Recipe, run: Run, arm: str) -> bool:
    """Whether the gate failed and this arm, which would have followed the scores, is routed at random instead."""
    failed = run.json(Unit("validate"), "validation.json")["verdict"] in FAILING
    return failed and recipe.validation.on_fail == "random" and recipe.arms[arm].policy in FOLLOW_SCORES


def read_edges(text: str) -> tuple[float, float]:
    """Two quantiles out of `0.25,0.75`.

    Raises:
        DataError: they are no two numbers that rise between 0 and 1.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"--edges {text!r}: wanted two numbers", "for instance --edges 0.25,0.75") from None
    if not 0 < low < high < 1:
        raise DataError(f"--edges {text}: wanted 0 < first < second < 1", "for instance --edges 0.25,0.75")
    return low, high


def route_table(source: str, score: str, edges: tuple[float, float], out: Path) -> dict[str, int]:
    """Cut a table's own score column into bands and write the table with a column `band`.

    Args:
        source: A table.
        score: Column of scores, higher = less sure.
        edges: Quantiles between easy, medium and hard.
        out: Where to write; the suffix says how.

    Returns:
        Rows per band. Ties are broken by the row's content, then by its place. Rows that `teachwise score` set apart
        are kept, without a band.
    """
    check_writable(out)
    table = read_table(source)
    rows = usable(table)
    if not rows:
        raise DataError(f"{source}: no row can be used, see its column `unusable`", "score a table with usable rows")
    values = np.array(numbers(rows, score, source))
    ids = [f"{content_hash(repr(sorted(row.items())))}-{place:09d}" for place, row in enumerate(rows)]
    bands = cut_bands(ids, values, edges)
    band_of_row = {id(row): band for row, band in zip(rows, bands, strict=True)}
    write_table(out, [{**row, "band": band_of_row.get(id(row))} for row in table])
    return {band: bands.count(band) for band in ("easy", "medium", "hard")}
