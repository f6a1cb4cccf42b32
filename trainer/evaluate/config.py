"""When held-out text is evaluated and the sources are measured, and how much compute that may take."""

from typing import Annotated, Any

from pydantic import Field

from trainer.base.config import Config
from trainer.base.seams import OpenUnion, Seam
from trainer.evaluate.schedule import Enabled

FEWEST_ALIGNMENT_SAMPLES = 8  # of each source: fewer do not make the parts whose scatter is the standard error


# Measurements of sources from outside: a class with ``plan`` (see ``evidence.measurement``) and a ``Config``.
OUTSIDE_MEASUREMENTS: Seam[Any] = Seam(
    "measurements", {}, requires=("plan",), calls={"plan": ("config", "run", "*", "text", "sources")}
)


class OutsideMeasurementConfig(Config):
    """What the configurations of all measurements from outside have: ``kind``; each brings its own class."""

    kind: str


class SourceValueConfig(Config):
    """When and on how many samples source value is measured, and the forgetting of it."""

    enabled: Enabled = Field(default="auto", description="auto: when the policy asks for it")
    every_evaluations: int = Field(
        default=2, ge=1, description="evaluations of the held-out loss from one measurement to the next"
    )
    until: float = Field(
        default=0.65, gt=0, le=1, description="progress after which nothing is measured: small steps show little"
    )
    samples_per_step: int | None = Field(default=None, ge=1, description="samples of a trial step; null: by budget")
    held_out_samples: int | None = Field(
        default=None,
        ge=4,
        description="held-out samples evaluated after the trial steps on each source; null: by budget",
    )
    max_compute_share: float = Field(
        default=0.10, gt=0, le=1, description="most compute, as a part of the run's training"
    )


class GradientAlignmentConfig(Config):
    """When and on how many samples the gradients of the sources are measured."""

    enabled: Enabled = Field(default="auto", description="auto: when the policy asks for it")
    every_evaluations: int = Field(
        default=2, ge=1, description="evaluations of the held-out loss from one measurement to the next"
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
    """When and how much held-out text is evaluated, and what is measured of the sources."""

    every_steps: int = Field(default=50, ge=1, description="steps from one evaluation to the next")
    validation_documents: int | None = Field(
        default=None,
        ge=2,
        description="documents of the validation part per evaluation; null sizes it by max_compute_share",
    )
    max_compute_share: float = Field(
        default=0.05, gt=0, le=1, description="most compute of the evaluations, as a part of the training between them"
    )
    micro_batch: int = Field(default=32, ge=1, le=10**6, description="windows per forward on one process")
    source_samples: int = Field(
        default=8,
        ge=0,
        le=10**6,
        description="fixed training samples of each source whose loss is evaluated too; 0 for none",
    )
    slice_skew: float = Field(
        default=2.0, gt=1, description="warn of slices drawn so many times as often as in real data, or as rarely"
    )
    gradient_alignment: GradientAlignmentConfig = Field(
        default_factory=GradientAlignmentConfig,
        description="how the gradient on each source points along the held-out gradient",
    )
    source_value: SourceValueConfig = Field(
        default_factory=SourceValueConfig, description="held-out improvement per token of each source, from trial steps"
    )
    measurements: tuple[Annotated[OutsideMeasurementConfig, OpenUnion(OUTSIDE_MEASUREMENTS)], ...] = Field(
        default=(), description="measurements of the sources from outside, each with its kind: package.module:Name"
    )
