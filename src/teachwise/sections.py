"""The sections of a recipe: every field with its type, bounds, default and meaning.

What can be wrong within one section is checked here; what only the whole recipe can see is checked in `recipe`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from teachwise.errors import RecipeError
from teachwise.measures import BESIDE, SAMPLES, find_measure
from teachwise.records import Give
from teachwise.sampling import EDGES
from teachwise.section import Fraction, Name, Positive, Section, fault_at, speed
from teachwise.teacher.engine import address_fault
from teachwise.teacher.prices import Limits

TaskName = Literal["multiple_choice", "mmlu_pro", "toy", "toy_open"]


def _check_device(device: str) -> None:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu|npu|hpu)(:\d+)?", device):
        raise fault_at(("device",), f"wanted auto, cpu, cuda, cuda:1 (the second GPU) or mps, got {device!r}")


class Student(Section):
    """The model to fine-tune. A plain string is short for `{model: ...}`."""

    model: Name = Field(description="hub name or folder, for `AutoModelForCausalLM`; `toy` is the student in the box")
    revision: str | None = Field(None, description="hub revision to pin")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="weights in memory")
    device: str = speed("auto", "`auto`, `cpu`, `cuda`, `mps`")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="after")
    def _device_exists(self) -> "Student":
        _check_device(self.device)
        return self


ENGINE_FIELDS = {
    "hf": ("revision", "dtype", "device", "trust_remote_code"),
    "openai": ("options", "logprobs", "limit_field", "delivery"),
}
"""Fields of `teacher` that mean something to one engine only."""


class Teacher(Section):
    """The model that writes rationales. A plain string is short for `{model: ...}`."""

    model: Name = Field(description="name at the endpoint, or hub name or folder for `engine: hf`")
    engine: Literal["openai", "hf"] = Field("openai", description="`openai`: any OpenAI-compatible server; `hf`: local")
    revision: str | None = Field(None, description="hub revision to pin, for `engine: hf`")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="weights, for `engine: hf`")
    device: str = speed("auto", "`auto`, `cpu`, `cuda`, `mps`, for `engine: hf`")
    trust_remote_code: bool = Field(False, description="run code that comes with the model, for `engine: hf`")
    base_url: str | None = speed(None, "endpoint, for instance http://127.0.0.1:8000/v1")
    key_env: str | None = speed(None, "environment variable that holds the API key")
    max_tokens: Positive = Field(2048, description="most tokens of one rationale")
    temperature: float | None = Field(0.0, ge=0, description="0 is greedy; null leaves it to the endpoint")
    options: dict[str, Any] = Field({}, description="further fields of every request, for instance `{top_p: 0.9}`")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="keep the log-probabilities of so many tokens per place"
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = speed(
        "max_tokens", "what the endpoint calls the limit on tokens written"
    )
    show_answer: bool = Field(False, description="show the teacher the gold answer; its rationales are then marked")
    on_truncated: Literal["reject", "ask_longer"] = Field(
        "reject", description="`ask_longer`: ask once more, with twice `max_tokens`, where a reply was cut off"
    )
    on_unknown: Literal["ask_again", "keep"] = Field(
        "ask_again", description="a request that may have been answered unseen is asked again, or counts as lost"
    )
    ledger: str | None = speed(None, "ledger that several runs share; null: the run folder has its own")
    delivery: Literal["live", "batch", "files"] = speed(
        "live", "`batch`: the provider's batch mode, slow and cheaper; `files`: requests that are answered elsewhere"
    )
    concurrency: int = speed(8, "most requests in flight; fewer where the endpoint asks for it", gt=0, le=1000)
    requests_per_minute: int | None = speed(None, "the endpoint's limit", gt=0)
    tokens_per_minute: int | None = speed(None, "the endpoint's limit, tokens read and written", gt=0)
    timeout_seconds: float = speed(600, "how long to wait for one reply", gt=0, le=86_400)

    @model_validator(mode="after")
    def _holds_no_secret(self) -> "Teacher":
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            found = "wanted the name of an environment variable in capitals, such as TEACHER_API_KEY"
            raise fault_at(("key_env",), f"{found}; never put the key itself in a recipe")
        if self.base_url is not None and (fault := address_fault(self.base_url)):
            raise fault_at(("base_url",), fault)
        return self

    @model_validator(mode="after")
    def _options_are_free(self) -> "Teacher":
        taken = {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "n", "stream", "logprobs"}
        if twice := sorted(taken & set(self.options)):
            raise fault_at(("options", twice[0]), "has a field of its own in `teacher`, or is set by teachwise")
        return self

    @model_validator(mode="after")
    def _fits_engine(self) -> "Teacher":
        _check_device(self.device)
        other = {"openai": "hf", "hf": "openai"}[self.engine]
        for name in ENGINE_FIELDS[other]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise fault_at((name,), f"is for `engine: {other}` and does nothing for `engine: {self.engine}`")
        return self

    @property
    def request_options(self) -> dict[str, Any]:
        """Further fields of every request."""
        asked = {} if self.logprobs is None else {"logprobs": True, "top_logprobs": self.logprobs}
        return {**self.options, **asked}

    @property
    def weights(self) -> str:
        """What runs here and in which form; "" for a model at an endpoint, which its name alone tells apart."""
        form = [f"revision={self.revision}"] * bool(self.revision) + [f"dtype={self.dtype}"] * (self.dtype != "auto")
        return "" if self.engine == "openai" else " ".join([self.engine, *form])

    @property
    def engine_options(self) -> dict[str, Any]:
        """The flat fields that an engine is made with."""
        both = {"model", "engine", "base_url", "key_env", "concurrency", "timeout_seconds"}
        return self.model_dump(include=both | {"limit_field", *ENGINE_FIELDS["hf"]})


class Split(Section):
    """Shares of the examples; what they leave over is not used."""

    train: Fraction = Field(0.8, description="scored, routed, trained on")
    dev: Fraction = Field(0.1, description="modes and thresholds are chosen here")
    test: Fraction = Field(0.1, description="arms are judged here, once")

    @model_validator(mode="after")
    def _shares(self) -> "Split":
        if self.train + self.dev + self.test > 1 + 1e-9:
            raise ValueError(f"the shares sum to {self.train + self.dev + self.test:g}, wanted at most 1")
        if min(self.train, self.dev, self.test) == 0:
            raise ValueError("train, dev and test must each be above 0")
        return self


class Columns(Section):
    """Which column of the table holds what. Left out: found by the usual names."""

    question: str | None = Field(None, description="the question alone")
    options: str | list[str] | None = Field(None, description="one column (a list or list literal), or one per option")
    answer: str | None = Field(None, description="letter, option text, or index; see `answer_is`")
    subject: str | None = Field(None, description="for figures by subject")
    level: str | None = Field(None, description="known difficulty, a whole number")
    split: str | None = Field(None, description="train, dev or test, where the table has its own split")


class Data(Section):
    """The questions."""

    task: TaskName = Field("multiple_choice", description="how to read them")
    source: str | None = Field(None, description="Parquet, JSONL, CSV, TSV, or a hub name; the task may have its own")
    hub_split: str = Field("test", description="split to load when the source is a hub name")
    columns: Columns = Columns()
    answer_is: Literal["auto", "letter", "text", "index", "index_from_1"] = Field(
        "auto", description="how the answer column names the option"
    )
    split: Split = Split()
    seed: int = Field(0, description="seed of the split")
    limit: dict[Literal["train", "dev", "test"], Positive] = Field({}, description="keep at most so many per split")
    on_contamination: Literal["drop", "fail", "warn"] = Field(
        "drop", description="a train question that repeats a held-out one is left out, stops the run, or stays"
    )

    def task_options(self) -> dict[str, Any]:
        """The flat fields that a task is made with."""
        return self.model_dump(include={"source", "columns", "answer_is", "hub_split", "seed", "limit"})


class Prices(Section):
    """What the teacher costs, in US dollars per million tokens."""

    input: float = Field(ge=0, description="tokens read")
    output: float = Field(ge=0, description="tokens written, reasoning included")
    cached_input: float | None = Field(None, ge=0, description="tokens read from a cache; null: as `input`")
    batch_share: Fraction = Field(0.5, description="what a request costs in batch mode, as a share of the price")

    @model_validator(mode="after")
    def _cache_is_no_dearer(self) -> "Prices":
        if self.cached_input is not None and self.cached_input > self.input:  # what is set aside would not cover it
            raise fault_at(("cached_input",), f"is above `input` ({self.input:g}), wanted at most that")
        return self


class Budget(Section):
    """What may be spent. A cap counts all that the ledger holds: where runs share one, what the others spent too."""

    teacher_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None, description="cap on tokens read and written by the teacher; null is no cap"
    )
    usd: Annotated[float, Field(ge=0)] | None = Field(None, description="cap on US dollars; null is no cap")
    requests: Annotated[int, Field(ge=0)] | None = Field(None, description="cap on requests sent; null is no cap")
    prices: Prices | None = Field(None, description="what the teacher costs; null: by name, where it is known")
    on_spent: Literal["stop", "partial"] = Field(
        "stop", description="`partial`: go on with what there is, and mark every arm it touches"
    )
    ask_above_usd: float | None = speed(1.0, "a run asks before it may spend more dollars than this; null: never", ge=0)
    ask_above_tokens: int | None = speed(
        1_000_000, "the same in teacher tokens, for a teacher whose price is not known", ge=0
    )

    @model_validator(mode="after")
    def _is_decided(self) -> "Budget":
        if not self.model_fields_set & {"teacher_tokens", "usd", "requests"}:
            raise ValueError("name a cap: `teacher_tokens`, `usd` or `requests`; `teacher_tokens: null` is no cap")
        return self

    @property
    def limits(self) -> Limits:
        """The caps alone."""
        return Limits(self.teacher_tokens, self.usd, self.requests)


class Score(Section):
    """How unsure the student is, before training."""

    measure: Name = Field(
        "answer_entropy",
        description="drives routing and the gate; `teachwise measures` lists all; `my_file:my_measure` is your own;"
        " `column`: measured elsewhere",
    )
    also: list[Name] | None = Field(
        None, description="measures to validate beside it; null: a few that cost no further pass, and controls"
    )
    proxy: str | None = Field(None, description="for `gain`: hub name or folder of a weaker model, as `student.model`")
    max_new_tokens: Positive = Field(1024, description="for `chain_...`, `thinking_...`, `vote_...`: longest chain")
    samples: int = Field(SAMPLES, ge=2, le=1000, description="for `vote_...`: chains that vote on each question")
    temperature: float = Field(0.7, gt=0, le=10, description="for `vote_...`: at which they are drawn")
    column: str | None = Field(None, description="for `measure: column`: the column with the score, higher = less sure")
    correct: str | None = Field(None, description="for `measure: column`: the column that says if it was right")
    batch_tokens: int = speed(16_384, "tokens per forward pass, padding included", gt=0)

    @model_validator(mode="after")
    def _column(self) -> "Score":
        if self.measure == "column" and not (self.column and self.correct):
            raise ValueError("measure `column` needs both `column` and `correct`")
        if self.measure != "column" and (self.column or self.correct):
            name = "column" if self.column else "correct"
            raise fault_at((name,), f"is for `measure: column` and does nothing for `{self.measure}`")
        return self

    @model_validator(mode="after")
    def _measures_exist(self) -> "Score":
        if self.measure != "column":
            _known_measure(("measure",), self.measure, self)
        for number, name in enumerate(self.also or []):
            if name == self.measure or name in (self.also or [])[:number]:
                raise fault_at(("also", number), f"{name!r} stands there twice")
            _known_measure(("also", number), name, self)
        return self

    @property
    def measures(self) -> list[str]:
        """Every measure that is computed, the driving one first; a column of the table is none."""
        is_column = self.measure == "column"
        beside = [name for name in BESIDE if not (is_column and find_measure(name).needs)]
        also = beside if self.also is None else self.also
        return [*([] if is_column else [self.measure]), *(name for name in also if name != self.measure)]


def _known_measure(place: tuple[str | int, ...], name: str, score: Score) -> None:
    try:
        found = find_measure(name)
    except RecipeError as error:
        raise fault_at(place, f"{error.found}; {error.hint}") from error
    if score.measure == "column" and found.needs:
        raise fault_at(place, f"{name!r} asks the student, and `measure: column` loads none")
    if "proxy" in found.needs and not score.proxy:
        raise fault_at(place, f"{name!r} needs `proxy`, a weaker model")


class Validate(Section):
    """The gate: do the scores predict the student's errors?"""

    min_auc: Fraction = Field(0.60, description="ROC AUC on train rows below which the run stops")
    on_fail: Literal["stop", "warn", "random"] = Field("stop", description="`random`: route at random and say so")


class Stage(Section):
    """One training run: which bands get what. Bands that are not named are not used in this stage."""

    easy: Literal["answer", "rationale"] | None = None
    medium: Literal["answer", "rationale"] | None = None
    hard: Literal["answer", "rationale"] | None = None
    all: Literal["answer", "rationale"] | None = None
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = Field(None, description="default: `train.epochs`")
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="default: `train.learning_rate`"
    )

    @property
    def gives(self) -> dict[str, Give]:
        """Band to what it gets, for the bands this stage uses."""
        found = {"easy": self.easy, "medium": self.medium, "hard": self.hard, "all": self.all}
        return {band: give for band, give in found.items() if give is not None}


class Arm(Section):
    """One way of spending: a routing policy and its stages."""

    policy: Literal["none", "all", "bands", "random"] = Field(description="how examples are chosen")
    give: Literal["answer", "rationale"] | None = Field(None, description="for `all`: what every example gets")
    edges: tuple[Fraction, Fraction] = Field(EDGES, description="for `bands`: quantiles of the train scores")
    like: str | None = Field(None, description="for `random`: the arm whose sizes and stages it copies")
    stages: list[Stage] = Field([], description="for `bands`: training runs, in order, on the same weights")

    @model_validator(mode="after")
    def _fits_policy(self) -> "Arm":
        needs = {"all": "`give: answer` or `give: rationale`", "random": "`like: ARM`", "bands": "`stages`"}
        for policy, name in (("all", "give"), ("random", "like"), ("bands", "stages")):
            if self.policy == policy and not getattr(self, name):
                raise ValueError(f"policy `{policy}` needs {needs[policy]}")
            if self.policy != policy and getattr(self, name):
                raise fault_at((name,), f"is for policy `{policy}` and does nothing for `{self.policy}`")
        if not 0 < self.edges[0] < self.edges[1] < 1:
            raise fault_at(("edges",), f"must rise strictly between 0 and 1, got {list(self.edges)}")
        for number, stage in enumerate(self.stages):
            if stage.all or not stage.gives:
                raise fault_at(("stages", number), "a stage of `bands` must say what easy, medium or hard get")
        return self


PAPER_ARMS: dict[str, Any] = {
    "base": {"policy": "none"},
    "sft": {"policy": "all", "give": "answer"},
    "banded": {"policy": "bands", "stages": [{"easy": "answer", "medium": "answer"}, {"hard": "rationale"}]},
    "random": {"policy": "random", "like": "banded"},
    "distill": {"policy": "all", "give": "rationale"},
}
"""The five arms of a recipe that names none; the dearest stands last, so that a small budget serves the others."""


class Train(Section):
    """How every stage is trained; a stage may set its own epochs and learning rate."""

    method: Literal["lora", "full"] = Field("lora", description="adapter, or all weights")
    epochs: float = Field(
        3, gt=0, le=10_000, description="passes over what was assigned; rejected rationales do not shorten it"
    )
    learning_rate: float = Field(1e-4, gt=0, le=10, description="peak, AdamW")
    schedule: Literal["constant", "cosine", "linear"] = Field("constant", description="of the learning rate")
    warmup_share: Fraction = Field(0.03, description="share of the updates that warm up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW")
    batch_size: Positive = Field(16, description="examples per update")
    micro_batch_size: int | None = speed(None, "examples in memory at once; must divide batch_size", gt=0)
    max_length: Positive = Field(2048, description="longer examples are skipped and counted, never cut")
    lora_r: Positive = Field(64, description="rank, on every linear layer")
    lora_alpha: Positive = Field(128, description="scale is alpha / r")
    lora_dropout: Fraction = Field(0.05, description="on the adapter's input")
    gradient_checkpointing: bool = speed(False, "less memory, more time")
    save_every: int = speed(200, "updates between checkpoints", gt=0)

    @model_validator(mode="after")
    def _divides(self) -> "Train":
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class Evaluate(Section):
    """How answers to held-out questions are made; always greedy."""

    max_new_tokens: Positive = Field(1024, description="most tokens of one chain of thought")
    batch_tokens: int = speed(16_384, "tokens per generation batch, prompt and answer together", gt=0)
