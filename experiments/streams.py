"""Many streams of evaluations with nothing wrong, or one thing: what the guard's calibration is measured on.

Figures are in units of the jitter's SD, 0.003 nats per token, as large as it was between checkpoints of small models.
"""

# S streams, R evaluations, N slices

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trainer.base.records import FloatArray, IntArray
from trainer.control.guard.config import GuardConfig, detector_settings
from trainer.control.guard.detector import DetectorSettings, discoveries, empty_state, start_weight, update
from trainer.control.guard.forecast import Schedule, forecast_settings
from trainer.control.guard.statistics import empty_detectors, global_evidence, update_all

JITTER = 0.003  # nats per token, between checkpoints
NEVER = 10**6
AT_ONCE = 100  # streams: their tracks stay in the processor's cache
NUM_SLICES = 5


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Statistics [S, R] and slices [S, R, N] in nats per token; ``rate`` [R] of the learning rate, 1 at most."""

    mean: FloatArray
    tail: FloatArray
    gap: FloatArray
    slices: FloatArray
    rate: FloatArray

    def part(self, start: int, end: int) -> "Streams":
        """Some of the streams."""
        some = slice(start, end)
        return replace(self, mean=self.mean[some], tail=self.tail[some], gap=self.gap[some], slices=self.slices[some])


def noise(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Noise of SD 1 along the last axis: ``white``, ``t5`` (Student's t with 5 degrees of freedom) or ``ar`` (each
    correlated with the one before by 0.5).
    """
    if kind == "t5":
        return rng.standard_t(5, shape) / math.sqrt(5 / 3)
    series = rng.standard_normal(shape)
    if kind == "ar":
        fresh = series.copy()
        for t in range(1, shape[-1]):
            series[..., t] = 0.5 * series[..., t - 1] + math.sqrt(0.75) * fresh[..., t]
    return series


def rates(kind: str, num_evaluations: int) -> FloatArray:
    """The learning rate at each evaluation: ``constant``, ``cosine`` to 0, ``linear`` to 0 or ``wsd`` (the last fifth
    falls)."""
    at = (np.arange(num_evaluations) + 1) / num_evaluations
    by_kind = {
        "constant": np.ones(num_evaluations),
        "cosine": 0.5 * (1 + np.cos(np.pi * at)),
        "linear": 1 - at,
        "wsd": np.minimum(1.0, (1 - at) / 0.2),
    }
    return by_kind[kind]


def healthy(
    kind: str, rng: np.random.Generator, num_streams: int, num_evaluations: int = 200, *, schedule: str = "constant",
    fall: Callable[[FloatArray, FloatArray], FloatArray] | None = None,
) -> Streams:  # fmt: skip
    """Nothing wrong: all statistics share half of the jitter's variance and more, and fall as ``fall(area, rate)`` says
    (nats per token). With a schedule that falls, so does the jitter, to a tenth.
    """
    rate = rates(schedule, num_evaluations)
    area = np.cumsum(rate) / num_evaluations
    curve = fall(area, rate) if fall is not None else np.zeros(num_evaluations)
    scale = JITTER * (0.1 + 0.9 * rate)
    shape = (num_streams, num_evaluations)
    common, own = noise(kind, rng, shape), [noise(kind, rng, shape) for _ in range(3)]
    by_slice = noise(kind, rng, (num_streams, NUM_SLICES, num_evaluations)).transpose(0, 2, 1)
    mean = math.sqrt(0.9) * common + math.sqrt(0.1) * own[0]
    return Streams(
        mean=curve + scale * mean,
        tail=curve + scale * 2 * (0.7 * common + math.sqrt(0.51) * own[1]),
        gap=0.5 + scale * 1.5 * own[2],
        slices=curve[:, None] + scale[:, None] * 2 * (0.7 * common[..., None] + math.sqrt(0.51) * by_slice),
        rate=rate,
    )


def damaged(streams: Streams, what: str, at: int) -> Streams:
    """With a lasting change from evaluation ``at`` on, in SDs of the statistic that it hits: ``step`` of 3 in the mean
    and all that follows it, ``ramp`` of 1/6 more at each evaluation, ``tail``, ``slice`` and ``gap`` 3 in these alone.
    """
    num = streams.mean.shape[1]
    since = np.maximum(np.arange(num) - at + 1, 0)
    step = 3.0 * (since > 0) if what != "ramp" else since / 6
    if what in ("step", "ramp"):
        rise = JITTER * step
        return replace(
            streams,
            mean=streams.mean + rise,
            tail=streams.tail + 2 * rise,
            gap=streams.gap + rise,
            slices=streams.slices + rise[:, None],
        )
    if what == "tail":
        return replace(streams, tail=streams.tail + 2 * JITTER * step)
    if what == "gap":
        return replace(streams, gap=streams.gap + 1.5 * JITTER * step)
    assert what == "slice", what
    slices = streams.slices.copy()
    slices[:, :, 0] += 2 * JITTER * step
    return replace(streams, slices=slices)


def first_alarms(streams: Streams, config: GuardConfig, *, parts: tuple[str, ...] = ("global", "slices")) -> IntArray:
    """Index of each stream's first alarm of the whole guard, ``NEVER`` where there is none, [S]."""
    settings, alarms = detector_settings(config), []
    for start in range(0, len(streams.mean), AT_ONCE):
        some = streams.part(start, start + AT_ONCE)
        first = np.full(len(some.mean), NEVER)
        if "global" in parts:
            first = np.minimum(first, _first_global(some, settings, math.log(config.alarm_at)))
        if "slices" in parts:
            first = np.minimum(first, _first_slices(some, settings, config.advanced.slice_error))
        alarms.append(first)
    return np.concatenate(alarms)


def _first_global(streams: Streams, settings: DetectorSettings, alarm: float) -> IntArray:
    num_streams, num = streams.mean.shape
    detectors, first = empty_detectors(settings, num_streams), np.full(num_streams, NEVER)
    area = np.cumsum(streams.rate) / num
    kept = forecast_settings(settings).kept_evaluations
    for t in range(num):
        kept_range = slice(max(0, t - kept), t + 1)
        before = np.zeros(kept + 1 - (kept_range.stop - kept_range.start))
        schedule = Schedule(
            area=np.concatenate([before, area[kept_range]]), rate=np.concatenate([before, streams.rate[kept_range]])
        )
        values = {"mean": streams.mean[:, t], "tail": streams.tail[:, t], "gap": streams.gap[:, t]}
        detectors, scores = update_all(settings, detectors, values, schedule)
        first = np.where((first == NEVER) & (global_evidence(scores) >= alarm), t, first)
    return first


def _first_slices(streams: Streams, settings: DetectorSettings, error: float) -> IntArray:
    num_streams, num, num_slices = streams.slices.shape
    state, first = empty_state(settings, num_streams * num_slices), np.full(num_streams, NEVER)
    num_evaluations = 0
    for t in range(num):
        state, score = update(
            settings, state, streams.slices[:, t].reshape(-1), weight=start_weight(num_evaluations + 1)
        )
        num_evaluations += bool(score.ready.any())
        risen = discoveries(score.log_evidence.reshape(num_streams, num_slices), error).any(axis=1)
        first = np.where((first == NEVER) & risen & score.ready[0], t, first)
    return first


def delays(first: IntArray, at: int) -> FloatArray:
    """Evaluations from the first damaged one to the alarm, itself included; without streams that
    were alarmed before.
    """
    return (first - at + 1)[first >= at].astype(np.float64)
