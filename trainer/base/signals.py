"""Signals that ask a run to end: the first ends the step and saves, a second ends the process at once.

Ctrl-C (SIGINT), a terminal that goes away (SIGHUP), SIGTERM and SIGUSR1 ask for the same. SIGUSR1 is the warning of a
batch system, which may come again and again: it is never a second. Python calls its handlers only between two of its
own instructions, and a rank may wait in native code for minutes: a thread reads the numbers of the signals from a pipe
that the interpreter writes in the handler of the system.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

FIRST_ONLY = signal.SIGUSR1
ASKING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, FIRST_ONLY)
HANDED_ON_S = 3.0  # a launcher hands its own signal on to ranks that have had it from the terminal or the batch system


class StoppedEarly(BaseException):
    """A signal came before there was anything to save."""


class Signals:
    """Until it is left, the first signal sets a flag and nothing else: the step ends, the state is saved.

    ``on_first`` is called in a thread with its number; ``end`` likewise with that of a second one, or of the first one
    inside ``leaving``: it ends the process. A signal that is ignored (`nohup`) stays ignored. Outside the main thread,
    where Python takes no handlers, nothing is handled.
    """

    def __init__(self, *, on_first: Callable[[int], None], end: Callable[[int, bool], None]) -> None:
        self._on_first, self._end = on_first, end
        self._received, self._at_once, self._leaving, self._process = False, False, False, os.getpid()
        self._first: tuple[int, float] | None = None  # its number, and when it came
        self._before: dict[int, Any] = {}
        self._writing = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        _written_by.add(os.getpid())
        self._wakeup_before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(reading,), name="signals", daemon=True).start()
        for number in ASKING:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._writing >= 0:
            _written_by.clear()
            signal.set_wakeup_fd(self._wakeup_before)
            os.close(self._writing)  # which ends the thread

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Inside, a signal raises ``StoppedEarly``; so does entering after one."""
        self._at_once = True
        try:
            if self._received:
                raise StoppedEarly
            yield
        finally:
            self._at_once = False

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Inside, already the first signal ends the process, wherever it waits: for ranks that may have been stopped
        too.
        """
        self._leaving = True
        try:
            yield
        finally:
            self._leaving = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker: its pool ends it so
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = True
        if self._at_once:
            raise StoppedEarly

    def _read(self, pipe: int) -> None:
        """The thread: takes the numbers of all signals as they come."""
        while numbers := os.read(pipe, 64):
            for number in numbers:
                if number in self._before and os.getpid() == self._process:
                    self._take(number)
        os.close(pipe)

    def _take(self, number: int) -> None:
        now_s = time.monotonic()
        if self._leaving or (self._first is not None and self._is_second(number, now_s)):
            self._end(number, self._first is not None)
        if self._first is None:
            self._first = number, now_s
            self._on_first(number)

    def _is_second(self, number: int, now_s: float) -> bool:
        assert self._first is not None
        first, came_s = self._first
        is_handed_on = "TORCHELASTIC_RUN_ID" in os.environ and number == first and now_s - came_s < HANDED_ON_S
        return number != FIRST_ONLY and not is_handed_on


_written_by: set[int] = set()  # the process whose signals go into a pipe of ours


def _forget_pipe() -> None:
    """In a forked worker: its own signals are not those of the process that reads the pipe."""
    if _written_by:
        _written_by.clear()
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


def name_of(number: int) -> str:
    """A signal as a user knows it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
