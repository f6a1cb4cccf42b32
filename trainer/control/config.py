"""How the shares are controlled: the policy that proposes them, and the guard."""

from pydantic import Field

from trainer.base.config import Config
from trainer.control.guard.config import GuardConfig
from trainer.control.policies import ConstantConfig, PolicyConfig


class ControlConfig(Config):
    """What decides the shares, and what guards the run."""

    policy: PolicyConfig = Field(default_factory=ConstantConfig, description="what proposes shares")
    guard: GuardConfig = Field(default_factory=GuardConfig, description="what may veto, cut, roll back or stop")
