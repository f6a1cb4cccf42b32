"""Grades rows by whether the real row that they were made of holds their names, numbers and dates.

A name that the source does not hold was made up, or known from elsewhere: either way nothing vouches for it. What
cannot be found this way is a false relation between things that the source does name.
"""

from collections.abc import Sequence

from trainer.synthesis.graders.config import GroundingConfig, name_of
from trainer.synthesis.graders.facts import Held, facts_of
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings


class GroundingGrader:
    """The score of the grader's own name is the share of names, numbers and dates that the source holds."""

    def __init__(self, config: GroundingConfig) -> None:
        self.name, self.config = name_of(config), config

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """Row by row."""
        return [self._grade(row) for row in rows]

    def _grade(self, row: Row) -> Grade:
        source = "\n".join(str(value) for value in row["prompt_row"].values() if isinstance(value, str | int | float))
        if not source.strip():
            return Grade(scores={}, verdict="abstain", reason="no real row to compare with")
        facts = facts_of(row["text"])
        missing = Held(source).missing(facts)
        names, numbers = len(missing["names"]), len(missing["numbers"])
        share = (names + numbers) / max(len(facts), 1)
        scores = {
            self.name: 1 - share,
            f"{self.name}.missing_names": float(names),
            f"{self.name}.missing_numbers": float(numbers),
        }
        if names + numbers <= self.config.max_ungrounded or share <= self.config.max_ungrounded_share:
            return Grade(scores=scores, verdict="keep")
        what = "names" if names > numbers else "numbers or dates"
        return Grade(scores=scores, verdict="drop", reason=f"{what} that the source does not hold")


def grounding(config: GroundingConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``grounding``."""
    return GroundingGrader(config)
