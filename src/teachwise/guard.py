"""Guard: no text for training may hold a question that choices are made on (dev) or arms are judged by (test).

What counts as holding a question stands in `overlap`. Here stands what is compared with what, and what follows:
`drop` takes the training text out, never the held-out question; `fail` stops the run; `warn` keeps everything.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from teachwise.console import say
from teachwise.errors import GateError
from teachwise.overlap import Match, copies, recitals, too_alike
from teachwise.records import Example, Hit, Split, Unusable

CONTAMINATION = "contamination.parquet"
"""Every hit with both texts, beside the tables of the step that looked."""
HEAVY = 0.1
"""Share of the train questions from which a warning says that it is large."""

Policy = Literal["drop", "fail", "warn"]
_RANK: dict[str, int] = {"exact": 0, "near": 1, "recited": 2, "test": 0, "dev": 1}


def repeated(examples: Sequence[Example]) -> list[Hit]:
    """Train questions that repeat dev or test, and dev questions that repeat test."""
    by_split = {split: [one for one in examples if one.split == split] for split in ("train", "dev", "test")}
    train, dev, test = by_split.values()
    return [
        *(_hit("train", match, train, [*test, *dev]) for match in copies(train, [*test, *dev])),
        *(_hit("dev", match, dev, test) for match in copies(dev, test)),
    ]


def recited(rationales: Mapping[str, str], examples: Mapping[str, Example]) -> list[Hit]:
    """Rationales that contain a question of dev or test.

    Args:
        rationales: The teacher's text for each train example that has one, by its id.
        examples: All examples, by id.
    """
    held = held_out(examples.values())
    own = [examples[id] for id in rationales]
    texts = list(rationales.values())
    return [_hit("rationale", match, own, held, texts) for match in recitals(texts, own, held)]


def _hit(
    place: Literal["train", "dev", "rationale"],
    match: Match,
    others: Sequence[Example],
    held: Sequence[Example],
    texts: Sequence[str] = (),
) -> Hit:
    other, wanted = others[match.other], held[match.held]
    text = texts[match.other] if texts else as_read(other)
    return Hit(place, wanted.split, match.kind, match.share, other.id, wanted.id, text, as_read(wanted))


def as_read(example: Example) -> str:
    """A question with its lettered options, one per line."""
    options = [f"{letter}. {text}" for letter, text in zip(example.letters, example.options, strict=True)]
    return "\n".join([example.question, *options])


def without(examples: Sequence[Example], hits: Iterable[Hit]) -> tuple[list[Example], list[Unusable]]:
    """The examples that are left when those that repeat a held-out question are set apart, with the reason."""
    first: dict[str, Hit] = {}
    for hit in sorted(hits, key=lambda hit: (_RANK[hit.kind], _RANK[hit.held], -hit.share)):
        first.setdefault(hit.id, hit)
    rows = {one.id: one.row for one in examples}
    apart = [
        Unusable(one.row, _reason(first[one.id], rows[first[one.id].held_id]), one.question)
        for one in examples
        if one.id in first
    ]
    return [one for one in examples if one.id not in first], apart


def _reason(hit: Hit, row: int) -> str:
    how = "repeats" if hit.kind == "exact" else "nearly repeats"
    return f"{how} a {hit.held} question, row {row}"


def held_out(examples: Iterable[Example]) -> list[Example]:
    """The questions of dev and test."""
    return [one for one in examples if one.split != "train"]


def summary(hits: Sequence[Hit], policy: Policy, examples: Iterable[Example]) -> dict[str, Any]:
    """What was found and what was done, for `prepare.json` and the report."""
    groups: dict[tuple[str, Split], list[Hit]] = {}
    for hit in hits:
        groups.setdefault((hit.place, hit.held), []).append(hit)
    found = [
        {"place": place, "held": held, "texts": len({hit.id for hit in some}), **Counter(hit.kind for hit in some)}
        for (place, held), some in groups.items()
    ]
    return {"on_contamination": policy, "found": found, "too_alike": too_alike(held_out(examples))}


def in_words(hits: Sequence[Hit]) -> str:
    """What was found: "3 train questions and 1 dev question repeat held-out questions"; "" for nothing."""
    places: Counter[str] = Counter(place for place, _ in {(hit.place, hit.id) for hit in hits})
    names = {"train": "train question", "dev": "dev question", "rationale": "rationale"}
    parts = [f"{places[place]:,} {name}{'s' * (places[place] > 1)}" for place, name in names.items() if places[place]]
    verb = "recite" if not places["train"] + places["dev"] else "repeat"
    return f"{' and '.join(parts)} {verb}{'s' * (places.total() == 1)} held-out questions" if parts else ""


def settle(hits: Sequence[Hit], policy: Policy, step: str, path: Path, n: int) -> None:
    """Say what was found, or stop.

    Args:
        hits: What was found; it is written to `path` already.
        policy: What the recipe says.
        step: Opens the message: prepare, or teach with its arm.
        path: The file of the hits.
        n: How many texts were looked through.

    Raises:
        GateError: there are hits and the policy is `fail`.
    """
    if not hits:
        return
    found = f"{step}: {in_words(hits)}"
    if policy == "fail":
        mend = "ask another teacher" if step.startswith("teach") else "mend the table"
        hint = f"read both texts in {path} and {mend}, or set data.on_contamination to drop or warn"
        raise GateError(found, hint)
    done = "left out" if policy == "drop" else "kept, as data.on_contamination: warn says"
    share = len({hit.id for hit in hits}) / n
    much = f"; that is {share:.0%} of them, so read some before you trust it" if share >= HEAVY else ""
    say(f"[yellow]warning[/yellow] {found}: {done}{much}; both texts are in {path}")
