"""Settings of the policy ``priced``: the few that a recipe sets, and the rest under ``advanced``."""

from typing import Literal, Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.control.bounds import Bounds, Share

Estimator = Literal["dither", "alignment", "source_value"]

# In sweeps on text (0.3 M parameters, rephrased encyclopedia entries) real shares that came to 7.4 epochs were best of
# 2.5 to 25 where real text was 4 % of the tokens, and 6.6 of 4 to 13 where it was 8 %: by the published discount one
# more repeat is then worth 0.66 to 0.70 of a fresh token.
PRIOR_SYNTHETIC_VALUE = 2 / 3


class AdvancedConfig(Config):
    """Settings of the rule itself, rarely changed."""

    z: float = Field(
        default=1.5, ge=0.01, le=100, description="standard errors by which an advantage must exceed zero to count"
    )
    trust_region: float = Field(
        default=0.02, gt=0, description="most KL divergence of a decision on evidence that just counts, in nats"
    )
    memory: float = Field(
        default=0.8, ge=0, lt=1, description="weight of evidence against that of the next measurement"
    )
    dither: float = Field(default=0.1, ge=0, lt=1, description="size of the balanced changes, as a part of a share")
    mixing: float = Field(
        default=0.2,
        ge=0,
        description="what keeping to the starting mixture is worth, in fresh real tokens per e-fold of a share, where"
        " trial steps give that unit: no useful source is driven out by a better one",
    )
    concentration: float = Field(
        default=12.0,
        ge=0,
        description="how far real data that is not repeated follows the schedule's kernel: 0 level, 1 in proportion",
    )
    curvature: float | None = Field(
        default=None,
        gt=0,
        description="h of the kernel, per unit of learning rate; null: as the run measures it, level until it is sure",
    )


class PricedConfig(Bounds):
    """Follow measured source value, and draw real tokens where they do most for the final model."""

    kind: Literal["priced"]
    estimators: tuple[Estimator, ...] = Field(
        default=("dither", "source_value"), min_length=1, description="what the value of a source is estimated from"
    )
    warm_up: float = Field(default=0.15, ge=0, lt=1, description="progress before which nothing is measured or moved")
    prior_synthetic_value: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="assumed value of a synthetic token, in fresh real ones, until it is measured; null: as prepared"
        " data say of each source, two thirds where they do not. It says how often real data are repeated, unless"
        " real_epochs does",
    )
    real_epochs: float | None = Field(
        default=None,
        gt=0,
        description="real-data budget: most epochs of real data, less where mixture.max_epochs caps a source; null:"
        " until a repeat is worth no more than a synthetic token, at two thirds of a fresh one 7.2",
    )
    floor: Share = Field(default=0.01, description="least share of a source that starts above 0")
    real_floor: Share = Field(default=0.1, description="least share of all real sources together")
    advanced: AdvancedConfig = Field(default_factory=AdvancedConfig, description="settings that are rarely changed")

    @model_validator(mode="after")
    def _estimators_agree(self) -> Self:
        if len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"each estimator can be given once, got {list(self.estimators)}")
        if "dither" in self.estimators and self.advanced.dither == 0:
            raise ValueError("estimator dither needs advanced.dither above 0")
        return self
