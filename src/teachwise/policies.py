"""Policies: which example gets what, in which stage.

A policy is pure: the same ids, scores, options and seed give the same assignments on every machine. Every id comes
back at least once; one that is not used comes back as `drop`, so nothing vanishes unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from teachwise.records import Assignment, Give
from teachwise.sampling import cut_bands, permuted


@dataclass(frozen=True)
class Options:
    """What an arm's section of the recipe says about routing.

    Attributes:
        edges: Quantiles of the train scores between easy, medium and hard.
        stages: For each stage, what each band gets.
    """

    edges: tuple[float, float]
    stages: tuple[Mapping[str, Give], ...]


class Policy(Protocol):
    """A way of routing."""

    def __call__(self, ids: Sequence[str], values: np.ndarray, options: Options) -> list[Assignment]:
        """Assign every train example; `values` (N,) are the scores of `ids`, higher = less sure."""
        ...


def nothing(ids: Sequence[str], values: np.ndarray, options: Options) -> list[Assignment]:
    """Nobody gets anything: the untouched student."""
    return [Assignment(one, "all", "drop", -1) for one in ids]


def everything(ids: Sequence[str], values: np.ndarray, options: Options) -> list[Assignment]:
    """Every example gets the same, whatever its score."""
    return _staged(ids, ["all"] * len(ids), options.stages)


def bands(ids: Sequence[str], values: np.ndarray, options: Options) -> list[Assignment]:
    """Easy, medium and hard by the student's score, each band with its own treatment.

    Source:
        Complexity-aware fine-tuning (arXiv 2506.21220): answers for easy and medium, then rationales for hard.
        There the middle band lacked its upper edge and the edges were taken over test rows too; here bands are
        disjoint and cut on train rows alone.
    """
    return _staged(ids, cut_bands(ids, values, options.edges), options.stages)


POLICIES: dict[str, Policy] = {"none": nothing, "all": everything, "bands": bands}


FOLLOW_SCORES = ("bands",)
"""Policies that look at scores; when the gate fails with `on_fail: random`, their arms are routed at random."""


def randomised(assignments: Sequence[Assignment], seed: int) -> list[Assignment]:
    """The random control of an arm: the same treatments, handed to random examples.

    Every example takes over the whole treatment of another, by one seeded permutation. So the control has exactly
    the arm's stages, rows per stage, and rationales bought; only *which* example gets what is chance.
    """
    stand_in = permuted(sorted({one.id for one in assignments}), seed)
    return [replace(one, id=stand_in[one.id], band="all") for one in assignments]


def _staged(ids: Sequence[str], bands_of: Sequence[str], stages: Sequence[Mapping[str, Give]]) -> list[Assignment]:
    used = [
        Assignment(one, band, stage[band], number)
        for number, stage in enumerate(stages)
        for one, band in zip(ids, bands_of, strict=True)
        if band in stage
    ]
    seen = {one.id for one in used}
    left = [Assignment(one, band, "drop", -1) for one, band in zip(ids, bands_of, strict=True) if one not in seen]
    return used + left
