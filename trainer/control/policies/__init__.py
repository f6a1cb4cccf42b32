"""The policies by kind. A policy is a module of the interface in ``protocol``; adding one is a file, a member of the
union and a line in the table, and one from outside needs none of these.
"""

from typing import Annotated

from trainer.base.seams import OpenUnion, Seam
from trainer.control.policies import anneal, constant, feedback, proportional, schedule
from trainer.control.policies.anneal import AnnealConfig
from trainer.control.policies.constant import ConstantConfig
from trainer.control.policies.feedback import FeedbackConfig
from trainer.control.policies.proportional import ProportionalConfig
from trainer.control.policies.protocol import MEMBERS, Needs, NoState, PlainState, Policy, PolicyState
from trainer.control.policies.published import ado, aioli, doremi, fms_odm, odm, pike
from trainer.control.policies.published.ado import AdoConfig
from trainer.control.policies.published.aioli import AioliConfig
from trainer.control.policies.published.doremi import DoremiConfig
from trainer.control.policies.published.fms_odm import FmsOdmConfig
from trainer.control.policies.published.odm import OdmConfig
from trainer.control.policies.published.pike import PikeConfig
from trainer.control.policies.schedule import ScheduleConfig, SchedulePoint
from trainer.control.priced import policy as priced
from trainer.control.priced.config import PricedConfig

_BUILT_IN: tuple[Policy, ...] = (
    constant,
    schedule,
    anneal,
    proportional,
    odm,
    fms_odm,
    doremi,
    ado,
    aioli,
    pike,
    priced,
    feedback,
)
POLICIES: Seam[Policy] = Seam(
    "policies",
    {policy.kind: policy for policy in _BUILT_IN},
    requires=MEMBERS,
    calls={
        "begin": ("config", "shares", "kinds"),
        "propose": ("config", "state", "observation"),
        "needs": ("config", "max_epochs"),
        "explain": ("evidence",),
    },
)

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
    OpenUnion(POLICIES),
]

__all__ = [
    "POLICIES",
    "AdoConfig",
    "AioliConfig",
    "AnnealConfig",
    "ConstantConfig",
    "DoremiConfig",
    "FeedbackConfig",
    "FmsOdmConfig",
    "Needs",
    "NoState",
    "OdmConfig",
    "PikeConfig",
    "PlainState",
    "Policy",
    "PolicyConfig",
    "PolicyState",
    "PricedConfig",
    "ProportionalConfig",
    "ScheduleConfig",
    "SchedulePoint",
]
