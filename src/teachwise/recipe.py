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
from pydantic import Field, model_validator

from teachwise.errors import RecipeError
from teachwise.measures import SOURCES, find_measure
from teachwise.sampling import EDGES
from teachwise.section import Fraction, Section, Seed, fault_at
from teachwise.sections import (
    PAPER_ARMS,
    Arm,
    Budget,
    Data,
    Evaluate,
    Score,
    Stage,
    Student,
    Teacher,
    Train,
    Validate,
)
from teachwise.strict_yaml import Place, read_mapping, read_override, take_over, validated
from teachwise.teacher.ledger import LEDGER
from teachwise.teacher.prices import Price, published_price
from teachwise.teacher.verify import Keep


class Recipe(Section):
    """A whole run."""

    note: str = Field("", description="one line that the report opens with")
    student: Student
    teacher: Teacher
    data: Data
    budget: Budget
    score: Score = Score()
    validation: Validate = Field(Validate(), alias="validate")
    keep: str = Field(
        "correct",
        pattern=r"^(correct|all|correct_or_ask_again\([1-9][0-9]?\))$",
        description="which rationales are learnt from; `correct_or_ask_again(3)`: up to 3 samples of each",
    )
    min_usable: Fraction = Field(
        0.5, description="share of hard rationales that must be usable, else the verdict is TEACHER FAILURE"
    )
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
                raise fault_at(("arms", name), f"arm name {name[:80]!r}: use letters, digits, - and _, at most 64")
            if twin := next((one for one in self.arms if one != name and one.lower() == name.lower()), None):
                found = f"differs from {twin!r} in capitals alone: some disks take both for one folder"
                raise fault_at(("arms", name), found)
            like = self.arms.get(arm.like) if arm.like else None
            if arm.policy == "random" and (like is None or like.policy in ("random", "none")):
                raise fault_at(("arms", name, "like"), f"{arm.like!r} names no arm that chooses by score or takes all")
        if len(set(self.seeds)) < len(self.seeds):
            raise fault_at(("seeds",), f"{self.seeds} repeat")
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> "Recipe":
        if self.keep_rule.samples > 1 and self.teacher.temperature == 0:
            raise fault_at(("keep",), "asking again at temperature 0 gives the same text: set teacher.temperature")
        if self.budget.usd is not None and self.price is None:
            found = f"no price is known for teacher {self.teacher.model!r}: name it in budget.prices"
            raise fault_at(("budget", "usd"), found)
        return self

    @property
    def keep_rule(self) -> Keep:
        """Which replies are learnt from, and what is asked again."""
        samples = re.search(r"\d+", self.keep)
        return Keep(
            wants_correct=self.keep != "all",
            samples=int(samples[0]) if samples else 1,
            longer=self.teacher.on_truncated == "ask_longer",
            gold_shown=self.teacher.show_answer,
        )

    @property
    def price(self) -> Price | None:
        """What the teacher's tokens cost; None where nobody knows."""
        own = self.budget.prices
        if own:
            return Price(own.input, own.output, own.cached_input, own.batch_share)
        return published_price(self.teacher.model, self.teacher.base_url) if self.teacher.engine == "openai" else None

    @property
    def price_as_delivered(self) -> Price | None:
        """The same in the way in which the recipe has replies delivered: a batch costs less."""
        return self.price.in_batch if self.price and self.teacher.delivery == "batch" else self.price

    @property
    def is_free(self) -> bool:
        """Whether the teacher costs no money: it is on this machine, and the recipe names no price for it."""
        from teachwise.teacher.openai import is_here  # not above: the SDK behind it is slow to load

        is_own = self.teacher.engine == "hf" or is_here(self.teacher.base_url)
        return is_own and self.budget.prices is None

    def ledger_at(self, root: Path) -> Path:
        """Where the ledger of a run folder lies: in it, unless the recipe names one that several runs share."""
        return Path(self.teacher.ledger) if self.teacher.ledger else root / LEDGER

    def seeds_of(self, arm: str) -> list[int]:
        """The training seeds of an arm; one is enough where nothing is trained."""
        return self.seeds[:1] if self.arms[arm].policy == "none" else self.seeds

    def asks_teacher(self, arm: str) -> bool:
        """Whether an arm gives rationales."""
        return any("rationale" in stage.gives.values() for stage in self.stages_of(arm))

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

    def as_driven(self) -> "Recipe":
        """The same as far as the driving measure goes: no other one, and what only others read at its default."""
        needs = () if self.score.measure == "column" else find_measure(self.score.measure).needs
        read = {name for one in needs for name in SOURCES[one].reads}
        fields = type(self.score).model_fields
        rest = {name for source in SOURCES.values() for name in source.reads if name in fields and name not in read}
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in rest}
        return self.model_copy(update={"score": self.score.model_copy(update={"also": [], **defaults})})

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
