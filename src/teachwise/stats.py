"""Numbers that judge: how well a score predicts errors, and whether two arms differ. Each comes with its interval.

All intervals are 95% and two-sided. Shape letters: N examples or questions, S seeds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, norm, rankdata

_Z95 = float(norm.ppf(0.975))
_CELLS = 2**21
"""Most question indices held at once while resampling (16 MiB); it bounds memory and changes no number."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95% interval.

    Attributes:
        value: The estimate.
        low: Lower end.
        high: Upper end.
        n: Examples or questions it rests on.
    """

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """The questions on which two arms differ.

    Attributes:
        only_a: Questions that only the first got right.
        only_b: Questions that only the second got right.
        p: Two-sided p-value of "neither is better", above 0 and at most 1.
    """

    only_a: int
    only_b: int
    p: float


def roc_auc(scores: np.ndarray, wrong: np.ndarray) -> Interval:
    """The probability that a wrong example outscores a right one, ties counted half.

    With r the midranks among all N examples, r_w and r_c those among the W wrong and the C right ones alone,

        A_i = (r_i - r_w,i) / C    for each wrong i: the share of right examples that it outscores
        B_j = 1 - (r_j - r_c,j) / W    for each right j: the share of wrong examples that outscore it
        AUC = mean(A),    variance = var(A) / W + var(B) / C,    interval = AUC +- 1.96 sqrt(variance), cut to [0, 1]

    Ranks replace DeLong's W x C comparisons, so 12,000 examples take milliseconds. Where that variance is 0 (wrong and
    right perfectly apart, or all scores equal) or a class has one member, DeLong would claim certainty from a handful
    of rows. There the interval is the score interval under the largest variance an AUC can have, AUC (1 - AUC) /
    min(W, C), which is Wilson's interval for min(W, C) trials.

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool (or 0/1), True where the student was wrong.

    Returns:
        AUC, 0-1 (0.5 = useless), with n = N.

    Raises:
        ValueError: lengths that differ, a score that is not finite, or only one class.

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); midranks: Sun and Xu, IEEE Signal Processing Letters 21
        (2014); largest variance: Birnbaum and Klose, Annals of Mathematical Statistics 28 (1957).

    Example:
        >>> auc = roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        >>> auc.value, auc.n
        (0.75, 4)
    """
    outscored, outscoring = placements(scores, wrong)
    auc = float(outscored.mean())
    low, high = _delong(auc, outscored, outscoring)
    return Interval(auc, low, high, len(outscored) + len(outscoring))


def placements(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The A_i and B_j of `roc_auc`, in the order of the scores: (W,) and (C,), each 0-1 with the AUC as its mean.

    Raises:
        ValueError: lengths that differ, a score that is not finite, or only one class.
    """
    scores, wrong = _scores_and_classes(scores, wrong)
    ranks = rankdata(scores)
    n_wrong, n_right = np.count_nonzero(wrong), np.count_nonzero(~wrong)
    outscored = (ranks[wrong] - rankdata(scores[wrong])) / n_right
    outscoring = 1.0 - (ranks[~wrong] - rankdata(scores[~wrong])) / n_wrong
    return outscored, outscoring


def _delong(auc: float, outscored: np.ndarray, outscoring: np.ndarray) -> tuple[float, float]:
    fewest = min(len(outscored), len(outscoring))
    if fewest == 1 or (np.ptp(outscored) == 0 and np.ptp(outscoring) == 0):
        return _wilson_ends(auc, fewest)
    half = _Z95 * float(outscored.var(ddof=1) / len(outscored) + outscoring.var(ddof=1) / len(outscoring)) ** 0.5
    return max(0.0, auc - half), min(1.0, auc + half)


def roc_curve_points(scores: np.ndarray, wrong: np.ndarray, most: int = 200) -> list[tuple[float, float]]:
    """The ROC curve for a plot, thinned to points that lie evenly along it.

    Going down through the distinct scores, each point is (share of right examples, share of wrong examples) that score
    at least so high. Equal scores make one slanted step, so the area under the unthinned line is `roc_auc`.

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool (or 0/1), True where the student was wrong.
        most: Most points to return, >= 2.

    Returns:
        Points (x, y), both 0-1 and never falling, from (0, 0) to (1, 1).

    Raises:
        ValueError: most < 2, lengths that differ, a score that is not finite, or only one class.

    Example:
        >>> roc_curve_points(np.array([0.1, 0.4, 0.9]), np.array([False, False, True]))
        [(0.0, 0.0), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0)]
    """
    if most < 2:
        raise ValueError(f"most is {most}, wanted at least 2: the ends")
    scores, wrong = _scores_and_classes(scores, wrong)
    order = np.argsort(-scores, kind="stable")
    ends_a_tie = np.append(np.diff(scores[order]) != 0, True)
    x, y = (
        np.concatenate([[0.0], np.cumsum(is_class[order])[ends_a_tie] / np.count_nonzero(is_class)])
        for is_class in (~wrong, wrong)
    )
    if len(x) > most:
        kept = np.unique(np.searchsorted(x + y, np.linspace(0.0, 2.0, most)))
        x, y = x[kept], y[kept]
    return list(zip(x.tolist(), y.tolist(), strict=True))


def roc_band(
    scores: np.ndarray, wrong: np.ndarray, *, points: int = 101, seed: int = 0, draws: int = 1000
) -> list[tuple[float, float, float]]:
    """A 95% band around the ROC curve: vertical and pointwise, not simultaneous.

    Each draw resamples the wrong and the right examples, each kind by itself, and its curve is read at evenly spaced
    shares of right examples. At each the band holds the middle 95% of the draws, and Wilson's interval for that share
    of the wrong examples: where a handful are all caught, every draw catches them all and would claim certainty. Of
    100 points about five may leave such a band by chance, so it judges a point of the curve, not its whole course.

    Args:
        scores: (N,) finite, higher = less sure.
        wrong: (N,) bool (or 0/1), True where the student was wrong.
        points: How many shares of right examples, from 0 to 1.
        seed: Of the resampling.
        draws: Number of resamples.

    Returns:
        (share of right examples, lowest, highest share of wrong examples), all 0-1, ending at (1, 1, 1).

    Raises:
        ValueError: lengths that differ, a score that is not finite, or only one class.

    Example:
        >>> band = roc_band(np.array([0.1, 0.4, 0.2, 0.9]), np.array([False, False, True, True]), points=3)
        >>> [at for at, low, high in band], band[-1]
        ([0.0, 0.5, 1.0], (1.0, 1.0, 1.0))
    """
    scores, wrong = _scores_and_classes(scores, wrong)
    order = np.argsort(-scores, kind="stable")
    wrong, ends_a_tie = wrong[order], np.append(np.diff(scores[order]) != 0, True)
    at, rng = np.linspace(0.0, 1.0, points), np.random.default_rng(seed)
    places = [np.flatnonzero(wrong), np.flatnonzero(~wrong)]

    def curve(drawn: list[np.ndarray]) -> np.ndarray:
        caught, flagged = (
            np.append(0.0, np.cumsum(np.bincount(rows, minlength=len(wrong)))[ends_a_tie] / len(rows)) for rows in drawn
        )
        return np.asarray(np.interp(at, flagged, caught))

    curves = np.array([curve([rng.choice(rows, len(rows)) for rows in places]) for _ in range(draws)])
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    ends = np.array([_wilson_ends(min(1.0, float(share)), len(places[0])) for share in curve(places)])
    low, high = np.minimum(low, ends[:, 0]), np.maximum(high, ends[:, 1])
    low[-1] = high[-1] = 1.0
    return list(zip(at.tolist(), low.tolist(), high.tolist(), strict=True))


def wilson(k: int, n: int) -> Interval:
    """A share with Wilson's score interval.

    With p = k / n and z = 1.96: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). Unlike p +- 1.96
    standard errors it stays inside 0-1 and has a width at 0 of n and n of n.

    Args:
        k: Successes, 0 to n.
        n: Trials, >= 1.

    Returns:
        The share, 0-1.

    Raises:
        ValueError: n < 1, or k outside 0 to n.

    Source:
        Wilson, Journal of the American Statistical Association 22 (1927).

    Example:
        >>> share = wilson(8, 10)
        >>> f"{share.value} ({share.low:.4f}-{share.high:.4f})"
        '0.8 (0.4902-0.9433)'
    """
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no share, wanted 0 <= k <= n and n >= 1")
    low, high = _wilson_ends(k / n, n)
    return Interval(k / n, low, high, int(n))


def _wilson_ends(share: float, n: int) -> tuple[float, float]:
    """Wilson's ends, also for a share that is no whole number of n-ths; kept in 0-1 and around the share."""
    spread = _Z95**2 / n
    middle = share + spread / 2
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return max(0.0, min(share, low)), min(1.0, max(share, high))


def mcnemar_exact(a: np.ndarray, b: np.ndarray) -> McNemar:
    """Do two arms, judged on the same questions, differ in accuracy?

    Questions that both get right, or both wrong, say nothing. Of the others, were the arms equally good, the number
    won by the first would be Binomial(only_a + only_b, 1/2); p is the exact two-sided tail.

    Args:
        a: (N,) bool (or 0/1), True where the first arm is correct.
        b: (N,) bool (or 0/1), the second arm on the same questions in the same order.

    Returns:
        The two counts and p; p is 1 where the arms never differ.

    Raises:
        ValueError: lengths that differ, no questions, or values other than true and false.

    Source:
        McNemar, Psychometrika 12 (1947), in its exact binomial form.

    Example:
        >>> mcnemar_exact(np.array([1, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 0]))
        McNemar(only_a=3, only_b=0, p=0.25)
    """
    a, b = _booleans(a, "a"), _booleans(b, "b")
    if a.shape != b.shape or not a.size:
        raise ValueError(f"a has {a.size} questions and b {b.size}, wanted the same number, at least 1")
    only_a, only_b = int(np.count_nonzero(a & ~b)), int(np.count_nonzero(b & ~a))
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def bootstrap_mean(values: np.ndarray, *, seed: int = 0, draws: int = 2000) -> Interval:
    """A mean over questions and training seeds, with an interval that covers both.

    Each draw takes N questions with replacement and, independently, S seeds, and averages the cells where they cross;
    the interval is the 2.5% and 97.5% quantile of the draws. Resampling cells alone would treat one question asked of
    three seeds as three questions. With one seed the interval covers the choice of questions and says nothing of the
    luck of training. With few seeds it understates that luck: the seeds' own variance comes out (S - 1) / S of what
    it is, two thirds at S = 3.

    Args:
        values: (S, N), for instance correct or not; bool or finite floats.
        seed: Of the resampling; the same seed gives the same interval.
        draws: Number of resamples, >= 1.

    Returns:
        The grand mean, with n = N.

    Raises:
        ValueError: not (S, N) with both at least 1, a value that is not finite, or draws < 1.

    Source:
        Efron, Annals of Statistics 7 (1979); crossed factors: Owen, Annals of Applied Statistics 1 (2007).

    Example:
        >>> mean = bootstrap_mean(np.array([[1, 0, 1, 1], [1, 0, 0, 1]]))
        >>> mean.value, mean.n, mean.low < 0.625 < mean.high
        (0.625, 4, True)
    """
    cells = _seeds_by_questions(values, "values")
    if draws < 1:
        raise ValueError(f"draws is {draws}, wanted at least 1")
    low, high = np.quantile(_resampled_means(cells, seed, draws), [0.025, 0.975])
    return Interval(float(cells.mean()), float(low), float(high), cells.shape[1])


def bootstrap_difference(a: np.ndarray, b: np.ndarray, *, seed: int = 0, draws: int = 2000) -> Interval:
    """How much better the first arm is, paired over questions and seeds.

    The bootstrap of a - b, cell by cell: each draw gives both arms the same questions and the same seeds, so what makes
    a question hard for both cancels. That is what makes small differences visible.

    Args:
        a: (S, N), or (1, N) for an arm without seeds (the untouched base), which meets every seed of the other.
        b: (S, N) or (1, N), the second arm: the same questions, and the same seeds, in the same order.
        seed: Of the resampling.
        draws: Number of resamples, >= 1.

    Where the arms differ on no question at all, resampling would claim certainty. There the interval is 0 +- the
    largest share of differing questions that N without one still allow at 95%, 1 - 0.05^(1/N), about 3 / N.

    Returns:
        Mean of a less mean of b, with n = N.

    Raises:
        ValueError: shapes that cannot be paired, a value that is not finite, or draws < 1.

    Source:
        As `bootstrap_mean`.

    Example:
        >>> gain = bootstrap_difference(np.array([[1, 1, 1, 0], [1, 1, 0, 0]]), np.array([[1, 0, 0, 0]]))
        >>> gain.value, gain.n
        (0.375, 4)
    """
    first, second = _seeds_by_questions(a, "a"), _seeds_by_questions(b, "b")
    seeds = {len(first), len(second)}
    if first.shape[1] != second.shape[1] or len(seeds - {1}) > 1:
        raise ValueError(f"a is {first.shape} and b {second.shape} (seeds, questions), wanted pairs")
    difference = first - second
    if not difference.any():
        n = difference.shape[1]
        unseen = 1 - 0.05 ** (1 / n)
        return Interval(0.0, -unseen, unseen, n)
    return bootstrap_mean(difference, seed=seed, draws=draws)


def _resampled_means(cells: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """(draws,) means of the resampled rows and columns of (S, N) cells, a chunk of draws at a time."""
    n_seeds, n = cells.shape
    rng = np.random.default_rng(seed)
    seed_counts = _draw_counts(rng, draws, n_seeds) if n_seeds > 1 else np.ones((draws, 1))
    chunk = max(1, _CELLS // n)
    means = []
    for start in range(0, draws, chunk):
        some = seed_counts[start : start + chunk]
        by_seed = _draw_counts(rng, len(some), n) @ cells.T
        means.append((by_seed * some).sum(axis=1) / (n_seeds * n))
    return np.concatenate(means)


def _draw_counts(rng: np.random.Generator, draws: int, n: int) -> np.ndarray:
    """(draws, n) float64: how often each of n things is drawn when n are drawn with replacement."""
    picks = rng.integers(0, n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _scores_and_classes(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, wrong = np.asarray(scores, dtype=np.float64), _booleans(wrong, "wrong")
    if scores.shape != wrong.shape:
        raise ValueError(f"scores have shape {scores.shape} and wrong {wrong.shape}, wanted (N,) for both")
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are NaN or infinite")
    if wrong.all() or not wrong.any():
        raise ValueError(
            f"{np.count_nonzero(wrong)} of {wrong.size} answers are wrong, wanted some wrong and some right"
        )
    return scores, wrong


def _booleans(values: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, [0, 1]).all():
        raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}, wanted (N,) of true and false")
    return array.astype(bool)


def _seeds_by_questions(values: np.ndarray, name: str) -> np.ndarray:
    cells = np.asarray(values, dtype=np.float64)
    if cells.ndim != 2 or not cells.size:
        raise ValueError(f"{name} has shape {cells.shape}, wanted (seeds, questions), at least one of each")
    if not np.isfinite(cells).all():
        raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(cells))} NaN or infinite values, wanted none")
    return cells
