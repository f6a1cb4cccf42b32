"""From an observation to what each source is worth against the others, estimate by estimate, in one unit.

The unit is nats per held-out token that a share of one gains per unit of summed learning rate: what alignments and
dithered shares say directly. Rehearsals say it in fresh real tokens; what a step on those gained turns them into the
same unit. Where that is not known, only rehearsals are compared, in their own unit.
"""

# K sources, J readings

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from trainer.control.dither import effects
from trainer.control.pooling import usable
from trainer.control.value import Estimate, gaps
from trainer.records import SHARE_ONE, FloatArray, Observation

Estimator = Literal["dither", "alignment", "worth"]
Gaps = dict[str, dict[str, Estimate]]  # by source and estimator


def gaps_by_source(
    seen: Observation,
    spans: Sequence[Mapping[str, Any]],
    *,
    estimators: Collection[Estimator],
    noise_price: float,
) -> Gaps:
    """The value of each drawn source less that of the others, by every one of ``estimators`` that says something now.

    ``noise_price``: cost in the unit above of a gradient variance of 1. ``spans`` of shares, summed rates and losses
    after them, oldest first, for what the dither says.
    """
    names = [name for name, share in seen.shares.items() if share > 0]
    if len(names) < 2:
        return {}
    shares_K = np.array([seen.shares[name] for name in names], dtype=np.float64) / SHARE_ONE
    found: dict[Estimator, list[Estimate]] = {}
    if "alignment" in estimators and (aligned := _aligned(seen, names, noise_price)) is not None:
        found["alignment"] = gaps(*aligned, shares_K)
    if "dither" in estimators and (moved := _moved(seen, spans, names)) is not None:
        found["dither"] = gaps(*moved, shares_K)
    if "worth" in estimators and (rehearsed := _rehearsed(seen, names)) is not None:
        values_K, covariance_KK, unit = rehearsed
        if unit is None:
            found = {"worth": gaps(values_K, covariance_KK, shares_K)}
        else:
            found["worth"] = gaps(values_K * unit, covariance_KK * unit**2, shares_K)
    return {name: {who: rows[k] for who, rows in found.items()} for k, name in enumerate(names) if found}


def advantage_of_real(seen: Observation, noise_price: float, *, z: float) -> float | None:
    """How many tokens of the best synthetic source a real token is worth now, at the favourable end for real data.

    From rehearsals, else alignments; None where neither says that any synthetic source is worth more than nothing
    beyond ``z`` standard errors.
    """
    names = [name for name, share in seen.shares.items() if share > 0]
    rehearsed, aligned = _rehearsed(seen, names), _aligned(seen, names, noise_price)
    measured = rehearsed[:2] if rehearsed is not None else aligned
    if measured is None:
        return None
    values_K, covariance_KK = measured
    errors_K = np.sqrt(np.diag(covariance_KK))
    real = [k for k, name in enumerate(names) if seen.kinds[name] == "real"]
    written = [float(values_K[k] - z * errors_K[k]) for k in range(len(names)) if k not in real]
    if not real or not written or max(written) <= 0:
        return None
    return max(float(values_K[real].max()), 0.0) / max(written)


def _aligned(seen: Observation, names: Sequence[str], noise_price: float) -> tuple[FloatArray, FloatArray] | None:
    """<g_held-out, g_source> less what the noise of its samples costs (PiKE, arXiv 2502.06244, priced over the rest
    of the run: ``pacing.noise_rate``)."""
    if any(name not in seen.alignment for name in names):
        return None
    found = [seen.alignment[name] for name in names]
    values = np.array([one.inner_product - noise_price * one.variance for one in found])
    errors = np.array([one.standard_error for one in found])
    return (values, np.diag(errors**2)) if np.isfinite([*values, *errors]).all() else None


def _rehearsed(seen: Observation, names: Sequence[str]) -> tuple[FloatArray, FloatArray, float | None] | None:
    """Worths, and what a fresh real token gains in the common unit; None for that where it is not known."""
    found = [seen.worth[name] for name in names if name in seen.worth and usable(seen.worth[name])]
    if len(found) < len(names):
        return None
    values, errors = np.array([one.value for one in found]), np.array([one.standard_error for one in found])
    gains = [one.fresh_gain for one in found if one.fresh_gain is not None]
    rates = seen.outlook.rates
    rate = rates[min(int(seen.progress * len(rates)), len(rates) - 1)] if len(rates) else 0.0
    unit = float(np.mean(gains)) / rate if len(gains) == len(found) and rate > 0 else None
    return values, np.diag(errors**2), unit


def _moved(
    seen: Observation, spans: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> tuple[FloatArray, FloatArray] | None:
    order = list(seen.shares)
    columns = [order.index(name) for name in names]
    if len(spans) < 2:
        return None
    found = effects(
        np.array([span["loss"] for span in spans]),
        np.array([span["shares"] for span in spans])[:, columns],
        np.array([span["rate_sum"] for span in spans]),
    )
    return None if found is None else (found.values, found.covariance)
