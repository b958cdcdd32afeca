"""Durations in words."""


def took(seconds: float, digits: int = 1) -> str:
    """A duration in words.

    Args:
        seconds: How long.
        digits: Decimals of a duration under a minute.

    Example:
        >>> took(4.21), took(4.21, 0), took(200), took(7300)
        ('4.2 s', '4 s', '3 min 20 s', '2 h 1 min')
    """
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
