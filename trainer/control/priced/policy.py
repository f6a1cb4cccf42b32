"""The policy that puts a price on real tokens: shares follow measured source value, within the real-data budget.

Two questions are kept apart. *What would the shares be if tokens cost nothing?* is answered by evidence: the advantage
of each source over the others (``trainer.control.priced.estimators``), pooled by inverse variance from dithered shares,
from alignments of gradients less what their noise costs, and from trial steps; ``base`` shares go up and down with it
by exponentiated gradient, only beyond the error, inside a trust region. *How much real data is left for it?* is
arithmetic: the real tokens left, the discount on repeats (``trainer.control.priced.repeats``) and the learning rates
ahead give a curve that just uses up the budget (``trainer.control.priced.real_budget``); real data get the lesser of
the two. Where the second binds a real token has a price: the advantage of drawing it later. What is drawn in its place
are the synthetic sources by their advantage over each other (``synthetic_mix``): against real data the useful ones lose
share with the useless ones.

Nearest in print: EG with a KL trust region (Olmix, 2602.12237), PiKE's variance term (2502.06244), the constrained form
of CMR (2407.17467); placing scarce data by the schedule is 2605.25698. The loop from held-out real loss to the real
share in one run, with a price, is ours.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import fsum, inf

from trainer.base.records import SHARE_ONE, SHARE_STEP, Kind, Observation, Proposal
from trainer.control.bounds import check_bounds, least_real_shares, step_within
from trainer.control.policies.protocol import Needs
from trainer.control.priced.afford import afford, dither, forgetting_from
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.explain import evidence_of, explain, reason_of
from trainer.control.priced.learn import learn
from trainer.control.priced.move import ceilings, move
from trainer.control.priced.prior import begun
from trainer.control.priced.state import PricedState
from trainer.mixture.shares import rounded_down, rounded_up

__all__ = ["Config", "State", "begin", "explain", "kind", "needs", "propose"]

kind = "priced"
Config = PricedConfig
State = PricedState


def begin(config: PricedConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> PricedState:
    """Base shares as they start, nothing measured. ``UserError`` for bounds that do not fit the start shares."""
    check_bounds(config, shares)
    start = {name: share / SHARE_ONE for name, share in shares.items()}
    synthetic = {name: share for name, share in start.items() if kinds[name] == "synthetic"}
    total = fsum(synthetic.values())
    return PricedState(
        floors=_floors(config, shares, kinds),
        start=start,
        base=start,
        targets=start,
        synthetic_mix={name: share / total for name, share in synthetic.items()} if total else {},
    )


def propose(config: PricedConfig, state: PricedState, observation: Observation) -> tuple[PricedState, Proposal]:
    """Shares for the next span: base shares by value, real ones within the budget, dithered, inside their bounds."""
    state = begun(config, state, observation, ceilings(config, observation.shares))
    state, is_measured = learn(config, state, observation)
    state, step = move(config, state) if is_measured else (state, None)
    plan = afford(config, state, observation)
    state = replace(state, targets=plan.targets)
    shares = dither(config, state, plan, observation)
    state = replace(state, proposed=shares, num_evaluations=state.num_evaluations + 1)
    evidence = evidence_of(config, state, step, plan, observation)
    return state, Proposal(shares=shares, reason=reason_of(state, plan, evidence, observation), evidence=evidence)


def needs(config: PricedConfig, max_epochs: float = inf) -> Needs:
    """What its estimators measure, and forgetting where the plan depends on it, all after the warm-up."""
    return Needs(
        source_value_from=config.warm_up if "source_value" in config.estimators else None,
        gradient_alignment_from=config.warm_up if "alignment" in config.estimators else None,
        forgetting_from=forgetting_from(config, max_epochs),
    )


def _floors(config: PricedConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> dict[str, float]:
    """The least share of each source: above its start share only where given for it by name."""
    least_real, floors = least_real_shares(config.real_floor, shares, kinds), {}
    step = step_within(config, shares)
    for name, share in shares.items():
        least = config.floor if kinds[name] == "synthetic" else least_real.get(name, 0.0)
        floor = rounded_up(config.floors.get(name, least), step)
        start = rounded_down(share / SHARE_ONE, step)
        steps = floor if name in config.floors else min(floor, start)
        floors[name] = max(steps, min(share, SHARE_STEP)) / SHARE_ONE if share else 0.0
    return floors
