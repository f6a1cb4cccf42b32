"""Which source did it? What each clue says of the synthetic sources when the guard has raised an alarm.

A proof is measured on the source itself and lies beyond its error: its tokens are worth little, or its gradient points
away from that of held-out text. A hint is a coincidence: the loss on it left its course when the damage came, it joined
or gained share shortly before. A proof is enough to cut a source; hints only say with which source a rollback begins
(``trainer.control.guard.guard``). Real data are never accused: what they do to held-out real data is the thing itself.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.base.records import SHARE_ONE, Alignment, Kind, Observation
from trainer.control.source_scores import Standing, remember, standings

SOURCE_VALUE_DECAY = 0.8  # weight of a worth relative to the next
SOURCE_VALUE_EVALUATIONS = 3
ALIGNMENT_EVALUATIONS = 4  # the newest, averaged: alignments change while a run goes on
MEMORY_EVALUATIONS = 60  # of losses and shares: the most that is kept aside, and as many before
RECENT_EVALUATIONS = 12  # damage is found in 5 to 16 readings
FEWEST_BEFORE = 6  # readings of a loss before the damage, below which its course is not known
HARM_MEASUREMENTS = 2  # running, that prove harm together
RAISED = 1.1  # factor on a share that counts as raised
ABSENT: Mapping[str, Any] = {"share": 0, "loss": None, "size": 0, "live": []}  # the course of a source before it joins
LEFT_COURSE, JOINED, GAINED = 2, 2, 1  # points of the hints


@dataclass(frozen=True, kw_only=True)
class Accusation:
    """``guilty``: the source that is proven to harm; ``suspect``: that most hints point to; each None where there is
    none. ``because`` gives the grounds in words, ``clues`` the figures of each source.
    """

    guilty: str | None
    suspect: str | None
    because: str
    clues: Mapping[str, Mapping[str, Any]]


def begin() -> dict[str, Any]:
    """The state before the first reading."""
    return {"source_values": [], "alignments": [], "courses": []}


def note(state: dict[str, Any], observation: Observation) -> dict[str, Any]:
    """What will be asked for when an alarm comes: worths, alignments, and each source's loss, share and size."""
    course = {
        name: {
            "share": share,
            "loss": _loss(observation, name),
            "size": observation.horizon.num_samples.get(name, 0),
            "live": list(observation.live.get(name, ())),
        }
        for name, share in observation.shares.items()
    }
    before = state["courses"][-1]["of"] if state["courses"] else {}
    other = [name for name, one in course.items() if name in before and before[name]["live"] != one["live"]]
    source_values = [  # of segments that are drawn no more, or not alone, nothing is proven
        {
            **evaluation,
            "source_value": {
                name: source_value for name, source_value in evaluation["source_value"].items() if name not in other
            },
        }
        for evaluation in state["source_values"]
    ]
    alignments = {
        name: [one.inner_product, one.standard_error] for name, one in observation.alignment.items() if _usable(one)
    }
    return {
        "source_values": remember(source_values, observation),
        "alignments": [*state["alignments"], *([alignments] if alignments else [])][-ALIGNMENT_EVALUATIONS:],
        "courses": [*state["courses"], {"nats": observation.evaluation.nats_per_token, "of": course}][
            -MEMORY_EVALUATIONS:
        ],
    }


def accuse(
    state: dict[str, Any], observation: Observation, *, z: float, value_below: float, num_aside: int
) -> Accusation:
    """Who did the damage, of which the newest ``num_aside`` readings are suspicious.

    Proofs and departures count beyond ``z`` standard errors; a worth only below ``value_below`` fresh real tokens.
    """
    left = [name for name, share in observation.shares.items() if share > 0]
    # who is all there is cannot be taken out: then nobody is accused, and the ladder goes on without
    drawn = [name for name in left if observation.kinds[name] == "synthetic"] if len(left) > 1 else []
    standing = standings(
        state["source_values"], observation.shares, decay=SOURCE_VALUE_DECAY, min_evaluations=SOURCE_VALUE_EVALUATIONS
    )
    aligned = _aligned(state["alignments"], observation.kinds)
    proofs = {name: _proofs(standing.get(name), aligned.get(name), z, value_below) for name in drawn}
    hints = {name: _hints(state["courses"], name, z, num_aside) for name in drawn}
    clues: dict[str, dict[str, Any]] = {}
    for name in drawn:
        clues[name] = {"proofs": list(proofs[name]), "hints": [words for _, words in hints[name]]}
        if name in standing:
            clues[name] |= standing[name].as_evidence()
        if name in aligned:
            clues[name] |= {"alignment": aligned[name][0], "alignment_standard_error": aligned[name][1]}
    guilty = _worst({name: len(found) for name, found in proofs.items()}, standing, aligned)
    points = {name: sum(weight for weight, _ in found) for name, found in hints.items()}
    suspect = guilty or _foremost(points)
    because = "; ".join(proofs[guilty] if guilty else [words for _, words in hints[suspect]] if suspect else [])
    return Accusation(guilty=guilty, suspect=suspect, because=because, clues=clues)


def harmful(state: dict[str, Any], observation: Observation, *, z: float, value_below: float) -> tuple[str, str] | None:
    """The synthetic source that does harm whether or not held-out loss shows it yet, and on what grounds.

    Its worth was below ``value_below`` fresh real tokens in each of the two newest measurements, the second of them
    made now, and their mean by precision is below that, and below the mean of some other source, beyond ``z`` standard
    errors. Two, because errors are estimates.
    """
    newest = state["source_values"][-HARM_MEASUREMENTS:]
    drawn = [name for name, share in observation.shares.items() if share > 0]
    if len(newest) < HARM_MEASUREMENTS or newest[-1]["step"] != observation.step:
        return None
    known = {
        name: [evaluation["source_value"][name] for evaluation in newest if name in evaluation["source_value"]]
        for name in drawn
    }
    means = {name: _mean(found) for name, found in known.items() if len(found) == len(newest)}
    proven = [
        name
        for name, (value, error) in means.items()
        if observation.kinds[name] == "synthetic"
        and max(one for one, _ in known[name]) < value_below
        and value + z * error < value_below
        and any(value - other + z * math.hypot(error, its) < 0 for other, its in means.values())
    ]
    if not proven:
        return None
    worst = min(proven, key=lambda name: means[name][0])
    told = " and ".join(f"{value:.2f} ± {error:.2f}" for value, error in known[worst])
    return worst, f"a token of it was worth {told} fresh real ones in the last {len(newest)} measurements"


def _mean(found: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean by precision with its standard error; of measurements without error the plain one."""
    values, errors = np.array(found, dtype=np.float64).T
    if not errors.all():
        return float(values.mean()), float(np.sqrt((errors**2).sum())) / len(errors)
    weights = errors**-2
    return float((weights * values).sum() / weights.sum()), float(weights.sum() ** -0.5)


def _loss(observation: Observation, name: str) -> float | None:
    """On the same samples at each reading where they are read, else of the training since the reading before."""
    trained = observation.losses.get(name)
    loss = observation.evaluation.source_nats_per_token.get(
        name, trained.nats_per_token if trained is not None else math.nan
    )
    return float(loss) if math.isfinite(loss) else None


def _usable(alignment: Alignment) -> bool:
    figures = (alignment.inner_product, alignment.standard_error)
    return alignment.num_samples > 0 and all(math.isfinite(figure) for figure in figures) and figures[1] >= 0


def _aligned(evaluations: Sequence[Mapping[str, Sequence[float]]], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Mean alignment of each synthetic source over the readings that have it, and its standard error."""
    found = {}
    for name in {name for evaluation in evaluations for name in evaluation if kinds.get(name) == "synthetic"}:
        values, errors = np.array(
            [evaluation[name] for evaluation in evaluations if name in evaluation], dtype=np.float64
        ).T
        found[name] = (float(values.mean()), float(np.sqrt((errors**2).sum())) / len(values))
    return found


def _proofs(
    standing: Standing | None, aligned: tuple[float, float] | None, z: float, value_below: float
) -> tuple[str, ...]:
    proofs = []
    if (
        standing is not None
        and standing.source_value + z * standing.source_value_standard_error < value_below
        and standing.gap + z * standing.gap_standard_error < 0
    ):
        error = standing.source_value_standard_error
        proofs.append(f"a token of it is worth {standing.source_value:.2f} ± {error:.2f} of a fresh real one")
    if aligned is not None and aligned[0] + z * aligned[1] < 0:
        proofs.append(f"its gradient points away from held-out text ({aligned[0]:.3g} ± {aligned[1]:.2g})")
    return tuple(proofs)


def _hints(courses: Sequence[Mapping[str, Any]], name: str, z: float, num_aside: int) -> list[tuple[int, str]]:
    """Points and words of every hint at a source."""
    hints = []
    departure = _departure(courses, name, num_aside)
    if departure is not None and abs(departure) > z:
        way = "rose" if departure < 0 else "fell"
        text = f"its loss {way} against that on held-out text when the damage came ({abs(departure):.1f} SE)"
        hints.append((LEFT_COURSE, text))
    recent = [course["of"].get(name, ABSENT) for course in courses[-RECENT_EVALUATIONS - max(num_aside, 0) :]]
    shares, sizes = [row["share"] for row in recent], [row["size"] for row in recent]
    if len(recent) < 2:
        return hints
    if (shares[0] == 0 and shares[-1] > 0) or sizes[-1] > sizes[0]:
        hints.append((JOINED, "it joined, or got new samples, shortly before"))
    elif shares[-1] > RAISED * shares[0]:
        change = f"from {shares[0] / SHARE_ONE:.3f} to {shares[-1] / SHARE_ONE:.3f}"
        hints.append((GAINED, f"its share was raised {change} shortly before"))
    return hints


def _departure(courses: Sequence[Mapping[str, Any]], name: str, num_aside: int) -> float | None:
    """By how many standard errors held-out loss less the loss on a source has risen since the damage came; None where
    that cannot be told. Its noise is that of the differences between neighboring readings.
    """
    rows = [(course["nats"], course["of"].get(name, ABSENT)) for course in courses]
    alike = [(nats, one["loss"]) for nats, one in rows if one["live"] == rows[-1][1]["live"]]  # the same samples
    gap = np.array([nats - loss for nats, loss in alike if loss is not None], dtype=np.float64)
    since = max(num_aside, 3)
    before = gap[:-since][-MEMORY_EVALUATIONS // 2 :]
    if len(before) < FEWEST_BEFORE:
        return None
    noise = float(np.std(np.diff(before), ddof=1)) / math.sqrt(2)
    error = noise * math.sqrt(1 / since + 1 / len(before))
    return float((gap[-since:].mean() - before.mean()) / error) if error > 0 else None


def _worst(
    proofs: Mapping[str, int], standing: Mapping[str, Standing], aligned: Mapping[str, tuple[float, float]]
) -> str | None:
    """Of the sources with a proof the one of least worth; where none has a worth, of the worst alignment."""
    proven = [name for name, count in proofs.items() if count]

    def badness(name: str) -> tuple[float, float]:
        source_value = standing[name].source_value if name in standing else math.inf
        return source_value, aligned[name][0] if name in aligned else math.inf

    return min(proven, key=badness, default=None)


def _foremost(points: Mapping[str, int]) -> str | None:
    """The one with the most points; None where nobody has any, or two have as many."""
    most = max(points.values(), default=0)
    leaders: Collection[str] = [name for name, count in points.items() if count == most]
    return next(iter(leaders)) if most > 0 and len(leaders) == 1 else None
