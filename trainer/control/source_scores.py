"""Scores of sources: how much a token of each is worth against those its share could go to, and how sure that is.

Source values are pooled over evaluations. The comparison is made within each evaluation, so that an error all sources
share cancels. Recent evaluations weigh more, by default only the newest counts: source values change during a run
(shuffled text in the quickstart from 0.5 at step 80 to -2.7 at step 160 with one seed, from 0.45 to -4.2 with another),
and a mean over that hides it. Where a decay is set, precise evaluations weigh more as well, and the error grows with
their scatter.
"""

# R evaluations, oldest first

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from trainer.base.records import FloatArray, Observation, SourceValue

MEMORY_EVALUATIONS = 16  # at a decay of 0.8 the seventeenth would weigh 0.02 of the newest
PRIOR_SD = 0.05  # scatter of one source value between measurements, beyond its error, assumed until it is known
PRIOR_EVALUATIONS = 4  # how many evaluations that assumption counts for


@dataclass(frozen=True, kw_only=True)
class SourceScore:
    """The score of a source: its pooled value, that of what its share could go to, and the difference.

    ``reference`` is the share-weighted mean value of the better sources, for the best one that of all others;
    ``advantage`` the value less the reference. In fresh real tokens.
    """

    source_value: float
    source_value_standard_error: float
    reference: float
    advantage: float
    advantage_standard_error: float
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


@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """The measured value of a source in fresh real tokens, with its standard error."""

    value: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class MeasuredValues:
    """The source values that were measured at the evaluation after ``step``."""

    step: int
    sources: Mapping[str, MeasuredValue]

    def without(self, names: Collection[str]) -> Self:
        """The same without these sources."""
        return replace(self, sources={name: value for name, value in self.sources.items() if name not in names})

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """The values that were saved."""
        return cls(
            step=saved["step"], sources={name: MeasuredValue(**value) for name, value in saved["sources"].items()}
        )


def with_source_values(past: Sequence[MeasuredValues], observation: Observation) -> tuple[MeasuredValues, ...]:
    """``past`` with the usable source values of ``observation`` appended; unchanged where fewer than two sources have
    one. The oldest are forgotten.
    """
    sources = {
        name: MeasuredValue(value=estimate.value, standard_error=estimate.standard_error)
        for name, estimate in observation.source_value.items()
        if usable(estimate) and name in observation.shares
    }
    if len(sources) < 2:  # a value says nothing without another to compare it with
        return tuple(past)
    return (*past, MeasuredValues(step=observation.step, sources=sources))[-MEMORY_EVALUATIONS:]


def score_sources(
    evaluations: Sequence[MeasuredValues],
    shares: Mapping[str, int],
    *,
    decay: float,
    min_evaluations: int,
    closed: Collection[str] = (),
) -> dict[str, SourceScore]:
    """The score of each source with a share above 0 that could be compared in ``min_evaluations`` evaluations.

    Sources in ``closed`` cannot gain share, so no other is compared with them while there are better ones to take it.
    """
    drawn = {name: share for name, share in shares.items() if share > 0}
    source_values = {name: _pooled_source_value(evaluations, name, decay) for name in drawn}
    result = {}
    for name in drawn:
        better = {
            other: share
            for other, share in drawn.items()
            if source_values[other] > source_values[name] and other not in closed  # those get none of its share
        }
        alternatives = better or {other: share for other, share in drawn.items() if other != name}
        rows = [
            row for evaluation in evaluations if (row := _compared(evaluation.sources, name, alternatives)) is not None
        ]
        if len(rows) >= min_evaluations:
            result[name] = _pooled(np.array(rows, dtype=np.float64), decay)
    return result


def _pooled_source_value(evaluations: Sequence[MeasuredValues], name: str, decay: float) -> float:
    """The pooled value of a source by itself; minus infinity where it was never measured."""
    measured = [evaluation.sources[name] for evaluation in evaluations if name in evaluation.sources]
    if not measured:
        return -math.inf
    values = np.array([source.value for source in measured])
    errors = np.array([source.standard_error for source in measured])
    return _weighted(values, errors, _recency(len(measured), decay), PRIOR_SD**2)[0]


def _recency(count: int, decay: float) -> FloatArray:
    recency: FloatArray = decay ** np.arange(count - 1, -1, -1, dtype=np.float64)
    return recency


def _compared(measured: Mapping[str, MeasuredValue], name: str, alternatives: Mapping[str, int]) -> list[float] | None:
    """Of one evaluation: value, its error, reference, its error, and how many sources' scatter the advantage has."""
    compared = [(share, measured[other]) for other, share in alternatives.items() if other in measured]
    if name not in measured or not compared:
        return None
    own, weight = measured[name], math.fsum(share for share, _ in compared)
    reference = math.fsum(share * other.value for share, other in compared) / weight
    error = math.sqrt(math.fsum((share * other.standard_error) ** 2 for share, other in compared)) / weight
    sources_in_advantage = 1 + math.fsum(share**2 for share, _ in compared) / weight**2
    return [own.value, own.standard_error, reference, error, sources_in_advantage]


def _pooled(rows: FloatArray, decay: float) -> SourceScore:
    """Means over ``rows`` [R, 5], recent and precise evaluations weighing more; see ``_weighted`` for the errors."""
    recency = _recency(len(rows), decay)
    source_value, source_value_error = _weighted(rows[:, 0], rows[:, 1], recency, PRIOR_SD**2)
    prior_variance = PRIOR_SD**2 * float(rows[-1, 4])
    advantage, advantage_error = _weighted(
        rows[:, 0] - rows[:, 2], np.hypot(rows[:, 1], rows[:, 3]), recency, prior_variance
    )
    return SourceScore(
        source_value=source_value,
        source_value_standard_error=source_value_error,
        reference=source_value - advantage,
        advantage=advantage,
        advantage_standard_error=advantage_error,
        num_evaluations=len(rows),
    )


def _weighted(
    values: FloatArray, errors: FloatArray, recency: FloatArray, prior_variance: float
) -> tuple[float, float]:
    """Mean weighted by recency over variance, and its standard error: the scatter of the values, never less than
    their own errors.

    The variance of a value is its squared error plus ``prior_variance`` between evaluations (small steps gain little,
    so errors in the quickstart go from 0.1 at step 80 to 0.4 at step 240: such values must not drown the precise ones).
    Whether that is too little or too much is shown by the mean squared residual in those units; few evaluations say
    little about it, so it is averaged, by degrees of freedom, with 1 counting for ``PRIOR_EVALUATIONS`` (the posterior
    scale of a normal variance under a scaled inverse chi-square prior).
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
