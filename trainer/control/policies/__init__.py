"""The policies, one file each, behind one interface: ``begin`` makes the state, ``propose`` turns state and observation
into shares.

Adding one is a file, a member of the union and a line in the table.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from trainer.control.policies import constant, feedback, priced, schedule
from trainer.control.policies.constant import ConstantConfig
from trainer.control.policies.feedback import FeedbackConfig
from trainer.control.policies.priced import PricedConfig
from trainer.control.policies.schedule import ScheduleConfig, SchedulePoint
from trainer.records import Proposal

PolicyConfig = Annotated[ConstantConfig | ScheduleConfig | FeedbackConfig | PricedConfig, Field(discriminator="kind")]


class Policy(NamedTuple):
    """A policy's functions. ``worth_from``: progress from which it needs the worth of the sources; None for never."""

    begin: Callable[..., dict[str, Any]]  # (config, shares, kinds) -> state
    propose: Callable[..., tuple[dict[str, Any], Proposal]]  # (config, state, seen) -> state, proposal
    worth_from: Callable[..., float | None]  # (config)


def _never(_config: object) -> None:
    """A policy that asks for no evidence."""


POLICIES = {
    "constant": Policy(constant.begin, constant.propose, _never),
    "schedule": Policy(schedule.begin, schedule.propose, _never),
    "feedback": Policy(feedback.begin, feedback.propose, feedback.worth_from),
    "priced": Policy(priced.begin, priced.propose, priced.worth_from),
}

__all__ = [
    "POLICIES",
    "ConstantConfig",
    "FeedbackConfig",
    "Policy",
    "PolicyConfig",
    "PricedConfig",
    "ScheduleConfig",
    "SchedulePoint",
]
