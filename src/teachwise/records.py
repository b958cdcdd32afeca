"""The rows that steps hand to one another: one frozen dataclass per table, stored as Parquet.

A record class *is* its table's schema: the field names are the column names and the annotations give the column
types, so the two cannot drift apart. Nothing here knows where a file lies (that is `run_folder`) or what it means.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from teachwise.errors import DataError, damaged

Message = Mapping[str, str]
"""A chat message: {"role": ..., "content": ...}."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Split = Literal["train", "dev", "test"]
Mode = Literal["direct", "cot", "routed"]
Give = Literal["drop", "answer", "rationale"]
Verdict = Literal[
    "correct", "wrong", "unreadable", "truncated", "contaminated", "refused", "failed", "unknown", "unpaid"
]


FAILING = ("FAIL", "NO SEPARATION")
"""Verdicts on a score with which the gate does not let a run pass."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its gold answer.

    Attributes:
        id: Hash of the question and its options; the same in every run and on every machine.
        row: Row number in the source table, from 0.
        split: Where `prepare` put it.
        subject: Free text; "" when the source has none.
        level: Known difficulty (for instance the number of reasoning steps), or None.
        question: The question alone, without its options.
        options: K option texts, in order.
        answer: The gold option's letter.
    """

    id: str
    row: int
    split: Split
    subject: str
    level: int | None
    question: str
    options: tuple[str, ...]
    answer: str

    @property
    def letters(self) -> str:
        """The K letters that name the options, "ABCD" for four."""
        return LETTERS[: len(self.options)]


@dataclass(frozen=True, slots=True)
class Unusable:
    """A source row that `prepare` set apart, with the reason.

    Attributes:
        row: Row number in the source table, from 0.
        reason: Why it cannot be used, in words.
        question: Its question; "" where it has none.
    """

    row: int
    reason: str
    question: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A text for training that holds a held-out question.

    Attributes:
        place: Where the text stands: a `train` or `dev` question, or a `rationale` for a train question.
        held: The split of the held-out question.
        kind: `exact`: the same words and options. `near`: most of them. `recited`: the rationale contains them.
        share: Share of n-grams in common, 0-1.
        id: The example that the text belongs to.
        held_id: The held-out example.
        text: The question with its options, or the rationale.
        held_text: The held-out question with its options.
    """

    place: Literal["train", "dev", "rationale"]
    held: Split
    kind: Literal["exact", "near", "recited"]
    share: float
    id: str
    held_id: str
    text: str
    held_text: str


@dataclass(frozen=True, slots=True)
class Score:
    """How unsure the student is about one example by one measure, before any training.

    Attributes:
        id: The example.
        measure: What `value` measures. The rows of the measure that drives routing and the gate stand first.
        value: Higher = less sure; None where the measure has no value for the example. For `answer_entropy`: nats,
            0 to ln V.
        predicted: The letter the student would answer, or None where its likeliest token is no option letter.
        correct: `predicted` is the gold letter (an unreadable answer is not correct).
        gold_probability: Probability of the gold letter's token, 0-1; None without a model or options.
        option_mass: Probability of all option letters together, 0-1; None without a model or options.
        prompt_tokens: Tokens the student read.
    """

    id: str
    measure: str
    value: float | None
    predicted: str | None
    correct: bool
    gold_probability: float | None
    option_mass: float | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Driven(Score):
    """A score by the measure that drives routing and the gate: every example has a value."""

    value: float


@dataclass(frozen=True, slots=True)
class Confident:
    """A train question that the student answered wrongly although it is among its surest quarter by a measure.

    Attributes:
        measure: The measure.
        id: The example.
        value: Its score; higher = less sure.
        predicted: What the student answered, or None.
        answer: The gold answer.
        question: The question alone.
    """

    measure: str
    id: str
    value: float
    predicted: str | None
    answer: str
    question: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one arm gives one example, in one stage of its training.

    Attributes:
        id: The example.
        band: easy, medium or hard; "all" where the policy does not look at scores.
        give: Nothing (`drop`), the gold answer alone, or the teacher's rationale.
        stage: Index of the training stage, from 0; -1 when dropped.
    """

    id: str
    band: str
    give: Give
    stage: int


@dataclass(frozen=True, slots=True)
class Rationale:
    """What the teacher wrote for one example and what became of it.

    Attributes:
        id: The example.
        verdict: `correct`: it states the gold answer. `wrong`: it states another. `unreadable`: it states none.
            `truncated`: cut off by the token limit. `contaminated`: it recites a question of dev or test. `refused`:
            the provider would not. `failed`: no reply was to be had. `unknown`: nobody knows whether it was answered.
            `unpaid`: the budget could not bear it.
        first: The verdict of its first reply; `verdict` is that of the reply that is kept, or of the last one.
        kept: It is learnt from.
        stated: The answer that the text states, or None.
        text: The reply as received; "" where there is none.
        reasoning: What a reasoning model wrote in a field of its own; not learnt from.
        loops: It ends by saying the same thing over and over.
        gold_shown: The teacher was shown the gold answer.
        requests: Requests that were answered for it, more than one where it was asked again.
        prompt_tokens: Tokens the teacher read, over all its requests.
        cached_tokens: Of these, tokens that the endpoint had in a cache.
        completion_tokens: Tokens the teacher wrote, over all its requests.
        kept_prompt_tokens: Of the tokens read, those for the reply that is kept; 0 where none is.
        kept_cached_tokens: Of these, tokens that the endpoint had in a cache.
        kept_completion_tokens: Of the tokens written, those of the reply that is kept; 0 where none is.
    """

    id: str
    verdict: Verdict
    first: Verdict
    kept: bool
    stated: str | None
    text: str
    reasoning: str
    loops: bool
    gold_shown: bool
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    kept_prompt_tokens: int
    kept_cached_tokens: int
    kept_completion_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens read and written for it."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def unusable_tokens(self) -> int:
        """Of the tokens read and written, those for replies that are not kept."""
        return self.tokens - self.kept_prompt_tokens - self.kept_completion_tokens


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to one held-out question.

    Attributes:
        id: The example.
        split: dev (where modes and thresholds are chosen) or test (where arms are judged).
        mode: How it was answered.
        stated: The letter read from the answer; None means unreadable, which counts as not correct.
        correct: `stated` is the gold letter.
        score: The answering model's own answer entropy on this question, nats.
        generated_tokens: Tokens written for this answer.
        text: What the model wrote.
    """

    id: str
    split: Split
    mode: Mode
    stated: str | None
    correct: bool
    score: float
    generated_tokens: int
    text: str


Record = TypeVar("Record")

_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def arrow_schema(kind: type) -> pa.Schema:
    """The Parquet schema of a record class.

    Example:
        >>> arrow_schema(Unusable).names
        ['row', 'reason', 'question']
    """
    hints = get_type_hints(kind)
    return pa.schema([_arrow_field(field.name, hints[field.name]) for field in fields(kind)])


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = get_origin(hint) in (Union, types.UnionType)
    if nullable:
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is Literal:
        hint = str
    arrow = pa.list_(_ARROW[get_args(hint)[0]]) if get_origin(hint) is tuple else _ARROW[hint]
    return pa.field(name, arrow, nullable=nullable)


def to_table(kind: type[Record], rows: Iterable[Record]) -> pa.Table:
    """Records as an Arrow table.

    Raises:
        DataError: a number is NaN or infinite. Such a value is a fault upstream and is never written.
    """
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=arrow_schema(kind))  # type: ignore[call-overload]
    for name in table.column_names:
        _refuse_not_finite(kind, table, name)
    return table


def _refuse_not_finite(kind: type, table: pa.Table, name: str) -> None:
    """Refuse NaN and infinities in a column of numbers, or of lists of numbers."""
    values, is_list = table[name], pa.types.is_list(table.schema.field(name).type)
    if is_list:
        values = pc.list_flatten(values)
    if not pa.types.is_floating(values.type) or (bad := pc.index(pc.is_finite(values), False).as_py()) < 0:
        return
    row = pc.list_parent_indices(table[name])[bad].as_py() if is_list else bad
    who = table["id"][row].as_py() if "id" in table.column_names else ""
    raise DataError(
        f"{kind.__name__} {who}: {name} is {values[bad].as_py()}, wanted a finite number",
        "a model that gives NaN is often loaded in the wrong dtype: try `student.dtype=float32`",
    )


def from_table(kind: type[Record], table: pa.Table) -> list[Record]:
    """The records of an Arrow table that `to_table` made."""
    tuples = [name for name, hint in get_type_hints(kind).items() if get_origin(hint) is tuple]
    rows = table.to_pylist()
    for row in rows:
        for name in tuples:
            row[name] = tuple(row[name])
    return [kind(**row) for row in rows]


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """All records of one Parquet file.

    Raises:
        DataError: it is cut off, or no such file.
    """
    try:
        with path.open("rb") as file:  # given a path, pyarrow would read a folder named `lr=1` as a column
            return from_table(kind, pq.read_table(file))
    except (pa.ArrowException, TypeError) as error:  # TypeError: other columns than the record has
        raise damaged(path, error) from error


def driving(scores: Sequence[Score]) -> list[Driven]:
    """The rows of the measure that drives routing and the gate: it stands first in the table.

    An example for which it has no value is taken for as unsure as the least sure one, so that every row can be routed.

    Raises:
        DataError: there is no row, or it has no value for any example.
    """
    rows = [row for row in scores if row.measure == scores[0].measure]
    values = [row.value for row in rows if row.value is not None]
    if not values:
        name = scores[0].measure if scores else "the measure"
        raise DataError(f"score: {name} has no value for any example", "name another `score.measure`")
    return [Driven(**(asdict(row) | ({"value": max(values)} if row.value is None else {}))) for row in rows]


def by_id(rows: Sequence[Record]) -> dict[str, Record]:
    """Records keyed by example id; for tables with one row per example."""
    return {row.id: row for row in rows}  # type: ignore[attr-defined]
