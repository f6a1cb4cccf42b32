"""When held-out text is evaluated and the sources are measured, and how much compute that may take."""

from pydantic import Field

from trainer.base.config import Config
from trainer.evaluate.schedule import Enabled

FEWEST_ALIGNMENT_SAMPLES = 8  # of each source: fewer do not make the parts whose scatter is the standard error


class SourceValueConfig(Config):
    """How much is spent on evidence about the sources."""

    enabled: Enabled = Field(default="auto", description="auto: when the policy asks for it")
    every_evaluations: int = Field(
        default=2, ge=1, description="readings of the held-out loss from one measurement to the next"
    )
    until: float = Field(
        default=0.65, gt=0, le=1, description="progress after which nothing is measured: small steps tell little"
    )
    samples_per_step: int | None = Field(default=None, ge=1, description="samples of a rehearsed step; null: by budget")
    held_out_samples: int | None = Field(
        default=None, ge=4, description="held-out samples read after each rehearsal; null: by budget"
    )
    max_compute_share: float = Field(
        default=0.10, gt=0, le=1, description="most compute, as a part of the run's training"
    )


class GradientAlignmentConfig(Config):
    """How much is spent on the gradients of the sources."""

    enabled: Enabled = Field(default="auto", description="auto: when the policy asks for it")
    every_evaluations: int = Field(
        default=2, ge=1, description="readings of the held-out loss from one measurement to the next"
    )
    samples: int | None = Field(
        default=None,
        ge=FEWEST_ALIGNMENT_SAMPLES,
        description="samples of each source and of held-out text; null: by budget",
    )
    max_compute_share: float = Field(
        default=0.05, gt=0, le=1, description="most compute, as a part of the run's training"
    )


class EvaluationConfig(Config):
    """When and how much held-out text is read."""

    every_steps: int = Field(default=50, ge=1, description="steps from one reading to the next")
    validation_documents: int | None = Field(
        default=None,
        ge=2,
        description="documents of the validation part per reading; null sizes it by max_compute_share",
    )
    max_compute_share: float = Field(
        default=0.05, gt=0, le=1, description="most compute of the readings, as a part of the training between them"
    )
    micro_batch: int = Field(default=32, ge=1, description="windows per forward on one process")
    source_samples: int = Field(
        default=8, ge=0, description="fixed training samples of each source whose loss is read too; 0 for none"
    )
    slice_skew: float = Field(
        default=2.0, gt=1, description="warn of slices drawn so many times as often as in real data, or as seldom"
    )
    alignment: GradientAlignmentConfig = Field(
        default_factory=GradientAlignmentConfig, description="evidence of where the gradient on each source points"
    )
    source_value: SourceValueConfig = Field(
        default_factory=SourceValueConfig, description="evidence of what a token of each source is worth"
    )
