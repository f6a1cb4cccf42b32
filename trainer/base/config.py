"""What every configuration of the recipe is: frozen, keyword-only, strict, and of numbers that a run can have."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

LARGEST_COUNT = 10**12  # steps, samples, tokens, bytes: more than a run of any size has
SMALLEST_SIZE, LARGEST_SIZE = 1e-30, 1e30  # of a number that is not whole: float32 holds it with room to compute
SEED = "seed"  # the one number that counts nothing


class Config(BaseModel):
    """Base of every configuration: frozen, keyword-only; an unknown key, a number that is not finite and one that no
    run can have are errors.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, arbitrary_types_allowed=False, allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _numbers_are_possible(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            for key, number in value.items() if isinstance(value, dict) else [(None, value)]:
                place = name if key is None else f"{name}.{key}"
                if isinstance(number, int) and name != SEED and abs(number) > LARGEST_COUNT:
                    raise ValueError(f"{place} is {number}, more than any run can have: at most {LARGEST_COUNT:,}")
                if isinstance(number, float) and number and not SMALLEST_SIZE <= abs(number) <= LARGEST_SIZE:
                    raise ValueError(f"{place} is {number:g}, beyond what a run can compute with")
        return self
