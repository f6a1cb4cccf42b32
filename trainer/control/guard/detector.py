"""The sequential test behind the guard: does a figure of the readings lie above what its own past lets one expect?

A checkpoint's loss carries a jitter common to all documents, which no number of documents averages away, so a paired
test without it alarms on every healthy run that is watched long enough (tests/control/test_detector.py: more than 0.95
of 200-reading streams). Here expectation, jitter and the correlation between neighboring readings are all estimated
inside the run, each reading is judged by what came before it, and evidence is added up so that one may look as often
as one likes. Everything takes a leading stream axis, so that the calibration in the tests runs this very code.

What is guaranteed. Were the jitter known and normal, the figures z would be independent and at most standard normal
while nothing is wrong, and exp(lambda z - lambda^2/2) an e-value for each lambda. Restarted at every reading (weight 1)
their sums are e-detectors of the Shiryaev-Roberts kind: the mean number of readings to evidence 1/a is at least 1/a,
and a mean of e-detectors is one (Shin, Ramdas, Rinaldo, arXiv 2203.03532). It is no bound on the probability of a false
alarm, and nothing for e-BH. With weights that sum to 1 they are e-processes: evidence 1/a is reached with probability
at most a, ever (Ville), and these are what e-BH takes (Wang, Ramdas, JRSS-B 84, 2022). As jitter and correlation are
estimates, both hold approximately; what they come to is measured by simulation (experiments/guard_table.py).
"""

# S streams, W readings kept (right-aligned, NaN where there is none), K rates of the mixture, Q regressors

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trainer.base.records import FloatArray, IntArray

RATES = np.array([0.75, 1.5])  # lambda of each detector: tuned to rises of about that many standard errors
LOG_EMPTY = -50.0  # stands for ln 0: finite, so that the state is plain JSON
CLIP = 2.5  # most that one reading may count: at 3, noise with the tails of Student's t5 doubles the false alarms
PAST_CLIP = 3.0  # jitter SDs of the last reading that the next one may be held to account for
CURVE = 3  # regressors of the smooth curve that is taken off before the jitter is measured: a parabola
PRIOR_EVALUATIONS = 100  # how many readings the assumed correlation counts for; at 60, AR(1) noise of 0.5 alarmed twice
PRIOR_CORRELATION = 0.5  # as often, most of it in the first 60 readings
MAX_CORRELATION = 0.7  # more is curvature of the loss, not noise
UNSURE_OF_LEVEL = 2.0  # standard errors of the expectation that are added to the margin: its error does not average
UNSURE_OF_LAW = 3.0  # out, and that of a law grows while readings are kept aside: at 2, 0.8 % of AR(1) runs alarmed
MOST_ASIDE = 40  # readings under suspicion; older ones have become normal
TINY = 1e-9  # part of a regressor's sum of squares that is rounding
UNHEARD = 1e-4  # part of a regressor's greatest value by which now may differ from what the past can tell
ENDLESS = 1e9
AS_GOOD = 1.5  # a law that leaves more squares over than so often the least has no say in what is expected
MIN_SPREAD = 1e-6  # nats per token: below what an evaluation in fp32 can tell apart


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Numbers of the test; see ``GuardConfig`` for their meaning. ``suspicion`` is a logarithm."""

    history_evaluations: int
    min_evaluations: int
    margin: float
    suspicion: float

    @property
    def kept_evaluations(self) -> int:
        """W: the history, and what may be kept aside of it."""
        return self.history_evaluations + MOST_ASIDE


@dataclass(frozen=True, kw_only=True)
class Track:
    """What the test remembers: ``values`` [S, W], how many of the newest are kept ``aside`` [S], ``log_evidence``
    [S, K] of each detector.
    """

    values: FloatArray
    aside: IntArray
    log_evidence: FloatArray


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look found, each [S]: the value, what was expected, the jitter's SD (all in the value's unit), z, ln of
    the mixed evidence, and whether there were readings enough to tell.
    """

    value: FloatArray
    expected: FloatArray
    jitter: FloatArray
    correlation: FloatArray
    z: FloatArray
    log_evidence: FloatArray
    ready: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law fitted to the past: ``residual`` [S, W]; what it says of the last reading and of now, and the leverage of
    now, each [S].
    """

    residual: FloatArray
    before: FloatArray
    now: FloatArray
    leverage: FloatArray

    @property
    def squares(self) -> FloatArray:
        """Sum of squares that the law leaves over, [S]."""
        total: FloatArray = (self.residual**2).sum(axis=1)
        return total


def empty_track(settings: DetectorSettings, num_streams: int) -> Track:
    """A track of each stream that has seen nothing."""
    return Track(
        values=np.full((num_streams, settings.kept_evaluations), np.nan),
        aside=np.zeros(num_streams, dtype=np.int64),
        log_evidence=np.full((num_streams, len(RATES)), LOG_EMPTY),
    )


def look(
    settings: DetectorSettings,
    track: Track,
    value_S: FloatArray,
    *,
    laws: Sequence[FloatArray] | None = None,
    tolerated_part: float = 0.0,
    weight: float = 1.0,
    most_z_S: FloatArray | None = None,
    hold: bool = False,
) -> tuple[Track, Look]:
    """One reading of each stream; NaN where there was none: then its evidence stands still.

    The value is held against the least-squares fit of the past to each of ``laws``, regressors [W + 1, Q] whose last
    row is now, and of those that fit the highest; None means a level, that is the mean of the past. Residuals of this
    kind are independent although the fit is estimated (recursive residuals; Brown, Durbin, Evans, JRSS-B 37, 1975), so
    nothing has to be kept out of the past but readings under suspicion. With r the correlation of neighboring readings
    and d the value less expectation and margin (and less ``tolerated_part`` of what a law gained over the past),

        z = (d - r d before) / sqrt(sigma^2 (1 - r^2) + (1 - r)^2 v),   v = sigma^2 h (1 + r) / (1 - r),

    h the leverage of now (1/n for a level), made normal from Student's t and clipped; ``most_z_S`` bounds it further
    where another condition has to hold, too (the least of two z is one for either hypothesis). Then ln M = lambda z -
    lambda^2/2 + ln(``weight`` + M before).

    While the mixed evidence is above the suspicion, or under ``hold``, readings are kept aside; when it falls back they
    join the past, all of them: leaving out the high readings alone would bias what is expected (AR(1) noise of 0.5 then
    alarmed in 0.1 of the runs).
    """
    kept = _kept(settings, track)
    ready = (kept.sum(axis=1) >= settings.min_evaluations) & ~np.isnan(value_S)
    found = _residual(settings, track, kept, value_S, laws, tolerated_part)
    z = np.clip(found.z, -CLIP, CLIP if most_z_S is None else np.minimum(most_z_S, CLIP))
    grown = RATES * z[:, None] - RATES**2 / 2 + np.logaddexp(track.log_evidence, np.log(weight))
    log_evidence_SK = np.where(ready[:, None], np.maximum(grown, LOG_EMPTY), track.log_evidence)
    mixed = log_mean(log_evidence_SK)
    suspect = (mixed >= settings.suspicion) | hold
    after = Track(
        values=np.concatenate([track.values[:, 1:], value_S[:, None]], axis=1),
        aside=np.where(suspect, np.minimum(track.aside + 1, MOST_ASIDE), 0),
        log_evidence=log_evidence_SK,
    )
    return after, replace(found, z=np.where(ready, z, 0.0), log_evidence=mixed, ready=ready)


def log_mean(log_evidence_SK: FloatArray) -> FloatArray:
    """ln of the mean over the last axis of what is given as ln."""
    mean: FloatArray = np.logaddexp.reduce(log_evidence_SK, axis=-1) - np.log(log_evidence_SK.shape[-1])
    return mean


def start_weight(num_evaluations: int, typical_evaluations: int = 100) -> float:
    """Weight of a change at the ``num_evaluations``-th reading, from 1 on: T / ((t + T - 1) (t + T)), T the
    ``typical_evaluations``. All together weigh 1, which makes an e-process of a sum of tests that begin at each
    reading.
    """
    later = num_evaluations + typical_evaluations
    return typical_evaluations / ((later - 1) * later)


def discoveries(log_evidence_SN: FloatArray, error: float) -> NDArray[np.bool_]:
    """e-BH: which of N hypotheses in each row fall at false discovery rate ``error``; takes ln of e-processes.

    The k with the greatest e-values fall, k the largest for which each of these is at least N / (k error); whatever
    their dependence, and whenever one looks (Wang, Ramdas, JRSS-B 84, 2022). e-detectors are no e-values: not for them.
    """
    num = log_evidence_SN.shape[1]
    order = np.argsort(-log_evidence_SN, axis=1, kind="stable")
    ranked = np.take_along_axis(log_evidence_SN, order, axis=1)
    enough = ranked >= np.log(num / (np.arange(1, num + 1) * error))
    count = np.where(enough.any(axis=1), num - np.argmax(enough[:, ::-1], axis=1), 0)
    fallen = np.zeros(log_evidence_SN.shape, dtype=bool)
    np.put_along_axis(fallen, order, np.arange(num) < count[:, None], axis=1)
    return fallen


def _kept(settings: DetectorSettings, track: Track) -> NDArray[np.bool_]:
    """[S, W] which readings are the past: the last ``history_evaluations`` that are not kept aside."""
    end = (settings.kept_evaluations - track.aside)[:, None]
    column = np.arange(settings.kept_evaluations)
    inside: NDArray[np.bool_] = (
        (column < end) & (column >= end - settings.history_evaluations) & ~np.isnan(track.values)
    )
    return inside


def _residual(
    settings: DetectorSettings,
    track: Track,
    kept: NDArray[np.bool_],
    value_S: FloatArray,
    laws: Sequence[FloatArray] | None,
    tolerated_part: float,
) -> Look:
    """What ``look`` finds before evidence is added: z not yet clipped, and NaN-free."""
    num = np.maximum(kept.sum(axis=1), 1)
    center = np.where(kept, track.values, 0.0).sum(axis=1) / num
    past_SW = np.where(kept, track.values - center[:, None], 0.0)
    curve = _fit(kept, past_SW, np.vander(np.linspace(-1.0, 1.0, kept.shape[1] + 1), CURVE, increasing=True))
    if laws is None:
        fits = [_fit(kept, past_SW, np.ones((kept.shape[1] + 1, 1)))]
        smooth = [curve]  # a level that moves is not all noise
    else:
        fits = [_fit(kept, past_SW, law) for law in laws]
        smooth = [curve, *fits]
    jitter, r = _noise(_chosen(np.argmin([fit.squares for fit in smooth], axis=0), smooth).residual, num)
    squares = np.array([fit.squares for fit in fits])
    fitting = squares <= AS_GOOD * squares.min(axis=0)
    expected = _chosen(np.argmax(np.where(fitting, [fit.now for fit in fits], -np.inf), axis=0), fits)
    before, now, leverage = expected.before, expected.now, expected.leverage
    unsure = jitter * np.sqrt(leverage * (1 + r) / (1 - r))
    allowed = settings.margin * jitter + (UNSURE_OF_LEVEL if laws is None else UNSURE_OF_LAW) * unsure
    if laws is not None:
        oldest = np.argmax(kept, axis=1)[:, None]
        fall = np.take_along_axis(past_SW - expected.residual, oldest, axis=1)[:, 0] - now
        allowed = allowed + tolerated_part * np.maximum(fall, 0.0)
    last = track.values[:, -1] - center - before - allowed
    r_or_0 = np.where(np.isnan(last), 0.0, r)
    last = np.clip(np.where(np.isnan(last), 0.0, last), -PAST_CLIP * jitter, PAST_CLIP * jitter)
    raised = np.where(np.isnan(value_S), 0.0, value_S) - center - now - allowed
    spread = np.sqrt(jitter**2 * (1 - r_or_0**2) + (1 - r_or_0) ** 2 * unsure**2)
    freedom = np.maximum(num * (1 - r**2) / (1 + r**2) - CURVE, 1.0)  # of a variance, where readings are correlated
    z = _normal((raised - r_or_0 * last) / np.maximum(spread, MIN_SPREAD), freedom)
    return Look(
        value=value_S,
        expected=center + now,
        jitter=jitter,
        correlation=r,
        z=z,
        log_evidence=np.full(len(z), LOG_EMPTY),
        ready=np.zeros(len(z), dtype=bool),
    )


def _chosen(which_S: IntArray, fits: Sequence[Fit]) -> Fit:
    """Of each stream the fit that is named."""
    return Fit(
        residual=np.choose(which_S[:, None], [fit.residual for fit in fits]),
        before=np.choose(which_S, [fit.before for fit in fits]),
        now=np.choose(which_S, [fit.now for fit in fits]),
        leverage=np.choose(which_S, [fit.leverage for fit in fits]),
    )


def _noise(residual: FloatArray, num_S: IntArray) -> tuple[FloatArray, FloatArray]:
    """SD of the noise that the residuals [S, W] are, and the correlation of neighboring readings; [S] each.

    The correlation of residuals comes out too small by about (q + (q + 2) r) / n, q the regressors of the curve
    (Marriott, Pope, Biometrika 41, 1954, for q = 1: (1 + 3 r) / n): that is put back, and the estimate averaged with
    ``PRIOR_CORRELATION``. Correlated residuals hide part of their variance in the curve: they have fewer degrees of
    freedom.
    """
    squares = (residual**2).sum(axis=1)
    r = (residual[:, 1:] * residual[:, :-1]).sum(axis=1) / np.maximum(squares, MIN_SPREAD**2)
    r = r + (CURVE + (CURVE + 2) * np.maximum(r, 0.0)) / num_S
    r = (num_S * r + PRIOR_EVALUATIONS * PRIOR_CORRELATION) / (num_S + PRIOR_EVALUATIONS)
    r = np.clip(r, 0.0, MAX_CORRELATION)
    freedom = np.maximum(num_S - CURVE * (1 + r) / (1 - r), 0.3 * num_S)
    return np.sqrt(squares / freedom), r


def _fit(kept: NDArray[np.bool_], past_SW: FloatArray, law: FloatArray) -> Fit:
    """Least squares of the past on ``law`` [W + 1, Q], by Gram-Schmidt: the same on every machine, and a column that
    says no more than those before it is left out.

    Where now asks for what the past has never shown (a learning rate that begins to fall), the leverage is endless, and
    so the reading proves nothing.
    """
    residual, now, before, leverage = past_SW, np.zeros(len(kept)), np.zeros(len(kept)), np.zeros(len(kept))
    done: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for column in law.T:
        direction, ends = np.where(kept, column[:-1], 0.0), np.repeat(column[-2:, None], len(kept), axis=1)
        at_first = (direction**2).sum(axis=1)
        for other, other_ends, inverse in done:
            slope = (direction * other).sum(axis=1) * inverse
            direction, ends = direction - slope[:, None] * other, ends - slope * other_ends
        squares = (direction**2).sum(axis=1)
        told = squares > TINY * at_first
        inverse = np.where(told, 1.0, 0.0) / np.where(told, squares, 1.0)
        slope = (residual * direction).sum(axis=1) * inverse
        residual = residual - slope[:, None] * direction
        before, now = before + slope * ends[0], now + slope * ends[1]
        unheard = ~told & (np.abs(ends[1]) > UNHEARD * np.abs(column).max())
        leverage = leverage + ends[1] ** 2 * inverse + np.where(unheard, ENDLESS, 0.0)
        done.append((direction, ends, inverse))
    return Fit(residual=residual, before=before, now=now, leverage=leverage)


def _normal(t: FloatArray, freedom: FloatArray) -> FloatArray:
    """Student's t with so many degrees of freedom as the normal deviate of the same probability, to 0.02 (Wallace,
    Annals of Mathematical Statistics 30, 1959).
    """
    size = np.sqrt(freedom * np.log1p(t**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.sign(t) * size
