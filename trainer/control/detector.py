"""The sequential test behind the guard: has the held-out loss risen beyond its own checkpoint-to-checkpoint jitter?

A checkpoint's loss carries a jitter common to all documents, which no number of documents averages away, so a paired test without
it alarms on every healthy run that is watched long enough (tests/control/test_guard.py: more than 0.95 of 200-reading streams).
Here the jitter is estimated inside the run, and evidence is added up by e-detectors, whose mean time to a false alarm is bounded
however often one looks. Everything takes a leading stream axis, so that the calibration in the tests runs this very code.
"""

# S streams, H unsuspected readings kept (right-aligned, NaN where there is none yet), K rates of the mixture

from dataclasses import dataclass

import numpy as np

from trainer.records import FloatArray

RATES = np.array([0.25, 0.5, 1.0, 2.0])  # lambda of each e-detector: tuned to rises of about that many standard errors
LOG_EMPTY = -50.0  # stands for ln 0: finite, so that the state is plain JSON
NORMAL_MEDIAN = 0.6744897501960817  # median |z| of a standard normal
JITTER_SPACING = 3  # readings between the points of a second difference, once the history allows it


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Numbers of the test; see ``GuardConfig`` for their meaning."""

    anchor_readings: int
    anchor_lag: int
    history_readings: int
    min_readings: int
    margin: float
    clip: float
    warn_log: float


@dataclass(frozen=True, kw_only=True)
class Track:
    """What the test remembers: ``means_SH`` unsuspected readings in nats per token, ``log_evidence_SK`` ln M of each e-detector."""

    means_SH: FloatArray
    log_evidence_SK: FloatArray


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found, each [S]: the anchor, the jitter's standard deviation (nats per token), z, and ln of the mixed evidence."""

    anchor: FloatArray
    jitter: FloatArray
    z: FloatArray
    log_evidence: FloatArray
    ready: np.ndarray


def begin(settings: DetectorSettings, num_streams: int = 1) -> Track:
    """A track that has seen nothing."""
    return Track(
        means_SH=np.full((num_streams, settings.history_readings), np.nan),
        log_evidence_SK=np.full((num_streams, len(RATES)), LOG_EMPTY),
    )
