"""Statistics of a grader: agreement with labels, calibration, and what its scores depend on besides quality."""

# R rows, S strata

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from trainer.base.hashing import derived_rng
from trainer.base.records import FloatArray, IntArray
from trainer.synthesis.graders.bound import estimate, share
from trainer.synthesis.graders.record import Estimate, ReliabilityBin

_RESAMPLES = 400
_BINS = 10
_MIN_ROWS = 8  # fewer say nothing of a dependence


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often a grader is right on rows of known label. A row without a verdict counts as kept: it would join."""

    balanced_accuracy: Estimate
    kept_good: Estimate
    kept_bad: Estimate


def agreement(kept_good: Sequence[bool], kept_bad: Sequence[bool]) -> Agreement:
    """From whether each good and each bad row is kept."""
    good, good_draws = share(sum(kept_good), len(kept_good), "right")
    bad, bad_draws = share(sum(kept_bad), len(kept_bad), "wrong")
    balanced = estimate((good.value + 1 - bad.value) / 2, (good_draws + 1 - bad_draws) / 2)
    return Agreement(balanced_accuracy=balanced, kept_good=good, kept_bad=bad)


def calibration(belief_R: FloatArray, is_good_R: FloatArray) -> tuple[Estimate, float, list[ReliabilityBin]]:
    """Expected calibration error (ten bins), Brier score and reliability; good and bad rows have the same weight."""
    weight_R = np.where(is_good_R > 0, 0.5 / max(is_good_R.sum(), 1), 0.5 / max((1 - is_good_R).sum(), 1))
    value = _calibration_error(belief_R, is_good_R, weight_R)
    rng = derived_rng(0, "calibration", len(belief_R))
    draws = _resampled(rng, len(belief_R), lambda at: _calibration_error(belief_R[at], is_good_R[at], weight_R[at]))
    brier = float((weight_R * (belief_R - is_good_R) ** 2).sum() / weight_R.sum())
    bin_R = np.minimum((belief_R * _BINS).astype(int), _BINS - 1)
    bins = [
        ReliabilityBin(
            belief=float(belief_R[bin_R == number].mean()),
            good=float(is_good_R[bin_R == number].mean()),
            rows=int((bin_R == number).sum()),
        )
        for number in np.unique(bin_R)
    ]
    return estimate(value, draws), brier, bins


def _calibration_error(belief_R: FloatArray, is_good_R: FloatArray, weight_R: FloatArray) -> float:
    bin_R = np.minimum((belief_R * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bin_R, weight_R * (belief_R - is_good_R), minlength=_BINS)
    return float(np.abs(gap).sum() / weight_R.sum())


def partial_rank_correlation(score_R: FloatArray, length_R: FloatArray, stratum_R: IntArray) -> Estimate | None:
    """Spearman's correlation of score and length inside strata (rows of one label and fault), with Fisher's interval;
    None where there are too few rows.
    """
    degrees = len(score_R) - 2 - len(np.unique(stratum_R))
    if degrees < _MIN_ROWS:
        return None
    score_R, length_R = (_within(rankdata(values), stratum_R) for values in (score_R, length_R))
    spread = float(np.sqrt((score_R**2).sum() * (length_R**2).sum()))
    value = float((score_R * length_R).sum() / spread) if spread > 0 else 0.0
    center, half = np.arctanh(np.clip(value, -0.9999, 0.9999)), 1.96 / np.sqrt(degrees - 1)
    low, high = float(np.tanh(center - half)), float(np.tanh(center + half))
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _within(value_R: FloatArray, stratum_R: IntArray) -> FloatArray:
    """Less the mean of the stratum."""
    _, at_R = np.unique(stratum_R, return_inverse=True)
    mean_S = np.bincount(at_R, value_R) / np.bincount(at_R)
    return value_R - mean_S[at_R]


def preference(own: Sequence[FloatArray], real: Sequence[FloatArray], name: str) -> Estimate | None:
    """P(a score of ``own`` beats one of ``real``) - 1/2, ties being halves: the mean over strata with at least three of
    both; None where there is none.
    """
    pairs = [(mine, theirs) for mine, theirs in zip(own, real, strict=True) if min(len(mine), len(theirs)) >= 3]
    if not pairs or sum(len(mine) for mine, _ in pairs) < _MIN_ROWS:
        return None
    rng = derived_rng(0, "preference", name)
    draws = [
        np.mean([_superiority(rng.choice(mine, len(mine)), rng.choice(theirs, len(theirs))) for mine, theirs in pairs])
        for _ in range(_RESAMPLES)
    ]
    return estimate(float(np.mean([_superiority(*pair) for pair in pairs])), np.array(draws))


def _superiority(mine: FloatArray, theirs: FloatArray) -> float:
    return float((np.sign(mine[:, None] - theirs[None, :]) / 2).mean())


def mean_beyond_half(value_R: FloatArray) -> Estimate | None:
    """The mean less 1/2, with an interval of resampled rows; None for too few rows."""
    if len(value_R) < _MIN_ROWS:
        return None
    rng = derived_rng(0, "position", len(value_R))
    draws = _resampled(rng, len(value_R), lambda at: float(value_R[at].mean()))
    return estimate(float(value_R.mean()) - 0.5, draws - 0.5)


def _resampled(rng: np.random.Generator, rows: int, statistic: Callable[[IntArray], float]) -> FloatArray:
    return np.array([statistic(rng.integers(rows, size=rows)) for _ in range(_RESAMPLES)])
