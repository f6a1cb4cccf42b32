"""What a recipe says about its mixture: the global batch, the starting shares, and how often a source may repeat."""

from typing import Any, Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.mixture.shares import HALF_A_MILLIONTH, millionths

AUTO = "auto"  # in place of the shares


def _or_auto(schema: dict[str, Any]) -> None:
    """Shares as a recipe may write them."""
    description = schema.pop("description")
    written = dict(schema)
    schema.clear()
    schema |= {"anyOf": [written, {"const": AUTO}], "description": description}


class MixtureConfig(Config):
    """Size of the global batch and what of it each source gets at the start."""

    global_batch: int = Field(gt=0, le=10**7, description="samples per optimizer step, over all ranks")
    shares: dict[str, float] = Field(
        min_length=1,
        description="starting share of each source, in whole millionths; they sum to 1. Or auto: as the prior values of"
        " the sources ask for them, decided when the data are prepared",
        json_schema_extra=_or_auto,
    )
    from_prior_values: bool = Field(
        default=False, description="whether the prior values decide the shares at preparation: what shares: auto says"
    )
    max_epochs: dict[str, float] = Field(
        default_factory=dict, description="most epochs of a source; at the cap its share goes to its kind"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = sum(self.shares.values())
        for name, share in self.shares.items():
            if share < 0:
                raise ValueError(f"shares.{name} must be in [0, 1], got {share}")
        if abs(total - 1.0) > HALF_A_MILLIONTH:
            raise ValueError(f"shares must sum to 1, they sum to {total:.9g}; divide each by {total:.9g}")
        self.shares_in_millionths()  # a ValueError of its own
        for name, epochs in self.max_epochs.items():
            if epochs <= 0:
                raise ValueError(
                    f"max_epochs.{name} must be above 0, got {epochs}; set the share to 0 to leave a source out"
                )
        return self

    def shares_in_millionths(self) -> dict[str, int]:
        """The starting shares as written, in whole millionths."""
        return millionths(self.shares)
