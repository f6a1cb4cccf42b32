"""What shares do to the held-out loss, estimated from small balanced changes of the shares: no extra compute.

Each source has a wave of +1 and -1 of its own, and the held-out loss is regressed on what the waves added to the
shares. The waves are pieces of the Rudin-Shapiro sequence: balanced, all but uncorrelated with each other, with their
own past and with anything slow, so that neither a falling loss, nor slow changes of the shares, nor what earlier waves
left behind is taken for an effect. (Square waves, ++--, are not: their past comes back with the opposite sign two
evaluations later.)
"""

# J evaluations, K sources

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray

APART = 13  # places: of those tried, the pieces are least correlated (0.12 at most over 200 evaluations, shifts to 4)
SPARE_EVALUATIONS = 6  # more than coefficients, before anything is estimated


@dataclass(frozen=True, kw_only=True)
class Span:
    """The steps between two evaluations: the held-out ``loss`` after them in nats per token, the summed learning rate,
    and what the waves added to the share of each source, in the order of the sources.
    """

    loss: float
    rate_sum: float
    waves: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Value of each source up to a constant, in nats per token and unit of summed learning rate, and covariance
    [K, K]."""

    values: FloatArray
    covariance: FloatArray


def sign(index: int, source: int) -> int:
    """+1 or -1: the wave of a source at the ``index``-th evaluation; 0 for the first source, which the others go
    against.

    (-1)^(adjacent pairs of ones in the binary place), every source ``APART`` places behind the one before.
    """
    place = index + APART * (source - 1)
    return 0 if source == 0 else 1 - 2 * ((place & (place >> 1)).bit_count() % 2)


def dithered(shares: Mapping[str, float], index: int, *, amplitude: float, order: Sequence[str]) -> dict[str, float]:
    """``shares`` with each times e^(+-amplitude) by its wave, made to sum to what they did."""
    raised = {name: share * float(np.exp(amplitude * sign(index, order.index(name)))) for name, share in shares.items()}
    scale = sum(shares.values()) / sum(raised.values())
    return {name: share * scale for name, share in raised.items()}


def effects(losses_J: FloatArray, waves_JK: FloatArray, rate_sums_J: FloatArray) -> Effects | None:
    """Values of the sources from the losses after J spans, with what the waves added to each share, and the summed
    learning rate.

    Only the waves count: slow changes of the shares go along with everything else that changes in a run.

    L_j = b + c j + r L_(j-1) - S_j sum_k w_jk v_k + e_j by least squares; r covers models that forget a span
    immediately and those that keep it. Errors allow for correlation of adjacent residuals (an evaluation's noise is in
    two): covariance (X'X)^-1 X' Omega X (X'X)^-1, Newey and West 1987 at order one, over degrees of freedom. None where
    there are too few evaluations, or the shares did not vary.
    """
    num_sources = waves_JK.shape[1]
    scale = float(rate_sums_J[1:].mean())
    varied = (waves_JK[1:, 1:] - waves_JK[1:, 1:].mean(axis=0)) * (rate_sums_J[1:, None] / scale)
    count = len(losses_J) - 1
    time = np.linspace(-1.0, 1.0, count)
    before = losses_J[:-1] - losses_J[:-1].mean()
    design = np.column_stack([np.ones(count), time, before, varied])
    if count < design.shape[1] + SPARE_EVALUATIONS or varied.std(axis=0).min() < 1e-6 or before.std() == 0:
        return None
    size = np.abs(design).max(axis=0)
    inverse = np.linalg.pinv((design / size).T @ (design / size), rcond=1e-10)
    coefficients = inverse @ (design / size).T @ losses_J[1:]
    rest = losses_J[1:] - (design / size) @ coefficients
    free = count - design.shape[1]
    variance = float(rest @ rest) / free
    adjacent = 0.5 * float(rest[1:] @ rest[:-1]) / free
    middle = variance * np.eye(count) + adjacent * (np.eye(count, k=1) + np.eye(count, k=-1))
    spread = inverse @ (design / size).T @ middle @ (design / size) @ inverse
    values, covariance = np.zeros(num_sources), np.zeros((num_sources, num_sources))
    values[1:] = -(coefficients / size)[3:] / scale
    covariance[1:, 1:] = (spread / np.outer(size, size))[3:, 3:] / scale**2
    return Effects(values=values, covariance=covariance)
