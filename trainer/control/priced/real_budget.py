"""The real-data budget: the tokens that are left of it, and the share that just uses them up.

The budget is so many epochs of each real source: as configured, or those after which a repeat is worth no more than the
synthetic tokens drawn in its place. What the rest of the run should draw of it, and when, follows from the learning
rates ahead (``trainer.control.priced.spending_curve``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, isfinite
from typing import Any

import numpy as np

from trainer.base.records import SHARE_ONE, SHARE_STEP, FloatArray, Kind, Observation
from trainer.control.priced.estimates import Estimate, combine_or_reset
from trainer.control.priced.repeats import epochs_until, net_repeat_value, unique_value
from trainer.control.priced.spending_curve import LEAST_WEIGHT, RestOfRun, SpendingCurve, kernel, spend
from trainer.mixture.shares import rounded_down

# At four epochs placing real data last neither helped nor hurt in trials on text (1.2 M parameters, 700 real samples:
# 4.31 nats both ways), at eleven it hurt (4.48 against 4.29): mixing regularises what is repeated.
MOST_CONCENTRATED_EPOCHS = 4.0
LEAST_SOURCE_VALUE = 0.05  # of a synthetic token, as far as evidence goes: it never gives real data more than 47 epochs


def least_capped(kinds: Mapping[str, Kind], max_epochs: Mapping[str, float]) -> float:
    """Epochs that the caps allow the real source that they limit least; infinity where one has no cap."""
    return max((max_epochs.get(name, inf) for name, kind in kinds.items() if kind == "real"), default=inf)


@dataclass(frozen=True, kw_only=True)
class RealDraws:
    """Of real sources together: samples ``used``, repeats included, of ``unique`` ones."""

    used: float
    unique: int

    @property
    def epochs(self) -> float:
        """Of a sample, on average."""
        return self.used / max(self.unique, 1)


def drawn_of_real(observation: Observation, names: Iterable[str]) -> RealDraws:
    """What was drawn of the real sources among ``names``, as far as they can still be drawn."""
    real = [name for name in names if observation.kinds[name] == "real"]
    return RealDraws(
        used=fsum(observation.epochs.get(name, 0.0) * observation.horizon.num_samples.get(name, 0) for name in real),
        unique=sum(observation.horizon.num_samples.get(name, 0) for name in real),
    )


def coming_samples(observation: Observation, rest: RestOfRun, *, span: float) -> float:
    """Samples of any kind up to the next evaluation, after a ``span`` of progress as long as the one before."""
    return _coming_steps(observation, rest, span) * observation.horizon.global_batch


def _coming_steps(observation: Observation, rest: RestOfRun, span: float) -> float:
    return min(max(span * observation.horizon.num_steps, 1.0), rest.total_steps)


def within_caps(
    ceilings: Mapping[str, float], observation: Observation, coming: float, *, step: int = SHARE_STEP
) -> dict[str, float]:
    """``ceilings`` under which no source draws more of the ``coming`` samples than its cap on epochs leaves, in whole
    steps (millionths) rounded down."""
    lowered = dict(ceilings)
    for name, cap in observation.horizon.max_epochs.items():
        samples_left = max(0.0, cap - observation.epochs.get(name, 0.0)) * observation.horizon.num_samples.get(name, 0)
        if coming > 0:
            lowered[name] = min(lowered[name], rounded_down(samples_left / coming, step) / SHARE_ONE)
    return lowered


@dataclass(frozen=True, kw_only=True)
class RealBudget:
    """The budget of real data, in samples, and the plan for what is left of it.

    ``share`` is the real share planned for the coming span, None where nothing limits it; ``marginal`` the kernel at
    which a token is just drawn over that of now. ``is_timed``: the plan says when real data are drawn, and value says
    how much of them; else value says what they get now. ``waits``: they wait until it is known how fast the model
    forgets.
    """

    samples: float  # that may be drawn in all
    used: float
    unique: int
    left_of_run: float  # samples of any kind
    scarcity: float = 0.0  # samples of the run per different real one
    share: float | None = None
    marginal: float = 0.0
    concentration: float = 0.0
    is_timed: bool = False
    waits: bool = False

    @property
    def epochs(self) -> float:
        """Of the real data at the end of the run, as planned."""
        return min(self.samples, self.used + self.left_of_run) / self.unique if self.unique else 0.0

    @property
    def planned(self) -> float:
        """Real samples that the rest of the run is to draw at most."""
        return max(0.0, min(self.samples - self.used, self.left_of_run))

    def as_evidence(self) -> dict[str, Any]:
        """Samples and epochs of real data: used, planned, and what repeats and new samples are worth."""
        bounded = isfinite(self.samples)
        return {
            "samples": self.samples if bounded else None,
            "used_samples": self.used,
            "planned_samples": self.planned,
            "planned_share": self.share,
            "used_epochs": self.used / self.unique if self.unique else None,
            "planned_epochs": self.epochs if bounded else None,
            "value_of_repeat": net_repeat_value(self.epochs, self.scarcity),
            "epochs_without_harm": epochs_until(0.0, self.scarcity) if self.scarcity else None,
            "value_of_new_sample": unique_value(self.epochs),
            "concentration": self.concentration,
            "waits": self.waits,
        }


@dataclass(frozen=True, kw_only=True)
class BudgetTerms:
    """What a plan depends on: most ``real_epochs`` of a source, the ``curvature`` of the kernel (None: not known), and
    how far the plan may follow it (``concentration``).

    Up to progress ``waits_until`` the curvature may still become known: until then nothing is drawn that can be drawn
    later.
    """

    real_epochs: float
    concentration: float
    curvature: float | None
    waits_until: float


def synthetic_less_real(
    advantages: Mapping[str, Estimate], shares: Mapping[str, float], kinds: Mapping[str, Kind], *, unit: float
) -> Estimate | None:
    """The value of a synthetic token less that of a real one, in fresh real tokens of ``unit``; None where not known.

    An advantage over the others' mean times 1 - share is one over the mean of all, of which kinds can be put together.
    Each advantage has the others' errors in it too, so that at worst they add up; of two sources they do.
    """
    of_kind = {kind: fsum(shares[name] for name in advantages if kinds[name] == kind) for kind in ("real", "synthetic")}
    if not of_kind["real"] or not of_kind["synthetic"]:
        return None
    parts = {name: shares[name] * (1 - shares[name]) / of_kind[kinds[name]] / unit for name in advantages}
    signs = {name: 1 if kinds[name] == "synthetic" else -1 for name in advantages}
    return Estimate(
        value=fsum(signs[name] * parts[name] * advantage.value for name, advantage in advantages.items()),
        standard_error=fsum(parts[name] * advantage.standard_error for name, advantage in advantages.items()),
    )


def scarcity_of(observation: Observation, unique: int) -> float:
    """Samples of the whole run per different real one; 0 where there is none."""
    horizon = observation.horizon
    return horizon.num_steps * horizon.global_batch / unique if unique else 0.0


def worthwhile_epochs(prior: Estimate, difference: Estimate | None, epochs: float, *, scarcity: float = 0.0) -> float:
    """Epochs of real data after which a repeat is worth no more than a synthetic token, whose ``prior`` value is in
    fresh real tokens; a synthetic token that is worth nothing leaves those after which a repeat does harm.

    ``difference``: the value of a synthetic token less that of a real one, in fresh real tokens, measured after
    ``epochs`` of real data, when a real one was worth ``repeat_value``; None before it is known. A synthetic token that
    is worth less gives real data more epochs, by the mean of prior and measurement weighted by precision, or by the
    measurement alone where the two plainly differ (``combine_or_reset``). That it is worth more never takes epochs
    away: the fewer of them the plan has, the better synthetic text compares, which in a trial on text starved real data
    after one decision.
    """
    if difference is None:
        return epochs_until(prior.value, scarcity)
    measured = Estimate(
        value=net_repeat_value(epochs, scarcity) + difference.value, standard_error=difference.standard_error
    )
    source_value = combine_or_reset(prior, measured).value
    return epochs_until(min(max(source_value, LEAST_SOURCE_VALUE), prior.value), scarcity)


def plan_budget(
    observation: Observation,
    rest: RestOfRun,
    terms: BudgetTerms,
    *,
    wanted: float,
    span: float,
    floors: Mapping[str, float],
) -> RealBudget:
    """The budget as it stands, and the curve that just uses it up over the ``rest`` of the run.

    ``wanted``: the real share that value asks for. Where the plan follows the kernel that is a share of the whole run,
    whenever it is drawn: else real data that waited would never catch up. ``span``: of progress, from this evaluation
    to the next; ``floors``: least shares.
    """
    # a source at its cap is not drawn any more, but what was drawn of it counts
    real = [name for name in observation.shares if floors.get(name, 0.0) > 0 and observation.kinds[name] == "real"]
    synthetic = [
        name for name, share in observation.shares.items() if share > 0 and observation.kinds[name] == "synthetic"
    ]
    budget = _budget_of(observation, rest, terms, real)
    least, ceiling = fsum(floors[name] for name in real), 1 - fsum(floors[name] for name in synthetic)
    samples_left, global_batch = budget.left_of_run, observation.horizon.global_batch
    is_scarce = budget.samples < ceiling * (samples_left + budget.used)
    followed = concentrated(budget.epochs, terms.concentration) if is_scarce else 0.0
    waits = terms.curvature is None and followed > 0 and observation.progress < terms.waits_until
    followed = 0.0 if terms.curvature is None else followed
    is_timed = waits or followed > 0
    is_plentiful = not is_timed and budget.samples - budget.used >= samples_left * ceiling
    if not real or not synthetic or samples_left <= 0 or is_plentiful:
        return budget
    planned, weights = budget.planned, kernel(rest, terms.curvature or 0.0)
    if is_timed:
        planned = max(0.0, min(planned, wanted * observation.horizon.num_steps * global_batch - budget.used))
    if waits:
        weights = _deferred(rest, (terms.waits_until - observation.progress) * observation.horizon.num_steps)
    concentration = 1.0 if waits else followed
    curve = spend(rest, weights, planned / global_batch, concentration=concentration, floor=least, ceiling=ceiling)
    now = float(weights[0] / weights.max())  # 0 where what is learned now is forgotten long before the end
    marginal = curve.marginal / now if now > 0 and not waits else float("inf")
    share = _mean_share(rest, curve, _coming_steps(observation, rest, span))
    return replace(budget, share=share, marginal=marginal, concentration=followed, is_timed=is_timed, waits=waits)


def _budget_of(observation: Observation, rest: RestOfRun, terms: BudgetTerms, real: Sequence[str]) -> RealBudget:
    """The budget of the sources ``real`` without a plan; endless where there are none."""
    horizon, draws = observation.horizon, drawn_of_real(observation, real)
    most = {name: min(terms.real_epochs, horizon.max_epochs.get(name, inf)) for name in real}
    samples = fsum(epochs * horizon.num_samples.get(name, 0) for name, epochs in most.items())
    return RealBudget(
        samples=samples if draws.unique else inf,
        used=draws.used,
        unique=draws.unique,
        left_of_run=rest.total_steps * horizon.global_batch,
        scarcity=scarcity_of(observation, draws.unique),
    )


def _mean_share(rest: RestOfRun, curve: SpendingCurve, steps: float) -> float:
    """The mean share of a curve over the next so many steps."""
    ends = np.concatenate([[0.0], np.cumsum(rest.steps)])
    drawn = np.concatenate([[0.0], np.cumsum(rest.steps * curve.shares)])
    return float(np.interp(steps, ends, drawn)) / steps


def _deferred(rest: RestOfRun, steps: float) -> FloatArray:
    """Weights [P] by which nothing is drawn in the next so many steps that can be drawn after them."""
    return np.where(np.cumsum(rest.steps) - rest.steps < steps, LEAST_WEIGHT, 1.0)


def concentrated(epochs: float, concentration: float) -> float:
    """How far the plan may follow the kernel where real data come to so many epochs by the end of the run.

    Wholly up to one epoch, not at all from four on: what is repeated must not be bunched.
    """
    return concentration * max(0.0, 1 - max(0.0, epochs - 1) / (MOST_CONCENTRATED_EPOCHS - 1))
