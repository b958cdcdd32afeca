"""Report: the whole story of a run in one HTML file that needs nothing else.

in   every folder of the run           tables, manifests, validation.json, comparison.json
out  report/report.json                everything the page shows, as data
out  report/report.html                the page, self-contained
"""

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.table import Table

from teachwise import charts
from teachwise.ledger import LEDGER, Ledger
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Score, Unusable, by_id
from teachwise.run import Run, Unit, write_json, write_text

LIBRARIES = ("teachwise", "torch", "transformers", "trl", "peft", "datasets", "numpy")
MODES = {"direct": "direct", "cot": "chain of thought", "routed": "routed"}


def result_table(comparison: Mapping[str, Any]) -> Table:
    """The table of arms as the terminal shows it."""
    others = [one for one in (comparison["base"], comparison["control"]) if one]
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="accuracy and differences in %, with 95% intervals",
    )
    for name in ("arm", "mode", "accuracy", *(f"against {other}" for other in others)):
        table.add_column(name, no_wrap=True)
    table.add_column("teacher\ntokens", justify="right", no_wrap=True)
    for name, arm in comparison["arms"].items():
        own = arm["accuracy"]
        table.add_row(
            name,
            arm["mode"],
            f"{own['value'] * 100:.1f} ({own['low'] * 100:.1f}-{own['high'] * 100:.1f})",
            *(_gap(arm, other) for other in others),
            f"{arm['cost']['teacher_tokens']:,.0f}",
        )
    return table


def _gap(arm: Mapping[str, Any], other: str) -> str:
    if other not in arm["against"]:
        return ""
    value, low, high = (arm["against"][other]["difference"][name] * 100 for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} {high:+.1f})"


def histogram(values: Sequence[float], correct: Sequence[bool], bins: int = 24) -> dict[str, Any]:
    """Counts of scores by correctness.

    Args:
        values: N scores.
        correct: N truth values.
        bins: Bars of equal width between the least and the greatest score.

    Returns:
        `edges` (bins + 1), and per bar the counts `correct` and `wrong`.
    """
    low, high = min(values), max(values)
    width = (high - low) / bins or 1.0
    counts = Counter((min(int((v - low) / width), bins - 1), c) for v, c in zip(values, correct, strict=True))
    return {
        "edges": [low + width * i for i in range(bins + 1)],
        "correct": [counts[i, True] for i in range(bins)],
        "wrong": [counts[i, False] for i in range(bins)],
    }


def report_data(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Everything the page shows."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(run.records(Unit("score"), "scores.parquet", Score))
    train = [scores[e.id] for e in examples if e.split == "train"]
    reasons = Counter(
        row.reason.split(" row ")[0] for row in run.records(Unit("prepare"), "unusable.parquet", Unusable)
    )
    return {
        "note": recipe.note,
        "recipe": recipe.plain(),
        "prepare": {**run.json(Unit("prepare"), "prepare.json"), "set_apart": dict(reasons.most_common())},
        "validation": run.json(Unit("validate"), "validation.json"),
        "histogram": histogram([score.value for score in train], [score.correct for score in train]),
        "comparison": run.json(Unit("compare"), "comparison.json"),
        "routes": {arm: _route(recipe, run, arm) for arm in recipe.arms},
        "losses": {arm: _losses(recipe, run, arm) for arm in recipe.arms if recipe.stages_of(arm)},
        "ledger": _ledger(run),
        "provenance": _provenance(recipe, run),
    }


def _route(recipe: Recipe, run: Run, arm: str) -> dict[str, Any]:
    """Rows per band and treatment, and what became of the rationales, for the arm's first seed."""
    unit = Unit("route", arm, recipe.seeds_of(arm)[0])
    rows = run.records(unit, "assignments.parquet", Assignment)
    treated = Counter((one.stage, one.band, one.give) for one in rows)
    found = [{"stage": s, "band": b, "give": g, "rows": n} for (s, b, g), n in sorted(treated.items())]
    teach, train = (run.manifest(unit.of(step)) or {} for step in ("teach", "train"))
    return {"assigned": found, "teach": teach["counts"], "skipped": train["counts"].get("skipped", 0)}


def _losses(recipe: Recipe, run: Run, arm: str) -> list[dict[str, Any]]:
    """The loss curve of every stage of the arm's first seed."""
    unit = Unit("train", arm, recipe.seeds_of(arm)[0])
    stages = range(len(recipe.stages_of(arm)))
    found = [run.json(unit, f"stage-{stage}/stage.json") for stage in stages]
    return [{name: one[name] for name in ("loss_curve", "updates", "rows", "passes")} for one in found]


def _ledger(run: Run) -> dict[str, Any]:
    """What was paid once for all arms; None of it where no teacher was asked."""
    path = run.root / LEDGER
    if not path.exists():
        return {}
    ledger = Ledger(path)
    try:
        return ledger.totals()
    finally:
        ledger.close()


def _provenance(recipe: Recipe, run: Run) -> dict[str, Any]:
    arms = [(arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    units = [Unit(step) for step in ("prepare", "score", "validate", "compare")]
    units += [Unit(step, arm, seed) for step in ("route", "teach", "train", "evaluate") for arm, seed in arms]
    manifests = [run.manifest(unit) or {} for unit in units]
    return {
        "versions": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "units": [{name: one[name] for name in ("unit", "key", "seconds")} for one in manifests],
    }


def page(data: Mapping[str, Any]) -> str:
    """The report as one HTML text."""
    environment = Environment(
        loader=PackageLoader("teachwise", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"percent": percent, "points": points, "number": number, "p_values": p_values, "took": took}
    recipe_text = yaml.safe_dump(data["recipe"], sort_keys=False, allow_unicode=True, width=100)
    template = environment.get_template("report.html.j2")
    return template.render(**data, charts=charts, mode_names=MODES, recipe_text=recipe_text)


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
        >>> p_values([0.0321]), p_values([0.0000001, 0.5])
        ('p = 0.032', 'p < 0.001, 0.500')
    """
    shown = ", ".join("< 0.001" if value < 0.001 else f"{value:.3f}" for value in values)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def took(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> took(4.21), took(200), took(7300)
        ('4.2 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def write_report(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Write the data and the page; return the page's size."""
    data = report_data(recipe, run)
    write_json(run.folder(unit) / "report.json", data)
    html = page(data)
    write_text(run.folder(unit) / "report.html", html)
    return {"bytes": len(html.encode())}
