"""More about how well a score predicts errors: against another score, and once what both follow is held fixed.

All intervals are 95% and two-sided. W examples are wrong, C are right; A_i and B_j are `stats.placements`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from teachwise.stats import Interval, placements, roc_auc

_Z95 = float(norm.ppf(0.975))


def gini(auc: Interval) -> Interval:
    """Gini's coefficient of an AUC, 2 AUC - 1: 0 is guessing, 1 is perfect, below 0 the wrong way round.

    Example:
        >>> gini(Interval(0.75, 0.5, 1.0, 8))
        Interval(value=0.5, low=0.0, high=1.0, n=8)
    """
    return Interval(2 * auc.value - 1, 2 * auc.low - 1, 2 * auc.high - 1, auc.n)


def auc_difference(a: np.ndarray, b: np.ndarray, wrong: np.ndarray) -> Interval:
    """How much better the first score predicts errors than the second, on the same examples.

    Both AUCs share their examples, so what makes an example hard for both cancels:

        variance = var(A_a - A_b) / W + var(B_a - B_b) / C

    Where both rank all examples alike the difference is 0 and nothing is left to vary. Where that variance is 0 all the
    same, or a class has one member, the ends come from the two AUCs' own intervals, which is wider than need be.

    Args:
        a: (N,) finite, higher = less sure.
        b: (N,) finite, the second score of the same examples in the same order.
        wrong: (N,) bool (or 0/1), True where the student was wrong.

    Returns:
        AUC of a less AUC of b, with n = N.

    Raises:
        ValueError: lengths that differ, a score that is not finite, or only one class.

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), for two correlated curves.

    Example:
        >>> wrong = np.array([False, False, True, True])
        >>> auc_difference(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]), wrong).value
        0.25
    """
    (a_out, a_in), (b_out, b_in) = placements(a, wrong), placements(b, wrong)
    outscored, outscoring = a_out - b_out, a_in - b_in
    value, n = float(outscored.mean()), len(outscored) + len(outscoring)
    if not outscored.any() and not outscoring.any():
        return Interval(0.0, 0.0, 0.0, n)
    variance = _variance(outscored, outscoring)
    if not variance:
        first, second = roc_auc(a, wrong), roc_auc(b, wrong)
        return Interval(value, first.low - second.high, first.high - second.low, n)
    half = _Z95 * variance**0.5
    return Interval(value, max(-1.0, value - half), min(1.0, value + half), n)


def auc_within(scores: np.ndarray, wrong: np.ndarray, strata: Sequence[object]) -> Interval | None:
    """AUC among examples of one stratum: what is left of a score once the strata are held fixed.

    Only pairs of a wrong and a right example of the same stratum are compared. With P_s = W_s C_s such pairs,

        AUC = sum P_s AUC_s / sum P_s,    variance = sum (P_s / sum P)^2 variance_s

    A stratum too small for a variance of its own (one wrong or one right example, or perfectly apart) gets the largest
    one that the common AUC allows, AUC (1 - AUC) / min(W_s, C_s).

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool (or 0/1).
        strata: N labels, for instance (subject, quarter of lengths).

    Returns:
        AUC, 0-1, with n = the examples that stand in such a pair; None where no stratum holds both kinds.

    Source:
        The van Elteren weighting of stratified Mann-Whitney statistics, by pairs.

    Example:
        >>> scores, wrong = np.array([1.0, 2, 11, 12]), np.array([True, False, False, True])
        >>> auc_within(scores, wrong, ["a", "a", "b", "b"]).value  # right way round in b alone
        0.5
    """
    scores, wrong = np.asarray(scores, dtype=np.float64), np.asarray(wrong, dtype=bool)
    places: dict[object, list[int]] = {}
    for place, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(place)
    inside = [rows for rows in places.values() if 0 < np.count_nonzero(wrong[rows]) < len(rows)]
    if not inside:
        return None
    found = [placements(scores[rows], wrong[rows]) for rows in inside]
    pairs = np.array([len(out) * len(into) for out, into in found], dtype=np.float64)
    value = float(pairs @ [out.mean() for out, _ in found] / pairs.sum())
    largest = value * (1 - value)
    variances = np.array([_variance(*one) or largest / min(map(len, one)) for one in found])
    half = _Z95 * float((pairs / pairs.sum()) ** 2 @ variances) ** 0.5
    return Interval(value, max(0.0, value - half), min(1.0, value + half), sum(map(len, inside)))


def _variance(outscored: np.ndarray, outscoring: np.ndarray) -> float:
    """DeLong's variance; 0 where a class is too small for one."""
    if min(len(outscored), len(outscoring)) < 2:
        return 0.0
    return float(outscored.var(ddof=1) / len(outscored) + outscoring.var(ddof=1) / len(outscoring))
