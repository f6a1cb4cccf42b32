"""Fits of the past of many streams at once: trends by least squares, the noise they leave, and normal scores."""

# S streams, W evaluations kept (right-aligned), Q regressors

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.base.records import FloatArray, IntArray

CURVE = 3  # regressors of the smooth curve that is removed before the jitter is measured: a parabola
PRIOR_EVALUATIONS = 100  # weight of the prior correlation, in evaluations; at 60, AR(1) noise of 0.5 raised twice as
PRIOR_CORRELATION = 0.5  # many alarms, most of them in the first 60 evaluations
MAX_CORRELATION = 0.7  # more is curvature of the loss, not noise
TINY = 1e-9  # part of a regressor's sum of squares that is rounding
NEW = 1e-4  # part of a regressor's greatest value by which now may lie outside what the past spans
HUGE_LEVERAGE = 1e9
MIN_SPREAD = 1e-6  # nats per token: below what an evaluation in fp32 resolves


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A trend fitted to the past: ``residual`` [S, W]; its values at the last evaluation and now, and the leverage of
    now, each [S].
    """

    residual: FloatArray
    before: FloatArray
    now: FloatArray
    leverage: FloatArray

    @property
    def squares(self) -> FloatArray:
        """Sum of squared residuals, [S]."""
        total: FloatArray = (self.residual**2).sum(axis=1)
        return total


def chosen(which_S: IntArray, fits: Sequence[Fit]) -> Fit:
    """For each stream the fit of the given index."""
    return Fit(
        residual=np.choose(which_S[:, None], [fit.residual for fit in fits]),
        before=np.choose(which_S, [fit.before for fit in fits]),
        now=np.choose(which_S, [fit.now for fit in fits]),
        leverage=np.choose(which_S, [fit.leverage for fit in fits]),
    )


def noise(residual: FloatArray, num_S: IntArray) -> tuple[FloatArray, FloatArray]:
    """SD of the residuals [S, W] as noise, and the correlation of neighboring evaluations; [S] each.

    The correlation of residuals is biased by about -(q + (q + 2) r) / n, q the regressors of the curve (Marriott, Pope,
    Biometrika 41, 1954, for q = 1: (1 + 3 r) / n): that is corrected, and the estimate averaged with
    ``PRIOR_CORRELATION``. The curve absorbs part of the variance of correlated residuals: they have fewer degrees of
    freedom.
    """
    squares = (residual**2).sum(axis=1)
    r = (residual[:, 1:] * residual[:, :-1]).sum(axis=1) / np.maximum(squares, MIN_SPREAD**2)
    r = r + (CURVE + (CURVE + 2) * np.maximum(r, 0.0)) / num_S
    r = (num_S * r + PRIOR_EVALUATIONS * PRIOR_CORRELATION) / (num_S + PRIOR_EVALUATIONS)
    r = np.clip(r, 0.0, MAX_CORRELATION)
    freedom = np.maximum(num_S - CURVE * (1 + r) / (1 - r), 0.3 * num_S)
    return np.sqrt(squares / freedom), r


def fit_trend(kept: NDArray[np.bool_], past_SW: FloatArray, trend: FloatArray) -> Fit:
    """Least squares of the past on ``trend`` [W + 1, Q], by Gram-Schmidt: the same on every machine, and a column that
    depends on those before it is left out.

    Where now lies outside what the past spans (a learning rate that begins to fall), the leverage is huge, so that the
    evaluation proves nothing.
    """
    residual, now, before, leverage = past_SW, np.zeros(len(kept)), np.zeros(len(kept)), np.zeros(len(kept))
    basis: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for column in trend.T:
        direction, ends = np.where(kept, column[:-1], 0.0), np.repeat(column[-2:, None], len(kept), axis=1)
        at_first = (direction**2).sum(axis=1)
        for other, other_ends, inverse in basis:
            slope = (direction * other).sum(axis=1) * inverse
            direction, ends = direction - slope[:, None] * other, ends - slope * other_ends
        squares = (direction**2).sum(axis=1)
        is_informative = squares > TINY * at_first
        inverse = np.where(is_informative, 1.0, 0.0) / np.where(is_informative, squares, 1.0)
        slope = (residual * direction).sum(axis=1) * inverse
        residual = residual - slope[:, None] * direction
        before, now = before + slope * ends[0], now + slope * ends[1]
        is_new = ~is_informative & (np.abs(ends[1]) > NEW * np.abs(column).max())
        leverage = leverage + ends[1] ** 2 * inverse + np.where(is_new, HUGE_LEVERAGE, 0.0)
        basis.append((direction, ends, inverse))
    return Fit(residual=residual, before=before, now=now, leverage=leverage)


def normal(t: FloatArray, freedom: FloatArray) -> FloatArray:
    """Student's t with so many degrees of freedom as the normal deviate of the same probability, to 0.02 (Wallace,
    Annals of Mathematical Statistics 30, 1959).
    """
    size = np.sqrt(freedom * np.log1p(t**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.sign(t) * size
