"""What every section of a recipe has in common: strictness, kinds of fields, and how a mistake is placed."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0, le=10**9)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


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


def fault_at(place: tuple[str | int, ...], found: str) -> ValidationError:
    """A mistake that only the section around it can see, but that stands at `place` within."""
    error = PydanticCustomError("value_error", "{found}", {"found": found})
    return ValidationError.from_exception_data("recipe", [{"type": error, "loc": place, "input": None}])
