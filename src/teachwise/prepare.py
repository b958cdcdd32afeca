"""Prepare: turn a table of questions into typed examples in disjoint splits.

in   data                       a hub data set, a file, or the task's own generator
out  prepare/examples.parquet   Example: one row per distinct question, with its split
out  prepare/unusable.parquet   Unusable: every source row that was set apart, with the reason
out  prepare/prepare.json       counts, and what is known of questions that stand in two splits
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from teachwise.console import say
from teachwise.errors import DataError
from teachwise.recipe import Recipe
from teachwise.records import Example, Split, Unusable
from teachwise.run_folder import Run, Unit, write_json, write_records
from teachwise.sampling import first_by_hash, split_of
from teachwise.sections import Data
from teachwise.tasks import Row, load_task

_PRIORITY = {"test": 0, "dev": 1, "train": 2, None: 3}


def distinct(rows: Iterable[Row]) -> tuple[dict[str, Row], list[Unusable]]:
    """One row per question with its options; repeats are set apart.

    Where a table has its own split, a repeat that stands in test as well as in train stays in test: no training row
    may be a test row.
    """
    kept: dict[str, Row] = {}
    repeats = []
    for row in sorted(rows, key=lambda row: (_PRIORITY[row.split], row.row)):
        first = kept.setdefault(row.id, row)
        if first is not row:
            other = "" if first.answer == row.answer else f", with another answer ({first.answer})"
            repeats.append(Unusable(row.row, f"repeats row {first.row}{other}", row.question))
    return kept, repeats


def into_splits(rows: dict[str, Row], data: Data) -> list[Example]:
    """Examples with their splits, in source order; rows outside the shares and limits are left out.

    The split is a seeded hash of the question's text, so questions that differ in their options alone stay
    together, and a row added later moves no other. A split that the source itself names is taken as it is;
    `shared_questions` then tells which questions stand on both sides.
    """
    shares = (data.split.train, data.split.dev, data.split.test)
    found: dict[str, list[str]] = defaultdict(list)
    for key, row in rows.items():
        split = row.split or split_of(" ".join(row.question.lower().split()), data.seed, shares)
        if split is not None:
            found[split].append(key)
    examples = []
    for split in get_args(Split):
        limit = min(data.limit.get(split, len(found[split])), len(found[split]))
        examples += [rows[key].example(split) for key in first_by_hash(found[split], limit, data.seed)]
    return sorted(examples, key=lambda example: (example.row, example.id))


def shared_questions(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Question texts that stand in train and in dev or test too, with other options: near-contamination to know of."""
    places: dict[str, set[Split]] = defaultdict(set)
    rows: dict[str, list[int]] = defaultdict(list)
    for example in examples:
        text = " ".join(example.question.lower().split())
        places[text].add(example.split)
        rows[text].append(example.row)
    return [
        {"question": text, "splits": sorted(splits), "rows": rows[text]}
        for text, splits in places.items()
        if "train" in splits and len(splits) > 1
    ]


def _no_examples(split: Split, data: Data, n_rows: int, n_usable: int, apart: Sequence[Unusable]) -> DataError:
    why = f"; row {apart[0].row}: {apart[0].reason}" if apart else ""
    hint = (
        "raise its share in data.split, or give a larger table; a table's own split is left out with "
        "data.columns.split=''"
    )
    if not n_usable:
        hint = "mend the rows, or say in the recipe's data.columns and data.answer_is how to read them"
    return DataError(
        f"prepare: {data.source or data.task}: no {split} examples ({n_rows:,} rows read, {n_usable:,} usable{why})",
        hint,
    )


def _warn_contradictions(repeats: Sequence[Unusable]) -> None:
    """The same question with two answers: the first counts, and somebody should look."""
    rows = [repeat for repeat in repeats if "another answer" in repeat.reason]
    if rows:
        say(
            f"[yellow]warning[/yellow] prepare: {len(rows):,} rows repeat a question with another answer, the first is "
            f"row {rows[0].row}; the answer that stands first counts (all are in prepare/unusable.parquet)"
        )


@dataclass(frozen=True)
class Prepared:
    """What a source comes to.

    Attributes:
        examples: With their splits, in source order.
        unusable: Rows set apart, repeats among them.
        counts: Rows by what became of them.
        notes: What the task found worth telling.
    """

    examples: list[Example]
    unusable: list[Unusable]
    counts: dict[str, int]
    notes: list[str]


def read_source(data: Data) -> Prepared:
    """Read the source and split it; nothing is written.

    Raises:
        DataError: the source cannot be read, or a split is left empty.
    """
    task = load_task(data.task, **data.task_options())
    rows = list(task.rows())
    unusable = [row for row in rows if isinstance(row, Unusable)]
    kept, repeats = distinct(row for row in rows if isinstance(row, Row))
    examples = into_splits(kept, data)
    sizes = Counter(example.split for example in examples)
    for split in get_args(Split):
        if not sizes[split]:
            raise _no_examples(split, data, len(rows), len(kept), unusable + repeats)
    _warn_contradictions(repeats)
    counts = {
        **{split: sizes[split] for split in get_args(Split)},
        "rows": len(rows),
        "unusable": len(unusable),
        "repeats": len(repeats),
        "not_used": len(kept) - len(examples),
    }
    return Prepared(examples, unusable + repeats, counts, list(getattr(task, "notes", [])))


def prepare_examples(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Read the source, write the examples, return the counts."""
    found = read_source(recipe.data)
    folder = run.folder(unit)
    write_records(folder / "examples.parquet", Example, found.examples)
    write_records(folder / "unusable.parquet", Unusable, found.unusable)
    shared = shared_questions(found.examples)
    write_json(folder / "prepare.json", {"counts": found.counts, "shared_questions": shared, "notes": found.notes})
    return found.counts
