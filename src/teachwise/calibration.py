"""Calibration: can a score be turned into a probability of being wrong that holds on questions it has not seen?"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression


@dataclass(frozen=True)
class Calibration:
    """How far predicted probabilities of an error lie from what happened, on held-out examples.

    Attributes:
        ece: Expected calibration error, 0-1.
        brier: Mean squared distance of the probability from 0 (right) or 1 (wrong), 0-1.
        n: Examples.
    """

    ece: float
    brier: float
    n: int


def calibration(scores: np.ndarray, wrong: np.ndarray, *, folds: int = 5, bins: int = 10, seed: int = 0) -> Calibration:
    """Calibration error of the score alone, by cross-validation.

    The examples are put into parts by lot. For each, the share of errors is fitted to the other parts' scores by
    isotonic regression (it may only rise with the score; nothing else is assumed) and read off for its own, linearly
    between scores that were seen. All examples are then put into `bins` of like number by predicted probability:

        ECE = sum over bins of n_b / N |mean predicted - share wrong|

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool (or 0/1).
        folds: Parts, >= 2.
        bins: Bins.
        seed: Of the lot.

    Raises:
        ValueError: lengths that differ, or fewer examples than parts.

    Source:
        ECE: Naeini, Cooper and Hauskrecht, AAAI 2015, here with bins of like number. Isotonic: Zadrozny and Elkan,
        KDD 2002.

    Example:
        >>> always = np.repeat([0.0, 1.0], 50)
        >>> calibration(always, always == 1.0)
        Calibration(ece=0.0, brier=0.0, n=100)
    """
    scores, outcomes = np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if scores.shape != outcomes.shape or len(scores) < folds:
        raise ValueError(f"{scores.shape} scores and {outcomes.shape} outcomes, wanted (N,) of each, N >= {folds}")
    part = np.random.default_rng(seed).permutation(len(scores)) % folds
    predicted = np.empty(len(scores))
    for fold in range(folds):
        own = part == fold
        predicted[own] = _fitted(scores[~own], outcomes[~own], scores[own])
    order = np.argsort(predicted, kind="stable")
    gaps = [abs(predicted[rows].sum() - outcomes[rows].sum()) for rows in np.array_split(order, min(bins, len(order)))]
    ece = float(sum(gaps) / len(scores))
    return Calibration(ece, float(((predicted - outcomes) ** 2).mean()), len(scores))


def _fitted(seen: np.ndarray, outcomes: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Isotonic regression on what was seen, equal scores pooled first, read off between them and flat beyond."""
    at, where, counts = np.unique(seen, return_inverse=True, return_counts=True)
    shares = np.bincount(where, weights=outcomes) / counts
    return np.asarray(np.interp(asked, at, isotonic_regression(shares, weights=counts).x))
