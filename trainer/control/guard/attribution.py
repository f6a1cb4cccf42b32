"""Which source did the damage? What is known of each synthetic source when the guard has raised an alarm.

A finding is measured on the source itself and exceeds its error: its tokens are of little value, or its gradient points
away from that of held-out text. A sign is a coincidence: the loss on it left its course when the damage came, it joined
or gained share shortly before. A finding is enough to cut a source; signs only say which source a rollback starts with
(``trainer.control.guard.guard``). Nothing is attributed to real data: held-out data is real, too.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.base.formatting import share_figure
from trainer.base.records import GradientAlignment, Kind, Observation
from trainer.control.guard.state import AttributionState, EvaluationRecord, SourceRecord
from trainer.control.source_scores import SourceScore, score_sources, with_source_values

SOURCE_VALUE_DECAY = 0.8  # weight of a source value relative to the next
SOURCE_VALUE_EVALUATIONS = 3
ALIGNMENT_EVALUATIONS = 4  # the newest, averaged: alignments change during a run
MEMORY_EVALUATIONS = 60  # of losses and shares: the most that are held back, and as many before
RECENT_EVALUATIONS = 12  # damage is detected within 5 to 16 evaluations
MIN_EVALUATIONS_BEFORE = 6  # of a loss before the damage, below which its course is not known
HARM_MEASUREMENTS = 2  # consecutive, that show harm together
RAISED = 1.1  # factor on a share that counts as raised
BEFORE_JOINING = SourceRecord()
LEFT_COURSE, JOINED, GAINED = 2, 2, 1  # points of the signs


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """``attributed``: the source that findings show to be harmful; ``suspected``: that, or the one most signs point to;
    each None where there is none. ``because`` gives the grounds in words, ``sources`` the figures of each source.
    """

    attributed: str | None
    suspected: str | None
    because: str
    sources: Mapping[str, Mapping[str, Any]]


def record(state: AttributionState, observation: Observation) -> AttributionState:
    """The state with what an alarm will need: source values, alignments, and each source's loss, share and size."""
    sources = {
        name: SourceRecord(
            share=share,
            loss=_loss(observation, name),
            num_samples=observation.horizon.num_samples.get(name, 0),
            segments=tuple(observation.live.get(name, ())),
        )
        for name, share in observation.shares.items()
    }
    before = state.evaluations[-1].sources if state.evaluations else {}
    changed = [name for name in sources if name in before and before[name].segments != sources[name].segments]
    # values of segments that are no longer drawn, or not alone, say nothing about the source now
    source_values = [measured.without(changed) for measured in state.source_values]
    alignments = {
        name: (alignment.inner_product, alignment.standard_error)
        for name, alignment in observation.gradient_alignment.items()
        if _is_usable(alignment)
    }
    evaluation = EvaluationRecord(nats_per_token=observation.evaluation.nats_per_token, sources=sources)
    return replace(
        state,
        source_values=with_source_values(source_values, observation),
        alignments=(*state.alignments, *([alignments] if alignments else []))[-ALIGNMENT_EVALUATIONS:],
        evaluations=(*state.evaluations, evaluation)[-MEMORY_EVALUATIONS:],
    )


def attribute(
    state: AttributionState, observation: Observation, *, z: float, value_below: float, num_held_back: int
) -> Attribution:
    """The source of the damage, of which the newest ``num_held_back`` evaluations are suspicious.

    Findings and departures count beyond ``z`` standard errors; a source value only below ``value_below`` fresh real
    tokens.
    """
    drawn = [name for name, share in observation.shares.items() if share > 0]
    # a source that is drawn alone cannot be removed: then nothing is attributed, and the guard escalates without
    synthetic = [name for name in drawn if observation.kinds[name] == "synthetic"] if len(drawn) > 1 else []
    scores = score_sources(
        state.source_values,
        observation.shares,
        decay=SOURCE_VALUE_DECAY,
        min_evaluations=SOURCE_VALUE_EVALUATIONS,
    )
    aligned = _mean_alignments(state.alignments, observation.kinds)
    findings = {name: _findings(scores.get(name), aligned.get(name), z, value_below) for name in synthetic}
    signs = {name: _signs(state.evaluations, name, z, num_held_back) for name in synthetic}
    sources: dict[str, dict[str, Any]] = {}
    for name in synthetic:
        sources[name] = {"findings": list(findings[name]), "signs": [text for _, text in signs[name]]}
        if name in scores:
            sources[name] |= scores[name].as_evidence()
        if name in aligned:
            sources[name] |= {"alignment": aligned[name][0], "alignment_standard_error": aligned[name][1]}
    attributed = _most_harmful([name for name in synthetic if findings[name]], scores, aligned)
    suspected = attributed or _foremost({name: sum(points for points, _ in signs[name]) for name in synthetic})
    because: Sequence[str] = ()
    if attributed is not None:
        because = findings[attributed]
    elif suspected is not None:
        because = [text for _, text in signs[suspected]]
    return Attribution(attributed=attributed, suspected=suspected, because="; ".join(because), sources=sources)


def harmful_source(
    state: AttributionState, observation: Observation, *, z: float, value_below: float
) -> tuple[str, str] | None:
    """The synthetic source that is harmful whether or not held-out loss shows it yet, and on what grounds.

    Its value was below ``value_below`` fresh real tokens in each of the two newest measurements, the second of them
    made now, and their precision-weighted mean is below that, and below the mean of some other source, by more than
    ``z`` standard errors. Two, because the errors are estimates.
    """
    newest = state.source_values[-HARM_MEASUREMENTS:]
    drawn = [name for name, share in observation.shares.items() if share > 0]
    if len(newest) < HARM_MEASUREMENTS or newest[-1].step != observation.step:
        return None
    measured = {
        name: [measurement.sources[name] for measurement in newest if name in measurement.sources] for name in drawn
    }
    means = {
        name: _weighted_mean([(source.value, source.standard_error) for source in values])
        for name, values in measured.items()
        if len(values) == len(newest)
    }
    harmful = [
        name
        for name, (value, error) in means.items()
        if observation.kinds[name] == "synthetic"
        and max(source.value for source in measured[name]) < value_below
        and value + z * error < value_below
        and any(value - other + z * math.hypot(error, its) < 0 for other, its in means.values())
    ]
    if not harmful:
        return None
    worst = min(harmful, key=lambda name: means[name][0])
    values = " and ".join(f"{source.value:.2f} ± {source.standard_error:.2f}" for source in measured[worst])
    return worst, f"a token of it was worth {values} fresh real ones in the last {len(newest)} measurements"


def _weighted_mean(measured: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Precision-weighted mean and its standard error; the plain mean where a measurement has no error."""
    values, errors = np.array(measured, dtype=np.float64).T
    if not errors.all():
        return float(values.mean()), float(np.sqrt((errors**2).sum())) / len(errors)
    weights = errors**-2
    return float((weights * values).sum() / weights.sum()), float(weights.sum() ** -0.5)


def _loss(observation: Observation, name: str) -> float | None:
    """On the same samples at each evaluation where they are measured, else of the training since the last one."""
    trained = observation.losses.get(name)
    loss = observation.evaluation.source_nats_per_token.get(
        name, trained.nats_per_token if trained is not None else math.nan
    )
    return float(loss) if math.isfinite(loss) else None


def _is_usable(alignment: GradientAlignment) -> bool:
    figures = (alignment.inner_product, alignment.standard_error)
    return alignment.num_samples > 0 and all(math.isfinite(figure) for figure in figures) and figures[1] >= 0


def _mean_alignments(
    rows: Sequence[Mapping[str, tuple[float, float]]], kinds: Mapping[str, Kind]
) -> dict[str, tuple[float, float]]:
    """Mean alignment of each synthetic source over the evaluations that have it, and its standard error."""
    means = {}
    for name in {name for row in rows for name in row if kinds.get(name) == "synthetic"}:
        values, errors = np.array([row[name] for row in rows if name in row], dtype=np.float64).T
        means[name] = (float(values.mean()), float(np.sqrt((errors**2).sum())) / len(values))
    return means


def _findings(
    score: SourceScore | None, aligned: tuple[float, float] | None, z: float, value_below: float
) -> tuple[str, ...]:
    """Each finding against a source, in words."""
    findings = []
    if (
        score is not None
        and score.source_value + z * score.source_value_standard_error < value_below
        and score.advantage + z * score.advantage_standard_error < 0
    ):
        error = score.source_value_standard_error
        findings.append(f"a token of it is worth {score.source_value:.2f} ± {error:.2f} of a fresh real one")
    if aligned is not None and aligned[0] + z * aligned[1] < 0:
        findings.append(f"its gradient points away from held-out text ({aligned[0]:.3g} ± {aligned[1]:.2g})")
    return tuple(findings)


def _signs(evaluations: Sequence[EvaluationRecord], name: str, z: float, num_held_back: int) -> list[tuple[int, str]]:
    """Points and words of every sign that points to a source."""
    signs = []
    departure = _departure(evaluations, name, num_held_back)
    if departure is not None and abs(departure) > z:
        direction = "rose" if departure < 0 else "fell"
        text = f"its loss {direction} against that on held-out text when the damage came ({abs(departure):.1f} SE)"
        signs.append((LEFT_COURSE, text))
    recent = [
        evaluation.sources.get(name, BEFORE_JOINING)
        for evaluation in evaluations[-RECENT_EVALUATIONS - max(num_held_back, 0) :]
    ]
    if len(recent) < 2:
        return signs
    first, last = recent[0], recent[-1]
    if (first.share == 0 and last.share > 0) or last.num_samples > first.num_samples:
        signs.append((JOINED, "it joined, or got new samples, shortly before"))
    elif last.share > RAISED * first.share:
        change = f"from {share_figure(first.share)} to {share_figure(last.share)}"
        signs.append((GAINED, f"its share was raised {change} shortly before"))
    return signs


def _departure(evaluations: Sequence[EvaluationRecord], name: str, num_held_back: int) -> float | None:
    """By how many standard errors held-out loss minus the loss on a source has risen since the damage came; None where
    that is not known. Its noise is that of the differences between neighboring evaluations.
    """
    rows = [(evaluation.nats_per_token, evaluation.sources.get(name, BEFORE_JOINING)) for evaluation in evaluations]
    segments = rows[-1][1].segments
    comparable = [(nats, source.loss) for nats, source in rows if source.segments == segments]  # on the same samples
    gap = np.array([nats - loss for nats, loss in comparable if loss is not None], dtype=np.float64)
    num_since = max(num_held_back, 3)
    before = gap[:-num_since][-MEMORY_EVALUATIONS // 2 :]
    if len(before) < MIN_EVALUATIONS_BEFORE:
        return None
    noise = float(np.std(np.diff(before), ddof=1)) / math.sqrt(2)
    error = noise * math.sqrt(1 / num_since + 1 / len(before))
    return float((gap[-num_since:].mean() - before.mean()) / error) if error > 0 else None


def _most_harmful(
    names: Sequence[str], scores: Mapping[str, SourceScore], aligned: Mapping[str, tuple[float, float]]
) -> str | None:
    """The one of least source value; where none has a value, of the lowest alignment."""

    def order(name: str) -> tuple[float, float]:
        source_value = scores[name].source_value if name in scores else math.inf
        return source_value, aligned[name][0] if name in aligned else math.inf

    return min(names, key=order, default=None)


def _foremost(points: Mapping[str, int]) -> str | None:
    """The source with the most points; None where none has any, or two have as many."""
    most = max(points.values(), default=0)
    leaders: Collection[str] = [name for name, count in points.items() if count == most]
    return next(iter(leaders)) if most > 0 and len(leaders) == 1 else None
