"""A grader that is a function of the user's."""

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from trainer.base.errors import UserError
from trainer.base.seams import Seam
from trainer.synthesis.graders.config import FunctionConfig, name_of
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings

_FUNCTIONS: Seam[Callable[[Row], Any]] = Seam(
    "grader_functions", {}, requires=("__call__",), calls={"": ("row",)}, noun="grading function"
)


class FunctionGrader:
    """Scores rows by a function of one row."""

    def __init__(self, config: FunctionConfig) -> None:
        self.name, self.config = name_of(config), config
        self._function = _FUNCTIONS.resolve(config.function)

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """Row by row. ``UserError`` where the function fails: that is a mistake in it, not a bad row."""
        return [self._grade(row) for row in rows]

    def _grade(self, row: Row) -> Grade:
        try:
            score = self._function(row)
            number = None if score is None else float(score)
        except Exception as error:  # whatever a function of the user's does
            remedy = "Fix it, and run the command again: what is graded is kept"
            what = f"the grading function failed: {type(error).__name__}: {error}"
            raise UserError(what, got=self.config.function, remedy=remedy) from error
        if number is None or not isfinite(number):
            return Grade(scores={}, verdict="abstain", reason="the function gave no number")
        is_kept = number >= self.config.keep_from
        return Grade(
            scores={self.name: number},
            verdict="keep" if is_kept else "drop",
            reason=None if is_kept else f"score below {self.config.keep_from:g}",
        )


def function_grader(config: FunctionConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``function``."""
    return FunctionGrader(config)
