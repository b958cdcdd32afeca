"""Compare: all arms on the same questions, each in the mode chosen for it on dev, with what each one cost.

in   prepare/examples.parquet  score/scores.parquet      subjects, bands of the test questions
in   route/ teach/ train/ evaluate/ of every arm, seed   assignments, rationales, predictions, manifests
out  compare/comparison.json                             accuracies and paired differences with intervals, costs

Intervals are 95%. A difference is bootstrapped over questions, and over training seeds where there are several; so is
an accuracy, but with one seed it is a plain share and has Wilson's interval. An unreadable answer stays in the
denominator, is not correct, and is counted apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from teachwise.figures import listed
from teachwise.recipe import Recipe
from teachwise.records import Driven, Example, Mode, Prediction, Rationale, Score, by_id, driving
from teachwise.run_folder import Run, Unit, write_json
from teachwise.sampling import bands_of
from teachwise.stats import Interval, bootstrap_difference, bootstrap_mean, mcnemar_exact, wilson
from teachwise.teacher.verify import REASONS, by_band, teacher_verdict, what_to_do
from teachwise.teacher_wording import lacks, priced
from teachwise.wording import WAYS


@dataclass(frozen=True)
class Answers:
    """One arm's test or dev answers in one mode.

    Attributes:
        correct: (S, N) bool, seeds by questions.
        unreadable: (S, N) bool.
        tokens: (S, N) int, tokens generated.
    """

    correct: np.ndarray
    unreadable: np.ndarray
    tokens: np.ndarray


def answers_of(by_seed: Sequence[Sequence[Prediction]], split: str, mode: str, ids: Sequence[str]) -> Answers:
    """Gather predictions into arrays whose columns are the questions `ids`."""
    rows = [{row.id: row for row in rows if row.split == split and row.mode == mode} for rows in by_seed]
    grid = [[found[one] for one in ids] for found in rows]
    return Answers(
        correct=np.array([[row.correct for row in line] for line in grid]),
        unreadable=np.array([[row.stated is None for row in line] for line in grid]),
        tokens=np.array([[row.generated_tokens for row in line] for line in grid]),
    )


def chosen_mode(dev: Mapping[str, Answers]) -> str:
    """The mode with the best dev accuracy over all seeds; of equal ones the one that writes the fewest tokens."""
    return max(dev, key=lambda mode: (float(dev[mode].correct.mean()), -float(dev[mode].tokens.mean())))


def arm_summary(test: Mapping[str, Answers], mode: str, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """One arm's accuracy in each mode, and in its chosen mode per group.

    Args:
        test: Answers by mode.
        mode: The chosen mode.
        groups: For instance {"subject": [N names], "band": [N names]}.
    """
    return {
        "mode": mode,
        "accuracy": accuracy(test[mode].correct),
        "modes": {name: _mode_summary(answers) for name, answers in test.items()},
        **{f"by_{group}": _grouped(test[mode].correct, names) for group, names in groups.items()},
        "per_seed": [round(float(row.mean()), 6) for row in test[mode].correct],
    }


def _mode_summary(answers: Answers) -> dict[str, Any]:
    return {
        "accuracy": accuracy(answers.correct),
        "unreadable": float(answers.unreadable.mean()),
        "generated_tokens": float(answers.tokens.mean()),
    }


def _grouped(correct: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    labels = np.array(names)
    return {name: accuracy(correct[:, labels == name]) for name in sorted(set(names))}


def accuracy(correct: np.ndarray) -> dict[str, Any]:
    """Share of (S, N) answers that are correct, with its interval."""
    if len(correct) > 1 and correct.any() and not correct.all():  # else resampling would claim certainty
        return _interval(bootstrap_mean(correct))
    return _interval(wilson(int(correct[0].sum()), correct.shape[1]))


def paired(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """How much better a is than b on the same questions.

    Args:
        a: (S, N) bool, correct; or (1, N) for an arm without training seeds.
        b: The same for the other arm.

    Returns:
        The mean difference with its interval, and McNemar's exact test for each seed.
    """
    seeds = max(len(a), len(b))
    tests = [mcnemar_exact(a[min(s, len(a) - 1)], b[min(s, len(b) - 1)]) for s in range(seeds)]
    return {"difference": _interval(bootstrap_difference(a, b)), "mcnemar": [asdict(test) for test in tests]}


def _interval(found: Interval) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def intervals_cover(n_seeds: int) -> str:
    """What the intervals speak of."""
    if n_seeds == 1:
        return "questions only (one seed)"
    few = f"; with {n_seeds} seeds they still understate the luck of training" if n_seeds < 5 else ""
    return f"questions and training seeds{few}"


def sentence(arm: str, summary: Mapping[str, Any], others: Sequence[str]) -> str:
    """One arm's result in plain words.

    Args:
        arm: The name it is shown under.
        summary: Its entry in the comparison.
        others: The arms it is set against, in order.
    """
    own, spent = summary["accuracy"], priced(summary["cost"]) or "no teacher token"
    text = f"{arm}: {own['value']:.1%} ({own['low']:.1%} to {own['high']:.1%}) {WAYS[summary['mode']]}, for {spent}"
    gaps = {other: summary["against"][other]["difference"] for other in others if other != arm}
    even = [other for other, gap in gaps.items() if gap["low"] <= 0 <= gap["high"]]
    apart = [_gap_in_words(other, gap) for other, gap in gaps.items() if other not in even]
    return "; ".join([text, *apart, *([f"not told apart from {listed(even)}"] if even else [])]) + "."


def _gap_in_words(other: str, gap: Mapping[str, Any]) -> str:
    span = f"{gap['low'] * 100:+.1f} to {gap['high'] * 100:+.1f}"
    better = "better" if gap["value"] > 0 else "worse"
    return f"{better} than {other} by {abs(gap['value']) * 100:.1f} points ({span})"


def compare_arms(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Compare all arms; return each one's accuracy in its chosen mode."""
    examples = run.records(Unit("prepare"), "examples.parquet", Example)
    scores = by_id(driving(run.records(Unit("score"), "scores.parquet", Score)))
    test = [example for example in examples if example.split == "test"]
    ids = {split: [e.id for e in examples if e.split == split] for split in ("dev", "test")}
    groups = {"subject": [e.subject for e in test]}
    train = [example.id for example in examples if example.split == "train"]
    if bands := bands_of({one: score.value for one, score in scores.items()}, train, recipe.edges):
        groups["band"] = [bands[e.id] for e in test]
    if all(e.level is not None for e in test):
        groups["level"] = [str(e.level) for e in test]
    arms: dict[str, Any] = {}
    correct: dict[str, np.ndarray] = {}
    for arm in recipe.arms:
        by_seed = [_predictions(run, arm, seed) for seed in recipe.seeds_of(arm)]
        modes = {s: {m: answers_of(by_seed, s, m, ids[s]) for m in get_args(Mode)} for s in ("dev", "test")}
        marks = _marks(recipe, run, arm)
        name = f"{arm}*" if marks else arm
        mode = chosen_mode(modes["dev"])
        correct[name] = modes["test"][mode].correct
        own = {"arm": arm, "marks": marks, "cost": _cost(recipe, run, arm)}
        arms[name] = {**arm_summary(modes["test"], mode, groups), **own}
    _set_against(arms, correct)
    base = next((name for name in arms if recipe.arms[arms[name]["arm"]].policy == "none"), None)
    control = next((name for name in arms if recipe.arms[arms[name]["arm"]].policy == "random"), None)
    content = {
        "n_test": len(test),
        "n_dev": len(ids["dev"]),
        "seeds": recipe.seeds,
        "intervals_cover": intervals_cover(len(recipe.seeds)),
        "control": control,
        "arms": arms,
        "base": base,
        "teacher": _teacher(recipe, run, train, scores),
        "sentences": [sentence(name, arm, _fair(arms, name, base, control)) for name, arm in arms.items()],
    }
    write_json(run.folder(unit) / "comparison.json", content)
    return {name: round(arm["accuracy"]["value"], 4) for name, arm in arms.items()}


def _teacher(recipe: Recipe, run: Run, train: Sequence[str], scores: Mapping[str, Driven]) -> dict[str, Any]:
    """How the teacher did by band, each distinct question once, and whether it is good enough where it is needed."""
    bands = bands_of({one: scores[one].value for one in train}, train, recipe.edges)
    units = [Unit("teach", arm, seed) for arm in recipe.arms for seed in recipe.seeds_of(arm)]
    rows = [row for unit in units for row in run.records(unit, "rationales.parquet", Rationale)]
    found = by_band(rows, bands, recipe.price_as_delivered)
    advice = what_to_do(recipe.keep_rule.samples, recipe.on_rejected)
    shown = {"gold_shown": recipe.teacher.show_answer, "advice": advice, "by_band": found}
    return {**teacher_verdict(found, recipe.min_usable), **shown}


def _fair(arms: Mapping[str, Any], name: str, base: str | None, control: str | None) -> list[str]:
    """The arms that an arm's sentence sets it against: not the control where either of the two lacks rationales."""
    is_fair = control is not None and not any(lacks(arms[one]["cost"]) for one in (name, control))
    return [one for one in (base, control if is_fair else None) if one]


def _set_against(arms: dict[str, Any], correct: Mapping[str, np.ndarray]) -> None:
    for name, arm in arms.items():
        arm["against"] = {other: paired(correct[name], correct[other]) for other in arms if other != name}


def _predictions(run: Run, arm: str, seed: int) -> list[Prediction]:
    return run.records(Unit("evaluate", arm, seed), "predictions.parquet", Prediction)


def _marks(recipe: Recipe, run: Run, arm: str) -> list[str]:
    """In what an arm is not what the recipe says it is."""
    first, taught = Unit("route", arm, recipe.seeds_of(arm)[0]), _taught(recipe, run, arm)
    asked, unpaid, kept, correct = (sum(one[name] for one in taught) for name in ("asked", "unpaid", "kept", "correct"))
    wrong = kept - correct
    told = {
        "routed at random, since the gate failed": (run.manifest(first) or {})["counts"].get("randomised"),
        f"partial, {unpaid:,} of {asked:,} rationales not bought": unpaid,
        "the teacher saw the answers": recipe.teacher.show_answer and kept,
        f"learns from {wrong:,} rationale{'s' * (wrong != 1)} without the gold answer": wrong,
    }
    return [mark for mark, holds in told.items() if holds]


def _taught(recipe: Recipe, run: Run, arm: str) -> list[dict[str, Any]]:
    """What teaching the arm counted, seed by seed."""
    return [(run.manifest(Unit("teach", arm, seed)) or {})["counts"] for seed in recipe.seeds_of(arm)]


_PRICED = ("prompt", "completion", "cached")


def _cost(recipe: Recipe, run: Run, arm: str) -> dict[str, Any]:
    """What the arm would pay alone, as the mean over its seeds."""
    teach = _taught(recipe, run, arm)
    train = [(run.manifest(Unit("train", arm, seed)) or {})["counts"] for seed in recipe.seeds_of(arm)]
    mean = {name: float(np.mean([counts[name] for counts in teach])) for name in teach[0]}
    price = recipe.price_as_delivered
    return {
        "teacher_tokens": mean["prompt_tokens"] + mean["completion_tokens"],
        "teacher_prompt_tokens": mean["prompt_tokens"],
        "teacher_completion_tokens": mean["completion_tokens"],
        "teacher_usd": price and price.usd(*(mean[f"{name}_tokens"] for name in _PRICED)),
        "unusable_tokens": mean["unusable_tokens"],
        "requests": mean["requests"],
        "rationales_asked": mean["asked"],
        "rationales_bought": mean["asked"] - mean["unpaid"],
        "rationales_kept": mean["kept"],
        "verdicts": {name: mean[name] for name in REASONS},
        "updates": float(np.mean([counts["updates"] for counts in train])),
        "trained_tokens": float(np.mean([counts["trained_tokens"] for counts in train])),
    }
