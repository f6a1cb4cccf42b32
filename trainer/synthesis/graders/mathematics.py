"""Grades rows by whether their answer is the reference answer of the real row, with the package math-verify.

1/2, 0.5 and 50 % are the same answer. A text without an answer is wrong. Texts are parsed in a process of its own: what
a model writes may be an expression that takes for ever.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

from trainer.base.errors import DataError, UserError
from trainer.synthesis.graders.config import MathematicsConfig, name_of
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings

_WORKER = Path(__file__).with_name("mathematics_worker.py")
_START_S, _GRACE_S = 120.0, 5.0

Outcome = bool | str  # right or wrong, or why that cannot be told


class MathematicsGrader:
    """The score of the grader's own name is 1 for a right answer, 0 for a wrong one or none."""

    def __init__(self, config: MathematicsConfig) -> None:
        self.name, self.config = name_of(config), config
        if find_spec("math_verify") is None:
            remedy = "pip install 'hybrid-trainer[verify]'"
            raise UserError("the grader of kind mathematics needs the package math-verify", remedy=remedy)

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """All rows in one process; another one where that was lost."""
        pairs = [(row.get("answer") or row["text"], self._reference(row)) for row in rows]
        return [self._grade(outcome) for outcome in compared(pairs, limit_s=self.config.time_limit_s)]

    def _reference(self, row: Row) -> str:
        columns = row["prompt_row"]
        if columns.get(self.config.answer_column) is None:
            remedy = "Name the column of the answer, and list it in the source's `provenance`"
            known = ", ".join(sorted(columns))
            what = f"the real row has no column {self.config.answer_column!r} (it has {known})"
            raise DataError(what, got=row["source_id"], remedy=remedy)
        return str(columns[self.config.answer_column])

    def _grade(self, outcome: Outcome) -> Grade:
        if isinstance(outcome, str):
            return Grade(scores={}, verdict="abstain", reason=outcome)
        return Grade(
            scores={self.name: float(outcome)},
            verdict="keep" if outcome else "drop",
            reason=None if outcome else "another answer, or none",
        )


def compared(pairs: Sequence[tuple[str, str]], *, limit_s: float) -> list[Outcome]:
    """For each (text, reference), whether both end in the same answer, or why that cannot be told."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(pairs):
        with _Worker() as worker:
            for text, reference in pairs[len(outcomes) :]:
                outcome = worker.compared(text, reference, limit_s)
                outcomes.append("takes too long to compare" if outcome is None else outcome)
                if outcome is None:
                    break  # the worker hangs, or is dead
    return outcomes


class _Worker:
    """A process that compares answers."""

    def __init__(self) -> None:
        # -P: the folder of the program, whose files have the names of others, is not searched for modules
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._lines: Queue[str] = Queue()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        if not self._line(_START_S):
            self.__exit__()
            raise UserError("math-verify cannot be imported", remedy="Try `python -c 'import math_verify'`")

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self._lines.put(line)
        self._lines.put("")

    def _line(self, limit_s: float) -> str:
        try:
            return self._lines.get(timeout=limit_s)
        except Empty:
            return ""

    def compared(self, text: str, reference: str, limit_s: float) -> Outcome | None:
        """None where the process hangs or has died."""
        try:
            self._stdin.write(json.dumps([text, reference, max(1, round(limit_s))]) + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            return None
        line = self._line(3 * limit_s + _GRACE_S)  # two texts are parsed, then compared
        return json.loads(line) if line else None

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def mathematics(config: MathematicsConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``mathematics``."""
    return MathematicsGrader(config)
