"""The data of a report made by hand: no run, no model; every figure is easy to recognise."""

from made_records import rationale
from teachwise import browse
from teachwise.records import Example, Prediction, Score
from teachwise.report import histogram, page
from teachwise.teacher.verify import REASONS, band_row, teacher_verdict, what_to_do

NASTY = """<b>&"'arm"""
LONG = "an arm whose name somebody made far longer than any table or chart has room for, with reasons"
TEACHER_TOKENS = {"tokens": 12345.0, "prompt_tokens": 10000.0, "completion_tokens": 2345.0}
LEDGER = {"prompt_tokens": 30_000, "cached_tokens": 0, "completion_tokens": 7000, "held_tokens": 5, "lost_tokens": 7}
LEDGER |= {"lost_requests": 1, "usd": 0.0, "unpriced": 102}
PRICE = {"input_usd": 2.0, "output_usd": 8.0, "cached_input_usd": None, "batch_share": 0.5, "version": "May 2026"}
SHA = {"prepare/examples.parquet": 8 * "01234567"}
UNITS = [{"unit": "prepare", "key": "0123456789abcdef", "seconds": 75.2}]


def interval(value, n=200):
    return {"value": value, "low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05), "n": n}


def auc(value=0.8, n=300):
    ends = (None, None) if value is None else (value - 0.04, value + 0.04)
    return {"auc": value, "auc_low": ends[0], "auc_high": ends[1], "n": n, "accuracy": 0.7}


def measure(figures, verdict="PASS", behind=False):
    """One row of the table of measures."""
    around = {"value": 0.7, "low": 0.6, "high": 0.8, "n": figures["n"]}
    cells = {"kind": "answer", "unit": "nats", "asks": "1 forward pass", "gini": 0.5, "within": around, "no_value": 0}
    cells |= {"calibration": {"ece": 0.02, "brier": 0.2, "n": 300}, "confidently_wrong": around}
    return {**figures, **cells, "verdict": verdict, "follows": "what follows", "behind": around if behind else None}


def arm_data(name, place, others, seeds, subjects):
    accuracy = interval(0.71 + 0.0123 * place)
    modes = {
        mode: {"accuracy": interval(0.4 + 0.0107 * place + step), "unreadable": 0.015, "generated_tokens": 12.3 + place}
        for mode, step in (("direct", 0.0), ("cot", 0.1), ("routed", 0.2))
    }
    bought = 100 * place
    gap = {"value": -0.031, "low": -0.05, "high": -0.01, "n": 200}
    pair = {"difference": gap, "mcnemar": [{"only_a": 3, "only_b": 9, "p": 0.146}] * seeds}
    return {
        "arm": name,
        "marks": [],
        "mode": "routed",
        "accuracy": accuracy,
        "modes": {**modes, "routed": {**modes["routed"], "accuracy": accuracy}},
        "by_subject": {subject: interval(0.6, 7) for subject in subjects},
        "by_band": {band: interval(0.5 + 0.1 * place % 0.5, 60) for band in ("hard", "easy", "medium")},
        "by_level": {"10": interval(0.2), "2": interval(0.9)},
        "per_seed": [accuracy["value"]] * seeds,
        "cost": {
            **{f"teacher_{kind}": n * place for kind, n in TEACHER_TOKENS.items()},
            "teacher_usd": None,
            "rationales_asked": float(bought),
            "rationales_bought": float(bought),
            "rationales_kept": bought * 0.9,
            "verdicts": {**dict.fromkeys(REASONS, 0.0), "correct": bought * 0.9, "wrong": bought * 0.1},
            "trained_tokens": 54321.0 + place,
        },
        "against": {other: pair for other in others if other != name},
    }


def teacher_data(bands, min_usable=0.5, price=None, **changes):
    """The comparison's part about the teacher, from how often each verdict was given in each band."""
    found = {}
    for band, counts in bands.items():
        verdicts = [verdict for verdict, n in counts.items() for _ in range(n)]
        found[band] = band_row([rationale(str(n), one, **changes) for n, one in enumerate(verdicts)], price)
    shown = changes.get("gold_shown", False)
    more = {"gold_shown": shown, "advice": what_to_do(1, "drop"), "by_band": found}
    return {**teacher_verdict(found, min_usable), **more}


def cut_short(data, **lacks):
    """The same data after a budget that could not bear so many of the rationales of some arms, by name."""
    for name, n in lacks.items():
        arm = data["comparison"]["arms"][name]
        arm["cost"]["rationales_bought"] -= n
        arm["marks"] = [f"partial, {n} of {arm['cost']['rationales_asked']:.0f} rationales not bought"]
    return data


def in_recipe(name, control, arms):
    """An arm's section of the recipe."""
    nothing = {"give": None, "like": None, "stages": []}
    if name == control:
        return {**nothing, "policy": "random", "like": next((one for one in arms if one not in ("base", name)), "base")}
    if name == "base":
        return {**nothing, "policy": "none"}
    return {**nothing, "policy": "bands", "stages": [{"easy": "answer", "hard": "rationale"}]}


def make(names=("base", "banded", "random"), control="random", seeds=1, subjects=("calc", "week"), **changes):
    """The data of a finished run; `changes` replace whole sections."""
    assigned = [
        {"stage": 0, "band": "easy", "give": "answer", "rows": 75},
        {"stage": 1, "band": "hard", "give": "rationale", "rows": 25},
        {"stage": -1, "band": "medium", "give": "drop", "rows": 200},
    ]
    stage = {"loss_curve": [[5, 0.9], [10, 0.4]], "updates": 12, "rows": 75, "passes": 3.0}
    arms = {name: arm_data(name, place, names, seeds, subjects) for place, name in enumerate(names)}
    data = {
        "note": "Made by hand: figures say nothing.",
        "recipe": {
            "student": {"model": "tiny", "revision": None},
            "data": {"source": "questions.csv", "task": "multiple_choice"},
            "arms": {one["arm"]: in_recipe(one["arm"], control, list(arms)) for one in arms.values()},
            "teacher": {"model": "wise", "base_url": "http://127.0.0.1:8000/v1", "key_env": None, "ledger": None},
            "budget": {"teacher_tokens": 99_000, "usd": None},
            "keep": "correct",
            "validate": {"min_auc": 0.6, "on_fail": "warn"},
            "on_rejected": "drop",
            "train": {"max_length": 2048},
        },
        "prepare": {
            "counts": {
                "train": 300,
                "dev": 50,
                "test": 200,
                "rows": 562,
                "unusable": 4,
                "repeats": 6,
                "contaminated": 2,
                "not_used": 0,
            },
            "notes": ["Read as letters."],
            "set_apart": {"repeats": 6, "no answer": 4, "nearly repeats a test question": 2},
        },
        "contamination": {
            "on_contamination": "drop",
            "found": [{"place": "train", "held": "test", "texts": 2, "exact": 1, "near": 6}],
            "too_alike": 17,
            "said": "2 train questions repeat held-out questions",
            "n_hits": 7,
            "first": [
                {"text": "What is it?\nA. This", "held_text": "what IS it\nA. this", "held": "test", "share": 1.0}
            ],
            "rationales": False,
        },
        "validation": {
            **auc(),
            "by": {subject: auc(None if len(subjects) > 9 else 0.7, 12) for subject in subjects},
            "by_level": {"1": auc(0.9), "2": auc(0.6)},
            "test": auc(0.78, 200),
            "curve": [[0.0, 0.0], [0.2, 0.7], [1.0, 1.0]],
            "measure": "answer_entropy",
            "measures": {"answer_entropy": measure(auc()), "random": measure(auc(0.52), "NO SEPARATION", behind=True)},
            "min_auc": 0.6,
            "verdict": "PASS",
        },
        "roc_band": [[0.0, 0.0, 0.5], [0.5, 0.6, 0.9], [1.0, 1.0, 1.0]],
        "bands": {
            "easy": {"n": 75, "low": 0.0, "high": 0.2, "right": 0.99},
            "medium": {"n": 150, "low": 0.2, "high": 0.9, "right": 0.8},
            "hard": {"n": 75, "low": 0.9, "high": 1.5, "right": 0.3},
        },
        "histogram": histogram([0.1, 0.2, 0.9, 1.4, 1.5], [True, True, False, True, False]),
        "comparison": {
            "n_test": 200,
            "n_dev": 50,
            "seeds": list(range(seeds)),
            "base": "base" if "base" in arms else None,
            "control": control,
            "arms": arms,
            "teacher": teacher_data({"medium": {"correct": 18, "wrong": 2}, "hard": {"correct": 60, "wrong": 40}}),
            "intervals_cover": "questions and training seeds",
            "sentences": [f"{name}: {one['accuracy']['value']:.1%} in plain words." for name, one in arms.items()],
        },
        "routes": {one["arm"]: {"assigned": assigned, "skipped": {"rationale wrong": 3}} for one in arms.values()},
        "losses": {one["arm"]: [stage, stage] for one in arms.values()},
        "ledger": {**LEDGER, "requests": {"ok": 100, "failed": 2}},
        "price": None,
        "is_free": False,
        "provenance": {
            "versions": {"teachwise": "0.1.0"},
            "python": "3.11.7",
            "machine": "Linux",
            "units": UNITS,
            "sha256": SHA,
        },
    }
    return {**data, **changes}


def questions(data, per_split=5):
    """Rows for the list of questions; the first of every split is nasty."""
    examples = [
        Example(f"{split}{i}", 100 * at + i, split, ("calc", "week")[i % 2], i % 3, text, ("one", NASTY, "3"), "B")
        for at, split in enumerate(("train", "dev", "test"))
        for i in range(per_split)
        for text in [f"{NASTY if i == 0 else ''} What is {i}?"]
    ]
    scores = {e.id: Score(e.id, "m", e.row / 9, "ABC"[e.row % 3], e.row % 3 == 1, None, None, 9) for e in examples}
    rationales = {e.id: rationale(e.id, text=f"{NASTY} so B") for e in examples if e.split == "train"}
    arms = [one["arm"] for one in data["comparison"]["arms"].values()]

    def answer(example, arm):
        states = ("A", "B", None)[(len(arm) + example.row) % 3]
        return Prediction(example.id, example.split, "cot", states, states == "B", 0.1, 9, f"{NASTY} by {arm}")

    records = [
        browse.ArmRecord(
            arm,
            {e.id: "answer" for e in examples if e.split == "train"},
            [{e.id: answer(e, arm) for e in examples if e.split != "train"}] * len(data["comparison"]["seeds"]),
        )
        for arm in arms
    ]
    return browse.full_rows(examples, scores, {}, rationales, records), arms


def html_of(data):
    return page(data, browse.sample(*questions(data)))


def many():
    subjects = [f"subject {i}" for i in range(60)]
    return make(names=(NASTY, LONG, *(f"arm{i}" for i in range(9))), control=LONG, seeds=3, subjects=subjects)
