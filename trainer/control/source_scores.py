"""SourceValues pooled over readings: what each source is worth against the others, and how sure that is.

The comparison is made within each reading, so that a fault all sources share cancels. Recent readings weigh more, by
default only the newest: worths change while a run goes on (shuffled text in the quickstart from 0.5 at step 80 to -2.7
at step 160 with one seed, from 0.45 to -4.2 with another), and a mean over that hides it. Where a decay is set, precise
readings weigh more as well, and the error grows with what they scatter.
"""

# R readings, oldest first

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer.base.records import FloatArray, Observation, SourceValue

MEMORY_EVALUATIONS = 16  # at a decay of 0.8 the seventeenth would weigh 0.02 of the newest
PRIOR_SD = 0.05  # scatter of one worth between measurements, beyond its error, assumed until it is known
PRIOR_EVALUATIONS = 4  # how many readings that assumption counts for


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a source stands: its pooled worth, the worth of what its share could go to instead (``reference``: the
    share-weighted mean of the sources worth more; of all others for the best), and the gap.
    """

    source_value: float
    source_value_standard_error: float
    reference: float
    gap: float
    gap_standard_error: float
    num_evaluations: int

    def as_evidence(self) -> dict[str, float | int]:
        """Plain figures for journal and ledger."""
        return asdict(self)


def usable(source_value: SourceValue) -> bool:
    """Whether a measurement may count: finite, with a finite and not negative error, on at least one sample."""
    return (
        source_value.num_samples > 0
        and math.isfinite(source_value.value)
        and math.isfinite(source_value.standard_error)
        and source_value.standard_error >= 0
    )


def remember(evaluations: list[dict[str, Any]], observation: Observation) -> list[dict[str, Any]]:
    """``evaluations`` with the usable worths of ``observation`` appended; unchanged when fewer than two sources have
    one.
    """
    source_values = {
        name: [source_value.value, source_value.standard_error]
        for name, source_value in observation.source_value.items()
        if usable(source_value) and name in observation.shares
    }
    if len(source_values) < 2:  # a worth says nothing without another to hold it against
        return evaluations
    return [*evaluations, {"step": observation.step, "source_value": source_values}][-MEMORY_EVALUATIONS:]


def standings(
    evaluations: list[dict[str, Any]],
    shares: Mapping[str, int],
    *,
    decay: float,
    min_evaluations: int,
    closed: Collection[str] = (),
) -> dict[str, Standing]:
    """The standing of each source with a share above 0 that could be compared in ``min_evaluations`` readings."""
    drawn = {name: share for name, share in shares.items() if share > 0}
    source_values = {name: _pooled_source_value(evaluations, name, decay) for name in drawn}
    result = {}
    for name in drawn:
        better = {
            other: share
            for other, share in drawn.items()
            if source_values[other] > source_values[name] and other not in closed  # those get none of its share
        }
        instead = better or {other: share for other, share in drawn.items() if other != name}
        rows = [
            row
            for evaluation in evaluations
            if (row := _compared(evaluation["source_value"], name, instead)) is not None
        ]
        if len(rows) >= min_evaluations:
            result[name] = _pooled(np.array(rows, dtype=np.float64), decay)
    return result


def _pooled_source_value(evaluations: list[dict[str, Any]], name: str, decay: float) -> float:
    """The pooled worth of a source by itself; minus infinity where it was never measured."""
    found = [evaluation["source_value"][name] for evaluation in evaluations if name in evaluation["source_value"]]
    if not found:
        return -math.inf
    values, errors = np.array(found, dtype=np.float64).T
    return _weighted(values, errors, _recency(len(found), decay), PRIOR_SD**2)[0]


def _recency(count: int, decay: float) -> FloatArray:
    recency: FloatArray = decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
    return recency


def _compared(source_values: Mapping[str, list[float]], name: str, instead: Mapping[str, int]) -> list[float] | None:
    """One reading's worth, its error, the reference, its error, and how many sources' scatter the gap has; or None."""
    others = [(share, *source_values[other]) for other, share in instead.items() if other in source_values]
    if name not in source_values or not others:
        return None
    weight = math.fsum(share for share, _, _ in others)
    reference = math.fsum(share * value for share, value, _ in others) / weight
    error = math.sqrt(math.fsum((share * error) ** 2 for share, _, error in others)) / weight
    sources_in_gap = 1 + math.fsum(share**2 for share, _, _ in others) / weight**2
    return [*source_values[name], reference, error, sources_in_gap]


def _pooled(rows: FloatArray, decay: float) -> Standing:
    """Means over ``rows`` [R, 5], recent and precise readings weighing more; see ``_weighted`` for the errors."""
    recency = _recency(len(rows), decay)
    source_value, source_value_error = _weighted(rows[:, 0], rows[:, 1], recency, PRIOR_SD**2)
    prior_variance = PRIOR_SD**2 * float(rows[-1, 4])
    gap, gap_error = _weighted(rows[:, 0] - rows[:, 2], np.hypot(rows[:, 1], rows[:, 3]), recency, prior_variance)
    return Standing(
        source_value=source_value,
        source_value_standard_error=source_value_error,
        reference=source_value - gap,
        gap=gap,
        gap_standard_error=gap_error,
        num_evaluations=len(rows),
    )


def _weighted(
    values: FloatArray, errors: FloatArray, recency: FloatArray, prior_variance: float
) -> tuple[float, float]:
    """Mean weighted by recency over variance, and its standard error: what the readings scatter, never less than their
    own errors.

    The variance of a reading is its squared error plus ``prior_variance`` between readings (small steps gain little, so
    errors in the quickstart go from 0.1 at step 80 to 0.4 at step 240: such readings must not drown the precise ones).
    Whether that is too little or too much is told by the mean squared residual in those units; few readings say little
    about it, so it is averaged, by degrees of freedom, with 1 counting for ``PRIOR_EVALUATIONS`` (the posterior scale
    of a normal variance under a scaled inverse chi-square prior).
    """
    variances = errors**2 + prior_variance
    weights = recency / variances
    mean = float((weights * values).sum() / weights.sum())
    effective = recency.sum() ** 2 / (recency**2).sum()
    residual = float((weights * (values - mean) ** 2).sum() / recency.sum()) * effective / max(effective - 1, 1.0)
    inflation = (PRIOR_EVALUATIONS + (effective - 1) * residual) / (PRIOR_EVALUATIONS + effective - 1)
    between = inflation * float((weights**2 * variances).sum())
    within = float((weights**2 * errors**2).sum())
    return mean, math.sqrt(max(between, within)) / float(weights.sum())
