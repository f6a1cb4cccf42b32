"""The policy that never moves: the recipe's shares stay in force.

The baseline every other policy has to beat, and the default: without a reason to steer, nothing is steered.
"""

from collections.abc import Mapping
from typing import Literal

from trainer.base import config as base
from trainer.base.records import Kind, Observation, Proposal
from trainer.control.policies.protocol import NoState, no_needs, unexplained


class ConstantConfig(base.Config):
    """Keep the shares of ``mixture.shares`` for the whole run."""

    kind: Literal["constant"] = "constant"


kind = "constant"
Config = ConstantConfig
State = NoState
needs = no_needs
explain = unexplained


def begin(config: ConstantConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> NoState:
    """Nothing to remember."""
    return NoState()


def propose(config: ConstantConfig, state: NoState, observation: Observation) -> tuple[NoState, Proposal]:
    """The shares now in force."""
    return state, Proposal(shares=dict(observation.shares), reason="The policy keeps the shares constant.")
