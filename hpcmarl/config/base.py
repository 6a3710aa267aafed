"""What the sections of the configuration are made of: their base class and kinds of values. Called by
config.py; knows no section."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
# bounds far above any use: a configuration from elsewhere must not exhaust memory by a number
Count = Annotated[int, Field(ge=1, le=1_000_000)]
ActorCount = Annotated[int, Field(ge=0, le=1_000_000)]
GroupCount = Annotated[int, Field(ge=1, le=65_536)]
Width = Annotated[int, Field(ge=1, le=65_536)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Line = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, unknown keys are errors. Its validator is built when it is
    first needed, not where it is imported."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)


def section(default: type[Section]) -> Any:
    """Declare a section within a section, with its own defaults.

    Args:
        default: Which section it is where nothing is given.
    """
    return Field(default_factory=default)
