"""The policy that never moves: the recipe's shares stay in force.

The baseline every other policy has to beat, and the default: without a reason to steer, nothing is steered.
"""

from collections.abc import Mapping
from typing import Any, Literal

from trainer.base.config import Config
from trainer.base.records import Kind, Observation, Proposal


class ConstantConfig(Config):
    """Keep the shares of ``mixture.shares`` for the whole run."""

    kind: Literal["constant"] = "constant"


def begin(config: ConstantConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Nothing to remember."""
    return {}


def propose(config: ConstantConfig, state: dict[str, Any], observation: Observation) -> tuple[dict[str, Any], Proposal]:
    """The shares now in force."""
    return state, Proposal(shares=dict(observation.shares), reason="The policy keeps the shares constant.")
