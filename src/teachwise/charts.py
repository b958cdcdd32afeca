"""Charts: plain data in, inline SVG out. No files, no styles of its own, no scripts.

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
MOST_ROWS = 120
"""A chart with more dots than this is no picture any more; the table beside it has the figures."""

BANDS = {"easy": 0, "medium": 1, "hard": 2}
GIVES = {"drop": "nothing", "answer": "answers", "rationale": "rationales"}


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


def _share_ticks(rows: Sequence[Mapping[str, Any]]) -> list[float]:
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


def _svg(title: str, desc: str, height: float, parts: Iterable[Markup]) -> Markup:
    head = Markup('<svg role="img" viewBox="0 0 {} {:.0f}" class="chart"><title>{}</title><desc>{}</desc>')
    return head.format(WIDTH, height, title, desc) + Markup("").join(parts) + Markup("</svg>")


def _text(x: float, y: float, label: str, kind: str = "", anchor: str = "start") -> Markup:
    form = Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>')
    return form.format(x, y, kind, anchor, label)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    form = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
    return form.format(x1, y1, x2, y2, kind)


def _rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> Markup:
    form = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"><title>{}</title></rect>')
    return form.format(x, y, max(0.0, width), max(0.0, height), kind, tip)


def _path(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    return Markup('<path d="M{}" class="{}"/>').format("L".join(f"{x:.1f} {y:.1f}" for x, y in points), kind)


def _nothing(title: str, why: str) -> Markup:
    return _svg(title, why, 60, [_text(WIDTH / 2, 34, cut(why, WIDTH), "soft", "middle")])


def _mark(index: int, x: float, y: float, tip: str = "", size: float = 4.6) -> Markup:
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
    return form.format(_mark(index, 8, 8, size=5))


def _tip(name: str, accuracy: Mapping[str, Any]) -> str:
    return f"{name}: {accuracy['value']:.1%} ({accuracy['low']:.1%} to {accuracy['high']:.1%}), n = {accuracy['n']:,}"


def _legend(names: Sequence[str], top: float) -> tuple[list[Markup], float]:
    """The arms with their signs in as many lines as they need, and where the legend ends."""
    parts, x, y = [], 8.0, top
    for index, name in enumerate(names):
        label = cut(name, WIDTH - 40)
        width = 30 + sum(LETTER * (0.5 if letter in "fijlrt.,:' " else 1) for letter in label)
        if x > 8 and x + width > WIDTH:
            x, y = 8.0, y + 20
        parts += [_mark(index, x + 6, y), _text(x + 16, y + 4, label)]
        x += width
    return parts, y + 12


def _grid_x(scale: Scale, at: Sequence[float], top: float, bottom: float, show: Callable[[float], str]) -> list[Markup]:
    parts = []
    for value in at:
        parts.append(_line(scale(value), top, scale(value), bottom, "grid"))
        parts.append(_text(scale(value), bottom + 16, show(value), "tick", "middle"))
    return parts


def _grid_y(scale: Scale, at: Sequence[float], left: float, right: float, show: Callable[[float], str]) -> list[Markup]:
    parts = []
    for value in at:
        parts.append(_line(left, scale(value), right, scale(value), "grid"))
        parts.append(_text(left - 6, scale(value) + 4, show(value), "tick", "end"))
    return parts


def roc_chart(
    points: Sequence[tuple[float, float]], auc: float | None, low: float | None, high: float | None
) -> Markup:
    """How many errors are caught when the questions with the highest scores are flagged.

    Args:
        points: The ROC curve, (share of right answers, share of wrong answers) flagged, from (0, 0) to (1, 1).
        auc: The area under it, 0-1; None where the student's answers were all right or all wrong.
        low: Lower end of its 95% interval.
        high: Upper end.
    """
    title = "How well the score predicts errors (ROC curve)"
    if auc is None or not points:
        return _nothing(title, "No curve: all answers were right, or all were wrong.")
    x, y = Scale(0, 1, 52, 404), Scale(0, 1, 336, 26)
    at = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [_text(4, 12, "wrong answers flagged", "soft")]
    parts += _grid_x(x, at, y(1), y(0), percent) + _grid_y(y, at, x(0), x(1), percent)
    curve = [(x(a), y(b)) for a, b in points]
    parts.append(_path([*curve, (x(1), y(0)), (x(0), y(0))], "under"))
    parts += [_line(x(0), y(0), x(1), y(1), "chance"), _path(curve, "curve")]
    span = "" if low is None or high is None else f"95% interval {low:.3f} to {high:.3f}"
    parts += [_text(396, 292, f"AUC {auc:.3f}", "strong", "end"), _text(396, 310, span, "", "end")]
    parts += [_text(396, 328, "dashed: guessing, 0.500", "soft", "end")]
    parts.append(_text(404, 374, "right answers flagged by mistake", "soft", "end"))
    return _svg(title, f"AUC {auc:.3f}. {span}", 382, parts)


def score_histogram(histogram: Mapping[str, Any]) -> Markup:
    """Right answers upwards and wrong ones downwards, by score.

    Where one bar dwarfs the others the bars' lengths are square roots of the counts, which the axis then says.

    Args:
        histogram: `edges` (bins + 1), and per bar the counts `correct` and `wrong`.
    """
    right, wrong, edges = histogram["correct"], histogram["wrong"], histogram["edges"]
    filled = [count for count in (*right, *wrong) if count]
    title = "Scores of right and wrong answers"
    if not filled:
        return _nothing(title, "No scores.")
    power = 0.5 if max(filled) > 10 * sum(filled) / len(filled) else 1.0
    unit = 250 / (max(right) ** power + max(wrong) ** power)
    middle = 34 + unit * max(right) ** power
    x = Scale(edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1, 52, 408)
    at = [value for value in ticks(x.low, x.high) if x.low <= value <= x.high]
    parts = [_text(4, 12, f"questions{' (square-root scale)' if power < 1 else ''}", "soft")]
    parts += _grid_x(x, at, 34, 284, lambda value: f"{value:g}")
    for largest, sign in ((max(right), -1), (max(wrong), 1)):
        for count in _count_ticks(largest, power, 15 / unit):
            place = middle + sign * unit * count**power
            parts += [_line(52, place, 408, place, "grid"), _text(46, place + 4, f"{count:,}", "tick", "end")]
    for i, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        left, width = x(edges[i]), x(edges[i + 1]) - x(edges[i])
        tip = f"{edges[i]:.2f} to {edges[i + 1]:.2f}: {good:,} right, {bad:,} wrong"
        parts.append(_rect(left + 0.5, middle - unit * good**power, width - 1, unit * good**power, "right", tip))
        parts.append(_rect(left + 0.5, middle, width - 1, unit * bad**power, "wrong", tip))
    parts += [_line(52, middle, 408, middle, "axis"), _text(408, 322, "score (higher = less sure)", "soft", "end")]
    parts += [_rect(56, 336, 12, 12, "right"), _text(74, 346, f"▲ right: {sum(right):,}")]
    parts += [_rect(206, 336, 12, 12, "wrong"), _text(224, 346, f"▼ wrong: {sum(wrong):,}")]
    return _svg(title, f"{sum(right):,} right answers above the line, {sum(wrong):,} wrong ones below.", 356, parts)


def _count_ticks(largest: int, power: float, apart: float) -> list[int]:
    """Counts to mark on one side of the histogram, none nearer to the last or to zero than there is room for."""
    if power == 1:
        wanted = ticks(0, largest, 3)
        return [int(value) for value in wanted if apart <= value <= largest and value == int(value)]
    found = [0]
    for count in (int(factor * 10**exponent) for exponent in range(9) for factor in (1, 2.5, 5)):
        if count <= largest and count**power - found[-1] ** power >= apart:
            found.append(count)
    return found[1:]


def arm_chart(arms: Mapping[str, Any], control: str | None = None) -> Markup:
    """Every arm's accuracy in its chosen mode, a dot with its 95% interval; the control's value as a thin line.

    Args:
        arms: By name, with `accuracy` {value, low, high, n}.
        control: The arm the others are set against, or None.
    """
    rows = [(name, arm["accuracy"]) for name, arm in arms.items()]
    at = _share_ticks([row for _, row in rows])
    x, bottom = Scale(at[0], at[-1], 24, 396), 10 + 42 * len(rows)
    parts = _grid_x(x, at, 4, bottom, percent)
    if control is not None and control in arms:
        place = x(arms[control]["accuracy"]["value"])
        parts.append(_line(place, 4, place, bottom, "chance"))
    for index, (name, row) in enumerate(rows):
        y = 8 + 42 * index
        value = f"{row['value']:.1%}  ({row['low'] * 100:.1f} to {row['high'] * 100:.1f})"
        label = name + (" (control, dashed)" if name == control else "")
        parts += [_text(4, y + 12, cut(label, 250), "halo"), _text(416, y + 12, value, "halo num", "end")]
        parts += [_interval_x(x, y + 26, row, index), _mark(index, x(row["value"]), y + 26, _tip(name, row))]
    parts.append(_text(416, bottom + 34, "test accuracy, 95% interval", "soft", "end"))
    return _svg("Accuracy of every arm", "; ".join(_tip(*row) for row in rows), bottom + 42, parts)


def _interval_x(x: Scale, y: float, row: Mapping[str, Any], index: int) -> Markup:
    return _line(x(row["low"]), y, x(row["high"]), y, f"span arm-{index % N_COLOURS}")


def budget_chart(arms: Mapping[str, Any]) -> Markup:
    """Accuracy against the teacher tokens an arm would pay for alone; arms of one price stand side by side.

    Args:
        arms: By name, with `accuracy` {value, low, high, n} and `cost` {teacher_tokens}.
    """
    rows = [(name, arm["accuracy"], arm["cost"]["teacher_tokens"]) for name, arm in arms.items()]
    at_y = _share_ticks([row for _, row, _ in rows])
    most = max(tokens for *_, tokens in rows)
    at_x = ticks(0, most) if most else [0.0]
    x, y = Scale(0, at_x[-1] or 1, 66, 398), Scale(at_y[0], at_y[-1], 264, 26)
    parts = [_text(4, 12, "test accuracy, 95% interval", "soft")]
    parts += _grid_x(x, at_x, y.end, y.start, short) + _grid_y(y, at_y, 52, 408, percent)
    taken: list[float] = []
    for index, (name, row, tokens) in enumerate(rows):
        place = _free_place(x(tokens), taken)
        taken.append(place)
        parts.append(_line(place, y(row["low"]), place, y(row["high"]), f"span arm-{index % N_COLOURS}"))
        parts.append(_mark(index, place, y(row["value"]), f"{_tip(name, row)}, {tokens:,.0f} teacher tokens"))
    parts.append(_text(408, 300, "teacher tokens", "soft", "end"))
    legend, end = _legend(list(arms), 322)
    desc = "; ".join(f"{_tip(name, row)}, {tokens:,.0f} teacher tokens" for name, row, tokens in rows)
    return _svg("Accuracy against teacher tokens", desc, end, parts + legend)


def _free_place(wanted: float, taken: Sequence[float]) -> float:
    """The place nearest to the wanted one, inside the chart, where no other arm stands."""
    places = (wanted + side * 11 * step for step in range(40) for side in (1, -1))
    free = (one for one in places if 57 <= one <= 404 and all(abs(one - other) >= 11 for other in taken))
    return next(free, wanted)


def band_bars(routes: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """What every arm gave to each band: one bar per stage, band and treatment.

    Args:
        routes: By arm, rows of {stage, band, give, rows}; stage -1 means not trained on.
    """
    title = "What every band was given"
    if not any(routes.values()):
        return _nothing(title, "Nothing was assigned.")
    most = max(row["rows"] for rows in routes.values() for row in rows) or 1
    parts, y, told = [], 4.0, []
    for index, (arm, rows) in enumerate(routes.items()):
        parts += [_mark(index, 12, y + 10), _text(24, y + 14, cut(arm, WIDTH - 70), "strong")]
        y += 22
        for row in sorted(rows, key=lambda row: (row["stage"], BANDS.get(row["band"], 3), row["give"])):
            stage = f" · stage {row['stage'] + 1}" if row["stage"] >= 0 else ""
            parts.append(_text(128, y + 12, cut(f"{row['band']}{stage}", 132), "soft", "end"))
            label, width = f"{row['rows']:,} {GIVES[row['give']]}", 150 * row["rows"] / most
            parts.append(_rect(134, y + 2, max(width, 1), 13, f"give-{row['give']}", label))
            parts.append(_text(140 + max(width, 1), y + 12, label, "num"))
            told.append(f"{arm}, {row['band']}{stage}: {label}")
            y += 19
        y += 8
    return _svg(title, "; ".join(told), y, parts)


def loss_chart(stages: Sequence[Mapping[str, Any]], index: int = 0) -> Markup:
    """The training loss of one arm, stage after stage; a dashed line where a new stage begins.

    Args:
        stages: In order, with `loss_curve` [(update, loss)] and `updates`.
        index: The arm's place among all arms, for its colour.
    """
    curves: list[list[tuple[float, float]]] = []
    begins, total = [0.0], 0.0
    for stage in stages:
        curves.append([(total + at, loss) for at, loss in stage["loss_curve"] if math.isfinite(loss)])
        total += max([stage["updates"], *(at for at, _ in stage["loss_curve"])])
        begins.append(total)
    drawn = [point for curve in curves for point in curve]
    if not drawn:
        return _nothing("Training loss", "No loss was recorded.")
    at_x, at_y = ticks(0, total), ticks(0, max(loss for _, loss in drawn), 4)
    x, y = Scale(0, total or 1, 46, 404), Scale(0, at_y[-1] or 1, 176, 26)
    parts = [_text(4, 12, "loss", "soft")]
    parts += _grid_x(x, [at for at in at_x if at <= total], 26, 176, short) + _grid_y(y, at_y, 46, 404, short)
    for number, curve in enumerate(curves):
        if number:
            parts.append(_line(x(begins[number]), 26, x(begins[number]), 176, "chance"))
        if len(curves) > 1:
            middle = (x(begins[number]) + x(begins[number + 1])) / 2
            parts.append(_text(middle, 38, f"stage {number + 1}", "halo soft", "middle"))
        if len(curve) == 1:
            parts.append(_mark(index, x(curve[0][0]), y(curve[0][1])))
        elif curve:
            parts.append(_path([(x(at), y(loss)) for at, loss in curve], f"curve arm-{index % N_COLOURS}"))
    parts.append(_text(404, 208, "updates", "soft", "end"))
    return _svg("Training loss", f"From {drawn[0][1]:.3f} to {drawn[-1][1]:.3f} in {total:,.0f} updates.", 214, parts)


def group_names(arms: Mapping[str, Any], group: str) -> list[str]:
    """The names of a group in reading order: bands from easy to hard, numbers by size, all else by letter."""
    names = list(next(iter(arms.values())).get(group, {})) if arms else []
    return sorted(names, key=lambda name: (BANDS.get(name, 3), len(name) if name.isdigit() else 0, name))


def group_chart(arms: Mapping[str, Any], group: str) -> Markup:
    """Accuracy with its 95% interval in every subject, band or level, the arms one below the other.

    Args:
        arms: By name, with `group` {name: {value, low, high, n}}.
        group: `by_subject`, `by_band` or `by_level`.

    Returns:
        The chart; nothing where it would have more than `MOST_ROWS` dots, which a table shows better.
    """
    names = group_names(arms, group)
    if not names or len(names) * len(arms) > MOST_ROWS:
        return Markup("")
    x, height = Scale(0, 1, 20, 400), 26 + 10 * len(arms)
    bottom = 4.0 + height * len(names)
    parts = _grid_x(x, [0.0, 0.25, 0.5, 0.75, 1.0], 4, bottom, percent)
    for place, name in enumerate(names):
        top = 4 + height * place
        n = next(iter(arms.values()))[group][name]["n"]
        parts.append(_text(4, top + 14, f"{cut(name or '(none)', 300)} · {n:,} questions", "halo"))
        for index, (arm, summary) in enumerate(arms.items()):
            row, y = summary[group][name], top + 25 + 10 * index
            parts += [_interval_x(x, y, row, index), _mark(index, x(row["value"]), y, _tip(arm, row), 3.6)]
    legend, end = _legend(list(arms), bottom + 36)
    return _svg(f"Accuracy {group.replace('_', ' ')}", f"{len(names)} groups, {len(arms)} arms.", end, parts + legend)
