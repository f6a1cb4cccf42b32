"""From an observation to what each source is worth against the others, estimate by estimate, in one unit.

The unit is nats per held-out token that a share of one gains per unit of summed learning rate: what alignments and
dithered shares say directly. TrialSteps say it in fresh real tokens; what a step on those gained turns them into the
same unit. Where that is not known, only rehearsals are compared, in their own unit.
"""

# K sources, J readings

from collections.abc import Collection, Mapping, Sequence
from math import fsum, isfinite
from typing import Any, Literal

import numpy as np

from trainer.base.records import SHARE_ONE, FloatArray, Observation
from trainer.control.priced.dither import effects
from trainer.control.priced.estimates import Estimate, gaps
from trainer.control.priced.repeats import mean_repeat_value
from trainer.control.source_scores import usable

Estimator = Literal["dither", "alignment", "source_value"]
Gaps = dict[str, dict[str, Estimate]]  # by source and estimator


def gaps_by_source(
    observation: Observation,
    spans: Sequence[Mapping[str, Any]],
    *,
    estimators: Collection[Estimator],
    noise_prices: tuple[float, float],
) -> Gaps:
    """The value of each drawn source less the plain mean of the others', by every one of ``estimators`` that says
    something now. (``against`` weighs the others by shares, which move between two measurements.)

    ``noise_prices``: cost in the unit above of a gradient variance of 1, to the final loss and within one span.
    ``spans``: waves of the shares, summed rates and the losses after them, oldest first, for what the dither says; it
    feels the noise of now, so that what the rate will still take off it is given back where variances are known.
    """
    names = [name for name, share in observation.shares.items() if share > 0]
    if len(names) < 2:
        return {}
    equal_K = np.full(len(names), 1 / len(names))
    found: dict[Estimator, list[Estimate]] = {}
    if "alignment" in estimators and (aligned := _aligned(observation, names, noise_prices[0])) is not None:
        found["alignment"] = gaps(*_over_the_rest(observation, names, *aligned), equal_K)
    if "dither" in estimators and (moved := _moved(observation, spans, names)) is not None:
        values_K, covariance_KK = moved
        variances_K = np.array(
            [observation.alignment[name].variance if name in observation.alignment else 0.0 for name in names]
        )
        values_K = values_K + (noise_prices[1] - noise_prices[0]) * variances_K
        found["dither"] = gaps(values_K, covariance_KK, equal_K)
    if "source_value" in estimators and (trial_steps := _rehearsed(observation, names)) is not None:
        *measured, unit = trial_steps
        values_K, covariance_KK = _over_the_rest(observation, names, *measured)
        if unit is None:
            found = {"source_value": gaps(values_K, covariance_KK, equal_K)}
        else:
            found["source_value"] = gaps(values_K * unit, covariance_KK * unit**2, equal_K)
    sound = {who: rows for who, rows in found.items() if all(isfinite(one.value + one.standard_error) for one in rows)}
    return {name: {who: rows[k] for who, rows in sound.items()} for k, name in enumerate(names) if sound}


def against(gaps_by_name: Mapping[str, Estimate], shares: Mapping[str, float]) -> dict[str, Estimate]:
    """Gaps to the plain mean of the others as gaps to their mean by ``shares``, with the errors as they are; of those
    that ``shares`` names only, and among them.

    Of K sources v_k - mean v = gap_k (K - 1) / K, which is all that a gap to any other mean needs. Of two it is the
    same.
    """
    num = len(gaps_by_name)
    from_mean = {name: gap.value * (num - 1) / num for name, gap in gaps_by_name.items() if name in shares}
    found = {}
    for name, value in from_mean.items():
        others = {other: shares[other] for other in from_mean if other != name}
        mean = fsum(share * from_mean[other] for other, share in others.items()) / max(fsum(others.values()), 1e-9)
        found[name] = Estimate(value=value - mean, standard_error=gaps_by_name[name].standard_error)
    return found


def fresh_unit(observation: Observation, estimators: Collection[Estimator]) -> float | None:
    """What a fresh real token is worth in the unit of ``gaps_by_source``; None where nothing says so now."""
    names = [name for name, share in observation.shares.items() if share > 0]
    trial_steps = _rehearsed(observation, names) if "source_value" in estimators else None
    return None if trial_steps is None else trial_steps[2] or 1.0


def held_for(
    observation: Observation, prior_synthetic_value: float, *, error: float, unit: float
) -> dict[str, Estimate]:
    """Gaps like those of ``gaps_by_source`` before anything is measured: a real token is held for a fresh one, a
    synthetic one for ``prior_synthetic_value`` of it, each give or take ``error``. ``unit``: see ``fresh_unit``.
    """
    names = [name for name, share in observation.shares.items() if share > 0]
    if len(names) < 2:
        return {}
    source_values_K = np.array([1.0 if observation.kinds[name] == "real" else prior_synthetic_value for name in names])
    values_K, covariance_KK = _over_the_rest(observation, names, source_values_K, np.eye(len(names)) * error**2)
    found = gaps(values_K * unit, covariance_KK * unit**2, np.full(len(names), 1 / len(names)))
    return dict(zip(names, found, strict=True))


def _over_the_rest(
    observation: Observation, names: Sequence[str], values_K: FloatArray, covariance_KK: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Values of now as they will be on average over the rest of the run at the present shares: repeats are worth less.

    What does harm is not made harmless by repeating it.
    """
    left = (1 - observation.progress) * observation.horizon.num_steps * observation.horizon.global_batch
    discount_K = np.ones(len(names))
    for k, name in enumerate(names):
        unique = observation.horizon.num_samples.get(name, 0)
        if unique and values_K[k] > 0:
            more = observation.shares[name] / SHARE_ONE * left / unique
            discount_K[k] = mean_repeat_value(observation.epochs.get(name, 0.0), more)
    return values_K * discount_K, covariance_KK * np.outer(discount_K, discount_K)


def _aligned(
    observation: Observation, names: Sequence[str], noise_price: float
) -> tuple[FloatArray, FloatArray] | None:
    """<g_held-out, g_source> less what the noise of its samples costs (PiKE, arXiv 2502.06244, priced over the rest
    of the run: ``pacing.noise_rate``)."""
    if any(name not in observation.alignment for name in names):
        return None
    found = [observation.alignment[name] for name in names]
    values = np.array([one.inner_product - noise_price * one.variance for one in found])
    errors = np.array([one.standard_error for one in found])
    return (values, np.diag(errors**2)) if np.isfinite([*values, *errors]).all() else None


def _rehearsed(observation: Observation, names: Sequence[str]) -> tuple[FloatArray, FloatArray, float | None] | None:
    """SourceValues, and what a fresh real token gains in the common unit; None for that where it is not known."""
    found = [
        observation.source_value[name]
        for name in names
        if name in observation.source_value and usable(observation.source_value[name])
    ]
    if len(found) < len(names):
        return None
    values, errors = np.array([one.value for one in found]), np.array([one.standard_error for one in found])
    gains = [one.fresh_gain for one in found if one.fresh_gain is not None and isfinite(one.fresh_gain)]
    rate = observation.horizon.rate_at(observation.progress)
    unit = float(np.mean(gains)) / rate if len(gains) == len(found) and rate > 0 else None
    return values, np.diag(errors**2), unit


def _moved(
    observation: Observation, spans: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[FloatArray, FloatArray] | None:
    order = list(observation.shares)
    columns = [order.index(name) for name in names]
    if len(spans) < 2:
        return None
    found = effects(
        np.array([span["loss"] for span in spans]),
        np.array([span["waves"] for span in spans])[:, columns],
        np.array([span["rate_sum"] for span in spans]),
    )
    return None if found is None else (found.values, found.covariance)
