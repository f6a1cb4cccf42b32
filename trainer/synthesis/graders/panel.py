"""All graders of a round: each grades labeled rows and the round's, is graded itself, and has a vote or not."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from trainer.base.errors import UserError
from trainer.base.failures import in_words, say
from trainer.synthesis.graders import GRADERS
from trainer.synthesis.graders.bound import verifier
from trainer.synthesis.graders.config import FAULTS, Fault, GradingConfig, faults_of, name_of
from trainer.synthesis.graders.examination import LabeledRow, examined, labeled_rows, lost_vote_for
from trainer.synthesis.graders.kept import Kept
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings
from trainer.synthesis.graders.record import GraderRecord, VerifierRecord

_AT_ONCE = 64  # rows whose grades are kept together


@dataclass(frozen=True, kw_only=True)
class Graded:
    """What came of grading: ``grades`` of the round's rows by grader, and the records."""

    grades: Sequence[tuple[GraderRecord, Sequence[Grade]]]
    verifier: VerifierRecord | None


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """What graders are graded on: real rows that were set aside, and the seed of the faults that are planted."""

    limits: GradingConfig
    real: Sequence[Row]
    seed: int
    generation: int
    also: tuple[Fault, ...] = ()  # faults that are planted though no grader is there to find them


def graded(
    configs: Sequence[Any], rows: Sequence[Row], examiner: Examiner, surroundings: Surroundings, kept: Kept
) -> Graded:
    """The grades of all graders, in the recipe's order. ``kept`` has those from before a kill."""
    named = {fault for config in configs for fault in faults_of(config)} | set(examiner.also)
    faults = [fault for fault in FAULTS if fault in named]
    labeled = labeled_rows(examiner.real, rows, faults, seed=examiner.seed, generation=examiner.generation)
    all_grades, all_labels = [], []
    for config in configs:
        record, of_labeled, of_rows = _of_grader(config, labeled, rows, examiner.limits, surroundings, kept)
        all_grades.append((record, of_rows))
        all_labels.append((record, of_labeled))
    return Graded(grades=all_grades, verifier=_verifier(configs, labeled, all_labels, all_grades, len(rows)))


def _of_grader(
    config: Any,
    labeled: Sequence[LabeledRow],
    rows: Sequence[Row],
    limits: GradingConfig,
    surroundings: Surroundings,
    kept: Kept,
) -> tuple[GraderRecord, Sequence[Grade], Sequence[Grade]]:
    name, began_s = name_of(config), time.monotonic()
    grader = GRADERS.resolve(config.kind)(config, surroundings)
    say(f"grader {name}: {len(labeled)} labeled rows, {len(rows)} rows of the round")
    of_labeled = grades_of(grader, config, [each.row for each in labeled], kept)
    of_rows = grades_of(grader, config, rows, kept)
    own = list(zip(rows, of_rows, strict=True))[: limits.rows]
    record = examined(name, config, labeled, of_labeled, own)
    lost = lost_vote_for(record, limits)
    usage = getattr(grader, "usage", None)
    return (
        replace(
            record,
            model=getattr(grader, "model", None),
            license=getattr(grader, "license", None),
            has_vote=not lost,
            lost_vote_for=lost,
            graded=len(rows),
            would_drop=_counted(of_rows, "drop"),
            abstained=_counted(of_rows, "abstain"),
            calls=getattr(usage, "calls", 0),
            prompt_tokens=getattr(usage, "prompt_tokens", 0),
            completion_tokens=getattr(usage, "completion_tokens", 0),
            seconds=time.monotonic() - began_s,
        ),
        of_labeled,
        of_rows,
    )


def grades_of(grader: Grader, config: Any, rows: Sequence[Row], kept: Kept) -> list[Grade]:
    """The grades that were kept, and the others, which are kept as they come."""
    settings = config.model_dump(mode="json")
    keys = [_key(settings, row) for row in rows]
    missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in kept.records}
    at_once = len(missing) if getattr(grader, "keeps_answers", False) else _AT_ONCE
    waiting = list(missing.items())
    for start in range(0, len(waiting), max(at_once, 1)):
        batch = waiting[start : start + at_once]
        grades = _checked(grader, config, [row for _, row in batch])
        kept.add([{"key": key, "grade": asdict(grade)} for (key, _), grade in zip(batch, grades, strict=True)])
    return [Grade(**kept.records[key]["grade"]) for key in keys]


def _key(settings: Mapping[str, Any], row: Row) -> str:
    decisive = [settings, row["generator"], row["generator_weights"], row["id"], row["text"]]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _checked(grader: Grader, config: Any, rows: Sequence[Row]) -> Sequence[Grade]:
    """``UserError`` where a grader from outside fails, or does not give a grade for each row."""
    try:
        grades = list(grader.grade(rows))
    except UserError:
        raise
    except Exception as error:  # whatever a grader does
        remedy = "What is graded is kept: run it again to resume"
        raise UserError(f"the grader {name_of(config)!r} failed: {in_words(error)}", remedy=remedy) from error
    if len(grades) != len(rows) or not all(isinstance(grade, Grade) for grade in grades):
        remedy = "Return a trainer.synthesis.graders.Grade for each row, in order"
        raise UserError(f"the grader {name_of(config)!r} must give a grade for each row", remedy=remedy)
    return grades


def _counted(grades: Sequence[Grade], verdict: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for grade in grades:
        if grade.verdict == verdict:
            reason = grade.reason or "no reason given"
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _verifier(
    configs: Sequence[Any],
    labeled: Sequence[LabeledRow],
    of_labeled: Sequence[tuple[GraderRecord, Sequence[Grade]]],
    of_rows: Sequence[tuple[GraderRecord, Sequence[Grade]]],
    rows: int,
) -> VerifierRecord | None:
    """What the graders with a vote do together; None where none has one, or there is nothing to grade."""
    faults = {
        fault
        for config, (record, _) in zip(configs, of_rows, strict=True)
        if record.has_vote
        for fault in faults_of(config)
    }
    if not faults or not rows:
        return None
    keeps = [all(grades) for grades in _kept_by_each(of_labeled)]
    right = [keep for keep, row in zip(keeps, labeled, strict=True) if row.is_good]
    wrong = [keep for keep, row in zip(keeps, labeled, strict=True) if row.fault in faults and not row.is_own]
    kept = sum(all(grades) for grades in _kept_by_each(of_rows))
    return verifier(right, wrong, kept, rows)


def _kept_by_each(grades: Sequence[tuple[GraderRecord, Sequence[Grade]]]) -> list[tuple[bool, ...]]:
    """For each row, whether each grader with a vote keeps it."""
    voting = [[grade.verdict != "drop" for grade in each] for record, each in grades if record.has_vote]
    return list(zip(*voting, strict=True))
