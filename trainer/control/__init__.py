"""Control, which decides the shares during the run: a policy proposes, a guard may veto, ``decide`` decides."""

from trainer.control.config import ControlConfig
from trainer.control.controller import (
    decide,
    forgetting_from,
    gradient_alignment_from,
    initial_state,
    reads_losses,
    restored_state,
    source_value_from,
)
from trainer.control.guard.config import GuardConfig
from trainer.control.guard.guard import judge
from trainer.control.policies import ConstantConfig, FeedbackConfig, PolicyConfig, ScheduleConfig, SchedulePoint
from trainer.control.state import ControlState

__all__ = [
    "ConstantConfig",
    "ControlConfig",
    "ControlState",
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
    "restored_state",
    "source_value_from",
]
