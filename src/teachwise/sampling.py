"""Which rows go where: splits, bands and random subsets, none of which depends on the order of the rows.

Nothing here uses a random generator that is stepped through the rows. Chance comes from a hash of (purpose, seed, id),
so that a row's fate is its own: adding, dropping or shuffling other rows leaves it alone, on every machine. The purpose
is part of the hash because splits and subsets drawn from one and the same hash would pick the same rows.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

BANDS = ("easy", "medium", "hard")
EDGES = (0.25, 0.75)
"""Quantiles at which medium and hard begin where nothing else is said."""


def split_of(group: str, seed: int, shares: tuple[float, float, float]) -> Literal["train", "dev", "test"] | None:
    """The split of one group of rows.

    The group's hash is a point u, uniform on [0, 1). Train is u < a, dev a <= u < a + b, test a + b <= u < a + b + c;
    what the shares leave over is in no split. Each row is placed alone, so the sizes only come near the shares
    (by about sqrt(n a (1 - a)) rows); in exchange a data set can grow without a test row ever becoming a train row.

    Args:
        group: Key shared by rows that must not be parted, such as repeats of one question.
        seed: Another seed is another split.
        shares: (a, b, c) of train, dev and test, each 0-1, together at most 1.

    Returns:
        "train", "dev" or "test"; None where the shares leave the group over.

    Raises:
        ValueError: a share outside 0-1 (or NaN), or shares that sum to more than 1.

    Example:
        >>> split_of("question-1", seed=0, shares=(1.0, 0.0, 0.0))
        'train'
        >>> [split_of(f"question-{i}", seed=0, shares=(0.5, 0.25, 0.25)) for i in range(4)]
        ['dev', 'dev', 'test', 'train']
    """
    train, dev, test = _exact_shares(shares)
    point = Fraction(_hash("split", seed, group), 2**64)
    if point < train:
        return "train"
    if point < train + dev:
        return "dev"
    return "test" if point < train + dev + test else None


def _exact_shares(shares: tuple[float, float, float]) -> list[Fraction]:
    if not all(0 <= share <= 1 for share in shares) or math.fsum(shares) > 1 + 1e-9:
        raise ValueError(f"shares are {shares}, wanted each in 0-1 and together at most 1")
    return [_as_written(share) for share in shares]


def band_sizes(n: int, edges: tuple[float, float]) -> tuple[int, int, int]:
    """How many rows are easy, medium and hard.

    easy = floor(e1 n + 1/2), hard = floor((1 - e2) n + 1/2), medium = the rest, so no remainder is ever dropped. The
    edges are taken as the decimals they were written as: in floats (1 - 0.9) * 5 is a hair under 0.5.

    Args:
        n: Rows to cut, >= 0.
        edges: (e1, e2), quantiles, 0 < e1 < e2 < 1.

    Returns:
        (easy, medium, hard), each >= 0, with sum n.

    Raises:
        ValueError: n < 0, or the edges do not rise strictly between 0 and 1.

    Source:
        arXiv 2506.21220 (25 / 50 / 25%).

    Example:
        >>> band_sizes(12_030, (0.25, 0.75))
        (3008, 6014, 3008)
        >>> band_sizes(5, (0.1, 0.9))
        (1, 3, 1)
    """
    if n < 0:
        raise ValueError(f"n is {n}, wanted 0 or more")
    if not 0 < edges[0] < edges[1] < 1:
        raise ValueError(f"edges are {edges}, wanted two that rise strictly between 0 and 1")
    half = Fraction(1, 2)
    easy = math.floor(_as_written(edges[0]) * n + half)
    hard = math.floor((1 - _as_written(edges[1])) * n + half)
    return easy, n - easy - hard, hard


def cut_bands(ids: Sequence[str], values: np.ndarray, edges: tuple[float, float] = EDGES) -> list[str]:
    """The band of every row, by rank of its value.

    Rows are put in ascending order of (value, id); the first `band_sizes` are easy, the last hard. Cutting by rank and
    not by value makes the bands disjoint and exhaustive with sizes known beforehand, even where many values tie.

    Args:
        ids: N distinct example ids; they break ties.
        values: (N,) scores, finite, higher = less sure.
        edges: Quantiles at which medium and hard begin.

    Returns:
        N bands, "easy", "medium" or "hard", in the order of `ids`.

    Raises:
        ValueError: lengths that differ, ids that repeat, values that are not finite, or edges out of order.

    Example:
        >>> cut_bands(["a", "b", "c", "d"], np.array([0.3, 2.0, 0.1, 0.3]))
        ['medium', 'hard', 'easy', 'medium']
    """
    exact = _finite_values(values, len(ids))
    _check_distinct(ids)
    order = sorted(range(len(ids)), key=lambda row: (exact[row], ids[row]))
    bands = [""] * len(ids)
    ranked: list[str] = np.repeat(BANDS, band_sizes(len(ids), edges)).tolist()
    for row, band in zip(order, ranked, strict=True):
        bands[row] = band
    return bands


def band_values(values: np.ndarray, bands: Sequence[str]) -> tuple[float, float]:
    """The edges of a cut as values, to place rows that were not in it.

    Args:
        values: (N,) scores of the rows that were cut, finite.
        bands: Their N bands, from `cut_bands`.

    Returns:
        (largest value that is easy, largest that is medium), the first at most the second.

    Raises:
        ValueError: lengths that differ, values that are not finite, an unknown band, no easy or no medium row
            (too few rows for these edges), or bands that overlap.

    Example:
        >>> band_values(np.array([0.3, 2.0, 0.1, 0.4]), ["medium", "hard", "easy", "medium"])
        (0.1, 0.4)
    """
    exact = _finite_values(values, len(bands))
    unknown = set(bands) - set(BANDS)
    if unknown:
        raise ValueError(f"bands named {sorted(unknown)}, wanted {', '.join(BANDS)}")
    easy, medium, hard = (exact[[band == name for band in bands]] for name in BANDS)
    if not easy.size or not medium.size:
        raise ValueError(f"{len(bands)} rows leave the easy or the medium band empty, so it has no largest value")
    if easy.max() > medium.min() or (hard.size and medium.max() > hard.min()):
        raise ValueError("bands overlap: a row of a lower band has a larger value than a row of a higher one")
    return float(easy.max()), float(medium.max())


def band_of(value: float, value_edges: tuple[float, float]) -> str:
    """The band of a row that was not in the cut, such as a test row.

    Rows of the cut get their own band back, save where rows on both sides of an edge tie with it: those are told apart
    by id, and here all fall into the lower band.

    Args:
        value: The row's score, finite.
        value_edges: From `band_values` of the train rows.

    Returns:
        "easy" up to and including the first edge, "medium" up to and including the second, else "hard".

    Raises:
        ValueError: `value` is not finite, or the edges are out of order.

    Example:
        >>> [band_of(value, (0.1, 0.4)) for value in (0.1, 0.2, 0.5)]
        ['easy', 'medium', 'hard']
    """
    if not math.isfinite(value):
        raise ValueError(f"value is {value}, wanted a finite number")
    if not value_edges[0] <= value_edges[1]:
        raise ValueError(f"value edges are {value_edges}, wanted them in ascending order")
    if value <= value_edges[0]:
        return "easy"
    return "medium" if value <= value_edges[1] else "hard"


def bands_of(values: Mapping[str, float], train: Sequence[str], edges: tuple[float, float] = EDGES) -> dict[str, str]:
    """The band of every row, whatever its split; the edges come from the train rows alone.

    Args:
        values: Scores by id, finite, higher = less sure.
        train: The ids of the train rows.
        edges: Quantiles of the train scores at which medium and hard begin.

    Returns:
        By id, "easy", "medium" or "hard"; empty where the train rows are too few for these edges.

    Raises:
        ValueError: as `cut_bands`.

    Example:
        >>> bands_of({"a": 0.3, "b": 2.0, "c": 0.1, "d": 0.4, "test": 0.2}, ["a", "b", "c", "d"])["test"]
        'medium'
    """
    of_train = np.array([values[one] for one in train])
    bands = cut_bands(train, of_train, edges)
    if len(set(bands)) < len(BANDS):
        return {}
    at = band_values(of_train, bands)
    return {**{one: band_of(value, at) for one, value in values.items()}, **dict(zip(train, bands, strict=True))}


def first_by_hash(ids: Sequence[str], k: int, seed: int, salt: str = "") -> list[str]:
    """A random subset: the k ids with the smallest hashes.

    Subsets of one seed and salt are nested: a larger k adds ids and removes none.

    Args:
        ids: Distinct ids, in any order.
        k: How many, 0 to N. More than there are is an error: a control that comes out smaller is no control.
        seed: Another seed is an independent draw.
        salt: What the draw is for; draws with different salts are independent.

    Returns:
        k ids in ascending order of hash, which is a random order too.

    Raises:
        ValueError: ids that repeat, or k outside 0 to N.

    Example:
        >>> first_by_hash(["a", "b", "c", "d"], 2, seed=0) == first_by_hash(["d", "c", "b", "a"], 2, seed=0)
        True
    """
    if not 0 <= k <= len(ids):
        raise ValueError(f"k is {k}, wanted 0 to {len(ids)}, the number of ids")
    return _shuffled(ids, seed, f"subset:{salt}")[:k]


def permuted(ids: Sequence[str], seed: int) -> dict[str, str]:
    """A random bijection of the ids onto themselves, every one equally likely.

    It makes the random control: an example takes over the treatment of the one it is mapped to. So each treatment is
    given exactly as often as before, and only the link between score and treatment is cut. About one id maps to
    itself, as chance has it; ruling that out would tie treatment to score again, if faintly.

    Args:
        ids: Distinct ids, in any order.
        seed: Another seed is an independent bijection.

    Returns:
        {id: the id whose treatment it takes over}, with N distinct keys and the same N values.

    Raises:
        ValueError: ids that repeat.

    Example:
        >>> swap = permuted(["a", "b", "c"], seed=0)
        >>> sorted(swap) == sorted(swap.values()) == ["a", "b", "c"]
        True
    """
    return dict(zip(sorted(ids), _shuffled(ids, seed, "permutation"), strict=True))


def _shuffled(ids: Sequence[str], seed: int, purpose: str) -> list[str]:
    _check_distinct(ids)
    return sorted(ids, key=lambda name: (_hash(purpose, seed, name), name))


def _hash(purpose: str, seed: int, name: str) -> int:
    """64 bits from (purpose, seed, name); JSON keeps the three apart, whatever characters they hold."""
    text = json.dumps([purpose, int(seed), name])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _as_written(number: float) -> Fraction:
    """The shortest decimal that names this float, exactly: 0.1 is 1/10."""
    return Fraction(repr(float(number)))


def _finite_values(values: np.ndarray, n: int) -> np.ndarray:
    exact = np.asarray(values, dtype=np.float64)
    if exact.shape != (n,):
        raise ValueError(f"values have shape {exact.shape}, wanted ({n},): one for each row")
    if not np.isfinite(exact).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(exact))} of {n} values are NaN or infinite, wanted none")
    return exact


def _check_distinct(ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} of {len(ids)} ids repeat, wanted each once")
