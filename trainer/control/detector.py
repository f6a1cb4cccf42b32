"""The sequential test behind the guard: has the held-out loss risen beyond its own checkpoint-to-checkpoint jitter?

A checkpoint's loss carries a jitter common to all documents, which no number of documents averages away, so a paired
test without it alarms on every healthy run that is watched long enough (tests/control/test_guard.py: more than 0.95 of
200-reading streams). Here the jitter is estimated inside the run, and evidence is added up by e-detectors, whose mean
time to a false alarm is bounded however often one looks. Everything takes a leading stream axis, so that the
calibration in the tests runs this very code.
"""

# S streams, H unsuspected readings kept (right-aligned, NaN where there is none yet), K rates of the mixture

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.records import FloatArray

RATES = np.array([0.25, 0.5, 1.0, 2.0])  # lambda of each e-detector: tuned to rises of about that many standard errors
LOG_EMPTY = -50.0  # stands for ln 0: finite, so that the state is plain JSON
KEPT_PART = 0.8  # of the absolute second differences, smallest first: the rest may be steps and outliers
KEPT_MEAN = 0.5586  # mean |z| of a standard normal below its 0.8 quantile of |z|: 2 (phi(0) - phi(1.2816)) / 0.8
MAX_SPACING = 4  # second differences over 1 to 4 readings: at 4, AR(1) noise of 0.5 is all but white
MAX_CORRELATION_FACTOR = 1.6  # 1.5 is what AR(1) noise of 0.5 gives; more is curvature of the loss, not noise
MIN_DIFFERENCES = 3
SMALL_SAMPLE = 3.0  # the jitter is raised by this over the number of differences
MIN_SPREAD = 1e-6  # nats per token: below what an evaluation in fp32 can tell apart


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Numbers of the test; see ``GuardConfig`` for their meaning."""

    anchor_readings: int
    anchor_lag: int
    history_readings: int
    min_readings: int
    margin: float
    clip: float
    suspicion: float


@dataclass(frozen=True, kw_only=True)
class Track:
    """What the test remembers: ``means`` [S, H] in nats per token, ``log_evidence`` [S, K], ln M of each e-detector."""

    means: FloatArray
    log_evidence: FloatArray


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found, each [S]: anchor and jitter SD in nats per token, z, and ln of the mixed evidence."""

    anchor: FloatArray
    jitter: FloatArray
    z: FloatArray
    log_evidence: FloatArray
    ready: NDArray[np.bool_]


def look(
    settings: DetectorSettings, track: Track, means_S: FloatArray, pair_variance_S: FloatArray
) -> tuple[Track, Look]:
    """One reading of each stream: its held-out loss in nats per token, and the variance of the mean paired difference.

    z = (mean - anchor - margin sigma) / sqrt(pair variance + sigma^2 (1 + 1/A)), clipped, with sigma the jitter and A
    the readings in the anchor; each e-detector of the Shiryaev-Roberts kind adds ln M = lambda z - lambda^2/2 + ln(1 +
    M before), and their mean counts (Shin, Ramdas, Rinaldo, "E-detectors", arXiv 2203.03532: mean time to a false alarm
    at 1/a is at least 1/a). A reading is kept for anchor and jitter only while nothing is suspected, and enters the
    anchor ``anchor_lag`` readings later: damage must not become normal.
    """
    num_kept = (~np.isnan(track.means)).sum(axis=1)
    ready = num_kept >= settings.min_readings
    anchor, num_anchor = _anchor(settings, track.means, num_kept)
    jitter = jitter_sd(track.means)
    spread = np.sqrt(pair_variance_S + jitter**2 * (1 + 1 / np.maximum(num_anchor, 1)))
    z = (means_S - anchor - settings.margin * jitter) / np.maximum(spread, MIN_SPREAD)
    z = np.where(ready, np.clip(z, -settings.clip, settings.clip), 0.0)
    grown = RATES * z[:, None] - RATES**2 / 2 + np.logaddexp(track.log_evidence, 0.0)
    log_evidence_SK = np.where(ready[:, None], np.maximum(grown, LOG_EMPTY), track.log_evidence)
    mixed = np.logaddexp.reduce(log_evidence_SK, axis=1) - np.log(len(RATES))
    shifted = np.concatenate([track.means[:, 1:], means_S[:, None]], axis=1)
    means_SH = np.where((mixed < settings.suspicion)[:, None], shifted, track.means)
    found = Look(anchor=anchor, jitter=jitter, z=z, log_evidence=mixed, ready=ready)
    return Track(means=means_SH, log_evidence=log_evidence_SK), found


def jitter_sd(means_SH: FloatArray) -> FloatArray:
    """Standard deviation of the noise in each row, as it weighs on sums of readings; NaN below five readings.

    Second differences x_t - 2 x_(t-k) + x_(t-2k) are blind to a straight fall of the loss, and of independent noise
    have the variance 6 sigma^2. Of AR(1) noise it is sigma^2 (6 - 8 r^k + 2 r^2k), so near differences make it look too
    small: the greatest estimate over k = 1 to 4 is taken, and scaled up by the square root of its ratio to the one at k
    = 1, since correlated errors also add up faster than independent ones. Few differences make an uncertain estimate:
    it is raised by 3/n, without which most false alarms fell into the first 40 readings.
    """
    near, num_near = _difference_sd(means_SH, 1)
    widest = near
    for spacing in range(2, MAX_SPACING + 1):
        if means_SH.shape[1] > 2 * spacing:
            widest = np.fmax(widest, _difference_sd(means_SH, spacing)[0])
    factor = np.clip(widest / np.maximum(near, MIN_SPREAD), 1.0, MAX_CORRELATION_FACTOR)
    return widest * np.sqrt(factor) * (1 + SMALL_SAMPLE / np.maximum(num_near, 1))


def _difference_sd(means_SH: FloatArray, spacing: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Robust noise SD of each row from its second differences at ``spacing``, and how many there were."""
    curved = np.abs(means_SH[:, 2 * spacing :] - 2 * means_SH[:, spacing:-spacing] + means_SH[:, : -2 * spacing])
    ordered = np.sort(curved, axis=1)  # NaN last
    count = (~np.isnan(curved)).sum(axis=1)
    kept = np.maximum(np.rint(KEPT_PART * count), 1)
    mean = np.where(np.arange(ordered.shape[1]) < kept[:, None], ordered, 0.0).sum(axis=1) / kept
    return np.where(count >= MIN_DIFFERENCES, mean / KEPT_MEAN / np.sqrt(6), np.nan), count


def _anchor(
    settings: DetectorSettings, means_SH: FloatArray, num_kept_S: NDArray[np.int64]
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Mean of the last ``anchor_readings`` kept readings before the newest ``anchor_lag``, and how many they are."""
    columns = np.arange(means_SH.shape[1])
    end = means_SH.shape[1] - np.minimum(settings.anchor_lag, np.maximum(num_kept_S - MIN_DIFFERENCES, 0))
    inside = (columns < end[:, None]) & (columns >= end[:, None] - settings.anchor_readings) & ~np.isnan(means_SH)
    number = inside.sum(axis=1)
    return np.where(inside, means_SH, 0.0).sum(axis=1) / np.maximum(number, 1), number
