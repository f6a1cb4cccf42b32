"""Fits of the past of many streams together: trends by least squares, the noise they leave, and normal scores."""

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
class Direction:
    """A regressor made orthogonal to those before it, in each of the U pasts that differ: ``past`` [U, W], its values
    at the last evaluation and now [2, U], and the inverse of its sum of squares [U].
    """

    past: FloatArray
    ends: FloatArray
    inverse: FloatArray


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A trend fitted to the past: ``residual`` [S, W]; its values at the last evaluation and now, and the leverage of
    now, each [S]; and what the next regressor has to be orthogonal to.
    """

    residual: FloatArray
    before: FloatArray
    now: FloatArray
    leverage: FloatArray
    basis: tuple[Direction, ...] = ()

    @property
    def squares(self) -> FloatArray:
        """Sum of squared residuals, [S]."""
        total: FloatArray = (self.residual**2).sum(axis=1)
        return total


def chosen(which_S: IntArray, fits: Sequence[Fit]) -> Fit:
    """For each stream the fit of the given index, without its basis."""
    if len(fits) == 1:
        return fits[0]
    residual = fits[0].residual.copy()
    for index, fit in enumerate(fits[1:], start=1):
        rows = which_S == index
        residual[rows] = fit.residual[rows]
    return Fit(
        residual=residual,
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


def fit_trends(is_past_SW: NDArray[np.bool_], past_SW: FloatArray, trends: Sequence[FloatArray]) -> list[Fit]:
    """Least squares of the past on each of ``trends``, [W + 1, Q], by Gram-Schmidt: the same on every machine, and a
    column that depends on those before it is left out.

    Where now lies outside what the past spans (a learning rate that begins to fall), the leverage is huge, so that the
    evaluation is no evidence. Trends that begin with the same columns share their fit, and streams whose past is the
    same evaluations share the orthogonal regressors: both are most of the cost where there are many streams.
    """
    is_past_UW, past_of_S = _distinct(is_past_SW)
    nothing = np.zeros(len(is_past_SW))
    fits: dict[tuple[bytes, ...], Fit] = {(): Fit(residual=past_SW, before=nothing, now=nothing, leverage=nothing)}
    for trend in trends:
        columns: tuple[bytes, ...] = ()
        for column in trend.T:
            shorter, columns = columns, (*columns, column.tobytes())
            if columns not in fits:
                fits[columns] = _extended(fits[shorter], is_past_UW, past_of_S, column)
    return [fits[tuple(column.tobytes() for column in trend.T)] for trend in trends]


def _distinct(is_past_SW: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], IntArray | None]:
    """The different rows of ``is_past_SW`` [U, W], and which of them each stream has [S]; None where there is one."""
    if (is_past_SW == is_past_SW[0]).all():
        return is_past_SW[:1], None
    _, first, row_of_S = np.unique(np.packbits(is_past_SW, axis=1), axis=0, return_index=True, return_inverse=True)
    return is_past_SW[first], row_of_S.reshape(-1)


def _extended(fit: Fit, is_past_UW: NDArray[np.bool_], past_of_S: IntArray | None, column: FloatArray) -> Fit:
    """``fit`` with one more regressor, ``column`` [W + 1]."""
    direction, ends = np.where(is_past_UW, column[:-1], 0.0), np.repeat(column[-2:, None], len(is_past_UW), axis=1)
    at_first = (direction**2).sum(axis=1)
    for other in fit.basis:
        slope = (direction * other.past).sum(axis=1) * other.inverse
        direction, ends = direction - slope[:, None] * other.past, ends - slope * other.ends
    squares = (direction**2).sum(axis=1)
    is_informative = squares > TINY * at_first
    inverse = np.where(is_informative, 1.0, 0.0) / np.where(is_informative, squares, 1.0)
    is_new = ~is_informative & (np.abs(ends[1]) > NEW * np.abs(column).max())
    basis = (*fit.basis, Direction(past=direction, ends=ends, inverse=inverse))
    if past_of_S is not None:
        direction, ends = direction[past_of_S], ends[:, past_of_S]
        inverse, is_new = inverse[past_of_S], is_new[past_of_S]
    slope = (fit.residual * direction).sum(axis=1) * inverse
    return Fit(
        residual=fit.residual - slope[:, None] * direction,
        before=fit.before + slope * ends[0],
        now=fit.now + slope * ends[1],
        leverage=fit.leverage + ends[1] ** 2 * inverse + np.where(is_new, HUGE_LEVERAGE, 0.0),
        basis=basis,
    )


def normal(t: FloatArray, freedom: FloatArray) -> FloatArray:
    """Student's t with so many degrees of freedom as the normal deviate of the same probability, to 0.02 (Wallace,
    Annals of Mathematical Statistics 30, 1959).
    """
    size = np.sqrt(freedom * np.log1p(t**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.sign(t) * size
