"""Adaptive Data Optimization: share to the sources whose loss is forecast to fall fastest (arXiv 2410.11820).

Jiang, Zhou, Feng, Malladi, Kolter; released as yidingjiang/ado (`AdoSelector`). For each source a power law L_k(n) =
floor_k + scale_k n^-exponent_k is fitted to its training loss over all data trained on so far (n is the same for all
sources: their use_same_step_size), refitted each 60th of the run (theirs: 1,000 of 60,000 steps). With its slope now

    rho_k  ~  mu_k sqrt(h_k (1 - h_k)) max(exponent_k, 0.05) (L_k(n) - floor_k) / n,   no less than 0.01
    pi     =  0.9 pbar + 0.1 rho,       pbar <- (t pbar + s rho) / (t + s)
    h      <- 0.9^s h + (1 - 0.9^s) (shares in force)

where mu is the prior, the samples of each source, pbar the average of rho over all steps (mu stands for those before
the warm-up), h what was drawn lately, t the step and s the steps since the evaluation before. The released code repeats
its updates at each step with the same fit; these are s of them together. Its h enters as sqrt(h (1 - h)), where the
paper's text has a power of h. Our losses are means over the steps between evaluations, so the smoothing over 101 steps
before the fit is left out; instead of penalties outside of its bounds the fit keeps them; and its floor of 0.5 for ln
floor_k, which fits the vocabulary of the authors, is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, sqrt
from typing import Any, Literal, Self

from pydantic import Field

from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, check_bounds, drawn, kept_within, normalized
from trainer.control.policies.protocol import PlainState, loss_needs, unexplained
from trainer.control.policies.published.losses import mean_losses
from trainer.control.policies.published.power_law import MIN_POINTS, PowerLaw, fit

LEAST_EXPONENT = 0.05
LEAST_PREFERENCE = 0.01
REFIT_EVERY = 1 / 60  # of the run
NEWEST_PART = 0.1  # of the newest preference in the shares
MEMORY = 0.9  # of what was drawn, per step


class AdoConfig(Bounds):
    """Share to the sources whose training loss is forecast to fall fastest."""

    kind: Literal["ado"]
    warm_up: float = Field(
        default=0.02, ge=0, lt=1, description="progress of which the losses are not fitted (the authors: 1,000 steps)"
    )


@dataclass(frozen=True, kw_only=True)
class AdoState(PlainState):
    """Tokens and losses so far, the power law of each source and when it was fitted, what was drawn lately (``recent``)
    and the average preference.
    """

    step: int = 0
    tokens: int = 0
    history: Sequence[Mapping[str, Any]] = ()
    fitted_at: float | None = None
    laws: Mapping[str, PowerLaw] = field(default_factory=dict)
    recent: Mapping[str, float] | None = None
    average: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The state of which ``value`` is the ``to_json``."""
        return cls(**{**value, "laws": {name: PowerLaw(**law) for name, law in value["laws"].items()}})


kind = "ado"
Config = AdoConfig
State = AdoState
needs = loss_needs
explain = unexplained


def begin(config: AdoConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> AdoState:
    """No losses yet; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return AdoState()


def propose(config: AdoConfig, state: AdoState, observation: Observation) -> tuple[AdoState, Proposal]:
    """Shares after a fit to all losses since the warm-up; those in force while there are too few."""
    names = drawn(observation.shares)
    steps = observation.step - state.step
    prior = normalized({name: float(observation.horizon.num_samples[name]) for name in names})
    recent = _restricted(state.recent, prior)
    recent = {
        name: MEMORY**steps * recent[name] + (1 - MEMORY**steps) * observation.shares[name] / SHARE_ONE
        for name in names
    }
    tokens = state.tokens + sum(loss.tokens for loss in observation.losses.values())
    history = state.history
    if observation.progress >= config.warm_up:
        history = [*history, {"tokens": tokens, "losses": mean_losses(observation)}]
    state = replace(state, step=observation.step, tokens=tokens, history=history, recent=recent)
    if state.fitted_at is None or observation.progress - state.fitted_at >= REFIT_EVERY:
        fitted = {name: law for name in names if (law := _law(history, name)) is not None}
        state = replace(state, laws=fitted, fitted_at=observation.progress if len(fitted) == len(names) else None)
    laws = {name: state.laws[name] for name in names if name in state.laws}
    if len(laws) < len(names):
        missing = [name for name in names if name not in laws]
        reason = f"{', '.join(missing)}: fewer than {MIN_POINTS} losses to fit since progress {config.warm_up:g}."
        return state, Proposal(shares=dict(observation.shares), reason=reason)
    preference = preferences(prior, recent, laws, tokens)
    average = _restricted(state.average, prior)
    weights = {name: (1 - NEWEST_PART) * average[name] + NEWEST_PART * preference[name] for name in names}
    before = observation.step - steps
    average = {name: (before * average[name] + steps * preference[name]) / observation.step for name in names}
    evidence = {
        "sources": {
            name: {
                "floor": law.floor,
                "exponent": law.exponent,
                "slope_per_token": law.slope(tokens),
                "preference": preference[name],
                "weight": weights[name],
            }
            for name, law in laws.items()
        }
    }
    reason = (
        f"The loss of {max(preference, key=preference.__getitem__)} is forecast to fall most, prior and use counted."
    )
    state = replace(state, average=average)
    return state, Proposal(shares=kept_within(config, weights, observation.shares), reason=reason, evidence=evidence)


def preferences(
    prior: Mapping[str, float], recent: Mapping[str, float], laws: Mapping[str, PowerLaw], tokens: float
) -> dict[str, float]:
    """rho: where the next token is forecast to lower the loss most, after ``tokens`` in all."""
    slopes = {}
    for name, law in laws.items():
        slope = max(law.exponent, LEAST_EXPONENT) * (law(tokens) - law.floor) / tokens
        slopes[name] = prior[name] * sqrt(recent[name] * (1 - recent[name])) * slope
    total = fsum(slopes.values())
    if total <= 0:
        return dict(prior)
    return normalized({name: max(slope / total, LEAST_PREFERENCE) for name, slope in slopes.items()})


def _restricted(values: Mapping[str, float] | None, prior: Mapping[str, float]) -> dict[str, float]:
    """``values`` of the sources that are still drawn, summing to 1; the prior before there are any."""
    if values is None:
        return dict(prior)
    return normalized({name: values.get(name, 0.0) for name in prior})


def _law(history: Sequence[Mapping[str, Any]], name: str) -> PowerLaw | None:
    points = [(row["tokens"], row["losses"][name]) for row in history if name in row["losses"]]
    return fit([place for place, _ in points], [loss for _, loss in points])
