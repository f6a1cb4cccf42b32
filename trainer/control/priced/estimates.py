"""Estimates with standard errors: how they are compared, pooled and carried from one evaluation to the next.

Compared are advantages: the value of a source less the share-weighted mean of the others', since what all have in
common says nothing about shares. The noise of the estimators is independent; where they disagree beyond their errors,
the error of the mean grows with their scatter (Birge's ratio), so that a biased estimator makes the policy slower, not
surer.
"""

# K sources, E estimates

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot, inf, isfinite, sqrt
from typing import Any, Self

import numpy as np

from trainer.base.records import FloatArray

SURE_Z = 3.0  # standard errors, where what is done on evidence cannot be taken back
LEAST_MEMORY = 1e-9
CHANGED_Z = 3.0
SMALLEST_ERROR = 1e-100  # its square, and one over it, can still be written
LEAST_ERROR = 1e-9  # of the greatest value: a measurement without noise still has rounding


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its standard error."""

    value: float
    standard_error: float

    @property
    def significance(self) -> float:
        """Standard errors from zero."""
        if not isfinite(self.value):
            return 0.0
        return abs(self.value) / self.standard_error if self.standard_error > 0 else inf

    def decayed(self, memory: float) -> "Estimate":
        """The same with its weight fallen to ``memory`` of itself."""
        return Estimate(value=self.value, standard_error=self.standard_error / sqrt(max(memory, LEAST_MEMORY)))

    def to_json(self) -> dict[str, float]:
        """Both numbers by name, for state and journal."""
        return {"value": self.value, "standard_error": self.standard_error}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The estimate of which ``value`` is the ``to_json``."""
        return cls(value=value["value"], standard_error=value["standard_error"])


def advantages(values_K: FloatArray, covariance_KK: FloatArray, shares_K: FloatArray) -> list[Estimate]:
    """The value of each source less the mean of the others', weighted by their shares; with its error."""
    num = len(values_K)
    weights = np.tile(np.maximum(shares_K, 1e-9), (num, 1))
    np.fill_diagonal(weights, 0.0)
    contrast = np.eye(num) - weights / weights.sum(axis=1, keepdims=True)
    differences = contrast @ values_K
    variance = np.einsum("ij,jk,ik->i", contrast, covariance_KK, contrast)
    least = LEAST_ERROR * float(np.abs(values_K).max(initial=0.0)) + SMALLEST_ERROR
    return [
        Estimate(value=float(value), standard_error=max(sqrt(max(float(square), 0.0)), least))
        for value, square in zip(differences, variance, strict=True)
    ]


def inverse_variance_mean(estimates: Mapping[str, Estimate]) -> Estimate:
    """Mean weighted by inverse variance; its error at least what the weights say, more where the estimates scatter."""
    values = np.array([estimate.value for estimate in estimates.values()])
    precision = np.array([estimate.standard_error for estimate in estimates.values()]) ** -2.0
    mean = float((precision * values).sum() / precision.sum())
    scatter = float((precision * (values - mean) ** 2).sum()) / max(len(values) - 1, 1)
    return Estimate(value=mean, standard_error=sqrt(max(scatter, 1.0) / float(precision.sum())))


def combine_or_reset(before: Estimate | None, now: Estimate) -> Estimate:
    """``now`` combined with the estimate ``before``; alone where they differ by more than ``CHANGED_Z`` of their
    errors: then the source, or the model, has changed.

    A smaller difference is not added to the error: the value itself moves with the shares.
    """
    if before is None:
        return now
    if abs(now.value - before.value) > CHANGED_Z * hypot(now.standard_error, before.standard_error):
        return now
    old, new = before.standard_error**-2, now.standard_error**-2
    return Estimate(value=(old * before.value + new * now.value) / (old + new), standard_error=1 / sqrt(old + new))
