"""Measures: how unsure the student is about an example. Higher = less sure, always.

What costs a model or a teacher is a *source*: it is asked once and leaves *evidence*, one record per example in a file.
A *measure* is a pure function from evidence to one number per example, so adding a measure later asks no model again.

To add a measure to a family, write a function in the family's file and a line in `MEASURES`. To add a family, write a
file with its measures and the function that gathers their evidence, a record class in `evidence`, and a line in
`SOURCES`. A measure of your own needs neither: a recipe names it `my_file:my_measure`.
"""

import difflib
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from teachwise.errors import RecipeError
from teachwise.evidence import AnswerEvidence, ChainEvidence, EmbeddingEvidence, VoteEvidence
from teachwise.records import Example
from teachwise.tasks import Task


@dataclass(frozen=True)
class Known:
    """All that a measure may look at.

    Attributes:
        examples: N examples.
        correct: (N,) bool: the untouched student's answer at once is right.
        evidence: By source, N records in the order of `examples`.
    """

    examples: Sequence[Example]
    correct: np.ndarray
    evidence: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def answers(self) -> Sequence[AnswerEvidence]:
        """N records of the answer at once: of the plain prompt, or of the source that `MEASURE@SOURCE` names."""
        return self.evidence["answer"]

    def instead(self, source: str) -> "Known":
        """The same with another source in place of the plain answer."""
        return replace(self, evidence={**self.evidence, "answer": self.evidence[source]})


class MeasureFunction(Protocol):
    """A way of scoring."""

    def __call__(self, known: Known) -> Sequence[float] | np.ndarray:
        """N numbers, higher = less sure; NaN where it has no value for an example."""
        ...


@dataclass(frozen=True)
class Asking:
    """What a source may use to gather its evidence.

    Attributes:
        examples: N examples of every split.
        task: Writes the prompts and reads the answers.
        student: Loads the student's engine when it is first called, and hands out the same one after that.
        proxy: The same for the recipe's `score.proxy`; None where it names none.
        folder: Where finished batches are kept until the evidence is whole.
        batch_tokens: Tokens per forward pass, padding included.
        settings: The fields of the recipe's `score` section by name, for sources with settings of their own.
    """

    examples: Sequence[Example]
    task: Task
    student: Callable[[], Any]
    proxy: Callable[[], Any] | None
    folder: Path
    batch_tokens: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where evidence comes from, and what it costs for one example.

    Attributes:
        name: Also the name of its file.
        record: The record class of its evidence, with a field `id`; what failed is a record too, and says so.
        do: `file:function` in this folder, `(asking) -> one record per example, in order`.
        reads: What its evidence depends on beside the examples: `student`, or fields of the recipe's `score` section.
        passes: Forward passes of a model over a prompt.
        texts: Texts that a model writes.
        calls: Requests to the teacher.
        right: `file:function` of what is known: whether the answer in each of its texts is right; "" where the answer
            is that at once.
    """

    name: str
    record: type
    do: str
    reads: tuple[str, ...] = ("student",)
    passes: float = 0
    texts: int = 0
    calls: int = 0
    right: str = ""

    def correct(self, known: Known) -> np.ndarray | None:
        """(N,) bool: its own answers are right; None where it has none but those at once."""
        if not self.right:
            return None
        found: np.ndarray = _function(self.right)(known)
        return found

    def gather(self, asking: Asking) -> list[Any]:
        """The evidence, one record per example, in order."""
        found: list[Any] = _function(self.do)(asking)
        return found


SAMPLES = 5
"""Texts per question that vote, where a recipe does not say."""
_CHAIN = ("student", "max_new_tokens")
_VOTES = (*_CHAIN, "samples", "temperature")

SOURCES = {
    one.name: one
    for one in (
        Source("answer", AnswerEvidence, "answer:plain", passes=1),
        Source("fallback", AnswerEvidence, "answer:fallback", passes=1),
        Source("alternative", AnswerEvidence, "answer:alternative", passes=1),
        Source("bare", AnswerEvidence, "gold:bare"),
        Source("embedding", EmbeddingEvidence, "embedding:states", passes=1),
        Source("proxy", AnswerEvidence, "answer:proxy", ("proxy",), passes=1),
        Source("chain", ChainEvidence, "chain:chains", _CHAIN, passes=1, texts=1, right="chain:chain_correct"),
        Source("reply", ChainEvidence, "sequence:replies", passes=1, texts=1, right="sequence:reply_correct"),
        Source("votes", VoteEvidence, "votes:votes", _VOTES, texts=SAMPLES, right="votes:vote_correct"),
    )
}
"""Where evidence comes from. One whose record is `AnswerEvidence` may stand after `@`: `answer_entropy@fallback`."""


@dataclass(frozen=True)
class Measure:
    """A measure and what is to be said of it.

    Attributes:
        name: Its name in a recipe; also of its function.
        kind: Its family; also the file that the function stands in.
        unit: Of its values: nats, 0-1, or what is counted.
        needs: The sources it is computed from.
        source: Where it was published.
        function: The function itself, for one that is not in this folder or reads another source.
    """

    name: str
    kind: str
    unit: str
    needs: tuple[str, ...] = ("answer",)
    source: str = "ours"
    function: MeasureFunction | None = None

    def __call__(self, known: Known) -> np.ndarray:
        """(N,) float64, higher = less sure; NaN where it has no value.

        Raises:
            RecipeError: it gave something else than a number for each example.
        """
        values = np.asarray((self.function or _function(f"{self.kind}:{self.name}"))(known), dtype=np.float64)
        wanted = f"wanted {len(known.examples):,}, one per example"
        if values.shape != (len(known.examples),):
            raise RecipeError(f"score: measure {self.name} gave {values.size:,} values, {wanted}", "NaN says: no value")
        if np.isinf(values).any():
            raise RecipeError(f"score: measure {self.name} gave an infinite value", "NaN says: no value")
        return values

    @property
    def answers_in(self) -> str | None:
        """The source whose own answers it is about; None where these are the answers at once, or it has several."""
        return self.needs[0] if len(self.needs) == 1 and SOURCES[self.needs[0]].right else None

    @property
    def about(self) -> str:
        """The first sentence of its definition."""
        function = self.function or _function(f"{self.kind}:{self.name}")
        return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())

    @property
    def cost(self) -> dict[str, float]:
        """For one example, each source asked once: forward passes, texts written, requests to the teacher."""
        needed = [SOURCES[name] for name in self.needs]
        return {
            "forward_passes": sum(one.passes for one in needed),
            "texts_written": sum(one.texts for one in needed),
            "teacher_calls": sum(one.calls for one in needed),
        }


def cost_in_words(measure: Measure) -> str:
    """What a measure costs for one example.

    Example:
        >>> cost_in_words(MEASURES["gain"]), cost_in_words(MEASURES["random"])
        ('2 forward passes', 'nothing')
    """
    named = {"forward_passes": "forward pass", "texts_written": "text written", "teacher_calls": "request"}
    plural = {"forward pass": "forward passes", "text written": "texts written", "request": "requests"}
    found = [(n, named[name]) for name, n in measure.cost.items() if n]
    return ", ".join(f"{n:g} {one if n == 1 else plural[one]}" for n, one in found) or "nothing"


def listed() -> list[dict[str, Any]]:
    """Every measure with its `name`, `kind`, `unit`, what it `needs`, its `cost`, `about` and `source`."""
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "unit": one.unit,
            "needs": list(one.needs),
            "cost": one.cost,
            "about": one.about,
            "source": one.source,
        }
        for one in MEASURES.values()
    ]


def as_lines() -> list[str]:
    """The measures as a table to read, family by family; what is said of costs is for one question."""
    rows = [("measure", "family", "unit", "asks for", "published")]
    rows += [(one.name, one.kind, one.unit, cost_in_words(one), one.source) for one in MEASURES.values()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


PAPER = "arXiv 2506.21220"
SEQUENCES = "Malinin and Gales, arXiv 2002.07650"
VOTES = "self-consistency: Wang et al., arXiv 2203.11171"
MEASURES = {
    one.name: one
    for one in (
        Measure("answer_entropy", "answer", "nats", source=PAPER),
        Measure("option_entropy", "answer", "nats", source="the paper's authors, later reports"),
        Measure("option_entropy_any_form", "answer", "nats", source="the paper's authors, later reports"),
        Measure("option_entropy_share", "answer", "0-1", source="the paper's authors, later reports"),
        Measure("margin", "answer", "0-1", source="margin sampling: Scheffer et al. 2001"),
        Measure("max_probability", "answer", "0-1", source="Hendrycks and Gimpel, arXiv 1610.02136"),
        Measure("outside_mass", "answer", "0-1"),
        Measure("gain", "answer", "nats", ("answer", "proxy"), "the paper's authors, later reports"),
        Measure("gold_cross_entropy", "gold", "nats", source="the paper's authors, later code"),
        Measure("instruction_difficulty", "gold", "nats", ("answer", "bare"), "IFD: Li et al., arXiv 2308.12032"),
        Measure("embedding_error", "embedding", "0-1", ("embedding",), "a forerunner of the paper: arXiv 2503.01688"),
        Measure("chain_answer", "chain", "nats", ("chain",), PAPER),
        Measure("chain_max", "chain", "nats", ("chain",), PAPER),
        Measure("chain_mean", "chain", "nats", ("chain",), PAPER),
        Measure("chain_gap", "chain", "nats", ("chain",), PAPER),
        Measure("chain_top_two", "chain", "nats", ("chain",), PAPER),
        Measure("chain_mix", "chain", "nats", ("chain",), PAPER),
        Measure("chain_margin", "chain", "0-1", ("chain",), PAPER),
        Measure("chain_sentence_mean", "chain", "nats", ("chain",), PAPER),
        Measure("chain_sentence_max", "chain", "nats", ("chain",), PAPER),
        Measure("chain_sentence_peak", "chain", "nats", ("chain",), PAPER),
        Measure("chain_tail", "chain", "nats", ("chain",), "the paper's authors, later code"),
        Measure("chain_tail_max", "chain", "nats", ("chain",), "the paper's authors, later code"),
        Measure("chain_tail_median", "chain", "nats", ("chain",), "the paper's authors, later code"),
        Measure("chain_high_share", "chain", "0-1", ("chain",), "the paper's authors, later code"),
        Measure("chain_surprise", "chain", "nats", ("chain",), SEQUENCES),
        Measure("chain_sequence", "chain", "nats", ("chain",), SEQUENCES),
        Measure("sequence_entropy", "sequence", "nats", ("reply",), SEQUENCES),
        Measure("sequence_surprise", "sequence", "nats", ("reply",), SEQUENCES),
        Measure("thinking_length", "thinking", "tokens", ("chain",), PAPER),
        Measure("thinking_entropy", "thinking", "nats", ("chain",), PAPER),
        Measure("thinking_cut", "thinking", "0-1", ("chain",), PAPER),
        Measure("vote_entropy", "votes", "nats", ("votes",), VOTES),
        Measure("vote_agreement", "votes", "0-1", ("votes",), VOTES),
        Measure("vote_conflict", "votes", "0-1", ("answer", "votes")),
        Measure("vote_hybrid", "votes", "nats", ("answer", "votes")),
        Measure("question_length", "controls", "characters", ()),
        Measure("option_count", "controls", "options", ()),
        Measure("subject_prior", "controls", "0-1", ()),
        Measure("random", "controls", "0-1", ()),
    )
}
"""Every measure in the box; one line each."""

BESIDE = ("option_entropy", "margin", "question_length", "subject_prior", "random")
"""What is scored beside the driving measure where a recipe does not say: nothing of it costs another pass."""


def find_measure(name: str) -> Measure:
    """The measure of that name; `MEASURE@SOURCE` reads another source, `my_file:my_measure` is your own.

    Raises:
        RecipeError: there is no such measure, source, file or function.
    """
    if ":" in name:
        return _own_measure(name)
    measure, _, source = name.partition("@")
    if measure not in MEASURES:
        close = difflib.get_close_matches(measure, MEASURES, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise RecipeError(f"no measure is called {measure!r}", f"{guess}`teachwise measures` lists them all")
    found = MEASURES[measure]
    if not source:
        return found
    others = [one.name for one in SOURCES.values() if one.record is AnswerEvidence and one.name != "answer"]
    if source not in others or "answer" not in found.needs:
        raise RecipeError(
            f"{name!r}: {measure} cannot be read from {source!r}", f"after @ may stand {', '.join(others)}"
        )
    needs = tuple(source if one == "answer" else one for one in found.needs)
    return replace(found, name=name, needs=needs, function=partial(_read_from, found, source))


def _read_from(measure: Measure, source: str, known: Known) -> np.ndarray:
    return measure(known.instead(source))


def _own_measure(name: str) -> Measure:
    """A function of the user's file; its attribute `needs` names its sources, the plain answer where it has none."""
    path, _, attribute = name.partition(":")
    file = _own_file(path)
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"measure {name!r}: {file} is no Python file", "name it my_file:my_measure")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise RecipeError(f"measure {name!r}: {file} has no function {attribute!r}", "name it my_file:my_measure")
    needs = tuple(getattr(function, "needs", ("answer",)))
    if unknown := [one for one in needs if one not in SOURCES]:
        raise RecipeError(f"measure {name!r}: needs {unknown[0]!r}", f"sources: {', '.join(SOURCES)}")
    return Measure(name, "own", getattr(function, "unit", ""), needs, str(file), function)


def _own_file(path: str) -> Path:
    file = Path(path if path.endswith(".py") else f"{path}.py")
    if not file.is_file():
        raise RecipeError(f"measure {path!r}: no file {file} here", "give its path from the working directory")
    return file


def code_digest(name: str) -> str | None:
    """Hash of the user's file that a measure stands in, so that a changed one is computed anew; None for our own."""
    return hashlib.sha256(_own_file(name.partition(":")[0]).read_bytes()).hexdigest() if ":" in name else None


def _function(place: str) -> Callable[..., Any]:
    module, _, attribute = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"teachwise.measures.{module}"), attribute)
    return found
