"""Base class of all configuration sections, and the types of values that they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
# Upper bounds are far above any real use. They keep a hostile configuration from exhausting the memory.
Count = Annotated[int, Field(ge=1, le=1_000_000)]
ActorCount = Annotated[int, Field(ge=0, le=1_000_000)]
GroupCount = Annotated[int, Field(ge=1, le=65_536)]
Width = Annotated[int, Field(ge=1, le=65_536)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
Line = Annotated[str, Field(min_length=1, pattern=ONE_LINE)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base class of all sections: immutable, and unknown keys are errors.

    Pydantic builds the validator of a section at its first use, so that imports stay quick.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)


def section(default: type[Section], description: str) -> Any:
    """Declare a section within a section, with its own defaults.

    Args:
        default: Class of the section that holds where the configuration leaves it out.
        description: Meaning of the section, for the reference of keys.
    """
    return Field(default_factory=default, description=description)
