"""Prepare: turn a table of questions into typed examples in disjoint splits.

in   data                            a hub data set, a file, or the task's own generator
out  prepare/examples.parquet        Example: one row per distinct question, with its split
out  prepare/unusable.parquet        Unusable: every source row that was set apart, with the reason
out  prepare/contamination.parquet   Hit: train questions that repeat held-out ones, with both texts
out  prepare/prepare.json            counts, and what was found in two splits
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from teachwise.console import say
from teachwise.errors import DataError
from teachwise.guard import CONTAMINATION, repeated, settle, summary, without
from teachwise.recipe import Recipe
from teachwise.records import Example, Hit, Split, Unusable
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
    together, and a row added later moves no other. A split that the source itself names is taken as it is.
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


def _no_examples(
    split: Split, data: Data, n_rows: int, n_usable: int, apart: Sequence[Unusable], is_copied: bool
) -> DataError:
    why = f"; row {apart[0].row}: {apart[0].reason}" if apart else ""
    hint = (
        "raise its share in data.split, or give a larger table; a table's own split is left out with "
        "data.columns.split=''"
    )
    if not n_usable:
        hint = "mend the rows, or say in the recipe's data.columns and data.answer_is how to read them"
    if is_copied:
        hint = "give questions that do not repeat held-out ones, or keep these with data.on_contamination=warn"
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
        hits: Questions that repeat a held-out one, whether they are set apart or not.
        counts: Rows by what became of them.
        notes: What the task found worth telling.
    """

    examples: list[Example]
    unusable: list[Unusable]
    hits: list[Hit]
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
    found = into_splits(kept, data)
    hits = repeated(found)
    examples, copied = without(found, hits if data.on_contamination == "drop" else [])
    sizes = Counter(example.split for example in examples)
    for split in get_args(Split):
        if not sizes[split]:
            lost = {example.row for example in found if example.split == split}
            here = [one for one in copied if one.row in lost]
            raise _no_examples(split, data, len(rows), len(kept), here or unusable + repeats, is_copied=bool(here))
    _warn_contradictions(repeats)
    counts = {
        **{split: sizes[split] for split in get_args(Split)},
        "rows": len(rows),
        "unusable": len(unusable),
        "repeats": len(repeats),
        "contaminated": len(copied),
        "not_used": len(kept) - len(found),
    }
    return Prepared(examples, unusable + repeats + copied, hits, counts, list(getattr(task, "notes", [])))


def prepare_examples(recipe: Recipe, run: Run, unit: Unit) -> dict[str, Any]:
    """Read the source, write the examples, return the counts.

    Raises:
        DataError: as `read_source`.
        GateError: a train question repeats a held-out one, and the recipe says to stop.
    """
    found = read_source(recipe.data)
    folder = run.folder(unit)
    how = recipe.data.on_contamination
    write_records(folder / CONTAMINATION, Hit, found.hits)
    n_compared = sum(found.counts[name] for name in ("train", "dev", "contaminated"))
    settle(found.hits, how, "prepare", folder / CONTAMINATION, n_compared)
    write_records(folder / "examples.parquet", Example, found.examples)
    write_records(folder / "unusable.parquet", Unusable, found.unusable)
    content = {"counts": found.counts, "contamination": summary(found.hits, how, found.examples), "notes": found.notes}
    write_json(folder / "prepare.json", content)
    return found.counts
