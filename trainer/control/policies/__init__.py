"""The policies, one file each, behind one interface: ``begin`` makes the state, ``propose`` turns state and observation
into shares.

Adding one is a file, a member of the union and a line in the table.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from trainer.control.policies import constant, feedback, schedule
from trainer.control.policies.constant import ConstantConfig
from trainer.control.policies.feedback import FeedbackConfig
from trainer.control.policies.schedule import ScheduleConfig, SchedulePoint
from trainer.records import Proposal

PolicyConfig = Annotated[ConstantConfig | ScheduleConfig | FeedbackConfig, Field(discriminator="kind")]


class Policy(NamedTuple):
    """A policy's functions, and whether it needs the worth of the sources measured at each reading."""

    begin: Callable[..., dict[str, Any]]  # (config, shares, kinds) -> state
    propose: Callable[..., tuple[dict[str, Any], Proposal]]  # (config, state, seen) -> state, proposal
    needs_worth: bool


POLICIES = {
    "constant": Policy(constant.begin, constant.propose, needs_worth=False),
    "schedule": Policy(schedule.begin, schedule.propose, needs_worth=False),
    "feedback": Policy(feedback.begin, feedback.propose, needs_worth=True),
}

__all__ = ["POLICIES", "ConstantConfig", "FeedbackConfig", "Policy", "PolicyConfig", "ScheduleConfig", "SchedulePoint"]
