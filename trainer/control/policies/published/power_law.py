"""Fits of L(n) = floor + scale n^-exponent to the loss of a source over the data trained on.

The form of the scaling laws (Kaplan et al., arXiv 2001.08361; Hoffmann et al., 2203.15556) read over the course of one
run, as ADO does (arXiv 2410.11820; released as yidingjiang/ado): Huber loss with delta 1e-3 on log residuals, minimized
by L-BFGS from a grid of starts, exponents held in [0.001, 0.8].
"""

# N points, G starts on the grid

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray

MIN_POINTS = 5  # three parameters and something left to average
EXPONENTS = (0.001, 0.8)
HUBER_DELTA = 1e-3  # of a log residual
REFINED_STARTS = 2  # of the grid: the rest end in the same minima


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """L(n) = floor + scale n^-exponent, nats per token, in the units of n that were fitted."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, amount: float) -> float:
        """Loss after ``amount`` of data."""
        return self.floor + self.scale * math.pow(amount, -self.exponent)

    def slope(self, amount: float) -> float:
        """What one more unit of data takes off the loss, -dL/dn = exponent (L - floor) / n."""
        return self.exponent * (self(amount) - self.floor) / amount


def fit(amounts: Sequence[float], losses: Sequence[float]) -> PowerLaw | None:
    """The curve through losses (nats per token, above 0) after rising ``amounts``; None below ``MIN_POINTS`` points.

    Amounts are scaled by the last of them, and the parameters are (ln of what is above the floor there, ln floor,
    exponent): all of order 1, whatever unit the amounts have.
    """
    if len(amounts) < MIN_POINTS or not np.all(np.isfinite(losses)) or min(losses) <= 0:
        return None
    from scipy.optimize import minimize  # half a second to import: only for those who fit

    unit = float(amounts[-1])
    log_amount_N, log_loss_N = np.log(np.asarray(amounts) / unit), np.log(np.asarray(losses, dtype=np.float64))
    low = float(log_loss_N.min())
    bounds = [(low - 20.0, low + 5.0), (low - 10.0, float(log_loss_N.max())), EXPONENTS]
    best = None
    for start in _starts(log_amount_N, log_loss_N):
        result = minimize(_misfit, start, args=(log_amount_N, log_loss_N), jac=True, method="L-BFGS-B", bounds=bounds)
        if np.isfinite(result.fun) and (best is None or result.fun < best.fun):
            best = result
    if best is None:
        return None
    above, floor, exponent = (float(value) for value in best.x)
    return PowerLaw(floor=float(np.exp(floor)), scale=float(np.exp(above) * unit**exponent), exponent=exponent)


def _starts(log_amount_N: FloatArray, log_loss_N: FloatArray) -> FloatArray:
    """The best few of a grid over floor and exponent, each with the scale that fits its points best in the median."""
    loss_N = np.exp(log_loss_N)
    floors = loss_N.min() * np.array([0.02, 0.1, 0.25, 0.5, 0.7, 0.85, 0.95, 0.99])
    exponents = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8])
    floor_G, exponent_G = (grid.ravel() for grid in np.meshgrid(floors, exponents))
    log_above_GN = np.log(loss_N - floor_G[:, None]) + exponent_G[:, None] * log_amount_N
    starts = np.stack([np.median(log_above_GN, axis=1), np.log(floor_G), exponent_G], axis=1)
    order = np.argsort([_misfit(start, log_amount_N, log_loss_N)[0] for start in starts], kind="stable")
    best: FloatArray = starts[order[:REFINED_STARTS]]
    return best


def _misfit(parameters: FloatArray, log_amount_N: FloatArray, log_loss_N: FloatArray) -> tuple[float, FloatArray]:
    """Sum of the Huber losses of the log residuals, in units of delta, and its gradient."""
    above, floor, exponent = parameters
    log_above_N = above - exponent * log_amount_N
    log_fit_N = np.logaddexp(log_above_N, floor)
    residual_N = log_fit_N - log_loss_N
    size_N = np.abs(residual_N)
    huber_N = np.where(size_N > HUBER_DELTA, size_N - HUBER_DELTA / 2, residual_N**2 / (2 * HUBER_DELTA))
    slope_N = np.clip(residual_N / HUBER_DELTA, -1, 1)
    part_N = np.exp(log_above_N - log_fit_N)  # of the fitted loss that lies above the floor
    gradient = np.array([slope_N @ part_N, slope_N @ (1 - part_N), -(slope_N @ (part_N * log_amount_N))])
    return float(huber_N.sum()), gradient
