"""What every configuration of the recipe is: frozen, keyword-only, strict."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration: frozen, keyword-only; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, arbitrary_types_allowed=False, allow_inf_nan=False
    )
