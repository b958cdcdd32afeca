"""Answer entropy: how spread a student's belief is over the next token, the one that would be its answer.

This float64 form is the reference. The engine computes the same number in torch, where the logits already are, and is
tested against it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def answer_entropy(logits: np.ndarray) -> np.ndarray:
    """Shannon entropy of the softmax of each row, over the whole vocabulary.

    With m the largest logit of a row, d_v = l_v - m and the sums running over every token but the likeliest,

        s = sum exp(d_v),    H = ln(1 + s) - sum p_v d_v,    p_v = exp(d_v) / (1 + s)

    Leaving the likeliest token out is what keeps a sure student's score exact: its own term, ln(p) with p near 1,
    loses all its digits, while here both parts are sums of small numbers that are never negative. Students are sure
    most of the time, so the low end of the ranking, and with it the easy band, depends on this.

    Args:
        logits: (B, V), any real dtype; computed in float64. A token at -inf is impossible and adds nothing.

    Returns:
        (B,) float64, nats, from 0 to ln V, with a relative error near 1e-15 for float64 logits.

    Raises:
        ValueError: `logits` is not (B, V) with V >= 1, or a row holds NaN, +inf or nothing but -inf.

    Source:
        arXiv 2506.21220 (single-token answer entropy over the full vocabulary). Its code takes ln(p + 1e-12); we add
        nothing; the two differ by at most 1e-12 V nats.

    Example:
        >>> answer_entropy(np.array([[0.0, 0.0], [0.0, -np.inf]]))
        array([0.69314718, 0.        ])
        >>> answer_entropy(np.array([[0.0, -100.0]])) > 0  # p = 1 - 4e-44
        array([ True])
    """
    exact = np.asarray(logits, dtype=np.float64)
    _check_logits(exact)
    likeliest = exact.argmax(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # a gap wider than float64 is -inf, and exp of it the right 0
        below = exact - np.take_along_axis(exact, likeliest, axis=1)
    weights = np.exp(below)
    np.put_along_axis(weights, likeliest, 0.0, axis=1)
    below[weights == 0.0] = 0.0  # 0 * -inf is NaN; the limit is 0
    rest = weights.sum(axis=1)
    entropy: np.ndarray = np.log1p(rest) - (weights * below).sum(axis=1) / (1.0 + rest)
    return entropy


@dataclass(frozen=True)
class TruncatedEntropy:
    """What the k likeliest tokens say of an entropy. Never to be ranked among exact ones.

    Attributes:
        value: The part of the seen tokens, -sum p ln p over them alone, in nats.
        low: The least that the whole entropy can be, nats.
        high: The most, nats.
        unseen_mass: Probability of all other tokens together, 0-1.
        k: Tokens seen.
    """

    value: float
    low: float
    high: float
    unseen_mass: float
    k: int

    @property
    def is_truncated(self) -> bool:
        """Whether anything is unseen."""
        return self.low < self.high


def top_k_entropy(logprobs: Sequence[float], n_vocabulary: int) -> TruncatedEntropy:
    """Bounds of the answer entropy where an API returns the k likeliest tokens alone.

    With u = 1 - sum p of the seen ones and q the smallest of them, no unseen token is likelier than q. So it is

        at least   value - m q ln q - r ln r,       m = floor(u / q), r = u - m q    (as few unseen tokens as can be)
        at most    value - u ln(u / (V - k))                                         (all as likely as one another)

    Args:
        logprobs: k natural logarithms of probabilities, in any order.
        n_vocabulary: V, tokens of the model's vocabulary, >= k.

    Raises:
        ValueError: no number, one that is NaN or above 0, or more than the vocabulary has.

    Source:
        arXiv 2506.21220 takes `value` of the top 20, unnormalised; the bounds are ours.

    Example:
        >>> two = top_k_entropy([math.log(0.5), math.log(0.25)], 4)  # 0.25 is left for two more tokens
        >>> round(two.low / math.log(2), 9), round(two.high / math.log(2), 9), two.unseen_mass
        (1.5, 1.75, 0.25)
    """
    logs, k = np.asarray(logprobs, dtype=np.float64), len(logprobs)
    if not 1 <= k <= n_vocabulary or np.isnan(logs).any() or logs.max() > _ROUNDING:
        raise ValueError(f"{k} logprobs up to {logs.max(initial=-np.inf)}, wanted 1 to {n_vocabulary} of at most 0")
    seen = np.exp(np.minimum(logs, 0.0))
    value = float(-(seen[seen > 0] * np.minimum(logs[seen > 0], 0.0)).sum())
    unseen = max(0.0, 1.0 - math.fsum(seen)) if k < n_vocabulary else 0.0
    if not unseen:
        return TruncatedEntropy(value, value, value, 0.0, k)
    most = -unseen * math.log(unseen / (n_vocabulary - k))
    return TruncatedEntropy(value, value + min(_as_few(unseen, float(seen.min())), most), value + most, unseen, k)


def _as_few(mass: float, largest: float) -> float:
    """The entropy that a mass adds, in nats, where it lies on as few tokens as can be, none likelier than `largest`."""
    if largest <= 0:
        return math.inf
    whole, rest = divmod(mass, largest)
    return -whole * largest * math.log(largest) - (rest * math.log(rest) if rest > 0 else 0.0)


_ROUNDING = 1e-3
"""How far above 0 an API's logarithm may lie by rounding."""


def _check_logits(logits: np.ndarray) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits have shape {logits.shape}, wanted (B, V) with V >= 1")
    largest = logits.max(axis=1)  # NaN wins every maximum, so this one look finds all three faults
    bad = np.flatnonzero(~np.isfinite(largest))
    if bad.size:
        raise ValueError(
            f"row {bad[0]} of the logits has {largest[bad[0]]} as its largest, wanted a finite number "
            f"({bad.size} of {len(logits)} rows are like this)"
        )
