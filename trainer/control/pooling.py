"""Worths pooled over readings: what each source is worth against the others, and how sure that is.

One measurement of worth scatters more from reading to reading (standard deviation about 0.2 early, 0.12 later in the
pilot runs) than its own standard error says (about 0.08), so nothing is decided on one: readings are pooled, recent
ones weighing more, and the error comes from what they scatter. The comparison is made within each reading, so that a
fault all sources share cancels.
"""

# R readings, oldest first

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer.records import FloatArray, Observation, Worth

MEMORY_READINGS = 16  # at a decay of 0.8 the seventeenth would weigh 0.02 of the newest
PRIOR_SD = 0.15  # scatter of one worth between readings that is assumed before there are enough of them to tell
PRIOR_READINGS = 4  # how many readings that assumption counts for


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a source stands: its pooled worth, the share-weighted mean of the others (``reference``), and the gap."""

    worth: float
    worth_standard_error: float
    reference: float
    gap: float
    gap_standard_error: float
    num_readings: int

    def as_evidence(self) -> dict[str, float | int]:
        """Plain figures for journal and ledger."""
        return asdict(self)


def usable(worth: Worth) -> bool:
    """Whether a measurement may count: finite, with a finite and not negative error, on at least one sample."""
    return (
        worth.num_samples > 0
        and math.isfinite(worth.value)
        and math.isfinite(worth.standard_error)
        and worth.standard_error >= 0
    )


def remember(readings: list[dict[str, Any]], seen: Observation) -> list[dict[str, Any]]:
    """``readings`` with the usable worths of ``seen`` appended; unchanged when fewer than two sources have one."""
    worths = {
        name: [worth.value, worth.standard_error]
        for name, worth in seen.worth.items()
        if usable(worth) and name in seen.shares
    }
    if len(worths) < 2:  # a worth says nothing without another to hold it against
        return readings
    return [*readings, {"step": seen.step, "worth": worths}][-MEMORY_READINGS:]


def standings(
    readings: list[dict[str, Any]], shares: Mapping[str, int], *, decay: float, min_readings: int
) -> dict[str, Standing]:
    """The standing of each source with a share above 0 that could be compared in ``min_readings`` readings."""
    drawn = {name: share for name, share in shares.items() if share > 0}
    result = {}
    for name in drawn:
        rows = [row for reading in readings if (row := _compared(reading["worth"], name, drawn)) is not None]
        if len(rows) >= min_readings:
            result[name] = _pooled(np.array(rows, dtype=np.float64), decay)
    return result


def _compared(worths: Mapping[str, list[float]], name: str, drawn: Mapping[str, int]) -> list[float] | None:
    """One reading's worth, its error, the reference, its error, and how many sources' scatter the gap has; or None."""
    others = [(drawn[other], *worths[other]) for other in drawn if other != name and other in worths]
    if name not in worths or not others:
        return None
    weight = math.fsum(share for share, _, _ in others)
    reference = math.fsum(share * value for share, value, _ in others) / weight
    error = math.sqrt(math.fsum((share * error) ** 2 for share, _, error in others)) / weight
    sources_in_gap = 1 + math.fsum(share**2 for share, _, _ in others) / weight**2
    return [*worths[name], reference, error, sources_in_gap]


def _pooled(rows: FloatArray, decay: float) -> Standing:
    """Exponentially weighted means over ``rows`` [R, 5]; see ``_weighted`` for the errors."""
    weights = decay ** np.arange(len(rows) - 1, -1, -1, dtype=np.float64)
    worth, worth_error = _weighted(rows[:, 0], rows[:, 1], weights, PRIOR_SD**2)
    prior_variance = PRIOR_SD**2 * float(rows[-1, 4])
    gap, gap_error = _weighted(rows[:, 0] - rows[:, 2], np.hypot(rows[:, 1], rows[:, 3]), weights, prior_variance)
    return Standing(
        worth=worth,
        worth_standard_error=worth_error,
        reference=worth - gap,
        gap=gap,
        gap_standard_error=gap_error,
        num_readings=len(rows),
    )


def _weighted(
    values: FloatArray, errors: FloatArray, weights: FloatArray, prior_variance: float
) -> tuple[float, float]:
    """Weighted mean and its standard error: from the scatter between readings, never less than within them.

    Scatter: the unbiased variance for reliability weights, sum w (x - mean)^2 / (V1 - V2/V1) with V1 = sum w, V2 = sum
    w^2. Few readings say little about their own scatter, so it is averaged, by degrees of freedom, with the prior
    ``PRIOR_SD`` on top of the error within (the posterior scale of a normal variance under a scaled inverse chi-square
    prior).
    """
    total, squares = weights.sum(), (weights**2).sum()
    mean = float((weights * values).sum() / total)
    within = float((weights * errors**2).sum() / total)
    freedom = total**2 / squares - 1
    scatter = float((weights * (values - mean) ** 2).sum() / (total - squares / total)) if freedom > 0 else 0.0
    variance = (PRIOR_READINGS * (prior_variance + within) + freedom * scatter) / (PRIOR_READINGS + freedom)
    return mean, math.sqrt(max(variance, within) * squares) / float(total)
