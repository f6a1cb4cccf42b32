"""Trackers: what follows the journal of a run and shows it elsewhere, and never a reason for training to stop or wait.

A tracker is a class that is called with its configuration and has ``begin``, ``note`` and ``close``. Each runs in a
background thread of its own behind a queue, because what it talks to may take seconds to answer, or never do. A
failure, wherever it happens, ends that tracker with one warning; the journal, which it is a view of, lacks nothing.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trainer.base import failures
from trainer.tracking.record import JournalLine

QUEUE_LINES = 10_000  # at 0.3 ms a line a tracker is 3 s behind when it overflows; more means that it hangs
CLOSE_S = 60.0  # an upload gets a minute at the end of the run


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a tracker gets to know of the run when it begins."""

    name: str
    folder: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)  # resolved, as JSON


class Tracker(Protocol):
    """A view of a run. All three methods are called from one thread, which is not the training's.

    ``note`` gets every line of the journal as it is written, after a resume those of the steps that are trained again
    too: ``line.metrics()`` are its figures by name, ``trainer.tracking.headlines.headline(line)`` its event in words.
    """

    def begin(self, run: RunInfo) -> None:
        """Open what it writes to. Called once, before all others."""

    def note(self, line: JournalLine) -> None:
        """Take one line of the journal."""

    def close(self) -> None:
        """Write what is left and close. Called once, when this launch of the run ends, however it ends."""


TrackerFactory = Callable[[Any], Tracker]  # from its configuration


class BackgroundTracker:
    """One tracker in a thread of its own: whatever it does, ``note`` returns immediately and nothing raises."""

    def __init__(
        self, kind: str, make: Callable[[], Tracker], run: RunInfo, *, warn: Callable[[str], None] = failures.warn
    ) -> None:
        self.kind = kind
        self._warn = warn
        self._is_off = False
        self._lines: queue.Queue[JournalLine | None] = queue.Queue(QUEUE_LINES)
        self._thread = threading.Thread(target=self._follow, args=(make, run), name=f"tracker-{kind}", daemon=True)
        self._thread.start()

    def note(self, line: JournalLine) -> None:
        """Take a line of the journal."""
        if self._is_off:
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._switch_off(f"it is {QUEUE_LINES} lines behind")

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Let the tracker write what is left; gives up after ``timeout_s``. Closing twice is allowed."""
        if self._is_off:
            return
        with contextlib.suppress(queue.Full):  # then it hangs, and the join below says so
            self._lines.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._switch_off(f"it did not close within {timeout_s:.0f} s")
        self._is_off = True

    def _follow(self, make: Callable[[], Tracker], run: RunInfo) -> None:
        try:
            tracker = make()
            tracker.begin(run)
            while (line := self._lines.get()) is not None and not self._is_off:
                tracker.note(line)
            tracker.close()
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever happens in a tracker, training continues
            self._switch_off(failures.in_words(error))

    def _switch_off(self, reason: str) -> None:
        if not self._is_off:
            self._is_off = True
            self._warn(
                f"tracker {self.kind} is switched off for the rest of this run: {reason}. The journal has everything"
            )
