"""Charts: plain data in, inline SVG out. What each one shows; the parts they are made of are in `drawing`."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from teachwise.drawing import (
    LETTER,
    N_COLOURS,
    WIDTH,
    Scale,
    cut,
    grid_x,
    grid_y,
    legend,
    line,
    mark,
    nothing,
    path,
    percent,
    rect,
    share_ticks,
    short,
    svg,
    text,
    ticks,
    tip,
)

MOST_ROWS = 120
"""A chart with more dots than this is no picture any more; the table beside it has the figures."""

APART = 12
"""How far two arms stand from each other on the axis of prices, in chart units."""

BANDS = {"easy": 0, "medium": 1, "hard": 2}
GIVES = {"drop": "nothing", "answer": "answers", "rationale": "rationales"}


def roc_chart(
    points: Sequence[tuple[float, float]],
    band: Sequence[tuple[float, float, float]],
    auc: float | None,
    low: float | None,
    high: float | None,
) -> Markup:
    """How many errors are caught when the questions with the highest scores are flagged.

    Args:
        points: The ROC curve, (share of right answers, share of wrong answers) flagged, from (0, 0) to (1, 1).
        band: Its 95% band, (share of right answers, lowest, highest share of wrong answers); may be empty.
        auc: The area under it, 0-1; None where the student's answers were all right or all wrong.
        low: Lower end of its 95% interval.
        high: Upper end.
    """
    title = "How well the score predicts errors (ROC curve)"
    if auc is None or not points:
        return nothing(title, "No curve: all answers were right, or all were wrong.")
    x, y = Scale(0, 1, 52, 404), Scale(0, 1, 336, 26)
    at = [0.0, 0.25, 0.5, 0.75, 1.0]
    parts = [text(4, 12, "wrong answers flagged", "soft")]
    parts += grid_x(x, at, y(1), y(0), percent) + grid_y(y, at, x(0), x(1), percent)
    if band:
        around = [(x(at), y(top)) for at, _, top in band] + [(x(at), y(bottom)) for at, bottom, _ in reversed(band)]
        parts.append(path(around, "band"))
    parts += [line(x(0), y(0), x(1), y(1), "chance"), path([(x(a), y(b)) for a, b in points], "curve")]
    span = "" if low is None or high is None else f"95% interval {low:.3f} to {high:.3f}"
    parts += [text(396, 274, f"AUC {auc:.3f}", "halo strong", "end"), text(396, 292, span, "halo", "end")]
    if band:
        parts += [rect(226, 301, 22, 10, "band"), text(254, 310, "95% band of the curve", "halo soft")]
    parts += [line(226, 324, 248, 324, "chance"), text(254, 328, "guessing, AUC 0.500", "halo soft")]
    parts.append(text(404, 374, "right answers flagged by mistake", "soft", "end"))
    return svg(title, f"AUC {auc:.3f}. {span}", 382, parts)


def measure_chart(measures: Mapping[str, Any], min_auc: float) -> Markup:
    """The AUC of every measure with its 95% interval, one below the other, as a bar from where guessing is.

    Args:
        measures: By name, the driving one first, with `auc`, `auc_low`, `auc_high` (None where it cannot be measured)
            and `n`.
        min_auc: The gate's limit, a solid line.
    """
    title = "Which measure predicts errors?"
    ends = [{"low": one["auc_low"], "high": one["auc_high"]} for one in measures.values() if one["auc"] is not None]
    if not ends:
        return nothing(title, "No AUC: all answers were right, or all were wrong.")
    at = share_ticks([*ends, {"low": min(0.5, min_auc), "high": max(0.5, min_auc)}])
    x, bottom, told = Scale(at[0], at[-1], 20, 400), 8.0 + 34 * len(measures), []
    parts = [*grid_x(x, at, 4, bottom, lambda value: f"{value:g}"), line(x(0.5), 4, x(0.5), bottom, "chance")]
    parts.append(line(x(min_auc), 4, x(min_auc), bottom, "axis"))
    for place, (name, one) in enumerate(measures.items()):
        y, index = 26.0 + 34 * place, min(place, 1)  # the driving one has a colour of its own
        parts.append(text(4, y - 8, cut(f"{name} · {one['n']:,} questions", 400), "halo"))
        if one["auc"] is not None:
            told.append(f"{name}: AUC {one['auc']:.3f} ({one['auc_low']:.3f} to {one['auc_high']:.3f})")
            left, right = sorted((x(0.5), x(one["auc"])))
            parts.append(rect(left, y - 3, right - left, 10, "band", told[-1]))
            row = {"low": one["auc_low"], "high": one["auc_high"]}
            parts += [_interval_x(x, y + 2, row, index), mark(index, x(one["auc"]), y + 2, told[-1], 3.6)]
    parts.append(text(404, bottom + 34, "AUC; dashed: guessing, solid: the limit", "soft", "end"))
    return svg(title, "; ".join(told), bottom + 40, parts)


def score_histogram(histogram: Mapping[str, Any], borders: Sequence[float] = ()) -> Markup:
    """Right answers upwards and wrong ones downwards, by score.

    Where one bar dwarfs the others the bars' lengths are square roots of the counts, which the axis then says.

    Args:
        histogram: `edges` (bins + 1), and per bar the counts `correct` and `wrong`.
        borders: The scores at which the medium and the hard band begin, if any.
    """
    right, wrong, edges = histogram["correct"], histogram["wrong"], histogram["edges"]
    filled = [count for count in (*right, *wrong) if count]
    title = "Scores of right and wrong answers"
    if not filled:
        return nothing(title, "No scores.")
    power = 0.5 if max(filled) > 10 * sum(filled) / len(filled) else 1.0
    unit = 250 / (max(right) ** power + max(wrong) ** power)
    middle = 34 + unit * max(right) ** power
    x = Scale(edges[0], edges[-1] if edges[-1] > edges[0] else edges[0] + 1, 52, 408)
    at = [value for value in ticks(x.low, x.high) if x.low <= value <= x.high]
    parts = [text(4, 12, f"questions{' (square-root scale)' if power < 1 else ''}", "soft")]
    parts += grid_x(x, at, 34, 284, lambda value: f"{value:g}")
    for largest, sign in ((max(right), -1), (max(wrong), 1)):
        for count in _count_ticks(largest, power, 15 / unit):
            place = middle + sign * unit * count**power
            parts += [line(52, place, 408, place, "grid"), text(46, place + 4, f"{count:,}", "tick", "end")]
    for i, (good, bad) in enumerate(zip(right, wrong, strict=True)):
        left, width = x(edges[i]), x(edges[i + 1]) - x(edges[i])
        tip = f"{edges[i]:.2f} to {edges[i + 1]:.2f}: {good:,} right, {bad:,} wrong"
        parts.append(rect(left + 0.5, middle - unit * good**power, width - 1, unit * good**power, "right", tip))
        parts.append(rect(left + 0.5, middle, width - 1, unit * bad**power, "wrong", tip))
    parts += _band_borders(x, borders)
    parts += [line(52, middle, 408, middle, "axis"), text(408, 322, "score (higher = less sure)", "soft", "end")]
    parts += [rect(56, 336, 12, 12, "right"), text(74, 346, f"▲ right: {sum(right):,}")]
    parts += [rect(206, 336, 12, 12, "wrong"), text(224, 346, f"▼ wrong: {sum(wrong):,}")]
    return svg(title, f"{sum(right):,} right answers above the line, {sum(wrong):,} wrong ones below.", 356, parts)


def _band_borders(x: Scale, borders: Sequence[float]) -> list[Markup]:
    """A dashed line where a band begins, and each band's name; beside its band, with a sign towards it, if narrow."""
    if not borders:
        return []
    ends = [x.start, *(x(border) for border in borders), x.end]
    names: list[tuple[str, float]] = []
    for name, (left, right) in zip(BANDS, pairwise(ends), strict=True):
        if right - left > LETTER * len(name) + 8:
            names.append((name, (left + right) / 2))
        elif left + right < x.start + x.end:
            names.append((f"◂ {name}", right + LETTER * (len(name) + 2) / 2))
        else:
            names.append((f"{name} ▸", left - LETTER * (len(name) + 2) / 2))
    lines = [line(place, 32, place, 284, "chance") for place in ends[1:-1]]
    return lines + [text(at, 28, name, "halo soft", "middle") for name, at in _side_by_side(names, x)]


def _side_by_side(names: Sequence[tuple[str, float]], x: Scale) -> list[tuple[str, float]]:
    """Names moved apart where they would stand on one another, in their order and within the chart."""
    places, end = [], x.start
    for name, at in names:
        half = LETTER * len(name) / 2
        places.append(max(at, end + half))
        end = places[-1] + half + 4
    end = x.end
    for number in reversed(range(len(names))):
        half = LETTER * len(names[number][0]) / 2
        places[number] = min(places[number], end - half)
        end = places[number] - half - 4
    return [(name, place) for (name, _), place in zip(names, places, strict=True)]


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
    at = share_ticks([row for _, row in rows])
    x, bottom = Scale(at[0], at[-1], 24, 396), 10 + 42 * len(rows)
    parts = grid_x(x, at, 4, bottom, percent)
    if control is not None and control in arms:
        place = x(arms[control]["accuracy"]["value"])
        parts.append(line(place, 4, place, bottom, "chance"))
    for index, (name, row) in enumerate(rows):
        y = 8 + 42 * index
        value = f"{row['value']:.1%}  ({row['low'] * 100:.1f} to {row['high'] * 100:.1f})"
        label = name + (" (control, dashed)" if name == control else "")
        parts += [text(4, y + 12, cut(label, 250), "halo"), text(416, y + 12, value, "halo num", "end")]
        parts += [_interval_x(x, y + 26, row, index), mark(index, x(row["value"]), y + 26, tip(name, row))]
    parts.append(text(416, bottom + 34, "test accuracy, 95% interval", "soft", "end"))
    return svg("Accuracy of every arm", "; ".join(tip(*row) for row in rows), bottom + 42, parts)


def _interval_x(x: Scale, y: float, row: Mapping[str, Any], index: int) -> Markup:
    return line(x(row["low"]), y, x(row["high"]), y, f"span arm-{index % N_COLOURS}")


def budget_chart(arms: Mapping[str, Any]) -> Markup:
    """Accuracy against the teacher tokens an arm would pay for alone.

    Arms that ask no teacher stand side by side in a strip of their own, all of it at zero.

    Args:
        arms: By name, with `accuracy` {value, low, high, n} and `cost` {teacher_tokens}.
    """
    rows = [(name, arm["accuracy"], arm["cost"]["teacher_tokens"]) for name, arm in arms.items()]
    at_y = share_ticks([row for _, row, _ in rows])
    most, n_free = max(tokens for *_, tokens in rows), sum(not tokens for *_, tokens in rows)
    zero = 52 + (12 + APART * n_free if n_free else 8) if most else 408
    at_x = ticks(0, most, 4)[1:] if most else []
    x, y = Scale(0, at_x[-1] if at_x else 1, zero, 394), Scale(at_y[0], at_y[-1], 264, 26)
    parts = [text(4, 12, "test accuracy, 95% interval", "soft")]
    if n_free:
        parts += [rect(52, 26, zero - 52, 238, "zone", "no teacher tokens"), line(zero, 26, zero, 264, "grid")]
    parts += [text((52 + zero) / 2 if n_free else zero, 280, "0", "tick", "middle")]
    parts += grid_x(x, at_x, y.end, y.start, short) + grid_y(y, at_y, 52, 408, percent)
    places, taken = _places(rows, x, zero), []
    for index, (name, row, tokens) in enumerate(rows):
        taken.append(f"{tip(name, row)}, {tokens:,.0f} teacher tokens")
        parts.append(line(places[index], y(row["low"]), places[index], y(row["high"]), f"span arm-{index % N_COLOURS}"))
        parts.append(mark(index, places[index], y(row["value"]), taken[-1]))
    parts.append(text(408, 300, "teacher tokens", "soft", "end"))
    signs, end = legend(list(arms), 322)
    return svg("Accuracy against teacher tokens", "; ".join(taken), end, parts + signs)


def _places(rows: Sequence[tuple[str, Any, float]], x: Scale, zero: float) -> list[float]:
    """Where each arm stands: the free ones in order in their strip, the others at their price, none on another."""
    n_free = sum(not tokens for *_, tokens in rows)
    step = min(APART, (zero - 52) / max(1, n_free))
    first = (52 + zero) / 2 - step * (n_free - 1) / 2
    found: list[float] = []
    for *_, tokens in rows:
        n_before = sum(place < zero for place in found)
        found.append(_free_place(x(tokens), zero, found) if tokens else first + step * n_before)
    return found


def _free_place(wanted: float, zero: float, taken: Sequence[float]) -> float:
    """The place nearest to the wanted one, right of zero and inside the chart, where no other arm stands."""
    places = (wanted + side * APART * step for step in range(40) for side in (1, -1))
    free = (one for one in places if zero < one <= 404 and all(abs(one - other) >= APART for other in taken))
    return next(free, wanted)


def band_bars(routes: Mapping[str, Sequence[Mapping[str, Any]]]) -> Markup:
    """What every arm gave to each band: one bar per stage, band and treatment.

    Args:
        routes: By arm, rows of {stage, band, give, rows}; stage -1 means not trained on.
    """
    title = "What every band was given"
    if not any(routes.values()):
        return nothing(title, "Nothing was assigned.")
    most = max(row["rows"] for rows in routes.values() for row in rows) or 1
    parts, y, told = [], 4.0, []
    for index, (arm, rows) in enumerate(routes.items()):
        parts += [mark(index, 12, y + 10), text(24, y + 14, cut(arm, WIDTH - 70), "strong")]
        y += 22
        for row in sorted(rows, key=lambda row: (row["stage"], BANDS.get(row["band"], 3), row["give"])):
            stage = f" · stage {row['stage'] + 1}" if row["stage"] >= 0 else ""
            parts.append(text(128, y + 12, cut(f"{row['band']}{stage}", 132), "soft", "end"))
            label, width = f"{row['rows']:,} {GIVES[row['give']]}", 150 * row["rows"] / most
            parts.append(rect(134, y + 2, max(width, 1), 13, f"give-{row['give']}", label))
            parts.append(text(140 + max(width, 1), y + 12, label, "num"))
            told.append(f"{arm}, {row['band']}{stage}: {label}")
            y += 19
        y += 8
    return svg(title, "; ".join(told), y, parts)


def teacher_bars(teacher: Mapping[str, Any]) -> Markup:
    """What the rationales of each band came to: right, wrong, or without an answer; a line at the bound.

    Args:
        teacher: The comparison's part about the teacher: `by_band`, `min_usable`, and the `band` it is judged by.
    """
    title, parts, y, told = "What the teacher’s rationales came to", [], 4.0, []
    x = Scale(0, 1, 4, 416)
    for band, row in teacher["by_band"].items():
        n = row["n"] - row["unpaid"]
        if not n:
            continue
        shares = {"right": row["correct"] / n, "wrong": row["wrong"] / n}
        shares["drop"] = max(0.0, 1 - sum(shares.values()))
        label = " · ".join(f"{GRADES[name]} {share:.1%}" for name, share in shares.items())
        parts.append(text(4, y + 12, f"{band}: {n:,} rationale{'s' * (n != 1)}", "strong"))
        start = 0.0
        for name, share in shares.items():
            tip = f"{band}: {GRADES[name]} {share:.1%}"
            parts.append(rect(x(start), y + 20, x(start + share) - x(start), 14, f"part-{name}", tip))
            start += share
        parts.append(text(4, y + 48, label, "soft"))
        if band == teacher.get("band"):
            bound = x(teacher["min_usable"])
            parts += [
                line(bound, y + 16, bound, y + 38, "axis"),
                text(416, y + 12, f"line: bound of {teacher['min_usable']:.0%}", "soft", "end"),
            ]
        told.append(f"{band}, {n:,} rationales: {label}")
        y += 66
    return svg(title, "; ".join(told), y, parts) if told else nothing(title, "No rationale was bought.")


GRADES = {"right": "▲ right", "wrong": "▼ wrong", "drop": "no answer"}


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
        return nothing("Training loss", "No loss was recorded.")
    at_x, at_y = ticks(0, total), ticks(0, max(loss for _, loss in drawn), 4)
    top = 40 if len(curves) > 1 else 26  # room for the stages' names, which no curve crosses
    x, y = Scale(0, total or 1, 46, 404), Scale(0, at_y[-1] or 1, top + 150, top)
    parts = [text(4, 12, "loss", "soft")]
    parts += grid_x(x, [at for at in at_x if at <= total and at == int(at)], top, top + 150, short) + grid_y(
        y, at_y, 46, 404, short
    )
    if len(curves) > 1:
        middles = [(x(first) + x(last)) / 2 for first, last in pairwise(begins)]
        stages_at = _side_by_side([(f"stage {number}", at) for number, at in enumerate(middles, 1)], x)
        parts += [text(at, 30, name, "soft", "middle") for name, at in stages_at]
    for number, curve in enumerate(curves):
        if number:
            parts.append(line(x(begins[number]), 24, x(begins[number]), top + 150, "chance"))
        if len(curve) == 1:
            parts.append(mark(index, x(curve[0][0]), y(curve[0][1])))
        elif curve:
            parts.append(path([(x(at), y(loss)) for at, loss in curve], f"curve arm-{index % N_COLOURS}"))
    parts.append(text(404, top + 182, "updates", "soft", "end"))
    told = f"From {drawn[0][1]:.3f} to {drawn[-1][1]:.3f} in {total:,.0f} updates."
    return svg("Training loss", told, top + 188, parts)


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
    parts = grid_x(x, [0.0, 0.25, 0.5, 0.75, 1.0], 4, bottom, percent)
    for place, name in enumerate(names):
        top = 4 + height * place
        n = next(iter(arms.values()))[group][name]["n"]
        parts.append(text(4, top + 14, f"{cut(name or '(none)', 300)} · {n:,} questions", "halo"))
        for index, (arm, summary) in enumerate(arms.items()):
            row, y = summary[group][name], top + 25 + 10 * index
            parts += [_interval_x(x, y, row, index), mark(index, x(row["value"]), y, tip(arm, row), 3.6)]
    signs, end = legend(list(arms), bottom + 36)
    return svg(f"Accuracy {group.replace('_', ' ')}", f"{len(names)} groups, {len(arms)} arms.", end, parts + signs)
