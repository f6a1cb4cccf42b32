"""What a grader is, what it is given, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

# A row of the pool; under ``prompt_row`` the columns of the real row that it was made of: text, id, slice, provenance
Row = Mapping[str, Any]
Verdict = Literal["keep", "drop", "abstain"]


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What a grader says of a row: scores by name, the higher the better in the one that bears the grader's own name,
    and a verdict. ``reason`` says why it drops or abstains, in few words that name the rule, not the row: rows are
    counted by it.
    """

    scores: Mapping[str, float]
    verdict: Verdict
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a grader may look at besides the rows."""

    base: Path  # the recipe's folder
    generator: Any  # the configuration of what writes: `self` grades with it
    real: Sequence[Row]  # real training rows: text, id, slice, source
    answers: Path  # file that keeps what a model has answered, for a round that is killed and resumes


class Grader(Protocol):
    """Grades rows. Made once for a round. What it was made of may be expensive: it loads that when it first grades.

    It may have further attributes: ``model`` and ``license`` of the model that grades, which rows and records tell of;
    ``usage`` (``calls``, ``prompt_tokens``, ``completion_tokens``); and ``keeps_answers`` where it keeps what is
    expensive itself, and wants all rows at once.
    """

    name: str

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """One grade for each row, in their order."""
        ...


class GraderFactory(Protocol):
    """Makes a grader from its configuration."""

    def __call__(self, config: Any, surroundings: Surroundings, /) -> Grader:
        """A grader that has graded nothing yet."""
        ...
