"""Doctor: what makes a training go wrong without a word, looked for before the first update.

A fine-tuning with a wrong chat template, a masked stop token or a cut answer runs to its end, its loss falls, and the
student is worse than before. Here the sequences are looked at as the model is fed them, token by token, beside the
prompt as it will be asked. Nothing here loads a model: what a check needs is handed in.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Literal

from teachwise.chat import Chat
from teachwise.errors import StudentError
from teachwise.probe import Reload
from teachwise.records import Example
from teachwise.tasks import Task

NO_LOSS = -100
"""The label of a token that carries no loss."""
SEQUENCES = 64
"""How many sequences of a stage are looked at."""
_SHOWN = 12
"""Tokens shown at either end of a long stretch."""


@dataclass(frozen=True)
class Rendered:
    """One lesson as the model is fed it, beside what the student will be asked.

    Attributes:
        example: The question.
        mode: How it is asked.
        ids: T token ids, without padding.
        labels: T; the same id where a token carries loss, `NO_LOSS` where not.
        asked: Token ids of the prompt when the tuned student is evaluated or used.
    """

    example: Example
    mode: Literal["direct", "cot"]
    ids: list[int]
    labels: list[int]
    asked: list[int]

    @property
    def learnt(self) -> list[int]:
        """The tokens that carry loss."""
        return [label for label in self.labels if label != NO_LOSS]


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        check: Its name.
        rows: Sequences looked at; 0 for a check of the whole stage.
        saw: What was seen, with figures.
        faulty: Ids of the examples that failed.
        fault: What is wrong and what was wanted, "" where nothing is.
        hint: What to change, where something is wrong.
    """

    check: str
    rows: int
    saw: str
    faulty: tuple[str, ...] = ()
    fault: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that must hold for every sequence.

    Attributes:
        name: In messages and in the run.
        hint: What to change where it does not hold.
        look: From a sequence to what is wrong with it, "" where nothing is.
        saw: From all sequences to what was seen.
    """

    name: str
    hint: str
    look: Callable[[Rendered, Chat, Task], str]
    saw: Callable[[Sequence[Rendered], Chat], str]


def _unsupervised(row: Rendered, chat: Chat, task: Task) -> str:
    return "" if row.learnt else "no token carries loss, wanted all of the completion"


def _learns_prompt(row: Rendered, chat: Chat, task: Task) -> str:
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(row.ids, row.asked, strict=False))
    n_learnt = sum(label != NO_LOSS for label, _ in zip(row.labels, alike, strict=False))
    return f"{n_learnt:,} tokens of the prompt carry loss, wanted none" if n_learnt else ""


def _misses_stop(row: Rendered, chat: Chat, task: Task) -> str:
    if row.labels[-1] in chat.stop_ids:
        return ""
    stops = " or ".join(repr(chat.tokenizer.decode([token])) for token in chat.stop_ids)
    return f"the last token is not learnt as one that ends generation, wanted {stops} there, with loss"


def _other_prompt(row: Rendered, chat: Chat, task: Task) -> str:
    trained = row.ids[: next((n for n, label in enumerate(row.labels) if label != NO_LOSS), len(row.ids))]
    if trained == row.asked:
        return ""
    place = next((n for n, (a, b) in enumerate(zip(trained, row.asked, strict=False)) if a != b), None)
    place = min(len(trained), len(row.asked)) if place is None else place
    here, there = (repr(chat.tokenizer.decode(ids[place : place + 4])) for ids in (trained, row.asked))
    return (
        f"the prompt is trained on in other tokens than it is asked in: at token {place:,} training has {here}, "
        f"asking has {there}"
    )


def _loses_answer(row: Rendered, chat: Chat, task: Task) -> str:
    """Read as a reply is read when the student is asked: up to the first token that ends generation."""
    learnt = row.learnt
    end = next((place for place, token in enumerate(learnt) if token in chat.stop_ids), len(learnt))
    stated = task.read_answer(row.example, chat.decode(learnt[:end]))
    if stated == row.example.answer:
        return ""
    return f"the final answer cannot be read back from what is learnt: found {stated}, wanted {row.example.answer}"


def _options_unclear(row: Rendered, chat: Chat, task: Task) -> str:
    if not (letters := row.example.letters):
        return ""
    try:
        ids = dict(zip(letters, chat.letter_ids(letters), strict=True))
    except StudentError as error:
        return error.found
    wanted = ids.get(row.example.answer)
    if row.mode == "cot" or row.learnt[:1] == [wanted]:
        return ""
    return f"the answer {row.example.answer} is not learnt as the token that is scored, wanted token {wanted}"


def _share_learnt(rows: Sequence[Rendered], chat: Chat) -> str:
    return f"{sum(len(row.learnt) for row in rows):,} of {sum(len(row.ids) for row in rows):,} tokens carry loss"


def _ends(rows: Sequence[Rendered], chat: Chat) -> str:
    return "last token: " + ", ".join(sorted({repr(chat.tokenizer.decode([row.ids[-1]])) for row in rows}))


def _n_options(rows: Sequence[Rendered], chat: Chat) -> str:
    most = max((row.example.letters for row in rows), key=len)
    return f"{len(most)} option letters, each a token of its own" if most else "the task has no option letters"


_DATA_CODE = "TRL or transformers changed how batches are made: install the versions in constraints.txt"
_TEMPLATE = "mend the chat template (chat_template.jinja) of the student's folder, or download the model again"
_BATCH = (
    "a stage is trained on one device, hide others with CUDA_VISIBLE_DEVICES=0; micro_batch_size divides batch_size"
)
CHECKS = (
    Check("supervised", _DATA_CODE, _unsupervised, _share_learnt),
    Check("prompt", _DATA_CODE, _learns_prompt, lambda rows, _: f"{sum(len(r.asked) for r in rows):,} prompt tokens"),
    Check("stop", f"{_TEMPLATE}; a padding token of its own helps where it is the stop token", _misses_stop, _ends),
    Check("same prompt", _TEMPLATE, _other_prompt, lambda rows, _: f"{len(rows):,} prompts, token by token"),
    Check(
        "options",
        "use a student whose tokenizer has a token for every option letter, or keep fewer options",
        _options_unclear,
        _n_options,
    ),
    Check(
        "answer",
        "take a student whose tokenizer keeps every word, or drop rows with a stop token in the rationale",
        _loses_answer,
        lambda rows, _: f"{len(rows):,} answers to be read back",
    ),
)
"""In the order in which a sequence is judged; its first fault is the one that is told."""


def examine(rows: Sequence[Rendered], chat: Chat, task: Task) -> list[Finding]:
    """Look at sequences.

    Args:
        rows: At least one.
        chat: The chat that the tuned student will be asked with.
        task: Reads answers.

    Returns:
        One finding per check. A sequence counts for the first check that it fails, since a later one may fail for the
        same reason.
    """
    found: dict[str, list[tuple[Rendered, str]]] = {check.name: [] for check in CHECKS}
    for row in rows:
        for check in CHECKS:
            if fault := check.look(row, chat, task):
                found[check.name].append((row, fault))
                break
    return [_finding(check, rows, found[check.name], chat) for check in CHECKS]


def _finding(check: Check, rows: Sequence[Rendered], faulty: Sequence[tuple[Rendered, str]], chat: Chat) -> Finding:
    if not faulty:
        return Finding(check.name, len(rows), check.saw(rows, chat))
    row, fault = faulty[0]
    saw = f"{len(faulty):,} of {len(rows):,} sequences"
    told = f"row {row.example.row}: {fault} ({saw})\n  {marked(row.ids, row.labels, chat)}"
    return Finding(check.name, len(rows), saw, tuple(one.example.id for one, _ in faulty), told, check.hint)


def examine_stage(trainable: int, rows_per_update: int, batch_size: int, reload: Reload | None) -> list[Finding]:
    """Look at a stage as a whole.

    Args:
        trainable: Weights that training will move.
        rows_per_update: Sequences between two updates: in memory at once x accumulated x devices.
        batch_size: What the recipe says.
        reload: What became of the weights of the stage before; None where there is none.
    """
    weights, batch = f"{trainable:,} weights can be trained", f"{rows_per_update:,} sequences make an update"
    none = "" if trainable else f"{weights}, wanted some"
    other = "" if rows_per_update == batch_size else f"{batch}, wanted train.batch_size {batch_size:,}"
    return [
        Finding("trainable", 0, weights, (), none, "delete the folder of the stage before, and train it again"),
        Finding("batch", 0, batch, (), other, _BATCH),
        examine_reload(reload),
    ]


def examine_reload(reload: Reload | None) -> Finding:
    """Whether weights that were saved and loaded again are the same student; see `examine_stage`."""
    if reload is None:
        return Finding("reload", 0, "no stage before to load again")
    saw = f"loss {reload.saved_nats:.6f} before saving, {reload.loaded_nats:.6f} loaded again"
    if abs(reload.loaded_nats - reload.saved_nats) <= reload.allowed_nats:
        return Finding("reload", 0, saw)
    fault = f"the saved weights are not the trained ones: {saw}, wanted the same within {reload.allowed_nats:.2g}"
    return Finding("reload", 0, saw, (), fault, "delete the folder of that stage and train it again; look at the disk")


@dataclass(frozen=True)
class Diagnosis:
    """All that was seen of a stage before its first update.

    Attributes:
        place: The stage, in messages.
        of: Sequences that the stage has.
        findings: One per check.
        typed: Per example id, the special tokens that its texts spell out; told, and not a fault.
        shown: Per mode, the first sequence looked at, as `marked` writes it.
    """

    place: str
    of: int
    findings: Sequence[Finding]
    typed: Mapping[str, Sequence[str]]
    shown: Mapping[str, str]

    def warning(self) -> str:
        """What is told and does not stop the training, "" where there is nothing."""
        if not self.typed:
            return ""
        ids, marks = list(self.typed), sorted({mark for found in self.typed.values() for mark in found})
        what = f"{self.place}: {len(ids):,} rows spell out {', '.join(marks)}, which is taken for the real token"
        return f"{what}: {', '.join(ids[:3])}{' ...' if len(ids) > 3 else ''}"

    def refuse(self) -> None:
        """Stop at the first fault.

        Raises:
            StudentError: with the tokens of the first faulty sequence.
        """
        for finding in self.findings:
            if finding.fault:
                raise StudentError(f"{self.place}: {finding.fault}", finding.hint)

    def text(self) -> str:
        """For people: a line per check, a sequence per mode."""
        n = max((finding.rows for finding in self.findings), default=0)
        lines = [f"{self.place}: looked at {n:,} of {self.of:,} sequences" if self.of else f"{self.place}:"]
        for finding in self.findings:
            lines.append(f"  {'FAULT' if finding.fault else 'ok':5}  {finding.check:11}  {finding.saw}")
        lines += [f"  {mode}: {text}" for mode, text in self.shown.items()]
        return "\n".join([*lines, *([f"  warning: {self.warning()}"] if self.typed else [])])


def marked(ids: Sequence[int], labels: Sequence[int], chat: Chat) -> str:
    """The tokens as text, each one that carries loss in « »; of long stretches only both ends.

    Args:
        ids: T token ids.
        labels: T, `NO_LOSS` where a token carries none.
        chat: Decodes.
    """
    parts = []
    for is_learnt, group in groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != NO_LOSS):
        tokens = [token for token, _ in group]
        ends = [tokens] if len(tokens) <= 2 * _SHOWN else [tokens[:_SHOWN], tokens[-_SHOWN:]]
        texts = ["".join(f"«{chat.tokenizer.decode([t])}»" for t in end) for end in ends] if is_learnt else []
        between = f" ... {len(tokens) - 2 * _SHOWN:,} more ... "
        parts.append(between.join(texts or [chat.tokenizer.decode(end) for end in ends]).replace("\n", "\\n"))
    return " ".join(parts)


def typed_marks(texts: Mapping[str, str], chat: Chat) -> dict[str, list[str]]:
    """Texts that spell out a special token, such as an end of turn, which the tokenizer then takes for the real one.

    Args:
        texts: By what to call each.
        chat: The student's.

    Returns:
        For each such text the special tokens in it.
    """
    tokenizer = chat.tokenizer
    special = {added.content for added in tokenizer.added_tokens_decoder.values() if added.special}
    names = sorted(special.union(tokenizer.all_special_tokens), key=len, reverse=True)
    if not names:
        return {}
    spelt = re.compile("|".join(map(re.escape, names)))
    found = {}
    for name, text in texts.items():
        if candidates := dict.fromkeys(spelt.findall(text)):
            ids = set(tokenizer(text, add_special_tokens=False)["input_ids"])
            if real := [one for one in candidates if tokenizer.convert_tokens_to_ids(one) in ids]:
                found[name] = real
    return found


def chosen(lengths: Sequence[int], most: int = SEQUENCES) -> list[int]:
    """Which sequences to look at: the longest, where ends are lost first, and others evenly over the rest.

    Example:
        >>> chosen([5, 9, 5, 5, 5, 5, 5, 5], most=4)
        [0, 1, 4, 7]
    """
    if len(lengths) <= most:
        return list(range(len(lengths)))
    longest = sorted(range(len(lengths)), key=lambda n: -lengths[n])[: max(1, most // 4)]
    rest = most - len(longest)
    spread = [round(n * (len(lengths) - 1) / max(1, rest - 1)) for n in range(rest)]
    return sorted({*longest, *spread})
