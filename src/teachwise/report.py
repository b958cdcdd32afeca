"""Report: the whole story of a run in one HTML file that needs nothing else.

in   every folder of the run           tables, manifests, validation.json, comparison.json
out  report/examples.parquet           every question with its score, band, rationale and every arm's answer
out  report/report.json                every figure the page shows, as data
out  report/report.html                the page, self-contained, with as many of the questions as fit into it
"""

import base64
import hashlib
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table

from teachwise import browse, charts, drawing, figures, teacher_wording, wording
from teachwise.duration import took
from teachwise.guard import CONTAMINATION, in_words, summary
from teachwise.lessons import Skipped
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Driven, Example, Hit, Prediction, Rationale, Score, Unusable, by_id, driving
from teachwise.run_folder import Run, Unit, write_json, write_text
from teachwise.sampling import bands_of
from teachwise.stats import roc_band
from teachwise.tasks.table import write_table
from teachwise.teacher.ledger import Ledger
from teachwise.teacher.prices import dollars

LIBRARIES = ("teachwise", "torch", "transformers", "trl", "peft", "datasets", "numpy")
ON_A_PAGE = 10
"""Questions shown at once; so many are also written out for a browser that runs no scripts."""
SHOWN_HITS = 5
"""Pairs of a training text and the held-out question in it that the page shows."""
HASHED = (
    (Unit("prepare"), "examples.parquet"),
    (Unit("score"), "scores.parquet"),
    (Unit("validate"), "validation.json"),
    (Unit("compare"), "comparison.json"),
)
"""Files whose SHA-256 the page tells."""


NARROW = 100
"""A terminal of fewer columns has no room for an accuracy or a difference and its interval in one line."""


def result_table(comparison: Mapping[str, Any], width: int) -> Table:
    """The table of arms as a terminal of so many columns shows it."""
    between = "\n" if width < NARROW else " "
    notes = wording.footnotes(comparison["arms"])
    others = [one for one in (comparison["base"], comparison["control"]) if one]
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="\n".join(["accuracy and differences in %, with 95% intervals", *notes]),
        caption_justify="left" if notes else "center",
    )
    table.add_column("arm", no_wrap=width >= NARROW, overflow="fold")
    for name in ("mode", "accuracy", *(f"against{between}{other}" for other in others)):
        table.add_column(name, no_wrap=True)
    table.add_column("teacher\ntokens", justify="right", no_wrap=True)
    for name, arm in comparison["arms"].items():
        own = arm["accuracy"]
        table.add_row(
            name,
            arm["mode"],
            f"{own['value'] * 100:.1f}{between}({own['low'] * 100:.1f}-{own['high'] * 100:.1f})",
            *(_gap(arm, other, between) for other in others),
            _cost(arm["cost"], between),
        )
    return table


def _cost(cost: Mapping[str, Any], between: str) -> str:
    usd = cost["teacher_usd"]
    return f"{cost['teacher_tokens']:,.0f}" + (f"{between}{dollars(usd)}" if usd is not None else "")


def _gap(arm: Mapping[str, Any], other: str, between: str) -> str:
    if other not in arm["against"]:
        return ""
    value, low, high = (arm["against"][other]["difference"][name] * 100 for name in ("value", "low", "high"))
    return f"{value:+.1f}{between}({low:+.1f} {high:+.1f})"


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
    """Every figure the page shows."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    train = [scores[e.id] for e in examples if e.split == "train"]
    values, right = [score.value for score in train], [score.correct for score in train]
    reasons = Counter(
        re.split(r",? row ", row.reason)[0] for row in run.records(Unit("prepare"), "unusable.parquet", Unusable)
    )
    return {
        "note": recipe.note,
        "recipe": recipe.plain(),
        "prepare": {**run.json(Unit("prepare"), "prepare.json"), "set_apart": dict(reasons.most_common())},
        "contamination": _contamination(recipe, run, examples),
        "validation": run.json(Unit("validate"), "validation.json"),
        "roc_band": roc_band(np.array(values), ~np.array(right)) if 0 < sum(right) < len(right) else [],
        "histogram": histogram(values, right),
        "bands": band_summary(train, _bands(recipe, examples, scores)),
        "comparison": run.json(Unit("compare"), "comparison.json"),
        "routes": {arm: _route(recipe, run, arm) for arm in recipe.arms},
        "losses": {arm: _losses(recipe, run, arm) for arm in recipe.arms if recipe.stages_of(arm)},
        "ledger": _ledger(recipe, run),
        "price": recipe.price and asdict(recipe.price),
        "is_free": recipe.is_free,
        "provenance": _provenance(recipe, run),
    }


def band_summary(train: Sequence[Driven], bands: Mapping[str, str]) -> dict[str, Any]:
    """For each band of the training questions: how many, between which scores, and the share the student got right."""
    inside: dict[str, list[Driven]] = {name: [] for name in charts.BANDS} if bands else {}
    for score in train if bands else ():
        inside[bands[score.id]].append(score)
    return {
        name: {
            "n": len(some),
            "low": min(score.value for score in some),
            "high": max(score.value for score in some),
            "right": sum(score.correct for score in some) / len(some),
        }
        for name, some in inside.items()
    }


def _bands(recipe: Recipe, examples: Sequence[Example], scores: Mapping[str, Driven]) -> dict[str, str]:
    train = [example.id for example in examples if example.split == "train"]
    return bands_of({example.id: scores[example.id].value for example in examples}, train, recipe.edges)


def _route(recipe: Recipe, run: Run, arm: str) -> dict[str, Any]:
    """Rows per band and treatment, and how many could not be trained on and why, for the arm's first seed."""
    unit = Unit("route", arm, recipe.seeds_of(arm)[0])
    rows = run.records(unit, "assignments.parquet", Assignment)
    treated = Counter((one.stage, one.band, one.give) for one in rows)
    found = [{"stage": s, "band": b, "give": g, "rows": n} for (s, b, g), n in sorted(treated.items())]
    skipped = Counter(_reason(row) for row in run.records(unit.of("train"), "skipped.parquet", Skipped))
    return {"assigned": found, "skipped": dict(skipped.most_common())}


def _reason(row: Skipped) -> str:
    """Why a row was skipped, without what differs from row to row."""
    return "longer than train.max_length" if row.reason.endswith("train.max_length") else row.reason


def example_rows(recipe: Recipe, run: Run, comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every question with all that became of it, each arm in its own mode."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    units = [Unit("teach", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    bought = [row for unit in units for row in run.records(unit, "rationales.parquet", Rationale)]
    arms = [_arm_record(recipe, run, one["arm"], one["mode"]) for one in comparison["arms"].values()]
    bought.sort(key=lambda one: one.verdict != "unpaid")  # of two, the paid one is shown
    return browse.full_rows(examples, scores, _bands(recipe, examples, scores), by_id(bought), arms)


def _arm_record(recipe: Recipe, run: Run, arm: str, mode: str) -> browse.ArmRecord:
    units = [Unit("evaluate", arm, seed) for seed in recipe.seeds_of(arm)]
    tables = [run.records(unit, "predictions.parquet", Prediction) for unit in units]
    answers = [{row.id: row for row in rows if row.mode == mode} for rows in tables]
    return browse.ArmRecord(
        arm, browse.given(run.records(units[0].of("route"), "assignments.parquet", Assignment)), answers
    )


def _contamination(recipe: Recipe, run: Run, examples: Sequence[Example]) -> dict[str, Any]:
    """Texts for training that hold held-out questions: how many, what was done, and the first few with both texts."""
    units = [Unit("teach", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    looked = [unit for unit in units if (run.folder(unit) / CONTAMINATION).exists()]
    hits = run.records(Unit("prepare"), CONTAMINATION, Hit)
    hits += dict.fromkeys(hit for unit in looked for hit in run.records(unit, CONTAMINATION, Hit))
    return {
        **summary(hits, recipe.data.on_contamination, examples),
        "said": in_words(hits),
        "n_hits": len(hits),
        "first": [asdict(hit) for hit in hits[:SHOWN_HITS]],
        "rationales": bool(looked),
    }


def _losses(recipe: Recipe, run: Run, arm: str) -> list[dict[str, Any]]:
    """The loss curve of every stage of the arm's first seed."""
    unit = Unit("train", arm, recipe.seeds_of(arm)[0])
    stages = range(len(recipe.stages_of(arm)))
    found = [run.json(unit, f"stage-{stage}/stage.json") for stage in stages]
    return [{name: one[name] for name in ("loss_curve", "updates", "rows", "passes")} for one in found]


def _ledger(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What was paid once for all arms; None of it where no teacher was asked."""
    path = recipe.ledger_at(run.root)
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
        "sha256": {
            "the recipe, every default filled in": hashlib.sha256(recipe.yaml().encode()).hexdigest(),
            **{f"{unit.path}/{name}": _sha256(run, unit, name) for unit, name in HASHED},
        },
    }


def _sha256(run: Run, unit: Unit, name: str) -> str:
    return hashlib.sha256((run.folder(unit) / name).read_bytes()).hexdigest()


def page(data: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    """The report as one HTML text.

    Args:
        data: From `report_data`.
        shown: The questions that the page holds, from `browse.sample`.
    """
    environment = Environment(
        loader=PackageLoader("teachwise", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    filters = (figures.percent, figures.points, figures.number, figures.p_values, took, figures.listed)
    environment.filters |= {one.__name__: one for one in filters}
    style = environment.get_template("style.css.j2").render(n_colours=drawing.N_COLOURS)
    script = environment.get_template("browse.js").render()
    recipe_text = yaml.safe_dump(data["recipe"], sort_keys=False, allow_unicode=True, width=100)
    lead = wording.leading_arm(data["comparison"], data["recipe"]["arms"])
    return environment.get_template("report.html.j2").render(
        **data,
        shown=shown,
        on_a_page=ON_A_PAGE,
        examples_json=Markup(browse.as_json(browsed(data, shown))),
        style=Markup(style),
        style_hash=content_security_hash(style),
        script=Markup(script),
        script_hash=content_security_hash(script),
        lead=lead,
        wording=wording,
        teacher_wording=teacher_wording,
        charts=charts,
        symbol=drawing.symbol,
        recipe_text=recipe_text,
    )


def browsed(data: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script reads: the arms as they are called, and the questions."""
    arms = data["comparison"]["arms"]
    return {
        "arms": [{"name": name, "seeds": len(arm["per_seed"])} for name, arm in arms.items()],
        "firstSeed": data["comparison"]["seeds"][0],
        "onAPage": ON_A_PAGE,
        "examples": shown["rows"],
    }


def content_security_hash(text: str) -> str:
    """The name by which a page's policy lets one inlined style or script through, and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_report(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Write the table of questions, the figures and the page; return its size and how many questions it holds."""
    data = report_data(recipe, run)
    rows = example_rows(recipe, run, data["comparison"])
    arms = [one["arm"] for one in data["comparison"]["arms"].values()]
    shown = browse.sample(rows, arms, on_rejected=recipe.on_rejected)
    write_table(run.folder(unit) / "examples.parquet", rows)
    write_json(run.folder(unit) / "report.json", data)
    html = page(data, shown)
    write_text(run.folder(unit) / "report.html", html)
    return {"bytes": len(html.encode()), "examples": len(shown["rows"]), "of": shown["of"]}
