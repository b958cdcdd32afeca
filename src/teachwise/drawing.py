"""Drawing: the parts of a chart, as inline SVG. No files, no styles of its own, no scripts.

Every chart is 420 units wide, so that its text is still read on a phone, and grows with its page. Colour comes from
the page: an arm's marks carry the class `arm-0` ... `arm-6`, and every arm has its own shape as well.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDTH = 420
LETTER = 7.6
"""About the width of one letter, in chart units."""

N_COLOURS = 7


@dataclass(frozen=True)
class Scale:
    """A line from values to places in the chart."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value; values outside the range are held at its ends."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that cover a range, at most `most + 1` steps.

    Example:
        >>> ticks(0.78, 0.89)
        [0.775, 0.8, 0.825, 0.85, 0.875, 0.9]
    """
    if not 1e-9 * max(1.0, abs(low)) <= high - low < math.inf:
        high = low + max(1.0, abs(low))
    width = high - low
    power = 10.0 ** math.floor(math.log10(width / most))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power * most >= width * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, last + 1)]


def share_ticks(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Round shares around all intervals, never below 0 or above 1."""
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    return ticks(max(0.0, low - 0.01), min(1.0, high + 0.01))


def short(value: float) -> str:
    """A count as an axis has room for.

    Example:
        >>> short(0), short(1500), short(2_000_000)
        ('0', '1.5k', '2M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def percent(value: float) -> str:
    """A share as an axis has room for: `80%`, or `82.5%` where whole numbers would not do."""
    return f"{round(value * 100, 4):g}%"


def cut(label: str, room: float) -> str:
    """The label, shortened to fit into `room` chart units."""
    most = max(4, int(room / LETTER))
    return label if len(label) <= most else label[: most - 1] + "…"


def svg(title: str, desc: str, height: float, parts: Iterable[Markup]) -> Markup:
    """A whole chart; its title and description are what a screen reader says."""
    head = Markup('<svg role="img" viewBox="0 0 {} {:.0f}" class="chart"><title>{}</title><desc>{}</desc>')
    return head.format(WIDTH, height, title, desc) + Markup("").join(parts) + Markup("</svg>")


def text(x: float, y: float, label: str, kind: str = "", anchor: str = "start") -> Markup:
    """A label; `kind` is its class on the page."""
    form = Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>')
    return form.format(x, y, kind, anchor, label)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return form.format(x1, y1, x2, y2, kind)


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> Markup:
    """A box, with a tip that shows under the pointer."""
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"><title>{}</title></rect>')
    return form.format(x, y, max(0.0, width), max(0.0, height), kind, tip)


def path(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """A line through points."""
    return Markup('<path d="M{}" class="{}"/>').format("L".join(f"{x:.1f} {y:.1f}" for x, y in points), kind)


def nothing(title: str, why: str) -> Markup:
    """What stands in place of a chart that cannot be drawn."""
    return svg(title, why, 60, [text(WIDTH / 2, 34, cut(why, WIDTH), "soft", "middle")])


def mark(index: int, x: float, y: float, tip: str = "", size: float = 4.6) -> Markup:
    """An arm's sign: one of seven colours and, independently, one of six shapes."""
    s = size
    shapes: tuple[tuple[tuple[float, float], ...], ...] = (
        ((-s, -s), (s, -s), (s, s), (-s, s)),
        ((0, -1.25 * s), (1.2 * s, s), (-1.2 * s, s)),
        ((0, -1.4 * s), (1.4 * s, 0), (0, 1.4 * s), (-1.4 * s, 0)),
        ((0, 1.25 * s), (1.2 * s, -s), (-1.2 * s, -s)),
        ((-1.5 * s, -0.6 * s), (1.5 * s, -0.6 * s), (1.5 * s, 0.6 * s), (-1.5 * s, 0.6 * s)),
    )
    kind, number = f"mark arm-{index % N_COLOURS}", index % (len(shapes) + 1)
    if number == 0:
        form = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}"><title>{}</title></circle>')
        return form.format(x, y, 1.1 * s, kind, tip)
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[number - 1])
    return Markup('<polygon points="{}" class="{}"><title>{}</title></polygon>').format(places, kind, tip)


def symbol(index: int) -> Markup:
    """An arm's sign, to stand before its name in a text or a table."""
    form = Markup('<svg class="symbol" viewBox="0 0 16 16" aria-hidden="true">{}</svg>')
    return form.format(mark(index, 8, 8, size=5))


def tip(name: str, accuracy: Mapping[str, Any]) -> str:
    """An arm's accuracy in words."""
    return f"{name}: {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}), n = {accuracy['n']:,}"


def legend(names: Sequence[str], top: float) -> tuple[list[Markup], float]:
    """The arms with their signs in as many lines as they need, and where the legend ends."""
    parts, x, y = [], 8.0, top
    for index, name in enumerate(names):
        label = cut(name, WIDTH - 40)
        width = 30 + sum(LETTER * (0.5 if letter in "fijlrt.,:' " else 1) for letter in label)
        if x > 8 and x + width > WIDTH:
            x, y = 8.0, y + 20
        parts += [mark(index, x + 6, y), text(x + 16, y + 4, label)]
        x += width
    return parts, y + 12


def grid_x(scale: Scale, at: Sequence[float], top: float, bottom: float, show: Callable[[float], str]) -> list[Markup]:
    """Upright lines at some values, each with its label below."""
    parts = []
    for value in at:
        parts.append(line(scale(value), top, scale(value), bottom, "grid"))
        parts.append(text(scale(value), bottom + 16, show(value), "tick", "middle"))
    return parts


def grid_y(scale: Scale, at: Sequence[float], left: float, right: float, show: Callable[[float], str]) -> list[Markup]:
    """Level lines at some values, each with its label to the left."""
    parts = []
    for value in at:
        parts.append(line(left, scale(value), right, scale(value), "grid"))
        parts.append(text(left - 6, scale(value) + 4, show(value), "tick", "end"))
    return parts
