"""Figures: numbers as people read them."""

import math
from collections.abc import Iterable, Sequence


def number(value: float | None, digits: int = 0) -> str:
    """A number with thousands marked; a dash where there is none.

    Example:
        >>> number(1234.56), number(0.9637, 3), number(None)
        ('1,235', '0.964', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent: 0.8342 is `83.4%`."""
    shown = number(None if value is None else 100 * value, digits)
    return shown if shown == "–" else f"{shown}%"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign.

    Example:
        >>> points(0.028), points(-0.041), points(-0.0001)
        ('+2.8', '−4.1', '0.0')
    """
    if value is None or not math.isfinite(value):
        return "–"
    rounded = round(100 * value, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def p_values(values: Iterable[float]) -> str:
    """p-values to three places, one per training seed.

    Example:
        >>> p_values([0.0321]), p_values([0.0000001, 0.5]), p_values([0.5, 0.5])
        ('p = 0.032', 'p < 0.001, 0.500', 'p = 0.500 each')
    """
    each = ["< 0.001" if value < 0.001 else f"{value:.3f}" for value in values]
    shown = f"{each[0]} each" if len(each) > 1 and len(set(each)) == 1 else ", ".join(each)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def listed(words: Sequence[str]) -> str:
    """Words in a row.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
