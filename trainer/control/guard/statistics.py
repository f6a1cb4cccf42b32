"""What the guard watches of the readings, and the evidence that adds up from it.

Four statistics, because no one of them sees every damage: the mean (all of held-out), the tail (collapse begins with
the rare: in science's Zipf model the mean moves by 3 % when the tail is gone), the gap (synthetic loss falls while
held-out stands) and the progress (damage inside a curve that still falls). And each slice, so that a minority cannot
rot unseen. ``trainer.control.guard.detector`` says what is guaranteed: the four are e-detectors, and their plain mean,
which is one again, decides (one that cannot be judged counts as 0: that loses power, never validity); the slices are
e-processes, and e-BH decides. The tail's documents are chosen on readings that do not count for it afterwards, or they
would get better by themselves (regression to the mean).
"""

# S streams, W readings kept, D held-out documents, N slices

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trainer.base.records import Evaluation, FloatArray, Horizon, IntArray, Observation
from trainer.control.guard.detector import (
    LOG_EMPTY,
    RATES,
    DetectorSettings,
    Look,
    Track,
    discoveries,
    empty_track,
    log_mean,
    look,
    start_weight,
)

Statistic = Literal["mean", "tail", "gap", "progress"]
STATISTICS: tuple[Statistic, ...] = ("mean", "tail", "gap", "progress")
TAIL_SHARE = 0.1  # the worst decile
CHOOSING_EVALUATIONS = 5  # under whose mean loss the tail's documents are chosen
FORECAST_EVALUATIONS = 60  # past of a forecast: over longer ones no law holds, with a learning rate that changes
LOST_PART = 0.03  # of what was gained in the past of the forecast, that a reading may lie behind it
STANDS = 2.0  # jitter SDs that held-out loss may lie below its past and still be said to stand
FEWEST_OF_A_SLICE = 4  # documents below which a slice is not judged
MAX_DEFICIT = 3  # readings before the first suspicious one, or the newest, that may be damaged already


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is known of the readings kept and of now [W + 1]: ``area``, the learning rate summed up to them, and the
    ``rate`` itself, both as parts of the greatest; 0 before the first.
    """

    area: FloatArray
    rate: FloatArray

    def laws(self) -> list[FloatArray]:
        """Laws of a healthy fall over the ``FORECAST_EVALUATIONS``: near e + b area^-a for small and large a, and the
        same with the drop that comes of a falling rate (the variables of Tissue, Wang, Wang, arXiv 2408.11029).
        """
        area = np.where(self.area > 0, self.area, 1.0)
        one = np.ones(len(area))
        return [
            np.column_stack(columns)
            for curve in (np.log(area), area**-0.5)
            for columns in ((one, curve), (one, curve, self.rate))
        ]


def forecast_settings(settings: DetectorSettings) -> DetectorSettings:
    """The settings of the progress statistic: a shorter past."""
    return DetectorSettings(
        history_evaluations=min(settings.history_evaluations, FORECAST_EVALUATIONS),
        min_evaluations=min(settings.min_evaluations, FORECAST_EVALUATIONS),
        margin=settings.margin,
        suspicion=settings.suspicion,
    )


def empty_tracks(settings: DetectorSettings, num_streams: int) -> dict[Statistic, Track]:
    """A track of each statistic that has seen nothing."""
    return {
        name: empty_track(forecast_settings(settings) if name == "progress" else settings, num_streams)
        for name in STATISTICS
    }


def look_at(
    settings: DetectorSettings,
    tracks: Mapping[Statistic, Track],
    values: Mapping[Statistic, FloatArray],
    schedule: Schedule | None,
    *,
    hold: bool = False,
) -> tuple[dict[Statistic, Track], dict[Statistic, Look]]:
    """One reading of every statistic: ``values`` [S] in nats per token, NaN where there is none.

    ``gap`` counts only as far as the mean stands or rises: of the two z the lesser one. ``progress`` holds the mean
    against a forecast and needs the schedule, of as many readings as its track keeps.
    """
    after: dict[Statistic, Track] = {}
    found: dict[Statistic, Look] = {}
    after["mean"], found["mean"] = look(settings, tracks["mean"], values["mean"], hold=hold)
    after["tail"], found["tail"] = look(settings, tracks["tail"], values["tail"], hold=hold)
    mean = found["mean"]
    stands = (values["mean"] - mean.expected) / np.maximum(mean.jitter, 1e-12) + STANDS
    most_z = np.where(mean.ready, stands, -np.inf)
    after["gap"], found["gap"] = look(settings, tracks["gap"], values["gap"], most_z_S=most_z, hold=hold)
    known = schedule is not None
    after["progress"], found["progress"] = look(
        forecast_settings(settings),
        tracks["progress"],
        values["mean"] if known else np.full_like(values["mean"], np.nan),
        laws=schedule.laws() if schedule is not None else None,
        tolerated_part=LOST_PART,
        hold=hold,
    )
    return after, found


def global_evidence(found: Mapping[Statistic, Look]) -> FloatArray:
    """ln of the mean of the four e-detectors, [S]: an e-detector itself, whatever depends on what."""
    return log_mean(np.stack([found[name].log_evidence for name in STATISTICS], axis=1))


# The same for the readings of one run: state in plain JSON


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a reading adds up to: looks by statistic (one stream), ln of the global evidence and of that by slice, the
    slices discovered, what is not judged and why, the newest step that is surely sound, and how many readings are kept
    aside.
    """

    looks: Mapping[Statistic, Look]
    log_evidence: float
    slices: Mapping[str, float]
    risen_slices: tuple[str, ...]
    not_judged: Mapping[str, str]
    sound_step: int
    num_evaluations: int
    num_aside: int

    @property
    def ready(self) -> bool:
        """Whether the mean can be judged."""
        return bool(self.looks["mean"].ready[0])

    @property
    def strongest(self) -> Statistic:
        """The statistic with the most evidence."""
        return max(STATISTICS, key=lambda name: float(self.looks[name].log_evidence[0]))


def begin() -> dict[str, Any]:
    """The state before the first reading."""
    return {
        "steps": [], "progress": [], "documents": None, "choosing": {}, "tail": [], "gap_of": [], "tracks": {},
        "slices": {}, "slice_looks": 0,
    }  # fmt: skip


def forgive(state: dict[str, Any]) -> dict[str, Any]:
    """All evidence back to nothing, the readings under suspicion still kept aside: after an alarm, so that the remedy
    gets its chance and damage does not become normal.
    """
    tracks = {name: _emptied(track) for name, track in state["tracks"].items()}
    slices = _emptied(state["slices"]) if state["slices"] else {}
    return {**state, "tracks": tracks, "slices": slices, "slice_looks": 0}


def watch(
    settings: DetectorSettings, state: dict[str, Any], observation: Observation, *, slice_error: float, hold: bool
) -> tuple[dict[str, Any], Findings]:
    """The state after the reading of ``observation``, and what was found; the reading must be sound
    (``guard.fault``).
    """
    evaluation = observation.evaluation
    documents = [len(evaluation.nats), int(evaluation.tokens.sum())]
    if state["documents"] != documents:
        state = {**begin(), "documents": documents}  # others than before: there is nothing to hold them against
    state = _rolled_back(state, observation.progress)
    state, values, not_judged = _values(state, observation)
    schedule = _schedule(settings, state, observation)
    if schedule is None:
        not_judged["progress"] = "the learning rates ahead are not known"
    tracks = _tracks(settings, state)
    tracks, looks = look_at(settings, tracks, values, schedule, hold=hold)
    state, slices, risen = _slices(settings, state, evaluation, slice_error, hold=hold)
    aside = max(int(tracks["mean"].aside[0]), int(tracks["tail"].aside[0]))
    steps = [*state["steps"], observation.step]
    sound = len(steps) - 1 - aside - MAX_DEFICIT
    findings = Findings(
        looks=looks,
        log_evidence=float(global_evidence(looks)[0]),
        slices=slices,
        risen_slices=risen,
        not_judged=not_judged,
        sound_step=steps[max(sound, 0)],
        num_evaluations=len(state["steps"]),
        num_aside=aside,
    )
    state = {
        **state,
        "steps": steps[-settings.kept_evaluations :],
        "progress": [*state["progress"], observation.progress][-settings.kept_evaluations :],
        "tracks": {name: to_json(track) for name, track in tracks.items()},
    }
    return state, findings


def _rolled_back(state: dict[str, Any], progress: float) -> dict[str, Any]:
    """Without the readings at positions of the schedule that the run passes again: they were of another model."""
    lost = sum(past >= progress for past in state["progress"])
    if not lost:
        return state
    left = len(state["steps"]) - lost
    return {
        **state,
        "steps": state["steps"][:left],
        "progress": state["progress"][:left],
        "tracks": {name: _shortened(track, lost) for name, track in state["tracks"].items()},
        "slices": _shortened(state["slices"], lost) if state["slices"] else {},
        "slice_looks": 0,
    }


def _values(
    state: dict[str, Any], observation: Observation
) -> tuple[dict[str, Any], dict[Statistic, FloatArray], dict[str, str]]:
    """State, the statistics of this reading [1], and what has none, with the reason."""
    evaluation, not_judged = observation.evaluation, {}
    tail = np.nan
    if state["tail"]:
        tail = _nats_per_token(evaluation, np.array(state["tail"], dtype=np.int64))
    else:
        state = _choosing(state, evaluation)
        not_judged["tail"] = "its documents are being chosen"
    sources, losses = _synthetic_losses(observation)
    if not sources:
        not_judged["gap"] = "no loss on synthetic text was measured"
    elif (read := [[name, *observation.live.get(name, ())] for name in sources]) != state["gap_of"]:
        tracks = {name: track for name, track in state["tracks"].items() if name != "gap"}
        state = {**state, "gap_of": read, "tracks": tracks}  # other samples: their loss is another
    mean = evaluation.nats_per_token
    gap = mean - float(np.mean(losses)) if sources else np.nan
    values: dict[Statistic, FloatArray] = {"mean": np.array([mean]), "tail": np.array([tail]), "gap": np.array([gap])}
    return state, values, not_judged


def _choosing(state: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """The losses that the tail is chosen by, summed over a few readings; then the choice, and the sums are dropped."""
    nats_D = evaluation.nats + np.array(state["choosing"]["nats"] if state["choosing"] else 0.0)
    count = 1 + (state["choosing"]["evaluations"] if state["choosing"] else 0)
    if count < CHOOSING_EVALUATIONS:
        return {**state, "choosing": {"nats": nats_D.tolist(), "evaluations": count}}
    worst = np.argsort(-(nats_D / evaluation.tokens), kind="stable")[: max(1, round(TAIL_SHARE * len(nats_D)))]
    return {**state, "choosing": {}, "tail": np.sort(worst).tolist()}


def _nats_per_token(evaluation: Evaluation, documents: IntArray) -> float:
    return float(evaluation.nats[documents].sum() / evaluation.tokens[documents].sum())


def _synthetic_losses(observation: Observation) -> tuple[list[str], list[float]]:
    """The synthetic sources with a loss, and it: on the same samples at each reading, so that what differs between
    samples cancels; where none are read, that of the training since the reading before.
    """
    fixed = {name: loss for name, loss in observation.evaluation.source_nats_per_token.items() if np.isfinite(loss)}
    trained = {name: loss.nats_per_token for name, loss in observation.losses.items() if loss.tokens}
    for losses in (fixed, trained):
        sources = sorted(name for name in losses if observation.kinds.get(name) == "synthetic")
        if sources:
            return sources, [losses[name] for name in sources]
    return [], []


def _schedule(settings: DetectorSettings, state: dict[str, Any], observation: Observation) -> Schedule | None:
    """The schedule at the readings that the forecast keeps, and now; None where the rates are not known."""
    if not observation.horizon.rates or max(observation.horizon.rates) <= 0:
        return None
    kept = forecast_settings(settings).kept_evaluations
    known = np.array([*state["progress"], observation.progress][-(kept + 1) :], dtype=np.float64)
    area, rate = np.zeros(kept + 1), np.zeros(kept + 1)
    area[-len(known) :], rate[-len(known) :] = area_and_rate(observation.horizon, known)
    return Schedule(area=area, rate=rate)


def area_and_rate(horizon: Horizon, progress: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The learning rate summed up to each ``progress``, and there, as parts of the whole run at the greatest rate."""
    rates = np.array(horizon.rates, dtype=np.float64) / max(horizon.rates)
    num = len(rates)
    edges, middles = np.arange(num + 1) / num, (np.arange(num) + 0.5) / num
    area = np.interp(progress, edges, np.concatenate([[0.0], np.cumsum(rates) / num]))
    return np.maximum(area, 0.5 / num * float(rates[0]) + 1e-9), np.interp(progress, middles, rates)


def _slices(
    settings: DetectorSettings, state: dict[str, Any], evaluation: Evaluation, error: float, *, hold: bool
) -> tuple[dict[str, Any], dict[str, float], tuple[str, ...]]:
    """State, ln of each slice's e-process, and the slices that e-BH finds risen. One slice alone is the mean."""
    counts = np.bincount(evaluation.slice_of, minlength=len(evaluation.slices))
    names = [name for name, count in zip(evaluation.slices, counts, strict=True) if count >= FEWEST_OF_A_SLICE]
    if len(names) < 2:
        return state, {}, ()
    chosen = [evaluation.slices.index(name) for name in names]
    nats = np.bincount(evaluation.slice_of, weights=evaluation.nats, minlength=len(counts))
    tokens = np.bincount(evaluation.slice_of, weights=evaluation.tokens, minlength=len(counts))
    value_N = (nats / np.maximum(tokens, 1))[chosen]
    before = from_json(settings, state["slices"], len(names))
    num_looks = state["slice_looks"] + 1
    after, found = look(settings, before, value_N, weight=start_weight(num_looks), hold=hold)
    state = {**state, "slices": to_json(after), "slice_looks": num_looks if found.ready.any() else 0}
    fallen = discoveries(found.log_evidence[None], error)[0] & found.ready
    risen = tuple(name for name, is_risen in zip(names, fallen, strict=True) if is_risen)
    return state, dict(zip(names, found.log_evidence.tolist(), strict=True)), risen


def _tracks(settings: DetectorSettings, state: dict[str, Any]) -> dict[Statistic, Track]:
    forecast = forecast_settings(settings)
    return {
        name: from_json(forecast if name == "progress" else settings, state["tracks"].get(name, {}), 1)
        for name in STATISTICS
    }


def to_json(track: Track) -> dict[str, Any]:
    """A track in plain JSON: None for a missing value, nothing before the first."""
    known = ~np.isnan(track.values).all(axis=0)
    first = int(np.argmax(known)) if known.any() else track.values.shape[1]
    rows = track.values[:, first:].tolist()
    return {
        "values": [[None if value != value else value for value in row] for row in rows],
        "aside": track.aside.tolist(),
        "log_evidence": track.log_evidence.tolist(),
    }


def from_json(settings: DetectorSettings, stored: Mapping[str, Any], num_streams: int) -> Track:
    """The track that was stored; an empty one where nothing was."""
    empty = empty_track(settings, num_streams)
    if not stored:
        return empty
    values = empty.values
    rows = np.array(stored["values"], dtype=np.float64)[:, -values.shape[1] :]
    if rows.shape[1]:
        values[:, -rows.shape[1] :] = rows
    return Track(
        values=values,
        aside=np.array(stored["aside"], dtype=np.int64),
        log_evidence=np.array(stored["log_evidence"], dtype=np.float64),
    )


def _emptied(track: Mapping[str, Any]) -> dict[str, Any]:
    return {**track, "log_evidence": [[LOG_EMPTY] * len(RATES) for _ in track["aside"]]}


def _shortened(track: Mapping[str, Any], lost: int) -> dict[str, Any]:
    """Without the newest ``lost`` values; what was kept aside of those that are left stays aside."""
    kept = [row[: max(len(row) - lost, 0)] for row in track["values"]]
    return {**_emptied(track), "values": kept, "aside": [max(number - lost, 0) for number in track["aside"]]}
