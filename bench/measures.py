"""Every measure of the registry on the toy, in one run: which predict the student's errors, and what each costs.

    make results-measures          # or, with the models of `make toy` elsewhere:
    python bench/measures.py --proxy build/toy/half --json docs/results/measures.json && python docs/generate.py

The run is kept in `--work` and goes on after any stop; a measure that is new asks for its own evidence alone. Without
`--proxy`, a weaker model, what compares with one is left out, and the figures say so. Figures of the real table are
kept from the earlier file where the data is absent. Exit 1 where two measures rank alike and nothing proves that they
must. The text of docs/results.md comes from the figures (docs/results_page.py); no figure there is written by hand.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from measure_figures import alike, domain_of, figures, real_domain, values_of

import teachwise
from teachwise.measures import MEASURES, SOURCES, Asking, Known, Measure, Source, find_measure
from teachwise.pipeline import run_recipe
from teachwise.recipe import Recipe, load_recipe
from teachwise.records import Example
from teachwise.run_folder import Run, Unit
from teachwise.score import EVIDENCE, answered, gathered

DATA = Path(__file__).parents[2] / "shared" / "data"
FIRST = "answer_entropy"
"""The driving measure, which all others are compared with."""
NO_VARIANTS = ("answer", "bare")
"""Sources that are no variant of the question: the plain prompt, and one that asks nothing."""


class Timed(Source):
    """A source that notes the processor time of its gathering, without that of loading models."""

    notes: Path

    def gather(self, asking: Asking) -> list[Any]:
        """The evidence; its seconds for 1,000 questions are noted, None where they are not those of all."""
        is_whole = not asking.folder.exists()  # else an earlier start did a part of it
        if "student" in self.reads:
            asking.student()
        if "proxy" in self.reads and asking.proxy:
            asking.proxy()
        started = time.process_time()
        found = super().gather(asking)
        seconds = time.process_time() - started
        known = json.loads(self.notes.read_text(encoding="utf-8")) if self.notes.exists() else {}
        known[asking.folder.name] = seconds / len(asking.examples) * 1000 if is_whole else None
        self.notes.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return found


@contextmanager
def timed(notes: Path) -> Iterator[None]:
    """Within, every source of the registry is a timed one."""
    plain = dict(SOURCES)
    kind = type("Noted", (Timed,), {"notes": notes})
    notes.parent.mkdir(parents=True, exist_ok=True)
    SOURCES.update(
        {
            name: kind(**{one.name: getattr(source, one.name) for one in fields(source)})
            for name, source in plain.items()
        }
    )
    try:
        yield
    finally:
        SOURCES.update(plain)


def names_of(proxy: str | None) -> tuple[list[str], dict[str, str]]:
    """The measures to compute, the driving one first, and why others of the registry are left out."""
    variants = [
        name for name, one in SOURCES.items() if one.record is SOURCES["answer"].record and name not in NO_VARIANTS
    ]
    every = [FIRST, *(name for name in MEASURES if name != FIRST), *(f"{FIRST}@{name}" for name in variants)]
    without = [name for name in every if not proxy and "proxy" in find_measure(name).needs]
    why = "it compares with a weaker model, and none was given (`make toy` makes one)"
    return [name for name in every if name not in without], dict.fromkeys(without, why)


def recipe_of(names: Sequence[str], sizes: dict[str, int], proxy: str | None, *more: str) -> Recipe:
    limit = ", ".join(f"{split}: {size}" for split, size in sizes.items())
    given = [f"data.limit={{{limit}}}", f"score.also=[{', '.join(names[1:])}]", "validate.on_fail=warn", *more]
    return load_recipe("toy", given + ([f"score.proxy={proxy}"] if proxy else []))


def carried_out(names: Sequence[str], sizes: dict[str, int], proxy: str | None, work: Path) -> tuple[Recipe, Run]:
    """The run up to `validate`; the programmed teacher is there if a measure asks one."""
    is_judged = any(find_measure(name).cost["teacher_calls"] for name in names)
    if is_judged:
        from teachwise.toy.server import serve
    with serve() if is_judged else nullcontext() as server, timed(work / "seconds.json"):
        recipe = recipe_of(names, sizes, proxy, *(_buying(server.base_url) if server else []))
        return recipe, run_recipe(recipe, work / "run", until="validate", yes=True)


def _buying(address: str) -> list[str]:
    return [f"teacher.base_url={address}", "budget.teacher_tokens=null"]  # it is a program and costs nothing


def evidence_of(recipe: Recipe, run: Run, names: Sequence[str]) -> Known:
    """What the measures were computed from, out of the run: no model is asked."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    sources = {name: SOURCES[name] for one in names for name in ("answer", *find_measure(one).needs)}
    return answered(examples, gathered(recipe, run, examples, sources))


def notes_of(source: str, work: Path) -> float | None:
    """What the gathering of a source's newest evidence took, for 1,000 questions; None where that is not known."""
    notes = json.loads((work / "seconds.json").read_text(encoding="utf-8"))
    found = sorted((work / "run" / EVIDENCE).glob(f"{source}-*.parquet"), key=lambda one: one.stat().st_mtime)
    seconds: float | None = notes.get(found[-1].stem)
    return seconds


def seconds_in_all(names: Sequence[str], n: int, work: Path) -> float | None:
    """Processor seconds of all asking but of a teacher, each source once; None where a source's are not known."""
    sources = {"answer"}.union(*(find_measure(name).needs for name in names))
    found = [notes_of(source, work) for source in sources if not SOURCES[source].calls]
    return None if None in found else sum(one or 0.0 for one in found) * n / 1000


def seconds_of(measure: Measure, known: Known, work: Path) -> dict[str, float | None]:
    """Processor seconds for 1,000 questions: of asking, and of computing from what was said; None where unknown."""
    asking = [notes_of(name, work) for name in measure.needs]
    started = time.process_time()
    measure(known)
    computing = (time.process_time() - started) / len(known.examples) * 1000
    whole = None if None in asking or measure.cost["teacher_calls"] else sum(one or 0.0 for one in asking)
    return {"asking": whole, "computing": computing}


def measured(sizes: dict[str, int], proxy: str | None, work: Path, data: Path, kept: dict[str, Any]) -> dict[str, Any]:
    """All figures.

    Args:
        sizes: Questions of each split.
        proxy: Folder of a weaker model, or None.
        work: Where the run lies.
        data: Folder of the real table.
        kept: The earlier figures, for those of a table that is absent now; empty where there are none.
    """
    names, left_out = names_of(proxy)
    recipe, run = carried_out(names, sizes, proxy, work)
    known = evidence_of(recipe, run, names)
    rows = [{**one, "seconds": seconds_of(find_measure(one["name"]), known, work)} for one in figures(run)]
    real = real_domain(data) or kept.get("domains", {}).get("mmlu_pro")
    return {
        "date": date.today().isoformat(),
        "version": teachwise.__version__,
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "seconds": seconds_in_all(names, len(known.examples), work),
        "sizes": sizes,
        "asked": len(known.examples),
        "accuracy": {split: _accuracy(known, split) for split in ("train", "test")},
        "seed": recipe.data.seed,
        "left_out": left_out,
        "measures": rows,
        "alike": alike(values_of(run), known),
        "domains": {"toy": domain_of(rows), **({"mmlu_pro": real} if real else {})},
    }


def _accuracy(known: Known, split: str) -> float:
    right = [bool(one) for example, one in zip(known.examples, known.correct, strict=True) if example.split == split]
    return sum(right) / len(right)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--dev", type=int, default=50)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--proxy", help="folder of a weaker model")
    parser.add_argument("--work", type=Path, default=Path("build/results/measures"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(given)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, later
    kept = json.loads(chosen.json.read_text(encoding="utf-8")) if chosen.json and chosen.json.exists() else {}
    sizes = {split: getattr(chosen, split) for split in ("train", "dev", "test")}
    found = measured(sizes, chosen.proxy, chosen.work, chosen.data, kept)
    for one in found["measures"]:
        print(f"{one['name']:28} AUC {one['auc']['value']}  {one['verdict']}")
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unproved = [one for one in found["alike"] if one["how"] in ("values", "ranking") and not one["because"]]
    for one in unproved:
        print(f"ALIKE without a reason: {one['names']}")
    return 1 if unproved else 0


if __name__ == "__main__":
    raise SystemExit(main())
