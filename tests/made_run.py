"""A finished run made by hand: the tables of every step before `compare`, five arms, no model and no training."""

import random
from contextlib import closing

from made_records import rationale
from teachwise.compare import compare_arms
from teachwise.guard import summary
from teachwise.lessons import Skipped
from teachwise.recipe import Recipe
from teachwise.records import Assignment, Example, Hit, Prediction, Rationale, Score, Unusable
from teachwise.request import Reply, Request, no_reply
from teachwise.run_folder import Run, Unit, write_json, write_records
from teachwise.teacher.ledger import LEDGER, Ledger
from teachwise.teacher.verify import REASONS
from teachwise.validate import validate_scores

ARMS = {
    "base": {"policy": "none"},
    "sft": {"policy": "all", "give": "answer"},
    "banded": {"policy": "bands", "stages": [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]},
    "random": {"policy": "random", "like": "banded"},
    "distill": {"policy": "all", "give": "rationale"},
}
SKILL = {"base": 0.55, "sft": 0.6, "banded": 0.75, "random": 0.65, "distill": 0.78}
SUBJECTS = ("biology", "law & <order>", "수학")
NASTY = "<script>document.title = 'broken'</script> <!-- &amp; </script> 😀 "


def make_run(root, n_train=60, n_dev=20, n_test=40, seeds=(0, 1), letters=60, **changes):
    """The recipe and the run; texts have about so many letters, and one example of every split has a nasty text."""
    arms = {name: dict(arm) for name, arm in ARMS.items()}
    sections = {
        "data": {"source": "q.jsonl"},
        "budget": {"teacher_tokens": 500_000},
        "seeds": list(seeds),
        "arms": arms,
        **changes,
    }
    recipe = Recipe.model_validate({"student": "small", "teacher": "big", **sections})
    run, lot = Run(root), random.Random(0)
    examples = _examples(lot, {"train": n_train, "dev": n_dev, "test": n_test}, letters)
    unusable = [Unusable(len(examples), "no answer", "?"), Unusable(len(examples) + 1, "repeats row 3", "again?")]
    counts = {"train": n_train, "dev": n_dev, "test": n_test, "rows": len(examples) + 2}
    counts |= {"unusable": 1, "repeats": 1, "contaminated": 0, "not_used": 0}
    tables = {"examples": (Example, examples), "unusable": (Unusable, unusable), "contamination": (Hit, [])}
    folder = _finish(run, Unit("prepare"), counts, **tables)
    write_json(folder / "prepare.json", {"counts": counts, "contamination": summary([], "drop", examples), "notes": []})
    _finish(run, Unit("score"), {}, scores=(Score, [_score(lot, one) for one in examples]))
    for name in arms:
        for seed in recipe.seeds_of(name):
            _arm(run, recipe, name, seed, examples, letters)
    _ledger(run, recipe.price)
    for step, do in (("validate", validate_scores), ("compare", compare_arms)):
        run.begin(Unit(step), "by-hand")
        run.finish(Unit(step), "by-hand", do(recipe, run, Unit(step)), 1.0)
    return recipe, run


def _finish(run, unit, counts, **tables):
    folder = run.begin(unit, "by-hand")
    for name, (kind, rows) in tables.items():
        write_records(folder / f"{name}.parquet", kind, rows)
    run.finish(unit, "by-hand", counts, 1.0)
    return folder


def _ledger(run, price):
    with closing(Ledger(run.root / LEDGER)) as ledger:
        whole, cut = Reply("so A", "stop", 100, 50), Reply("so", "length", 100, 100)
        for number, reply in enumerate((whole, whole, cut, no_reply("status 400"), no_reply("?", "unanswered"))):
            request = Request("big", ({"role": "user", "content": f"{number}?"},), 100, 0.0, "1")
            ledger.reserve([request], price=price)
            ledger.settle([(request, reply)])


def _text(lot, letters):
    words = ("because", "energy", "therefore", "the", "answer", "holds", "water", "seven", "under", "pressure")
    return " ".join(lot.choice(words) for _ in range(max(3, letters // 7)))


def _examples(lot, sizes, letters):
    found = []
    for split, n in sizes.items():
        for place in range(n):
            row, nasty = len(found), NASTY if place == 0 else ""
            found.append(
                Example(
                    id=f"id{row:06d}",
                    row=row,
                    split=split,
                    subject=SUBJECTS[row % 3],
                    level=1 + row % 2,
                    question=f"{nasty}Question {row}: {_text(lot, letters)}?",
                    options=tuple(f"{nasty}{word} {row}" for word in ("one", "two", "three", "four")),
                    answer="ABCD"[row % 4],
                )
            )
    return found


def _score(lot, example):
    value = lot.random() * 2
    states = example.answer if lot.random() > value / 2.2 else lot.choice("ABCD")
    return Score(example.id, "answer_entropy", value, states, states == example.answer, 0.5, 0.9, 50)


def _arm(run, recipe, arm, seed, examples, letters):
    lot = random.Random(f"{arm} {seed}")
    train = [one.id for one in examples if one.split == "train"]
    assigned = [Assignment(one, *_treated(arm, place, len(train))) for place, one in enumerate(train)]
    bought = [
        _rationale(place, one, examples, letters) for place, one in enumerate(assigned) if one.give == "rationale"
    ]
    rejected = [Skipped(one.id, 1, f"rationale {one.verdict}") for one in bought if not one.kept]
    counts = {"asked": len(bought), "kept": len(bought) - len(rejected)}
    counts |= {verdict: sum(one.verdict == verdict for one in bought) for verdict in REASONS}
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "unusable_tokens")
    counts |= {name: sum(getattr(one, name) for one in bought) for name in names}
    unit = Unit("route", arm, seed)
    _finish(run, unit, {}, assignments=(Assignment, assigned))
    _finish(run, unit.of("teach"), counts, rationales=(Rationale, bought))
    trained = {"updates": 12, "trained_tokens": 1000, "rows": len(train)}
    folder = _finish(run, unit.of("train"), trained, skipped=(Skipped, rejected))
    curve = [[at, 2 / (at + 1)] for at in range(1, 13)]
    for stage in range(len(recipe.stages_of(arm))):
        write_json(
            folder / f"stage-{stage}" / "stage.json", {"loss_curve": curve, "updates": 12, "rows": 30, "passes": 3.0}
        )
    answers = [_answer(lot, arm, one, mode, letters) for one in examples if one.split != "train" for mode in WORTH]
    _finish(run, unit.of("evaluate"), {}, predictions=(Prediction, answers))


def _treated(arm, place, n):
    if arm in ("base", "sft", "distill"):
        return {"base": ("all", "drop", -1), "sft": ("all", "answer", 0), "distill": ("all", "rationale", 0)}[arm]
    band = ("easy", "medium", "medium", "hard")[(4 * place // n + (arm == "random")) % 4]
    return (band if arm == "banded" else "all", *(("rationale", 1) if band == "hard" else ("answer", 0)))


def _rationale(place, one, examples, letters):
    example = examples[int(one.id[2:])]
    stated = "ABCD"[(example.row + 1) % 4] if place % 12 == 0 else example.answer
    text = f"Rationale of {example.row}: {_text(random.Random(place), letters)}, so {stated}."
    verdict = "correct" if stated == example.answer else "wrong"
    return rationale(one.id, verdict, stated, text, prompt_tokens=100, completion_tokens=50)


WORTH = {"direct": -0.1, "cot": 0.0, "routed": 0.05}


def _answer(lot, arm, example, mode, letters):
    states = example.answer if lot.random() < SKILL[arm] + WORTH[mode] else lot.choice(["A", "B", "C", "D", None])
    nasty = NASTY if "<script>" in example.question else ""
    text = str(states) if mode == "direct" else f"{nasty}{arm} thought: {_text(lot, letters)}, so {states}."
    return Prediction(example.id, example.split, mode, states, states == example.answer, lot.random() * 2, 20, text)
