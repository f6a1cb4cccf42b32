"""When the guard acts, and what it may do."""

import math
from typing import Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.control.guard.detector import DetectorSettings


class AdvancedGuardConfig(Config):
    """Numbers of the guard's tests, calibrated by simulation: rarely to be changed."""

    min_evaluations: int = Field(default=10, ge=5, description="healthy evaluations before a statistic is judged")
    history_evaluations: int = Field(
        default=100, ge=8, description="healthy evaluations from which expectation and jitter are estimated"
    )
    margin: float = Field(
        default=0.15, ge=0, description="lasting rise that is tolerated, in standard deviations of the jitter"
    )
    slice_error: float = Field(default=0.01, gt=0, lt=1, description="false discovery rate of slices said to rise")
    freeze_evaluations: int = Field(
        default=4, ge=0, description="evaluations for which synthetic shares stay frozen after an alarm"
    )
    memory_evaluations: int = Field(
        default=40, ge=1, description="evaluations without an alarm after which earlier alarms are forgotten"
    )
    attribution_z: float = Field(
        default=3.0, ge=0.01, le=100, description="standard errors beyond which an alarm is attributed to a source"
    )
    attribute_below: float = Field(
        default=0.25,
        description="source value, in fresh real tokens, below which an alarm can be attributed to a source",
    )
    cut_below: float = Field(
        default=-0.5,
        description="source value, in fresh real tokens: a source below it in two consecutive measurements, together by"
        " attribution_z standard errors, is cut without waiting for an alarm",
    )

    @model_validator(mode="after")
    def _orders_agree(self) -> Self:
        if self.min_evaluations > self.history_evaluations:
            raise ValueError(
                f"min_evaluations {self.min_evaluations} must not be above "
                f"history_evaluations {self.history_evaluations}"
            )
        return self


class GuardConfig(Config):
    """When the guard acts, and what it may do."""

    enabled: bool = Field(default=True, description="judge evaluations at all")
    min_documents: int = Field(
        default=30, ge=2, description="held-out documents below which an evaluation decides nothing"
    )
    warn_at: float = Field(default=10, gt=1, description="evidence (and least mean healthy evaluations) to a warning")
    alarm_at: float = Field(default=3000, gt=1, description="evidence (and least mean healthy evaluations) to an alarm")
    measure_source_value: bool = Field(
        default=False, description="measure source values for attribution also when the policy does not need them"
    )
    cut: bool = Field(
        default=True, description="may cut, or quarantine, a synthetic source to which harm is attributed"
    )
    max_rollbacks: int = Field(default=1, ge=0, description="how often the guard may roll back in a run")
    stop: bool = Field(default=True, description="may stop the run when nothing else has helped")
    advanced: AdvancedGuardConfig = Field(
        default_factory=AdvancedGuardConfig, description="numbers of the guard's tests, rarely to be changed"
    )

    @model_validator(mode="after")
    def _orders_agree(self) -> Self:
        if self.warn_at >= self.alarm_at:
            raise ValueError(f"warn_at {self.warn_at:g} must be below alarm_at {self.alarm_at:g}")
        return self


def detector_settings(config: GuardConfig) -> DetectorSettings:
    """The settings of the detectors. Evaluations are suspicious from half the evidence of a warning on."""
    return DetectorSettings(
        history_evaluations=config.advanced.history_evaluations,
        min_evaluations=config.advanced.min_evaluations,
        margin=config.advanced.margin,
        suspicion=math.log(max(config.warn_at / 2, 1.0)),
    )
