"""What the toy benchmark must hold, measured: one finished run of the recipe `toy`, its targets with intervals.

    teachwise demo --out runs/seeds "seeds=[0, 1, 2]" "data.limit={train: 2000, dev: 600, test: 2000}"
    python bench/toy.py runs/seeds --json bench/results/toy.json

Everything is measured on test questions; modes and thresholds were chosen on dev. Prints one line per figure. Exit 1 if
a target is missed. What the banded arm does beside `random` and `distill` is reported and has no target.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import teachwise
from teachwise.records import Example, Prediction, Score
from teachwise.run_folder import Run, Unit
from teachwise.stats import Interval, bootstrap_difference, bootstrap_mean, roc_auc

MODES = ("direct", "cot", "routed")


class Answers:
    """Right or wrong: (S, N) for every arm and mode, seeds by test questions, in one order of questions."""

    def __init__(self, run: Run, seeds: Sequence[int]) -> None:
        found = run.records(Unit("prepare"), "examples.parquet", Example)
        self.examples = [example for example in found if example.split == "test"]
        self.steps = np.array([example.level for example in self.examples])
        if not all(example.options for example in self.examples):
            raise SystemExit("error: bench/toy.py measures runs of `data.task: toy`, whose questions have options")
        self.chance = np.array([1 / len(example.options) for example in self.examples])
        self.right: dict[tuple[str, str], np.ndarray] = {}
        self._run, self._seeds = run, seeds

    def of(self, arm: str, mode: str) -> np.ndarray:
        """(S, N) of one arm in one mode; the untouched student has one seed, which stands for all."""
        if (arm, mode) not in self.right:
            rows = [self._one(arm, mode, self._seeds[0] if arm == "base" else seed) for seed in self._seeds]
            self.right[arm, mode] = np.array(rows, dtype=float)
        return self.right[arm, mode]

    def _one(self, arm: str, mode: str, seed: int) -> list[bool]:
        rows = self._run.records(Unit("evaluate", arm, seed), "predictions.parquet", Prediction)
        right = {row.id: row.correct for row in rows if row.mode == mode}
        return [right[example.id] for example in self.examples]


def auc_rows(run: Run, answers: Answers) -> dict[str, Interval]:
    """How well the untouched student's answer entropy finds its errors: in all, and within each number of steps."""
    scores = {row.id: row for row in run.records(Unit("score"), "scores.parquet", Score)}
    value = np.array([scores[example.id].value for example in answers.examples])
    wrong = np.array([not scores[example.id].correct for example in answers.examples])
    rows = {"all": roc_auc(value, wrong)}
    for steps in sorted(set(answers.steps)):
        rows[f"{steps} steps"] = roc_auc(value[answers.steps == steps], wrong[answers.steps == steps])
    return rows


def measure(run: Run) -> dict[str, Any]:
    """Every figure of the toy's table, with its interval."""
    comparison = run.json(Unit("compare"), "comparison.json")
    modes = {name: arm["mode"] for name, arm in comparison["arms"].items()}
    answers = Answers(run, comparison["seeds"])
    long = answers.steps >= 3
    sft_long, distill_long = answers.of("sft", "direct")[:, long], answers.of("distill", "cot")[:, long]
    base = run.json(Unit("evaluate", "base", comparison["seeds"][0]), "evaluation.json")
    return {
        "n_test": len(answers.examples),
        "seeds": comparison["seeds"],
        "modes": modes,
        "base_threshold_nats": base["threshold_nats"],
        "judged": {
            name: {
                "accuracy": arm["accuracy"],
                **{f"against_{other}": gap["difference"] for other, gap in arm["against"].items()},
            }
            for name, arm in comparison["arms"].items()
        },
        "accuracy": {arm: {mode: bootstrap_mean(answers.of(arm, mode)) for mode in MODES} for arm in modes},
        "auc": auc_rows(run, answers),
        "base_direct": bootstrap_mean(answers.of("base", "direct")[:1]),
        "long_sft_above_chance": bootstrap_mean(sft_long - answers.chance[long]),
        "long_distill_above_sft": bootstrap_difference(distill_long, sft_long),
        "distill_above_sft": bootstrap_difference(
            answers.of("distill", modes["distill"]), answers.of("sft", modes["sft"])
        ),
        "banded_above": {
            other: bootstrap_difference(answers.of("banded", modes["banded"]), answers.of(other, modes[other]))
            for other in ("base", "random", "distill")
        },
        "banded_above_random_within": {
            name: bootstrap_difference(
                answers.of("banded", modes["banded"])[:, rows], answers.of("random", modes["random"])[:, rows]
            )
            for name, rows in {"1 step": answers.steps == 1, "2 steps": answers.steps == 2, "3+ steps": long}.items()
        },
        "teacher_tokens": {name: arm["cost"]["teacher_tokens"] for name, arm in comparison["arms"].items()},
    }


def targets(found: dict[str, Any]) -> dict[str, bool]:
    """What must hold, and whether it does, judged by the estimates; the intervals stand beside them."""
    within = [auc.value > 0.5 for name, auc in found["auc"].items() if name != "all"]
    return {
        "base direct accuracy 0.40 to 0.80": 0.40 <= found["base_direct"].value <= 0.80,
        "AUC of answer entropy at least 0.70": found["auc"]["all"].value >= 0.70,
        "AUC above 0.5 within most numbers of steps": sum(within) > len(within) / 2,
        "3+ steps within 10 points of chance after answers only": abs(found["long_sft_above_chance"].value) <= 0.10,
        "3+ steps at least 30 points better with rationales": found["long_distill_above_sft"].value >= 0.30,
        "full distillation at least 8 points above SFT": found["distill_above_sft"].value >= 0.08,
    }


def shown(interval: Interval) -> str:
    """An interval as text."""
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def print_table(found: dict[str, Any]) -> None:
    """Print one line per figure."""
    print(f"{found['n_test']} test questions, training seeds {found['seeds']}")
    for arm, by_mode in found["accuracy"].items():
        cells = "  ".join(f"{mode} {shown(one)}" for mode, one in by_mode.items())
        print(f"{arm:8} {cells}  judged {found['modes'][arm]}, {found['teacher_tokens'][arm]:,.0f} teacher tokens")
    for name, auc in found["auc"].items():
        print(f"AUC {name:8} {shown(auc)}  n {auc.n}")
    for name in ("long_sft_above_chance", "long_distill_above_sft", "distill_above_sft"):
        print(f"{name:24} {shown(found[name])}")
    for other, one in found["banded_above"].items():
        print(f"banded above {other:11} {shown(one)}")
    for name, one in found["banded_above_random_within"].items():
        print(f"banded above random within {name:9} {shown(one)}")


def main() -> None:
    """Measure a run, print, write, judge."""
    parser = argparse.ArgumentParser(description="measure the toy benchmark on a finished run")
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    chosen = parser.parse_args()
    found = measure(Run(chosen.run))
    print_table(found)
    held = targets(found)
    for name, holds in held.items():
        print(f"{'holds' if holds else 'MISSED':6}  {name}")
    if chosen.json:
        facts = {
            "date": date.today().isoformat(),
            "version": teachwise.__version__,
            "python": platform.python_version(),
        }
        text = json.dumps({**facts, **found, "targets": held}, indent=2, default=asdict)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    raise SystemExit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
