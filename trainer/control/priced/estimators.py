"""From an observation to the advantage of each source over the others, estimator by estimator, in one unit.

The unit is nats per held-out token that a share of one gains per unit of summed learning rate: what alignments and
dithered shares say directly. Trial steps say it in fresh real tokens; what a step on those gained turns it into the
same unit. Where that is not known, only source values are compared, in their own unit.
"""

# K sources, J evaluations

from collections.abc import Collection, Mapping, Sequence
from math import fsum, isfinite

import numpy as np

from trainer.base.records import SHARE_ONE, FloatArray, Observation
from trainer.control.priced.config import Estimator
from trainer.control.priced.dither import Span, effects
from trainer.control.priced.estimates import Estimate, advantages
from trainer.control.priced.repeats import mean_repeat_value
from trainer.control.source_scores import usable

Advantages = dict[str, dict[str, Estimate]]  # by source and estimator


def measured_advantages(
    observation: Observation,
    spans: Sequence[Span],
    *,
    estimators: Collection[Estimator],
    noise_prices: tuple[float, float],
) -> Advantages:
    """The value of each drawn source less the plain mean of the others', by every one of ``estimators`` that says
    something now. (``weighted_by_shares`` weighs the others by shares, which move between two measurements.)

    ``noise_prices``: cost in the unit above of a gradient variance of 1, to the final loss and within one span.
    ``spans``: waves of the shares, summed rates and the losses after them, oldest first, for what the dither says; it
    includes the noise of now, so that what the falling rate will take off it is given back where variances are known.
    """
    names = [name for name, share in observation.shares.items() if share > 0]
    if len(names) < 2:
        return {}
    equal_K = np.full(len(names), 1 / len(names))
    rows: dict[Estimator, list[Estimate]] = {}
    if "alignment" in estimators and (aligned := _from_alignment(observation, names, noise_prices[0])) is not None:
        rows["alignment"] = advantages(*_over_the_rest(observation, names, *aligned), equal_K)
    if "dither" in estimators and (moved := _from_dither(observation, spans, names)) is not None:
        values_K, covariance_KK = moved
        variances_K = np.array(
            [
                observation.gradient_alignment[name].variance if name in observation.gradient_alignment else 0.0
                for name in names
            ]
        )
        values_K = values_K + (noise_prices[1] - noise_prices[0]) * variances_K
        rows["dither"] = advantages(values_K, covariance_KK, equal_K)
    if "source_value" in estimators and (trial_steps := _from_trial_steps(observation, names)) is not None:
        *measured, unit = trial_steps
        values_K, covariance_KK = _over_the_rest(observation, names, *measured)
        if unit is None:
            rows = {"source_value": advantages(values_K, covariance_KK, equal_K)}
        else:
            rows["source_value"] = advantages(values_K * unit, covariance_KK * unit**2, equal_K)
    finite = {
        estimator: row
        for estimator, row in rows.items()
        if all(isfinite(estimate.value + estimate.standard_error) for estimate in row)
    }
    return {name: {estimator: row[k] for estimator, row in finite.items()} for k, name in enumerate(names) if finite}


def weighted_by_shares(unweighted: Mapping[str, Estimate], shares: Mapping[str, float]) -> dict[str, Estimate]:
    """Advantages over the plain mean of the others as advantages over their mean by ``shares``, with the same errors;
    only of the sources in ``shares``, and among them.

    Of K sources v_k - mean v = advantage_k (K - 1) / K, which is all that an advantage over another mean needs. Of two
    it is the same.
    """
    num = len(unweighted)
    from_mean = {name: advantage.value * (num - 1) / num for name, advantage in unweighted.items() if name in shares}
    weighted = {}
    for name, value in from_mean.items():
        others = {other: shares[other] for other in from_mean if other != name}
        mean = fsum(share * from_mean[other] for other, share in others.items()) / max(fsum(others.values()), 1e-9)
        weighted[name] = Estimate(value=value - mean, standard_error=unweighted[name].standard_error)
    return weighted


def fresh_unit(observation: Observation, estimators: Collection[Estimator]) -> float | None:
    """The value of a fresh real token in the unit of ``measured_advantages``; None where nothing says so now."""
    names = [name for name, share in observation.shares.items() if share > 0]
    trial_steps = _from_trial_steps(observation, names) if "source_value" in estimators else None
    return None if trial_steps is None else trial_steps[2] or 1.0


def prior_advantages(observation: Observation, priors: Mapping[str, Estimate], *, unit: float) -> dict[str, Estimate]:
    """Advantages assumed before anything is measured, in the unit of ``measured_advantages``.

    ``priors``: values in fresh real tokens of the sources that are drawn. ``unit``: see ``fresh_unit``.
    """
    names = list(priors)
    if len(names) < 2:
        return {}
    source_values_K = np.array([prior.value for prior in priors.values()])
    errors_K = np.array([prior.standard_error for prior in priors.values()])
    values_K, covariance_KK = _over_the_rest(observation, names, source_values_K, np.diag(errors_K**2))
    assumed = advantages(values_K * unit, covariance_KK * unit**2, np.full(len(names), 1 / len(names)))
    return dict(zip(names, assumed, strict=True))


def _over_the_rest(
    observation: Observation, names: Sequence[str], values_K: FloatArray, covariance_KK: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Values of now as they will be on average over the rest of the run at the present shares: repeats are worth less.

    A harmful source does not become harmless by being repeated.
    """
    samples_left = (1 - observation.progress) * observation.horizon.num_steps * observation.horizon.global_batch
    discount_K = np.ones(len(names))
    for k, name in enumerate(names):
        unique = observation.horizon.num_samples.get(name, 0)
        if unique and values_K[k] > 0:
            more = observation.shares[name] / SHARE_ONE * samples_left / unique
            discount_K[k] = mean_repeat_value(observation.epochs.get(name, 0.0), more)
    return values_K * discount_K, covariance_KK * np.outer(discount_K, discount_K)


def _from_alignment(
    observation: Observation, names: Sequence[str], noise_price: float
) -> tuple[FloatArray, FloatArray] | None:
    """<g_held-out, g_source> less what the noise of its samples costs (PiKE, arXiv 2502.06244, over the rest of the
    run: ``spending_curve.noise_rate``)."""
    if any(name not in observation.gradient_alignment for name in names):
        return None
    alignments = [observation.gradient_alignment[name] for name in names]
    values = np.array([alignment.inner_product - noise_price * alignment.variance for alignment in alignments])
    errors = np.array([alignment.standard_error for alignment in alignments])
    return (values, np.diag(errors**2)) if np.isfinite([*values, *errors]).all() else None


def _from_trial_steps(
    observation: Observation, names: Sequence[str]
) -> tuple[FloatArray, FloatArray, float | None] | None:
    """Source values, and what a fresh real token gains in the common unit; None for that where it is not known."""
    measured = [
        observation.source_value[name]
        for name in names
        if name in observation.source_value and usable(observation.source_value[name])
    ]
    if len(measured) < len(names):
        return None
    values = np.array([estimate.value for estimate in measured])
    errors = np.array([estimate.standard_error for estimate in measured])
    gains = [gain for estimate in measured if (gain := estimate.fresh_gain) is not None and isfinite(gain)]
    rate = observation.horizon.rate_at(observation.progress)
    unit = float(np.mean(gains)) / rate if len(gains) == len(measured) and rate > 0 else None
    return values, np.diag(errors**2), unit


def _from_dither(
    observation: Observation, spans: Sequence[Span], names: Sequence[str]
) -> tuple[FloatArray, FloatArray] | None:
    order = list(observation.shares)
    columns = [order.index(name) for name in names]
    if len(spans) < 2:
        return None
    measured = effects(
        np.array([span.loss for span in spans]),
        np.array([span.waves for span in spans])[:, columns],
        np.array([span.rate_sum for span in spans]),
    )
    return None if measured is None else (measured.values, measured.covariance)
