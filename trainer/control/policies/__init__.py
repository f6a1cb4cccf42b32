"""The policies, one file each, behind one interface: ``begin`` makes the state, ``propose`` turns state and observation
into shares.

Adding one is a file, a member of the union and a line in the table.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from trainer.base.records import Proposal
from trainer.control.policies import anneal, constant, feedback, proportional, schedule
from trainer.control.policies.anneal import AnnealConfig
from trainer.control.policies.constant import ConstantConfig
from trainer.control.policies.feedback import FeedbackConfig
from trainer.control.policies.proportional import ProportionalConfig
from trainer.control.policies.published import ado, aioli, doremi, fms_odm, odm, pike
from trainer.control.policies.published.ado import AdoConfig
from trainer.control.policies.published.aioli import AioliConfig
from trainer.control.policies.published.doremi import DoremiConfig
from trainer.control.policies.published.fms_odm import FmsOdmConfig
from trainer.control.policies.published.odm import OdmConfig
from trainer.control.policies.published.pike import PikeConfig
from trainer.control.policies.schedule import ScheduleConfig, SchedulePoint
from trainer.control.priced import policy as priced
from trainer.control.priced.policy import PricedConfig

PolicyConfig = Annotated[
    ConstantConfig
    | ScheduleConfig
    | AnnealConfig
    | ProportionalConfig
    | OdmConfig
    | FmsOdmConfig
    | DoremiConfig
    | AdoConfig
    | AioliConfig
    | PikeConfig
    | PricedConfig
    | FeedbackConfig,
    Field(discriminator="kind"),
]


def _never(*_asked: object) -> None:
    """A policy that does not ask for this."""


class Policy(NamedTuple):
    """A policy's functions, and what it needs to be given.

    ``source_value_from`` and ``gradient_alignment_from`` take the configuration and return the progress of the run from
    which the worth of the sources, or the alignment of their gradients, has to be measured (both cost compute); None
    for never. ``forgetting_from`` does so for how fast the model forgets, and is told how many epochs of real data are
    allowed. ``reads_losses``: whether it cannot work without the training loss by source.
    """

    begin: Callable[..., dict[str, Any]]  # (config, shares, kinds) -> state
    propose: Callable[..., tuple[dict[str, Any], Proposal]]  # (config, state, seen) -> state, proposal
    source_value_from: Callable[..., float | None] = _never
    gradient_alignment_from: Callable[..., float | None] = _never
    forgetting_from: Callable[..., float | None] = _never
    reads_losses: bool = False


POLICIES = {
    "constant": Policy(constant.begin, constant.propose),
    "schedule": Policy(schedule.begin, schedule.propose),
    "anneal": Policy(anneal.begin, anneal.propose),
    "proportional": Policy(proportional.begin, proportional.propose),
    "odm": Policy(odm.begin, odm.propose, reads_losses=True),
    "fms_odm": Policy(fms_odm.begin, fms_odm.propose, reads_losses=True),
    "doremi": Policy(doremi.begin, doremi.propose, reads_losses=True),
    "ado": Policy(ado.begin, ado.propose, reads_losses=True),
    "aioli": Policy(aioli.begin, aioli.propose, source_value_from=aioli.source_value_from),
    "pike": Policy(pike.begin, pike.propose, gradient_alignment_from=pike.gradient_alignment_from),
    "priced": Policy(
        priced.begin,
        priced.propose,
        source_value_from=priced.source_value_from,
        gradient_alignment_from=priced.gradient_alignment_from,
        forgetting_from=priced.forgetting_from,
    ),
    "feedback": Policy(feedback.begin, feedback.propose, source_value_from=feedback.source_value_from),
}

__all__ = [
    "POLICIES",
    "AdoConfig",
    "AioliConfig",
    "AnnealConfig",
    "ConstantConfig",
    "DoremiConfig",
    "FeedbackConfig",
    "FmsOdmConfig",
    "OdmConfig",
    "PikeConfig",
    "Policy",
    "PolicyConfig",
    "PricedConfig",
    "ProportionalConfig",
    "ScheduleConfig",
    "SchedulePoint",
]
