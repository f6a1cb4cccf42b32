"""Grades a grader: on real training rows, and on such rows made bad, in every round.

Real rows are set aside from the round's prompts; they are good by definition: real data is what is to be learned. They
are also made bad, with each of the faults that the graders are there to find. The same is done to the texts that the
generator wrote in this round, whose quality nobody knows, except that with a planted fault they are bad too: among rows
that are bad in the same way a fair grader scores them as it scores real ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from trainer.base.records import FloatArray
from trainer.synthesis.graders import measures
from trainer.synthesis.graders.bound import share
from trainer.synthesis.graders.config import Fault, GradingConfig, faults_of, scale_of
from trainer.synthesis.graders.planted import planted
from trainer.synthesis.graders.protocol import Grade, Row
from trainer.synthesis.graders.record import Estimate, GraderRecord


@dataclass(frozen=True, kw_only=True)
class LabeledRow:
    """A row whose label is known. ``fault`` None: as it is. ``is_own``: the generator's text; else real."""

    row: Row
    fault: Fault | None
    is_own: bool

    @property
    def is_good(self) -> bool | None:
        """None: nobody knows."""
        return False if self.fault else None if self.is_own else True


def labeled_rows(
    real: Sequence[Row], own: Sequence[Row], faults: Sequence[Fault], *, seed: int, generation: int
) -> list[LabeledRow]:
    """Real rows, the same with faults, and the generator's rows with faults.

    Each fault is planted in two fifths of the real rows, and in as many of the generator's: a fifth of the real ones.
    """
    rows = [LabeledRow(row=row, fault=None, is_own=False) for row in real]
    texts, step = [row["text"] for row in real], -(-2 * len(real) // 5)
    for group, is_own, number in ((real, False, step), (own, True, step // 2)):
        for place, fault in enumerate(faults):
            if is_own and fault == "other":
                continue  # would be a real text
            in_turn = (group[(place * number + turn) % len(group)] for turn in range(len(group)))
            bad = (_with_fault(row, fault, texts, seed=seed, generation=generation) for row in in_turn)
            made = islice((row for row in bad if row is not None), number)
            rows += [LabeledRow(row=row, fault=fault, is_own=is_own) for row in made]
    return rows


def _with_fault(row: Row, fault: Fault, texts: Sequence[str], *, seed: int, generation: int) -> Row | None:
    """The row with the fault; None where it cannot have it."""
    others = [text for text in texts if text not in (row["text"], str(row["prompt_row"]["text"]))]
    bad = planted(fault, row["text"], others, seed=seed, key=f"{generation}:{row['id']}")
    return None if bad is None else {**row, "text": bad, "id": f"{row['id']}:{fault}"}


def examined(
    name: str, config: Any, rows: Sequence[LabeledRow], grades: Sequence[Grade], own: Sequence[tuple[Row, Grade]]
) -> GraderRecord:
    """How the grader did on labeled rows; ``own`` are the generator's rows as they are, and its grades.

    It agrees as far as it finds the faults that it is there to find; what it finds of others is told beside.
    """
    pairs = list(zip(rows, grades, strict=True))
    good = [grade.verdict != "drop" for row, grade in pairs if row.is_good]
    faults = faults_of(config)
    bad = [grade.verdict != "drop" for row, grade in pairs if row.fault in faults and not row.is_own]
    agrees = measures.agreement(good, bad)
    told, brier, reliability = _calibration(name, config, pairs)
    matched, as_real = ([_scores(name, pairs, fault, is_own=is_own) for fault in faults] for is_own in (True, False))
    generated = np.array([grade.scores[name] for _, grade in own if name in grade.scores])
    return GraderRecord(
        name=name,
        kind=config.kind,
        good_rows=len(good),
        bad_rows=len(bad),
        agreement=agrees.balanced_accuracy,
        kept_good=agrees.kept_good,
        kept_bad=agrees.kept_bad,
        found=_found(pairs),
        calibration_error=told,
        brier=brier,
        reliability=tuple(reliability),
        self_preference=measures.preference(matched, as_real, name),
        prefers_generated=measures.preference([generated], [_scores(name, pairs, None, is_own=False)], name),
        length_bias=_length_bias(name, pairs, own),
        position_bias=measures.mean_beyond_half(
            np.array([grade.scores[f"{name}.first"] for _, grade in pairs if f"{name}.first" in grade.scores])
        ),
        abstained_share=sum(grade.verdict == "abstain" for grade in grades) / max(len(grades), 1),
    )


def _scores(name: str, pairs: Sequence[tuple[LabeledRow, Grade]], fault: Fault | None, *, is_own: bool) -> FloatArray:
    return np.array(
        [
            grade.scores[name]
            for row, grade in pairs
            if row.fault == fault and row.is_own == is_own and name in grade.scores
        ]
    )


def _found(pairs: Sequence[tuple[LabeledRow, Grade]]) -> dict[str, Estimate]:
    """By fault: the share of real rows with it that are dropped."""
    found: dict[str, Estimate] = {}
    for fault in dict.fromkeys(row.fault for row, _ in pairs if row.fault):
        dropped = [grade.verdict == "drop" for row, grade in pairs if row.fault == fault and not row.is_own]
        if dropped:
            found[fault] = share(sum(dropped), len(dropped), fault)[0]
    return found


def _calibration(name: str, config: Any, pairs: Sequence[tuple[LabeledRow, Grade]]) -> tuple[Any, Any, Sequence[Any]]:
    scale = scale_of(config)
    told = [
        (grade.scores[name], float(row.fault is None))
        for row, grade in pairs
        if not row.is_own and name in grade.scores and (row.is_good or row.fault in faults_of(config))
    ]
    if scale is None or len({label for _, label in told}) < 2:
        return None, None, ()
    scores, labels = (np.array(values) for values in zip(*told, strict=True))
    worst, best = scale
    return measures.calibration(np.clip((scores - worst) / (best - worst), 0, 1), labels)


def _length_bias(
    name: str, pairs: Sequence[tuple[LabeledRow, Grade]], own: Sequence[tuple[Row, Grade]]
) -> Estimate | None:
    """Whether longer rows score higher among real rows, and among the generator's. (How bad a row is that was cut off,
    that repeats itself, or that is about something else, has to do with its length.)
    """
    whole = [(grade, len(row.row["text"]), "real") for row, grade in pairs if row.fault is None]
    whole += [(grade, len(row["text"]), "own") for row, grade in own]
    scored = [(grade.scores[name], float(length), group) for grade, length, group in whole if name in grade.scores]
    groups = ("real", "own")
    return measures.partial_rank_correlation(
        np.array([score for score, _, _ in scored]),
        np.array([length for _, length, _ in scored]),
        np.array([groups.index(group) for _, _, group in scored]),
    )


def lost_vote_for(record: GraderRecord, limits: GradingConfig) -> tuple[str, ...]:
    """Why the grader has no vote in this round; empty where it has one.

    A grader has to show that it tells good from bad; that it is biased has to be shown of it.
    """
    reasons = []
    if record.abstained_share > limits.max_abstained:
        reasons.append(f"gives no verdict on {record.abstained_share:.0%} of labeled rows")
    if record.agreement is not None and record.agreement.low < limits.min_agreement:
        reasons.append(f"agreement {record.agreement} does not reach {limits.min_agreement:g}")
    reasons += [
        f"{what} {value} is above {limit:g}"
        for what, value, limit in (
            ("calibration error", record.calibration_error, limits.max_calibration_error),
            ("self-preference", record.self_preference, limits.max_self_preference),
        )
        if value is not None and value.low > limit
    ]
    reasons += [
        f"{what} {value} is beyond ±{limit:g}"
        for what, value, limit in (
            ("length bias", record.length_bias, limits.max_length_bias),
            ("position bias", record.position_bias, limits.max_position_bias),
        )
        if value is not None and max(value.low, -value.high) > limit
    ]
    return tuple(reasons)
