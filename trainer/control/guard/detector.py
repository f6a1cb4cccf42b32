"""The sequential test behind the guard: is a statistic of the evaluations higher than its own past predicts?

A checkpoint's loss carries noise (jitter) common to all documents, which no number of documents averages away, so a
paired test that ignores it raises alarms on every healthy run that is monitored long enough
(tests/control/guard/test_detector.py: in more than 0.95 of 200-evaluation streams). Here the expectation, the jitter
and the correlation between neighboring evaluations are all estimated within the run, each evaluation is tested against
those before it, and evidence is accumulated so that it is valid to look after every evaluation. Everything takes a
leading stream axis, so that the calibration in the tests runs this very code.

What is guaranteed. Were the jitter known and normal, the scores z would be independent and at most standard normal
while nothing is wrong, and exp(lambda z - lambda^2/2) an e-value for each lambda. Restarted at every evaluation (weight
1) their sums are e-detectors of the Shiryaev-Roberts kind: the mean number of evaluations to evidence 1/a is at least
1/a, and a mean of e-detectors is one (Shin, Ramdas, Rinaldo, arXiv 2203.03532). This bounds neither the probability of
a false alarm nor anything for e-BH. With weights that sum to 1 they are e-processes: evidence 1/a is reached with
probability at most a, ever (Ville), and e-BH takes these (Wang, Ramdas, JRSS-B 84, 2022). As jitter and correlation are
estimates, both hold approximately; by how much is measured by simulation (experiments/guard_table.py).
"""

# S streams, W evaluations kept (right-aligned, NaN where there is none), K rates of the mixture, Q regressors

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.base.records import FloatArray, IntArray
from trainer.control.guard.trend_fit import CURVE, MIN_SPREAD, chosen, fit_trends, noise, normal

RATES = np.array([0.75, 1.5])  # lambda of each detector: tuned to rises of about that many standard errors
LOG_EMPTY = -50.0  # stands for ln 0: finite, so that the state is plain JSON
CLIP = 2.5  # most that one evaluation may count: at 3, noise with the tails of Student's t5 doubles the false alarms
PAST_CLIP = 3.0  # most jitter SDs of the last residual that the correlation carries over to the next
UNSURE_OF_LEVEL = 2.0  # standard errors of the expectation that are added to the margin: its error does not average
UNSURE_OF_TREND = 3.0  # out, and a trend's grows while evaluations are held back: at 2, 0.8 % of AR(1) runs alarmed
MAX_HELD_BACK = 40  # suspicious evaluations; older ones count as normal
NEARLY_BEST = 1.5  # a trend whose squared residuals exceed the least by this factor has no say in the expectation


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Numbers of the test; see ``GuardConfig`` for their meaning. ``suspicion`` is the logarithm of an evidence."""

    history_evaluations: int
    min_evaluations: int
    margin: float
    suspicion: float

    @property
    def kept_evaluations(self) -> int:
        """W: the history, and the most that may be held back from it."""
        return self.history_evaluations + MAX_HELD_BACK


@dataclass(frozen=True, kw_only=True)
class DetectorState:
    """What the test keeps of each stream: ``values`` [S, W], how many of the newest are ``held_back`` from the past
    [S], and ``log_evidence`` [S, K] of each detector.
    """

    values: FloatArray
    held_back: IntArray
    log_evidence: FloatArray


@dataclass(frozen=True, kw_only=True)
class Score:
    """The test of one evaluation, each [S]: the value, what was expected, the jitter's SD (all in the value's unit), z,
    ln of the mixed evidence, and whether there were enough evaluations to judge.
    """

    value: FloatArray
    expected: FloatArray
    jitter: FloatArray
    correlation: FloatArray
    z: FloatArray
    log_evidence: FloatArray
    ready: NDArray[np.bool_]


def empty_state(settings: DetectorSettings, num_streams: int) -> DetectorState:
    """The state before the first evaluation."""
    return DetectorState(
        values=np.full((num_streams, settings.kept_evaluations), np.nan),
        held_back=np.zeros(num_streams, dtype=np.int64),
        log_evidence=np.full((num_streams, len(RATES)), LOG_EMPTY),
    )


def update(
    settings: DetectorSettings,
    state: DetectorState,
    value_S: FloatArray,
    *,
    trends: Sequence[FloatArray] | None = None,
    tolerated_part: float = 0.0,
    weight: float = 1.0,
    max_z_S: FloatArray | None = None,
    hold: bool = False,
) -> tuple[DetectorState, Score]:
    """The state after one more evaluation of each stream, and its scores; a NaN value leaves the evidence unchanged.

    The value is compared with the least-squares fit of the past to each of ``trends``, regressors [W + 1, Q] whose last
    row is now, and of those that fit with the highest; None means a level, that is the mean of the past. Residuals of
    this kind are independent although the fit is estimated (recursive residuals; Brown, Durbin, Evans, JRSS-B 37,
    1975), so nothing has to be left out of the past but suspicious evaluations. With r the correlation of neighboring
    evaluations and d the value minus expectation and margin (and minus ``tolerated_part`` of what a trend gained over
    the past),

        z = (d - r d before) / sqrt(sigma^2 (1 - r^2) + (1 - r)^2 v),   v = sigma^2 h (1 + r) / (1 - r),

    h the leverage of now (1/n for a level), made normal from Student's t and clipped; ``max_z_S`` bounds it further
    where another condition has to hold, too (the lesser of two z is valid for either hypothesis). Then ln M = lambda z
    - lambda^2/2 + ln(``weight`` + M before).

    While the mixed evidence is above the suspicion, or under ``hold``, evaluations are held back; when it falls again
    all of them join the past: leaving out only the high ones would bias the expectation (AR(1) noise of 0.5 then raised
    alarms in 0.1 of the runs).
    """
    is_past_SW = _is_past(settings, state)
    ready = (is_past_SW.sum(axis=1) >= settings.min_evaluations) & ~np.isnan(value_S)
    score = _scored(settings, state, is_past_SW, value_S, trends, tolerated_part)
    z = np.clip(score.z, -CLIP, CLIP if max_z_S is None else np.minimum(max_z_S, CLIP))
    grown = RATES * z[:, None] - RATES**2 / 2 + np.logaddexp(state.log_evidence, np.log(weight))
    log_evidence_SK = np.where(ready[:, None], np.maximum(grown, LOG_EMPTY), state.log_evidence)
    mixed = log_mean(log_evidence_SK)
    is_suspicious = (mixed >= settings.suspicion) | hold
    after = DetectorState(
        values=np.concatenate([state.values[:, 1:], value_S[:, None]], axis=1),
        held_back=np.where(is_suspicious, np.minimum(state.held_back + 1, MAX_HELD_BACK), 0),
        log_evidence=log_evidence_SK,
    )
    return after, replace(score, z=np.where(ready, z, 0.0), log_evidence=mixed, ready=ready)


def log_mean(log_evidence_SK: FloatArray) -> FloatArray:
    """ln of the mean over the last axis of values given as ln."""
    mean: FloatArray = np.logaddexp.reduce(log_evidence_SK, axis=-1) - np.log(log_evidence_SK.shape[-1])
    return mean


def start_weight(num_evaluations: int, typical_evaluations: int = 100) -> float:
    """Weight of a change at the ``num_evaluations``-th evaluation, from 1 on: T / ((t + T - 1) (t + T)), T the
    ``typical_evaluations``. The weights sum to 1, which makes a sum of tests that begin at each evaluation an
    e-process.
    """
    later = num_evaluations + typical_evaluations
    return typical_evaluations / ((later - 1) * later)


def discoveries(log_evidence_SN: FloatArray, error: float) -> NDArray[np.bool_]:
    """e-BH: which of N hypotheses in each row are rejected at false discovery rate ``error``; takes ln of e-processes.

    The k with the greatest e-values are rejected, k the largest for which each of these is at least N / (k error);
    valid under any dependence and at any time (Wang, Ramdas, JRSS-B 84, 2022), but not for e-detectors, which are not
    e-values.
    """
    num = log_evidence_SN.shape[1]
    order = np.argsort(-log_evidence_SN, axis=1, kind="stable")
    ranked = np.take_along_axis(log_evidence_SN, order, axis=1)
    enough = ranked >= np.log(num / (np.arange(1, num + 1) * error))
    count = np.where(enough.any(axis=1), num - np.argmax(enough[:, ::-1], axis=1), 0)
    rejected = np.zeros(log_evidence_SN.shape, dtype=bool)
    np.put_along_axis(rejected, order, np.arange(num) < count[:, None], axis=1)
    return rejected


def _is_past(settings: DetectorSettings, state: DetectorState) -> NDArray[np.bool_]:
    """[S, W] which evaluations are the past: the last ``history_evaluations`` that are not held back."""
    end = (settings.kept_evaluations - state.held_back)[:, None]
    column = np.arange(settings.kept_evaluations)
    inside: NDArray[np.bool_] = (
        (column < end) & (column >= end - settings.history_evaluations) & ~np.isnan(state.values)
    )
    return inside


def _scored(
    settings: DetectorSettings,
    state: DetectorState,
    is_past_SW: NDArray[np.bool_],
    value_S: FloatArray,
    trends: Sequence[FloatArray] | None,
    tolerated_part: float,
) -> Score:
    """The scores before evidence is accumulated: z not yet clipped, and NaN-free."""
    num = np.maximum(is_past_SW.sum(axis=1), 1)
    center = np.where(is_past_SW, state.values, 0.0).sum(axis=1) / num
    past_SW = np.where(is_past_SW, state.values - center[:, None], 0.0)
    parabola = np.vander(np.linspace(-1.0, 1.0, is_past_SW.shape[1] + 1), CURVE, increasing=True)
    if trends is None:
        curve, level = fit_trends(is_past_SW, past_SW, [parabola, parabola[:, :1]])
        fits, smooth = [level], [curve]  # what moves a level is not all noise
    else:
        curve, *fits = fit_trends(is_past_SW, past_SW, [parabola, *trends])
        smooth = [curve, *fits]
    jitter, r = noise(chosen(np.argmin([fit.squares for fit in smooth], axis=0), smooth).residual, num)
    squares = np.array([fit.squares for fit in fits])
    fitting = squares <= NEARLY_BEST * squares.min(axis=0)
    expected = chosen(np.argmax(np.where(fitting, [fit.now for fit in fits], -np.inf), axis=0), fits)
    before, now, leverage = expected.before, expected.now, expected.leverage
    unsure = jitter * np.sqrt(leverage * (1 + r) / (1 - r))
    tolerated = settings.margin * jitter + (UNSURE_OF_LEVEL if trends is None else UNSURE_OF_TREND) * unsure
    if trends is not None:
        oldest = np.argmax(is_past_SW, axis=1)[:, None]
        fall = np.take_along_axis(past_SW - expected.residual, oldest, axis=1)[:, 0] - now
        tolerated = tolerated + tolerated_part * np.maximum(fall, 0.0)
    last = state.values[:, -1] - center - before - tolerated
    r_or_0 = np.where(np.isnan(last), 0.0, r)
    last = np.clip(np.where(np.isnan(last), 0.0, last), -PAST_CLIP * jitter, PAST_CLIP * jitter)
    raised = np.where(np.isnan(value_S), 0.0, value_S) - center - now - tolerated
    spread = np.sqrt(jitter**2 * (1 - r_or_0**2) + (1 - r_or_0) ** 2 * unsure**2)
    freedom = np.maximum(num * (1 - r**2) / (1 + r**2) - CURVE, 1.0)  # of a variance, where evaluations are correlated
    z = normal((raised - r_or_0 * last) / np.maximum(spread, MIN_SPREAD), freedom)
    return Score(
        value=value_S,
        expected=center + now,
        jitter=jitter,
        correlation=r,
        z=z,
        log_evidence=np.full(len(z), LOG_EMPTY),
        ready=np.zeros(len(z), dtype=bool),
    )
