"""Answer entropy: how spread a student's belief is over the next token, the one that would be its answer.

This float64 form is the reference. The engine computes the same number in torch, where the logits already are, and is
tested against it.
"""

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
