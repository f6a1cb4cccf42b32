"""First part of a decision: what the span that just ended and the measurements of this evaluation say."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from trainer.base.records import SHARE_ONE, Observation
from trainer.control.priced import forgetting
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.dither import Span
from trainer.control.priced.estimates import Estimate, combine_or_reset, inverse_variance_mean
from trainer.control.priced.estimators import (
    Advantages,
    fresh_unit,
    measured_advantages,
    prior_advantages,
    weighted_by_shares,
)
from trainer.control.priced.prior import source_priors
from trainer.control.priced.real_budget import drawn_of_real
from trainer.control.priced.spending_curve import RestOfRun, noise_rate, rest_of_run
from trainer.control.priced.state import PricedState, Shares
from trainer.mixture.shares import redistributed

DITHER_EVALUATIONS = 40  # of which the spans are remembered


def learn(config: PricedConfig, state: PricedState, observation: Observation) -> tuple[PricedState, bool]:
    """The state with the span that ends here and all that is measured now; and whether any advantage was."""
    state = _with_span(state, observation)
    state = replace(state, probes=forgetting.with_probe(state.probes, observation))
    if observation.progress < config.warm_up:
        return state, False
    prices = _noise_prices(forgetting.curvature(config.advanced.curvature, state.probes), state, observation)
    measured = measured_advantages(observation, state.spans, estimators=config.estimators, noise_prices=prices)
    state = _with_measured(config, state, measured, observation)
    return _with_prior(config, state, observation), bool(measured)


def known_advantages(state: PricedState, shares: Shares, prior: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The advantage of each source in ``shares`` over the others there, pooled over estimators and with its ``prior``.

    The prior counts unless the measurements plainly contradict it.
    """
    unweighted = {
        name: combine_or_reset(prior.get(name), inverse_variance_mean(estimates))
        for name, estimates in state.estimates.items()
        if state.base.get(name, 0.0) > 0
    }
    return weighted_by_shares(unweighted, shares)


def _with_span(state: PricedState, observation: Observation) -> PricedState:
    """The state with the span that ends here: its shares, summed learning rate, and the loss after it.

    Where the guard changed the shares (veto or cut) the spans start again without the sources that were cut; what value
    asks for stays as it was, which the shares in force do not say where the budget set them. After a rollback the loss
    before is not that of these weights, and the spans start again.
    """
    if state.proposed is not None and dict(observation.shares) != dict(state.proposed):
        in_force = {name: share / SHARE_ONE for name, share in observation.shares.items()}
        base, mix = (_without_cut(shares, observation) for shares in (state.base, state.synthetic_mix))
        state = replace(state, base=base, synthetic_mix=mix, targets=in_force, spans=())
    if observation.progress < state.progress:
        state = replace(state, spans=(), progress=max(0.0, observation.progress - state.span))
    rates, num_steps = observation.horizon.rates, observation.horizon.num_steps
    before = rest_of_run(rates, num_steps=num_steps, progress=state.progress)
    now = rest_of_run(rates, num_steps=num_steps, progress=observation.progress)
    span = Span(
        loss=observation.evaluation.nats_per_token,
        rate_sum=float(before.steps @ before.rates - now.steps @ now.rates),
        waves=[share / SHARE_ONE - state.targets.get(name, 0.0) for name, share in observation.shares.items()],
    )
    spans = (*state.spans, span)[-DITHER_EVALUATIONS:]
    return replace(state, spans=spans, span=observation.progress - state.progress, progress=observation.progress)


def _without_cut(shares: Shares, observation: Observation) -> dict[str, float]:
    """``shares`` without sources that are not drawn now."""
    cut_sources = [name for name in shares if observation.shares.get(name, 0) == 0]
    return redistributed(shares, cut_sources, observation.kinds) or dict.fromkeys(shares, 0.0)


def _noise_prices(curvature: float | None, state: PricedState, observation: Observation) -> tuple[float, float]:
    """What a gradient variance of 1 per sample costs in final loss, over the rest of the run and within one span:
    h eta / 2B at the rate that ``noise_rate`` says.
    """
    horizon = observation.horizon
    rest = rest_of_run(horizon.rates, num_steps=horizon.num_steps, progress=observation.progress)
    rate = rest.rates[:1]
    span = RestOfRun(steps=np.array([max(state.span * horizon.num_steps, 1.0)])[: len(rate)], rates=rate)

    def price(steps: RestOfRun) -> float:
        if curvature is None or not steps.rates.any():
            return 0.0
        return curvature * noise_rate(steps, curvature) / (2 * horizon.global_batch)

    return price(rest), price(span)


def _with_measured(
    config: PricedConfig, state: PricedState, measured: Advantages, observation: Observation
) -> PricedState:
    """The state with what each estimator says of each source now, combined with what it said before.

    The dither uses all its spans each time, so it replaces what it said before. What is not measured again keeps its
    error: a source does not become unknown because nothing measures it.
    """
    if not measured:
        return state
    epochs, unit = state.measured_after_epochs, fresh_unit(observation, config.estimators)
    if any(estimator != "dither" for fresh in measured.values() for estimator in fresh):
        epochs = drawn_of_real(observation, state.drawn).epochs
    estimates = {}
    for name, fresh in measured.items():
        before = {
            estimator: old.decayed(config.advanced.memory) if estimator in fresh else old
            for estimator, old in state.estimates.get(name, {}).items()
            if estimator != "dither"
        }
        combined = {
            estimator: new if estimator == "dither" else combine_or_reset(before.get(estimator), new)
            for estimator, new in fresh.items()
        }
        estimates[name] = {**before, **combined}
    return replace(state, estimates=estimates, measured_after_epochs=epochs, unit=state.unit if unit is None else unit)


def _with_prior(config: PricedConfig, state: PricedState, observation: Observation) -> PricedState:
    """The state with the assumed advantages; unchanged where ``real_epochs`` is configured, which says what a repeat is
    worth.
    """
    if config.real_epochs is not None or state.unit is None:
        return state
    prior = prior_advantages(observation, source_priors(config, observation), unit=state.unit)
    return replace(state, prior=prior)
