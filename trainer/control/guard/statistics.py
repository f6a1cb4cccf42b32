"""The statistics that the guard monitors at every evaluation, and the evidence that accumulates from them.

Four statistics, because no single one shows every damage: the mean (all of held-out), the tail (collapse begins with
the rare: in science's Zipf model the mean moves by 3 % when the tail is gone), the gap (synthetic loss falls while
held-out loss stands) and the progress (damage inside a curve that still falls). And each slice, so that damage to a
minority is seen. ``trainer.control.guard.detector`` says what is guaranteed: the four are e-detectors, and their plain
mean, which is one again, decides (one that cannot be judged counts as 0: that loses power, never validity); the slices
are e-processes, and e-BH decides. The tail's documents are chosen on evaluations that do not count for it afterwards,
or they would improve by themselves (regression to the mean).
"""

# S streams, W evaluations kept, D held-out documents, N slices

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from trainer.base.records import Evaluation, FloatArray, IntArray, Observation
from trainer.control.guard.detector import (
    DetectorSettings,
    DetectorState,
    Score,
    discoveries,
    empty_state,
    log_mean,
    start_weight,
    update,
)
from trainer.control.guard.forecast import Schedule, area_and_rate, forecast_settings
from trainer.control.guard.state import MonitorState, SavedDetector, Statistic

STATISTICS: tuple[Statistic, ...] = ("mean", "tail", "gap", "progress")
TAIL_SHARE = 0.1  # of the documents: those of highest loss
TAIL_EVALUATIONS = 5  # under whose mean loss the tail's documents are chosen
LOST_PART = 0.03  # of what was gained in the past of the forecast, by which an evaluation may fall short of it
STANDS = 2.0  # jitter SDs that held-out loss may lie below its past and still be said to stand
MIN_SLICE_DOCUMENTS = 4  # below which a slice is not judged
MAX_DETECTION_DELAY = 3  # evaluations before the first suspicious one, or the newest, that may be damaged already


def empty_detectors(settings: DetectorSettings, num_streams: int) -> dict[Statistic, DetectorState]:
    """The detector of each statistic before the first evaluation."""
    return {
        name: empty_state(forecast_settings(settings) if name == "progress" else settings, num_streams)
        for name in STATISTICS
    }


def update_all(
    settings: DetectorSettings,
    detectors: Mapping[Statistic, DetectorState],
    values: Mapping[Statistic, FloatArray],
    schedule: Schedule | None,
    *,
    hold: bool = False,
) -> tuple[dict[Statistic, DetectorState], dict[Statistic, Score]]:
    """The detectors after one evaluation, and its scores: ``values`` [S] in nats per token, NaN where there is none.

    ``gap`` counts only as far as the mean stands or rises: the lesser of both z. ``progress`` compares the mean with a
    forecast and needs the schedule, of as many evaluations as its detector keeps.
    """
    after: dict[Statistic, DetectorState] = {}
    scores: dict[Statistic, Score] = {}
    after["mean"], scores["mean"] = update(settings, detectors["mean"], values["mean"], hold=hold)
    after["tail"], scores["tail"] = update(settings, detectors["tail"], values["tail"], hold=hold)
    mean = scores["mean"]
    stands = (values["mean"] - mean.expected) / np.maximum(mean.jitter, 1e-12) + STANDS
    max_z = np.where(mean.ready, stands, -np.inf)
    after["gap"], scores["gap"] = update(settings, detectors["gap"], values["gap"], max_z_S=max_z, hold=hold)
    after["progress"], scores["progress"] = update(
        forecast_settings(settings),
        detectors["progress"],
        values["mean"] if schedule is not None else np.full_like(values["mean"], np.nan),
        trends=schedule.trends() if schedule is not None else None,
        tolerated_part=LOST_PART,
        hold=hold,
    )
    return after, scores


def global_evidence(scores: Mapping[Statistic, Score]) -> FloatArray:
    """ln of the mean of the four e-detectors, [S]: an e-detector itself under any dependence."""
    return log_mean(np.stack([scores[name].log_evidence for name in STATISTICS], axis=1))


# The same for the evaluations of one run


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What an evaluation adds up to: scores by statistic (one stream), ln of the global evidence and of that by slice,
    the slices that have risen, what is not judged and why, the newest step that is certainly healthy, how many
    evaluations came before, and how many are held back.
    """

    scores: Mapping[Statistic, Score]
    log_evidence: float
    slices: Mapping[str, float]
    risen_slices: tuple[str, ...]
    not_judged: Mapping[str, str]
    healthy_step: int
    num_evaluations: int
    num_held_back: int

    @property
    def ready(self) -> bool:
        """Whether the mean can be judged."""
        return bool(self.scores["mean"].ready[0])

    @property
    def strongest(self) -> Statistic:
        """The statistic with the most evidence."""
        return max(STATISTICS, key=lambda name: float(self.scores[name].log_evidence[0]))


def reset_evidence(state: MonitorState) -> MonitorState:
    """Without any evidence, suspicious evaluations still held back: after an alarm, so that what was done about it can
    take effect and damage does not become normal.
    """
    detectors = {name: detector.without_evidence() for name, detector in state.detectors.items()}
    return replace(state, detectors=detectors, slices=state.slices.without_evidence(), num_slice_evaluations=0)


def monitor(
    settings: DetectorSettings, state: MonitorState, observation: Observation, *, slice_error: float, hold: bool
) -> tuple[MonitorState, Monitored]:
    """The state after the evaluation of ``observation``, and what it adds up to; the evaluation must be usable
    (``guard.why_unusable``).
    """
    evaluation = observation.evaluation
    documents = (len(evaluation.loss_sum_nats), int(evaluation.tokens.sum()))
    if state.documents != documents:
        state = MonitorState(documents=documents)  # nothing to compare other documents with
    state = _rolled_back(state, observation.progress)
    state, values, not_judged = _values(state, observation)
    schedule = _schedule(settings, state, observation)
    if schedule is None:
        not_judged["progress"] = "the learning rates ahead are not known"
    detectors, scores = update_all(settings, _restored(settings, state), values, schedule, hold=hold)
    state, slices, risen = _slices(settings, state, evaluation, slice_error, hold=hold)
    num_held_back = max(int(detectors["mean"].held_back[0]), int(detectors["tail"].held_back[0]))
    steps = (*state.steps, observation.step)
    healthy = len(steps) - 1 - num_held_back - MAX_DETECTION_DELAY
    monitored = Monitored(
        scores=scores,
        log_evidence=float(global_evidence(scores)[0]),
        slices=slices,
        risen_slices=risen,
        not_judged=not_judged,
        healthy_step=steps[max(healthy, 0)],
        num_evaluations=len(state.steps),
        num_held_back=num_held_back,
    )
    state = replace(
        state,
        steps=steps[-settings.kept_evaluations :],
        progress=(*state.progress, observation.progress)[-settings.kept_evaluations :],
        detectors={name: SavedDetector.of(detector) for name, detector in detectors.items()},
    )
    return state, monitored


def _rolled_back(state: MonitorState, progress: float) -> MonitorState:
    """Without the evaluations at schedule positions that the run passes again: they were of discarded weights."""
    num_lost = sum(past >= progress for past in state.progress)
    if not num_lost:
        return state
    num_left = len(state.steps) - num_lost
    return replace(
        state,
        steps=state.steps[:num_left],
        progress=state.progress[:num_left],
        detectors={name: detector.without_newest(num_lost) for name, detector in state.detectors.items()},
        slices=state.slices.without_newest(num_lost),
        num_slice_evaluations=0,
    )


def _values(
    state: MonitorState, observation: Observation
) -> tuple[MonitorState, dict[Statistic, FloatArray], dict[str, str]]:
    """State, the statistics of this evaluation [1], and which of them have no value, with the reason."""
    evaluation, not_judged = observation.evaluation, {}
    tail = np.nan
    if state.tail:
        tail = _nats_per_token(evaluation, np.array(state.tail, dtype=np.int64))
    else:
        state = _choose_tail(state, evaluation)
        not_judged["tail"] = "its documents are being chosen"
    losses = _synthetic_losses(observation)
    segments = tuple((name, tuple(observation.live.get(name, ()))) for name in losses)
    if not losses:
        not_judged["gap"] = "no loss on synthetic text was measured"
    elif segments != state.gap_segments:  # other samples: their loss is not comparable
        detectors = {**state.detectors, "gap": SavedDetector()}
        state = replace(state, gap_segments=segments, detectors=detectors)
    mean = evaluation.nats_per_token
    gap = mean - float(np.mean(list(losses.values()))) if losses else np.nan
    values: dict[Statistic, FloatArray] = {"mean": np.array([mean]), "tail": np.array([tail]), "gap": np.array([gap])}
    return state, values, not_judged


def _choose_tail(state: MonitorState, evaluation: Evaluation) -> MonitorState:
    """The losses by document summed over a few evaluations; after these the tail is chosen and the sums are dropped."""
    nats_D = evaluation.loss_sum_nats + np.array(state.tail_nats or 0.0)
    num_evaluations = 1 + state.num_tail_evaluations
    if num_evaluations < TAIL_EVALUATIONS:
        return replace(state, tail_nats=tuple(nats_D.tolist()), num_tail_evaluations=num_evaluations)
    highest = np.argsort(-(nats_D / evaluation.tokens), kind="stable")[: max(1, round(TAIL_SHARE * len(nats_D)))]
    return replace(state, tail_nats=(), num_tail_evaluations=0, tail=tuple(np.sort(highest).tolist()))


def _nats_per_token(evaluation: Evaluation, documents: IntArray) -> float:
    return float(evaluation.loss_sum_nats[documents].sum() / evaluation.tokens[documents].sum())


def _synthetic_losses(observation: Observation) -> dict[str, float]:
    """The loss on each synthetic source that has one, by name: on the same samples at each evaluation, so that
    differences between samples cancel; where none is measured, that of the training since the last evaluation.
    """
    fixed = {name: loss for name, loss in observation.evaluation.source_nats_per_token.items() if np.isfinite(loss)}
    trained = {name: loss.nats_per_token for name, loss in observation.losses.items() if loss.tokens}
    for losses in (fixed, trained):
        synthetic = {name: losses[name] for name in sorted(losses) if observation.kinds.get(name) == "synthetic"}
        if synthetic:
            return synthetic
    return {}


def _schedule(settings: DetectorSettings, state: MonitorState, observation: Observation) -> Schedule | None:
    """The schedule at the evaluations that the forecast keeps, and now; None where the rates are not known."""
    if not observation.horizon.rates or max(observation.horizon.rates) <= 0:
        return None
    num_kept = forecast_settings(settings).kept_evaluations
    progress = np.array([*state.progress, observation.progress][-(num_kept + 1) :], dtype=np.float64)
    area, rate = np.zeros(num_kept + 1), np.zeros(num_kept + 1)
    area[-len(progress) :], rate[-len(progress) :] = area_and_rate(observation.horizon, progress)
    return Schedule(area=area, rate=rate)


def _slices(
    settings: DetectorSettings, state: MonitorState, evaluation: Evaluation, error: float, *, hold: bool
) -> tuple[MonitorState, dict[str, float], tuple[str, ...]]:
    """State, ln of each slice's e-process, and the slices that e-BH says have risen. A single slice is the mean."""
    counts = np.bincount(evaluation.slice_of, minlength=len(evaluation.slices))
    names = [name for name, count in zip(evaluation.slices, counts, strict=True) if count >= MIN_SLICE_DOCUMENTS]
    if len(names) < 2:
        return state, {}, ()
    chosen = [evaluation.slices.index(name) for name in names]
    nats = np.bincount(evaluation.slice_of, weights=evaluation.loss_sum_nats, minlength=len(counts))
    tokens = np.bincount(evaluation.slice_of, weights=evaluation.tokens, minlength=len(counts))
    value_N = (nats / np.maximum(tokens, 1))[chosen]
    num_evaluations = state.num_slice_evaluations + 1
    before = state.slices.restored(settings, len(names))
    after, score = update(settings, before, value_N, weight=start_weight(num_evaluations), hold=hold)
    state = replace(
        state, slices=SavedDetector.of(after), num_slice_evaluations=num_evaluations if score.ready.any() else 0
    )
    rejected = discoveries(score.log_evidence[None], error)[0] & score.ready
    risen = tuple(name for name, is_risen in zip(names, rejected, strict=True) if is_risen)
    return state, dict(zip(names, score.log_evidence.tolist(), strict=True)), risen


def _restored(settings: DetectorSettings, state: MonitorState) -> dict[Statistic, DetectorState]:
    forecast = forecast_settings(settings)
    return {
        name: state.detectors.get(name, SavedDetector()).restored(forecast if name == "progress" else settings, 1)
        for name in STATISTICS
    }
