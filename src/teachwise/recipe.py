"""The recipe: one YAML file that says what a run does, typed and strict.

It is read whole before any work starts. Every problem is reported at once, each with `file:line` and, for a
misspelt key, the nearest right one. Four keys are enough (student, teacher, data, budget); the resolved recipe,
with every default filled in, is copied into the run folder.
"""

import difflib
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from teachwise.engines import address_fault
from teachwise.errors import RecipeError
from teachwise.records import Give
from teachwise.sampling import EDGES
from teachwise.strict_yaml import Place, read_mapping, read_override, take_over, validated

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
TaskName = Literal["multiple_choice", "mmlu_pro", "toy", "toy_open"]


def speed(default: Any, description: str, **bounds: Any) -> Any:
    """A field that changes how fast a result is made, not the result: it is no part of any unit's key."""
    return Field(default, description=description, json_schema_extra={"speed": True}, **bounds)


class Section(BaseModel):
    """A part of the recipe; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation in (int, float):
            raise ValueError(f"wanted a number, got {str(value).lower()}")  # pydantic would take it for 1 or 0
        return value


def _at(place: tuple[str | int, ...], found: str) -> ValidationError:
    """A mistake that only the section around it can see, but that stands at `place` within."""
    error = PydanticCustomError("value_error", "{found}", {"found": found})
    return ValidationError.from_exception_data("recipe", [{"type": error, "loc": place, "input": None}])


class Student(Section):
    """The model to fine-tune. A plain string is short for `{model: ...}`."""

    model: Name = Field(description="hub name or folder, for `AutoModelForCausalLM`; `toy` is the student in the box")
    revision: str | None = Field(None, description="hub revision to pin")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="weights in memory")
    device: str = speed("auto", "`auto`, `cpu`, `cuda`, `mps`")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="after")
    def _device_exists(self) -> "Student":
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu|npu|hpu)(:\d+)?", self.device):
            raise _at(("device",), f"wanted auto, cpu, cuda, cuda:1 (the second GPU) or mps, got {self.device!r}")
        return self


class Teacher(Section):
    """The model that writes rationales. A plain string is short for `{model: ...}`."""

    model: Name = Field(description="name at the endpoint, or hub name or folder for `engine: hf`")
    engine: Literal["openai", "hf"] = Field("openai", description="`openai`: any OpenAI-compatible server; `hf`: local")
    base_url: str | None = speed(None, "endpoint, for instance http://127.0.0.1:8000/v1")
    key_env: str | None = speed(None, "environment variable that holds the API key")
    max_tokens: Positive = Field(2048, description="most tokens of one rationale")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    concurrency: int = speed(8, "requests in flight", gt=0, le=1000)
    timeout_seconds: float = speed(600, "how long to wait for one reply", gt=0, le=86_400)

    @model_validator(mode="after")
    def _holds_no_secret(self) -> "Teacher":
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            found = "wanted the name of an environment variable in capitals, such as TEACHER_API_KEY"
            raise _at(("key_env",), f"{found}; never put the key itself in a recipe")
        if self.base_url is not None and (fault := address_fault(self.base_url)):
            raise _at(("base_url",), fault)
        return self


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

    def task_options(self) -> dict[str, Any]:
        """The flat fields that a task is made with."""
        return self.model_dump(include={"source", "columns", "answer_is", "hub_split", "seed", "limit"})


class Budget(Section):
    """What may be spent."""

    teacher_tokens: Annotated[int, Field(ge=0)] | None = Field(
        description="cap on tokens read and written by the teacher, for the whole run; null is no cap"
    )


class Score(Section):
    """How unsure the student is, before training."""

    measure: Literal["answer_entropy", "column"] = Field("answer_entropy", description="`column`: measured elsewhere")
    column: str | None = Field(None, description="for `measure: column`: the column with the score, higher = less sure")
    correct: str | None = Field(None, description="for `measure: column`: the column that says if it was right")
    batch_tokens: int = speed(16_384, "tokens per forward pass, padding included", gt=0)

    @model_validator(mode="after")
    def _column(self) -> "Score":
        if self.measure == "column" and not (self.column and self.correct):
            raise ValueError("measure `column` needs both `column` and `correct`")
        if self.measure != "column" and (self.column or self.correct):
            name = "column" if self.column else "correct"
            raise _at((name,), f"is for `measure: column` and does nothing for `{self.measure}`")
        return self


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
                raise _at((name,), f"is for policy `{policy}` and does nothing for `{self.policy}`")
        if not 0 < self.edges[0] < self.edges[1] < 1:
            raise _at(("edges",), f"must rise strictly between 0 and 1, got {list(self.edges)}")
        for number, stage in enumerate(self.stages):
            if stage.all or not stage.gives:
                raise _at(("stages", number), "a stage of `bands` must say what easy, medium or hard get")
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


class Recipe(Section):
    """A whole run."""

    note: str = Field("", description="one line that the report opens with")
    student: Student
    teacher: Teacher
    data: Data
    budget: Budget
    score: Score = Score()
    validation: Validate = Field(Validate(), alias="validate")
    on_rejected: Literal["drop", "answer"] = Field(
        "drop", description="an example whose rationale was rejected is left out, or gets its answer"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field([0], description="training seeds")
    arms: Annotated[dict[str, Arm], Field(min_length=1)] = Field(
        default_factory=lambda: {name: Arm.model_validate(arm) for name, arm in PAPER_ARMS.items()}
    )
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: Any) -> Any:
        if isinstance(content, dict):
            for name in ("student", "teacher"):
                if isinstance(content.get(name), str):
                    content = {**content, name: {"model": content[name]}}
        return content

    @model_validator(mode="after")
    def _arms_fit(self) -> "Recipe":
        for name, arm in self.arms.items():
            if not re.fullmatch(r"[A-Za-z0-9_+-]{1,64}", name):
                raise _at(("arms", name), f"arm name {name[:80]!r}: use letters, digits, - and _, at most 64")
            if twin := next((one for one in self.arms if one != name and one.lower() == name.lower()), None):
                found = f"differs from {twin!r} in capitals alone: some disks take both for one folder"
                raise _at(("arms", name), found)
            like = self.arms.get(arm.like) if arm.like else None
            if arm.policy == "random" and (like is None or like.policy in ("random", "none")):
                raise _at(("arms", name, "like"), f"{arm.like!r} names no arm that chooses by score or takes all")
        if len(set(self.seeds)) < len(self.seeds):
            raise _at(("seeds",), f"{self.seeds} repeat")
        return self

    def seeds_of(self, arm: str) -> list[int]:
        """The training seeds of an arm; one is enough where nothing is trained."""
        return self.seeds[:1] if self.arms[arm].policy == "none" else self.seeds

    def stages_of(self, arm: str) -> list[Stage]:
        """The training stages of an arm, also where its policy implies them."""
        spec = self.arms[arm]
        if spec.policy == "random" and spec.like:
            return self.stages_of(spec.like)
        return [Stage(all=spec.give)] if spec.policy == "all" else spec.stages

    @property
    def edges(self) -> tuple[float, float]:
        """Where the bands begin by which questions are told apart: the first arm's that has bands, else the usual."""
        return next((arm.edges for arm in self.arms.values() if arm.policy == "bands"), EDGES)

    def result_fields(self, section: str) -> Any:
        """A section as plain JSON values, without the fields that only change speed."""
        value = getattr(self, "validation" if section == "validate" else section)
        if isinstance(value, dict):  # the order of arms counts, and a key of a sorted map would lose it
            return [[name, _without_speed(one)] for name, one in value.items()]
        return _without_speed(value) if isinstance(value, Section) else value

    def plain(self) -> dict[str, Any]:
        """The resolved recipe as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

    def yaml(self) -> str:
        """The resolved recipe as YAML, every default filled in."""
        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True)


def _without_speed(section: Section) -> dict[str, Any]:
    extras = {name: field.json_schema_extra for name, field in type(section).model_fields.items()}
    fast = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("speed")}
    return section.model_dump(mode="json", exclude=fast)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `KEY=VALUE` overrides, check everything.

    Args:
        path: A YAML file, or the name of a shipped recipe such as `toy`.
        overrides: For instance `train.epochs=1` or `arms.banded.edges=[0.3,0.8]`; values are YAML.

    Raises:
        RecipeError: listing every problem, each with its line.
    """
    path = find_recipe(path)
    content, places = read_mapping(path)
    for override in overrides:
        set_field(content, override, places)
    return validated(Recipe, content, places, path)


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ships with the package."""
    path = Path(name)
    if path.suffix.lower() in (".parquet", ".jsonl", ".csv", ".tsv"):
        raise RecipeError(f"{path}: is a table, wanted a recipe", f"`teachwise init {path}` writes one for it")
    if path.is_file():
        return path
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder, wanted a recipe file", "give the file, for instance my_recipe.yaml")
    shipped = Path(__file__).parent / "recipes"
    if (shipped / f"{name}.yaml").is_file():
        return shipped / f"{name}.yaml"
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    beside = [str(file) for ending in ("yaml", "yml") for file in path.parent.glob(f"*.{ending}")]
    close = difflib.get_close_matches(path.stem, names, n=1) or difflib.get_close_matches(str(path), beside, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    raise RecipeError(f"{name}: no such recipe file", f"{guess}shipped recipes: {', '.join(names)}")


def set_field(content: dict[str, Any], override: str, places: dict[Place, str] | None = None) -> None:
    """Change one field of a recipe's content in place, as `KEY=VALUE` says; the value is YAML.

    Args:
        content: A recipe as plain values.
        override: The change; where the recipe names no arms, it may change one of the paper's.
        places: What messages call each place; the field is from now on said to come from the command line.
    """
    place, new = read_override(override)
    *parents, last = place
    if parents[:1] == ["arms"] and not content.get("arms"):
        content["arms"] = deepcopy(PAPER_ARMS)
    for depth, name in enumerate(parents, start=1):
        inner = content.get(name)
        if isinstance(inner, str) and name in ("student", "teacher"):
            inner = {"model": inner}
        if not isinstance(inner, dict):
            inner = {}
            take_over(places or {}, place[:depth])
        content[name] = content = inner
    content[last] = new
    take_over(places or {}, place)
