"""Second part of a decision: shares follow the advantages, as far as the trust region allows."""

from collections.abc import Mapping
from dataclasses import replace
from math import fsum, log

from trainer.base.records import SHARE_ONE, SHARE_STEP
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.learn import known_advantages
from trainer.control.priced.state import PricedState, Shares
from trainer.control.priced.trust_region import Step, StepSizes, divergence, step
from trainer.mixture.shares import within

LEAST_SHARE = SHARE_STEP / SHARE_ONE  # of a source that does not start with less: a share of 0 is for good


def move(config: PricedConfig, state: PricedState) -> tuple[PricedState, Step]:
    """The state after a step of the base shares, and one of the mix of synthetic sources among themselves."""
    moved = _step(config, state, state.base, state.step_sizes, state.prior)
    base = within(moved.shares, state.floors, ceilings(config, moved.shares), total=1.0)
    state = replace(state, base={**dict.fromkeys(state.base, 0.0), **base}, step_sizes=moved.sizes)
    if not fsum(state.synthetic_mix.values()):
        return state, moved
    among = _step(config, state, state.synthetic_mix, state.synthetic_step_sizes, state.prior)
    # floors hold for what is drawn; this is for coming back
    of_all = fsum(state.start[name] for name in among.shares)
    least = {name: min(LEAST_SHARE, state.start[name] / of_all) for name in among.shares}
    mix = within(among.shares, least, dict.fromkeys(among.shares, 1.0), total=1.0)
    mix = {**dict.fromkeys(state.synthetic_mix, 0.0), **mix}
    return replace(state, synthetic_mix=mix, synthetic_step_sizes=among.sizes), moved


def ceilings(config: PricedConfig, names: Mapping[str, object]) -> dict[str, float]:
    """The greatest share of each source; 1 where none is configured."""
    return {name: config.ceilings.get(name, 1.0) for name in names}


def pull_to_start(config: PricedConfig, state: PricedState, base: Shares) -> dict[str, float]:
    """What is added to the advantage of each source for its distance from the starting mixture.

    The gradient of -mixing KL(base | start), less the others' like an advantage: where it balances the values, shares
    are start e^(value/mixing), as in KL-regularized proposals (Olmix, arXiv 2602.12237). Mixing regularizes: in trials
    on text with 700 real samples, half or a quarter real were alike (4.29 nats), real alone was worst (5.44), though a
    real token is worth more than a synthetic one at every single evaluation.
    """
    if state.unit is None:
        return dict.fromkeys(base, 0.0)
    apart = {name: log(share / state.start[name]) for name, share in base.items()}
    mean = fsum(base[name] * apart[name] for name in base)
    weight = -config.advanced.mixing * state.unit
    return {name: weight * (apart[name] - mean) / max(1 - base[name], LEAST_SHARE) for name in base}


def _step(
    config: PricedConfig, state: PricedState, shares: Shares, sizes: StepSizes, prior: Mapping[str, Estimate]
) -> Step:
    """The step of ``shares`` on what is known.

    A source may be better than the others only because of one that now loses its share: it then moves further, by the
    advantage that it has after the step, as far as the trust region of the whole decision allows.
    """
    z, trust = config.advanced.z, config.advanced.trust_region
    base = {name: share for name, share in shares.items() if share > 0}
    before = _pulled(config, state, base, prior)
    moved = step(base, before, sizes, z=z, trust=trust)
    turned = {
        name: after
        for name, after in _pulled(config, state, moved.shares, prior).items()
        if after.value * before[name].value < 0 and before[name].significance > z
    }
    if turned and not moved.is_limited:
        # relative to their own advantages, not to the source that has lost its share
        further = step(moved.shares, turned, StepSizes(), z=z, trust=trust).shares
        if divergence(further, base) <= moved.radius:
            moved = replace(moved, shares=further, divergence=divergence(further, base))
    return moved


def _pulled(
    config: PricedConfig, state: PricedState, base: Shares, prior: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """Advantages at the shares of ``base``, with the pull to the starting mixture."""
    pull = pull_to_start(config, state, base)
    advantages = known_advantages(state, base, prior)
    return {name: replace(estimate, value=estimate.value + pull[name]) for name, estimate in advantages.items()}
