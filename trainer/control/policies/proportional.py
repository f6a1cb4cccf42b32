"""The policy of token counts: each source gets a share by its size.

The heuristic that learned mixtures have to beat: UtiliMax (arXiv 2501.11747) reports that token counts beat nine
learned and manual mixtures, and Aioli (arXiv 2411.05735) that no earlier method beats equal shares everywhere. Both are
here, as w_k = n_k^exponent / sum_j n_j^exponent with n_k the samples of the source: exponent 1 is size-proportional,
so that all sources go through their data equally fast; 0 is equal shares; between lies the smoothed sampling of
multilingual models (alpha of XLM-R, arXiv 1911.02116). The sizes are known from the first evaluation on.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from trainer.base.records import Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, drawn, kept_within, normalized
from trainer.control.policies.protocol import NoState, no_needs, unexplained


class ProportionalConfig(Bounds):
    """Shares by the size of the sources, from the first evaluation on."""

    kind: Literal["proportional"]
    exponent: float = Field(default=1.0, ge=0, le=1, description="1: in proportion to the samples; 0: equal shares")


kind = "proportional"
Config = ProportionalConfig
State = NoState
needs = no_needs
explain = unexplained


def begin(config: ProportionalConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> NoState:
    """Nothing to remember; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return NoState()


def propose(config: ProportionalConfig, state: NoState, observation: Observation) -> tuple[NoState, Proposal]:
    """Shares in proportion to the samples of each source to the power of ``exponent``."""
    weights = normalized(
        {name: observation.horizon.num_samples[name] ** config.exponent for name in drawn(observation.shares)}
    )
    evidence = {"sources": {name: {"weight": weight} for name, weight in weights.items()}}
    reason = f"Shares follow the samples of the sources to the power of {config.exponent:g}."
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)
