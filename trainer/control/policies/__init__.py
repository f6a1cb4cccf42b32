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


def _never(_config: object) -> None:
    """A policy that does not ask for this."""


class Policy(NamedTuple):
    """A policy's functions, and what it needs to be given.

    ``worth_from`` and ``alignment_from`` take the configuration and return the progress of the run from which the worth
    of the sources, or the alignment of their gradients, has to be measured (both cost compute); None for never.
    ``reads_losses``: whether it cannot work without the training loss by source.
    """

    begin: Callable[..., dict[str, Any]]  # (config, shares, kinds) -> state
    propose: Callable[..., tuple[dict[str, Any], Proposal]]  # (config, state, seen) -> state, proposal
    worth_from: Callable[..., float | None] = _never
    alignment_from: Callable[..., float | None] = _never
    reads_losses: bool = False


POLICIES = {
    "constant": Policy(constant.begin, constant.propose),
    "schedule": Policy(schedule.begin, schedule.propose),
    "feedback": Policy(feedback.begin, feedback.propose, worth_from=feedback.worth_from),
}

__all__ = ["POLICIES", "ConstantConfig", "FeedbackConfig", "Policy", "PolicyConfig", "ScheduleConfig", "SchedulePoint"]
