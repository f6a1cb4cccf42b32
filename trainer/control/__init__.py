"""Control, which decides the shares while the run goes on: a policy proposes, a guard disposes, ``decide`` decides."""

from trainer.control.controller import (
    ControlConfig,
    decide,
    forgetting_from,
    gradient_alignment_from,
    initial_state,
    reads_losses,
    source_value_from,
)
from trainer.control.guard.guard import GuardConfig, judge
from trainer.control.policies import ConstantConfig, FeedbackConfig, PolicyConfig, ScheduleConfig, SchedulePoint

__all__ = [
    "ConstantConfig",
    "ControlConfig",
    "FeedbackConfig",
    "GuardConfig",
    "PolicyConfig",
    "ScheduleConfig",
    "SchedulePoint",
    "decide",
    "forgetting_from",
    "gradient_alignment_from",
    "initial_state",
    "judge",
    "reads_losses",
    "source_value_from",
]
