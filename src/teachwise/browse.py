"""Browse: every question with all that became of it, and the share of them that fits into the report's page."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from teachwise.records import Assignment, Example, Prediction, Rationale, Score
from teachwise.sampling import first_by_hash

LONGEST_TEXT = 1200
"""Characters of one text on the page; of a longer one the page has the beginning and the end, the table all of it."""
PAGE_BYTES = 4_000_000
"""Room for the examples in the page, which as a whole stays under 5 MB."""


@dataclass(frozen=True)
class ArmRecord:
    """What one arm gave to the training questions and answered to the others.

    Attributes:
        arm: Its name in the recipe.
        given: By id of a training question, its treatments in order of stage ("nothing", "answer", "rationale"),
            for the first seed.
        answers: For each seed, the answers in the arm's own mode by id of a dev or test question.
    """

    arm: str
    given: Mapping[str, str]
    answers: Sequence[Mapping[str, Prediction]]


def given(assignments: Sequence[Assignment]) -> dict[str, str]:
    """What every training question was given: "nothing", "answer", "rationale", or "answer, then rationale"."""
    found: dict[str, list[str]] = {}
    for one in sorted(assignments, key=lambda one: one.stage):
        found.setdefault(one.id, []).append("nothing" if one.give == "drop" else one.give)
    return {example_id: ", then ".join(gives) for example_id, gives in found.items()}


def full_rows(
    examples: Sequence[Example],
    scores: Mapping[str, Score],
    bands: Mapping[str, str],
    rationales: Mapping[str, Rationale],
    arms: Sequence[ArmRecord],
) -> list[dict[str, Any]]:
    """One row per question, whatever its split: the table that lies beside the page.

    Of several seeds the first one's answer is told, and how many seeds were right.
    """
    rows = []
    for example in examples:
        score, rationale = scores[example.id], rationales.get(example.id)
        row = {**asdict(example), "options": list(example.options), "band": bands.get(example.id)}
        row |= {"score": score.value, "student_answer": score.predicted, "student_correct": score.correct}
        row |= {
            "rationale_verdict": rationale.verdict if rationale else None,
            "rationale_kept": rationale.kept if rationale else None,
            "rationale_states": rationale.stated if rationale else None,
            "rationale": rationale.text if rationale else None,
        }
        for one in arms:
            row |= _of_arm(one, example.id)
        rows.append(row)
    return rows


def column(arm: str, what: str) -> str:
    """A column of an arm, whose name may be any word; no `what` ends with "_" and another, so all names differ.

    Example:
        >>> column("sft", "correct")
        'arm_sft_correct'
    """
    return f"arm_{arm}_{what}"


def _of_arm(one: ArmRecord, example_id: str) -> dict[str, Any]:
    found = [by[example_id] for by in one.answers if example_id in by]
    first = found[0] if found else None
    return {
        column(one.arm, "gave"): one.given.get(example_id),
        column(one.arm, "states"): first.stated if first else None,
        column(one.arm, "correct"): first.correct if first else None,
        column(one.arm, "seeds_right"): sum(answer.correct for answer in found) if found else None,
        column(one.arm, "text"): first.text if first else None,
    }


KINDS = {
    "disagree": "some arms right, some wrong",
    "unreadable": "an answer was unreadable",
    "none": "every arm wrong",
    "all": "every arm right",
    "rejected": "the teacher’s rationale was not kept",
    "wrong": "the untouched student was wrong",
    "right": "the untouched student was right",
}
"""What makes a question worth a look; the page takes turns among these, first test, then train, then dev."""
ORDER = tuple(f"{split}: {kind}" for split in ("test", "train", "dev") for kind in KINDS.values())


def kind_of(row: Mapping[str, Any], arms: Sequence[str]) -> str:
    """The one of `ORDER` that a question belongs to."""
    return f"{row['split']}: {KINDS[_seen_by_teacher(row) if row['split'] == 'train' else _seen_by_arms(row, arms)]}"


def _seen_by_teacher(row: Mapping[str, Any]) -> str:
    if row["rationale_kept"] is False:
        return "rejected"
    return "right" if row["student_correct"] else "wrong"


def _seen_by_arms(row: Mapping[str, Any], arms: Sequence[str]) -> str:
    right = [row[column(arm, "correct")] for arm in arms]
    if any(row[column(arm, "states")] is None for arm in arms):
        return "unreadable"
    if len(set(right)) > 1:
        return "disagree"
    return "all" if all(right) else "none"


def sample(
    rows: Sequence[Mapping[str, Any]], arms: Sequence[str], room: int = PAGE_BYTES, on_rejected: str = "drop"
) -> dict[str, Any]:
    """The questions that the page holds: as many as there is room for, the kinds in turn, by lot within each.

    Args:
        rows: From `full_rows`.
        arms: The arms' names in the recipe.
        room: Bytes of JSON that the chosen ones may take.
        on_rejected: What the recipe does with an example whose rationale was rejected.

    Returns:
        `rows`: the chosen ones as the page shows them. `kinds`: for each kind [how many are shown, of how many].
        `of`: how many there are.
    """
    chosen: list[dict[str, Any]] = []
    held: Counter[str] = Counter()
    for row in _in_turn(rows, arms):
        shown = page_row(row, arms, on_rejected)
        room -= len(as_json(shown).encode()) + 1
        if room < 0:
            break
        chosen.append(shown)
        held[kind_of(row, arms)] += 1
    there = Counter(kind_of(row, arms) for row in rows)
    return {
        "rows": chosen,
        "of": len(rows),
        "kinds": {kind: [held[kind], there[kind]] for kind in ORDER if there[kind]},
    }


def _in_turn(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    by, kinds = {row["id"]: row for row in rows}, {row["id"]: kind_of(row, arms) for row in rows}
    queues: dict[str, list[str]] = {kind: [] for kind in ORDER}
    for one in first_by_hash(list(by), len(by), seed=0, salt="examples on the page"):
        queues[kinds[one]].append(one)
    for turn in range(max(map(len, queues.values()), default=0)):
        yield from (by[queue[turn]] for queue in queues.values() if turn < len(queue))


def page_row(row: Mapping[str, Any], arms: Sequence[str], on_rejected: str) -> dict[str, Any]:
    """A row as the page holds it: long texts cut in their middle, and a text that only repeats the letter left out."""
    is_train = row["split"] == "train"
    own = "wrong" if row["student_answer"] else "unreadable"
    return {
        **{name: row[name] for name in ("row", "split", "subject", "level", "band")},
        "question": cut_middle(row["question"]),
        "options": [cut_middle(option, 300) for option in row["options"]],
        "gold": row["answer"],
        "own": row["student_answer"],
        "own_result": "right" if row["student_correct"] else own,
        "score": round(row["score"], 4),
        "rationale": [
            row["rationale_verdict"],
            row["rationale_states"],
            cut_middle(row["rationale"].strip()),
            row["rationale_kept"],
        ]
        if row["rationale_verdict"]
        else None,
        "gave": [_gave(row, arm, on_rejected) for arm in arms] if is_train else None,
        "answers": None if is_train else [_answer(row, arm) for arm in arms],
    }


REJECTED = {
    "wrong": "rejected as wrong",
    "unreadable": "rejected as unreadable",
    "truncated": "rejected as cut off",
    "contaminated": "rejected since it recites a held-out question",
    "refused": "which the provider refused",
    "failed": "which never came",
    "unknown": "which never came",
    "unpaid": "which the budget could not bear",
}
"""What became of a rationale that was not kept."""


def _gave(row: Mapping[str, Any], arm: str, on_rejected: str) -> str | None:
    """What an arm gave to a training question, and what it learnt instead where that was not fit to learn from."""
    gave: str | None = row[column(arm, "gave")]
    why = None if row["rationale_kept"] else REJECTED.get(row["rationale_verdict"])
    if not (gave and why and gave.endswith("rationale")):
        return gave
    return f"{gave}, {why}; {'its answer was trained on' if on_rejected == 'answer' else 'it was left out'}"


def _answer(row: Mapping[str, Any], arm: str) -> list[Any]:
    states, text = row[column(arm, "states")], row[column(arm, "text")].strip()
    return [states, row[column(arm, "seeds_right")], "" if text == states else cut_middle(text)]


def cut_middle(text: str, longest: int = LONGEST_TEXT) -> str:
    """A text without its middle where it is long: an answer stands at its end.

    Example:
        >>> cut_middle("abcdefghij", 4)
        'ab […] ij'
    """
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half].rstrip()} […] {text[-half:].lstrip()}"


def as_json(content: Any) -> str:
    """Compact JSON that may stand inside a page's script element: `<` is written as an escape."""
    found = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return found.replace("<", "\\u003c")
