"""Look: what a table of questions holds, found and said without any model.

It is read by the same readers that a run uses, so a run understands it in the same way. What a run must be told (which
of two subjects, that a table's own split is not whole, shares that fit its size) is settled here.
"""

import difflib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from teachwise.errors import DataError
from teachwise.guard import in_words, repeated, without
from teachwise.prepare import distinct, into_splits
from teachwise.records import Example, Hit, Split, Unusable
from teachwise.sections import Data
from teachwise.tasks import Row, Task, load_task
from teachwise.tasks.columns import NAMES, Columns, find_columns
from teachwise.tasks.multiple_choice import SPLITS, decide_reading, read_item
from teachwise.tasks.table import Cells, column_names, read_table

FEWEST = 12
"""Distinct usable questions below which no split leaves enough to train on and to judge by."""
ENOUGH = 1000
"""From here on a tenth is enough to judge by; smaller tables give more of their rows to dev and test."""
SMALL_SPLIT = {"train": 0.6, "dev": 0.15, "test": 0.25}
FEW = 200
"""Fewer questions than these prove nothing."""
_SHOWN = 3


@dataclass(frozen=True)
class Table:
    """A table as it was understood.

    Attributes:
        source: The file.
        columns: What each column is for.
        reading: How the answers name their option.
        n_rows: Rows of the table.
        kept: Distinct usable rows by id.
        unusable: The other rows, with the reason.
        notes: Rows that are used, but odd.
        examples: The rows in their splits.
        hits: Questions that repeat a held-out one.
        data: The recipe's section, as far as it must be written down.
        task: For the words of a prompt.
    """

    source: str
    columns: Columns
    reading: str
    n_rows: int
    kept: dict[str, Row]
    unusable: list[Unusable]
    notes: list[str]
    examples: list[Example]
    hits: list[Hit]
    data: dict[str, Any]
    task: Task

    def size(self, split: str) -> int:
        """Examples in a split."""
        return sum(example.split == split for example in self.examples)

    @property
    def has_split(self) -> bool:
        """Whether the table itself says what is train, dev and test."""
        return "split" in self.columns


def understand(data: dict[str, Any], overrides: Sequence[str] = ()) -> Table:
    """Read the table as a run would, and settle what a run must be told.

    Args:
        data: The recipe's section, with `source` and whatever the user named.
        overrides: The words by which the user named it; a hint repeats them.

    Raises:
        DataError: it has no column for the question, the options or the answer, or too few usable rows.
    """
    source = data["source"]
    command = ["teachwise", "init", source, *overrides]
    cells = read_table(source)
    given = _named_columns(cells, dict(data.get("columns") or {}), source, command)
    data = {**data, **({"columns": given} if given else {})}
    rows, task = _rows(data, command)
    usable = [row for row in rows if isinstance(row, Row)]
    if "split" not in given and not _splits_whole(usable):
        data = {**data, "columns": {**given, "split": ""}}
        rows, task = _rows(data, command)
        usable = [row for row in rows if isinstance(row, Row)]
    kept, repeats = distinct(usable)
    unusable = [row for row in rows if isinstance(row, Unusable)]
    if len(kept) < FEWEST:
        raise _too_few(source, len(rows), kept, [*unusable, *repeats])
    columns = find_columns(column_names(cells), data.get("columns") or {}, source)
    reading = data.get("answer_is", "auto")
    if reading == "auto":
        reading = decide_reading([read_item(row, columns) for row in cells], source)
    data, examples = _split(data, kept, "split" in columns)
    hits = repeated(examples)
    examples, copied = without(examples, hits if data.get("on_contamination", "drop") == "drop" else [])
    return Table(
        source, columns, reading, len(rows), kept, [*unusable, *repeats, *copied], list(getattr(task, "notes", [])),
        examples, hits, data, task,
    )  # fmt: skip


def _named_columns(
    cells: Sequence[Cells], given: dict[str, Any], source: str, command: Sequence[str]
) -> dict[str, Any]:
    """What the recipe must say about columns: what the user said, and one subject where several could be it."""
    names = column_names(cells)
    troubles: dict[str, DataError] = {}
    for role in ("question", "options", "answer"):
        others = {other: given.get(other) or names[0] for other in NAMES if other != role}
        try:
            find_columns(names, {**others, role: given.get(role)}, source)
        except DataError as error:
            troubles[role] = error
    if troubles:
        raise _hopeless(cells, names, troubles, source, command)
    subjects = [name for name in names if name.strip().lower() in NAMES["subject"]]
    if given.get("subject") is None and len(subjects) > 1:
        given["subject"] = subjects[0]
    splits = [name for name in names if name.strip().lower() in NAMES["split"]]
    odd = any(str(row.get(name) or "").strip().lower() not in {*SPLITS, ""} for name in splits for row in cells)
    if given.get("split") is None and (odd or len(splits) > 1):
        given["split"] = ""
    return given


def _hopeless(
    cells: Sequence[Cells], names: Sequence[str], troubles: Mapping[str, DataError], source: str, command: Sequence[str]
) -> DataError:
    several = [error for error in troubles.values() if "several columns" in error.found]
    words = [f"{role}={_guess(role, names, cells)}" for role in troubles]
    line = shlex.join([*command, *(f"data.columns.{word}" for word in words)])
    if several:
        return DataError(several[0].found, f"say which you mean:  {line}")
    wanted = "; ".join(f"{role} ({', '.join(NAMES[role][:4])}{_LIKE.get(role, '')})" for role in troubles)
    return DataError(
        f"{source}: no column for {', '.join(troubles)} among: {', '.join(names)}; wanted {wanted}",
        f"say which it is:  {line}",
    )


_LIKE = {"options": ", or one column per option: A, B, C; option_a, option_b"}


def _guess(role: str, names: Sequence[str], cells: Sequence[Cells]) -> str:
    """The column a user may have meant: named alike, or, for the question, the one that asks most."""
    for name in names:
        plain = name.strip().lower()
        if not plain.endswith("id") and difflib.get_close_matches(plain, NAMES[role], n=1, cutoff=0.7):
            return name
    if role == "question":
        texts = {name: [str(row.get(name) or "").strip() for row in cells[:200]] for name in names}
        return max(names, key=lambda name: (sum(t.endswith("?") for t in texts[name]), sum(map(len, texts[name]))))
    return "COLUMN"


def _rows(data: Mapping[str, Any], command: Sequence[str]) -> tuple[list[Row | Unusable], Task]:
    section = Data.model_validate(data)
    task = load_task(section.task, **section.task_options())
    try:
        return list(task.rows()), task
    except DataError as error:
        if choice := re.search(r"answer_is: (\w+)", error.hint):
            line = shlex.join([*command, f"data.answer_is={choice[1]}"])
            ways = re.search(r"\(one of [^)]*\)", error.hint)
            raise DataError(error.found, f"say which it is:  {line}  {ways[0] if ways else ''}".rstrip()) from None
        raise


def _splits_whole(rows: Sequence[Row]) -> bool:
    """Whether the table's own split can be used: there is none, or it has all three."""
    return {row.split for row in rows} in ({None}, set(), set(get_args(Split)))


def _too_few(source: str, n_rows: int, kept: Mapping[str, Row], unusable: Sequence[Unusable]) -> DataError:
    why = [f"row {one.row}: {one.reason}" for one in unusable[:_SHOWN]]
    return DataError(
        f"{source}: distinct questions that can be used: {len(kept)} of {n_rows:,} rows, wanted at least {FEWEST}"
        + (f" ({'; '.join(why)})" if why else ""),
        "mend these rows" if why else "add questions: thirty show that everything works, some hundred tell something",
    )


def _split(data: dict[str, Any], kept: dict[str, Row], has_split: bool) -> tuple[dict[str, Any], list[Example]]:
    """Shares by the table's size, and the first seed by which every split gets about its share."""
    if not has_split and "split" not in data and len(kept) < ENOUGH:
        data = {**data, "split": SMALL_SPLIT}
    tried: dict[int, tuple[float, list[Example]]] = {}
    for seed in [data.get("seed", 0)] if has_split or "seed" in data else range(50):
        section = Data.model_validate({**data, "seed": seed})
        examples = into_splits(kept, section)
        tried[seed] = _balance(examples, section, len(kept)), examples
        if has_split or section.limit or tried[seed][0] >= 0.8:
            break
    best = max(tried, key=lambda seed: tried[seed][0])
    return ({**data, "seed": best} if best else data), tried[best][1]


def _balance(examples: Sequence[Example], section: Data, n: int) -> float:
    """Of the split that came off worst: its size as a share of what it should be."""
    sizes = Counter[str](example.split for example in examples)
    shares: dict[str, float] = section.split.model_dump()
    return min(sizes[split] / (share * n) for split, share in shares.items())


# what is said


def described(table: Table) -> list[str]:
    """What was understood, in plain words, line by line."""
    lines = [f"{table.source}: {table.n_rows:,} rows, {len(table.kept):,} distinct questions that can be used", ""]
    options = Counter(len(row.options) for row in table.kept.values())
    spread = f"{min(options)}" if len(options) == 1 else f"{min(options)} to {max(options)}"
    lines.append(f"  question  {_shown_column(table.columns['question'])}")
    lines.append(f"  options   {_shown_column(table.columns['options'])}; {spread} each")
    lines.append(f"  answer    {_shown_column(table.columns['answer'])}; {_READ[table.reading]}")
    lines.append(f"  subject   {_subjects(table)}")
    lines.append(f"  split     {_how_split(table)}")
    sizes = ", ".join(f"{split} {table.size(split):,}" for split in get_args(Split))
    lines.append(f"            {sizes}")
    lines += _problems(table.unusable)
    return lines + [f"note: {one}" for one in _warnings(table)]


_READ = {
    "letter": "it names the option by its letter or label",
    "text": "it repeats the option's text",
    "index": "it numbers the options from 0",
    "index_from_1": "it numbers the options from 1",
}


def _shown_column(column: str | list[str]) -> str:
    return f"column {column!r}" if isinstance(column, str) else f"columns {', '.join(column)}"


def _subjects(table: Table) -> str:
    if "subject" not in table.columns:
        return "no such column"
    sizes = Counter(row.subject or "(none)" for row in table.kept.values())
    top = ", ".join(f"{name} {n:,}" for name, n in sizes.most_common(5))
    return f"{_shown_column(table.columns['subject'])}; {len(sizes):,} in all: {top}{', ...' if len(sizes) > 5 else ''}"


def _how_split(table: Table) -> str:
    if table.has_split:
        return f"{_shown_column(table.columns['split'])}, as the table has it"
    data = Data.model_validate(table.data)
    shares = " / ".join(f"{share:g}" for share in data.split.model_dump().values())
    own = "; the table's own split is not used" if data.columns.split == "" else ""
    return f"by a hash of the question, shares {shares}, seed {data.seed}{own}"


def _problems(unusable: Sequence[Unusable]) -> list[str]:
    """Rows that are not used, by kind of reason, the first few of each."""
    kinds: dict[str, list[Unusable]] = {}
    for one in unusable:
        kinds.setdefault(re.sub(r"'.*?'|\d+", "_", one.reason), []).append(one)
    lines = ["", f"{len(unusable):,} rows are not used (row 0 is the first):"] if unusable else []
    for rows in sorted(kinds.values(), key=len, reverse=True):
        reasons: dict[str, list[str]] = {}
        for one in rows:
            reasons.setdefault(one.reason, []).append(str(one.row))
        shown = {reason: places[: 2 * _SHOWN] for reason, places in list(reasons.items())[:_SHOWN]}
        texts = [f"{reason}: row {', '.join(places)}" for reason, places in shown.items()]
        if left := len(rows) - sum(map(len, shown.values())):
            texts[-1] += f", and {left:,} more"
        lines += [f"  {len(rows):>5,} x  {texts[0]}", *(f"{'':11}{text}" for text in texts[1:])]
    return lines


def _warnings(table: Table) -> list[str]:
    """What a careful person would point out."""
    found = table.notes[:_SHOWN]
    if len(table.notes) > _SHOWN:
        found.append(f"... and {len(table.notes) - _SHOWN:,} more rows whose two answer columns disagree")
    letter, n = Counter(row.answer for row in table.kept.values()).most_common(1)[0]
    if n > 0.8 * len(table.kept):
        found.append(f"{n:,} of {len(table.kept):,} answers are {letter}: a model can learn the letter alone; shuffle")
    if table.hits:
        found.append(in_words(table.hits))
    n_test = table.size("test")
    points = 98 / n_test**0.5
    text = f"{n_test:,} test questions tell an accuracy to within about {points:.0f} points"
    if len(table.kept) < FEW:
        text += "; so few questions show that everything works and prove nothing"
    return [*found, text]
