"""Control, which decides the shares while the run goes on: a policy proposes, a guard disposes, ``steer`` decides."""

from trainer.control.controller import (
    ControlConfig,
    alignment_from,
    fading_from,
    initial_state,
    reads_losses,
    steer,
    worth_from,
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
    "alignment_from",
    "fading_from",
    "initial_state",
    "judge",
    "reads_losses",
    "steer",
    "worth_from",
]
