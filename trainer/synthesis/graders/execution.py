"""Grades rows by whether their Python code runs, and passes the tests of the real row."""

import re
from collections.abc import Sequence

from trainer.synthesis.graders import sandbox
from trainer.synthesis.graders.config import ExecutionConfig, name_of
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings

_FENCED = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
# An exit code of 0 alone proves nothing: code may end before its tests do.
_END = "\n\nprint({mark!r})\n"


class ExecutionGrader:
    """The score of the grader's own name is 1 where all ran through, else 0."""

    def __init__(self, config: ExecutionConfig) -> None:
        self.name, self.config = name_of(config), config
        sandbox.require()

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """One after another."""
        return [self._grade(row) for row in rows]

    def _grade(self, row: Row) -> Grade:
        column = self.config.tests_column
        tests = "" if column is None else row["prompt_row"].get(column)
        if tests is None:
            return Grade(scores={}, verdict="abstain", reason=f"the real row has no {column}")
        mark = f"passed {row['id']}"
        code = f"{code_in(row['text'])}\n\n{tests}{_END.format(mark=mark)}"
        outcome = sandbox.run(code, time_limit_s=self.config.time_limit_s, memory_mib=self.config.memory_mib)
        passed = outcome.exit_code == 0 and outcome.output.rstrip().endswith(mark)
        reason = None if passed else "took too long" if outcome.exit_code is None else "the code fails"
        return Grade(scores={self.name: float(passed)}, verdict="keep" if passed else "drop", reason=reason)


def code_in(text: str) -> str:
    """The fenced blocks of Python in a text; all of it where there is none."""
    blocks = _FENCED.findall(text)
    return "\n".join(blocks) if blocks else text


def execution(config: ExecutionConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``execution``."""
    return ExecutionGrader(config)
