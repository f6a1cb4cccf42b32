"""Control, which decides the shares while the run goes on: a policy proposes, a guard disposes, ``steer`` decides."""

from trainer.control.guard import GuardConfig, judge
from trainer.control.policies import ConstantConfig, FeedbackConfig, PolicyConfig, ScheduleConfig, SchedulePoint
from trainer.control.steer import ControlConfig, initial_state, steer, worth_from

__all__ = [
    "ConstantConfig",
    "ControlConfig",
    "FeedbackConfig",
    "GuardConfig",
    "PolicyConfig",
    "ScheduleConfig",
    "SchedulePoint",
    "initial_state",
    "judge",
    "steer",
    "worth_from",
]
