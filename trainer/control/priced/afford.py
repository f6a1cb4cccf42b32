"""Third and fourth part of a decision: shares within the real-data budget, and the waves of the dither on them."""

from dataclasses import dataclass
from math import fsum

from trainer.base.records import Kind, Observation
from trainer.control.bounds import step_within
from trainer.control.priced import forgetting
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.dither import dithered
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.learn import known_advantages
from trainer.control.priced.move import LEAST_SHARE, ceilings
from trainer.control.priced.prior import assumed, synthetic_prior
from trainer.control.priced.real_budget import (
    BudgetTerms,
    RealBudget,
    coming_samples,
    concentrated,
    drawn_of_real,
    plan_budget,
    scarcity_of,
    synthetic_less_real,
    within_caps,
    worthwhile_epochs,
)
from trainer.control.priced.spending_curve import rest_of_run
from trainer.control.priced.state import PricedState, Shares
from trainer.mixture.shares import rounded, within


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """The budget, whether it limits real data now, the shares within it, and the floors that then hold."""

    budget: RealBudget
    is_binding: bool
    targets: Shares
    floors: Shares


def afford(config: PricedConfig, state: PricedState, observation: Observation) -> BudgetPlan:
    """Base shares with all real sources together at what the budget allows, the rest going to the synthetic ones.

    Floors of real sources give way to the budget.
    """
    kinds, base = observation.kinds, state.base
    budget = _budget(config, state, observation)
    if budget.share is None or not (budget.is_timed or state.real_share(kinds) > budget.share):
        return BudgetPlan(budget=budget, is_binding=False, targets=dict(base), floors=state.floors)
    most = ceilings(config, base)
    real = {name: share if kinds[name] == "real" else 0.0 for name, share in base.items()}
    synthetic = {name: state.synthetic_mix.get(name, 0.0) for name in base}
    least = {name: min(least, LEAST_SHARE) if kinds[name] == "real" else least for name, least in state.floors.items()}
    total = max(budget.share, fsum(least[name] for name, share in real.items() if share > 0))
    of_real = within(real, least, most, total=total)
    of_synthetic = within(synthetic, least, most, total=1 - total)
    targets = {name: of_real[name] + of_synthetic[name] for name in base}
    return BudgetPlan(budget=budget, is_binding=True, targets=targets, floors=least)


def dither(config: PricedConfig, state: PricedState, plan: BudgetPlan, observation: Observation) -> dict[str, int]:
    """The planned shares in millionths, with the waves of the dither where it is an estimator and the warm-up over."""
    step = step_within(config, observation.shares)
    if "dither" not in config.estimators or observation.progress < config.warm_up:
        return rounded(plan.targets, step=step)
    order = list(observation.shares)
    waves = dithered(plan.targets, state.num_evaluations, amplitude=config.advanced.dither, order=order)
    horizon = observation.horizon
    rest = rest_of_run(horizon.rates, num_steps=horizon.num_steps, progress=observation.progress)
    coming = coming_samples(observation, rest, span=state.span)
    most = within_caps(ceilings(config, observation.shares), observation, coming, step=step)
    return rounded(within(waves, plan.floors, most, total=1.0), step=step)


def most_real_epochs(config: PricedConfig, prior: Estimate | None = None, *, scarcity: float = 0.0) -> float:
    """The budget before anything is measured, in epochs of real data, with ``prior`` for the value of a synthetic
    token; ``scarcity``: tokens of the run per different real one.
    """
    if config.real_epochs is not None:
        return config.real_epochs
    return worthwhile_epochs(prior or assumed(config), None, 0.0, scarcity=scarcity)


def forgetting_from(config: PricedConfig, max_epochs: float) -> float | None:
    """Progress from which forgetting has to be measured, with real data capped at so many epochs.

    None where the curvature is configured, or the plan is level whatever it is.
    """
    follows = concentrated(min(most_real_epochs(config), max_epochs), config.advanced.concentration) > 0
    return config.warm_up if follows and config.advanced.curvature is None else None


def _budget(config: PricedConfig, state: PricedState, observation: Observation) -> RealBudget:
    """The budget as it stands, and the curve that just uses it up."""
    horizon = observation.horizon
    terms = BudgetTerms(
        real_epochs=_real_epochs(config, state, observation),
        concentration=config.advanced.concentration,
        curvature=forgetting.curvature(config.advanced.curvature, state.probes),
        waits_until=forgetting.waits_until(forgetting_from(config, 0.0), state.probes, observation),
    )
    return plan_budget(
        observation,
        rest_of_run(horizon.rates, num_steps=horizon.num_steps, progress=observation.progress),
        terms,
        wanted=state.real_share(observation.kinds),
        span=state.span,
        floors={
            name: _least_planned(config, name, observation.kinds[name], least) for name, least in state.floors.items()
        },
    )


def _real_epochs(config: PricedConfig, state: PricedState, observation: Observation) -> float:
    """The budget in epochs: as configured, or by the value of a synthetic token against a real one."""
    prior = synthetic_prior(config, observation, state.synthetic_mix)
    scarcity = scarcity_of(observation, drawn_of_real(observation, state.drawn).unique)
    if config.real_epochs is not None or state.unit is None:
        return most_real_epochs(config, prior, scarcity=scarcity)
    # of the synthetic sources, which are drawn in place of real ones
    synthetic_share = 1 - state.real_share(observation.kinds)
    shares = {name: state.synthetic_mix.get(name, 0.0) * synthetic_share or state.base[name] for name in state.drawn}
    advantages = known_advantages(state, shares, {})
    difference = synthetic_less_real(advantages, shares, observation.kinds, unit=state.unit)
    return worthwhile_epochs(prior, difference, state.measured_after_epochs, scarcity=scarcity)


def _least_planned(config: PricedConfig, name: str, kind: Kind, least: float) -> float:
    """The share below which a plan does not reduce a source: of real ones what their floors say, if they have any.

    The common real floor is for what value asks: it would use up a budget that is only just enough for it.
    """
    return least if kind == "synthetic" else config.floors.get(name, min(least, LEAST_SHARE))
