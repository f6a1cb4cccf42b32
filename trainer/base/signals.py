"""Signals that ask a run to end: the step is finished and the state saved; before the first step, the run is
interrupted.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class StoppedEarly(BaseException):
    """A signal came before there was anything to save."""


class Signals:
    """SIGTERM and SIGUSR1 set a flag and nothing else: the step ends, the state is saved, the run exits with 75.

    Before the first step there is no step to end: then they interrupt whatever runs.
    """

    def __init__(self) -> None:
        self._received, self._at_once, self._process = False, False, os.getpid()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:  # a forked worker: its pool ends it so
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = True
        if self._at_once:
            raise StoppedEarly

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Inside, a signal raises ``StoppedEarly``."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
