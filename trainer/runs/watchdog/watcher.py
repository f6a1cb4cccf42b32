"""The thread of the watchdog: gives this rank's sign each tick, observes the others, and acts on what is attributed.

The training itself is not touched: ``heartbeat.beat`` is all that the hot path pays.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from trainer.base.errors import UserError
from trainer.base.failures import Cause, is_echo, own_rank, warn
from trainer.base.heartbeat import own_heartbeat
from trainer.runs.folder import FAILED, SIGNS
from trainer.runs.watchdog.attribution import (
    SILENT_S,
    ObservedRank,
    SignHistory,
    StallAttribution,
    breaking_rank,
    dead_rank,
    patience_s,
    stalling_rank,
)
from trainer.runs.watchdog.report import FailureReport, cause_of
from trainer.runs.watchdog.signs import LEFT, OwnProcess, Sign, dump_stacks, read_signs, write_sign

TICK_S = 1.0
IDLE_S = 2.0  # a rank that has not moved for so long observes the others
RANKS_PER_LOOK_S = 64  # a thousand ranks that wait for a long save must not wear out the file system
LEAVING_S = 3.0  # in which the ranks leave one after the other at the end of a run
ECHO_S = 6.0  # a rank whose collective broke waits so long for the rank that broke it to be known


class Watchdog:
    """Watches the launcher from the start, and the ranks from ``watch`` on, until it is left: last, as ending can hang.

    ``run`` is the run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._rank = run, own_rank()
        self._process = OwnProcess.of(self._rank)
        self._report = FailureReport(run)
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._signs: Path | None = None  # the folder, once there is one
        self._world_size, self._timeout_s, self._count = 1, 0.0, 0
        self._phase_left: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phase_left = LEFT[error is not None]
        self._stop.set()
        self._thread.join(2 * TICK_S)
        self._give_sign()
        if error is None and self._rank == 0:
            self._remove_signs()

    def watch(self, world_size: int, timeout_s: float, broadcast: Callable[[Any], Any]) -> None:
        """Watch the ranks of this launch. All ranks call it together, as soon as they can ``broadcast``."""
        root, is_main = self._run / SIGNS, self._rank == 0
        launch = broadcast(f"{os.getpid()}-{time.time_ns()}" if is_main else None)
        if is_main:
            shutil.rmtree(root, ignore_errors=True)
            (root / launch).mkdir(parents=True)
        broadcast(None)  # the folder is there
        self._world_size, self._timeout_s, self._signs = world_size, timeout_s, root / launch
        self._give_sign()

    @contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Write down an error of the body before anything is closed: closing breaks the collectives of the others."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self._report.write(self._cause_behind(error))
            raise

    def report_error(self, error: Exception) -> None:
        """Say why the run failed, unless a rank has: one whose collective broke first looks which rank broke it."""
        if not self._report.is_written:
            self._report.write(self._cause_behind(error))
        self._report.say()

    def _cause_behind(self, error: Exception) -> Cause:
        if is_echo(error) and self._signs is not None and self._world_size > 1:
            broken_by = self._wait_for_the_breaking_rank()
            if broken_by is not None:
                return cause_of(broken_by, self._signs)
        return Cause.of(error)

    def _wait_for_the_breaking_rank(self) -> StallAttribution | None:
        before, started_s = self._read_signs(), time.monotonic()
        while (waited_s := time.monotonic() - started_s) < ECHO_S and not self._report.exists():
            others = self._observed(SignHistory().after(self._read_signs(), 0.0), 0.0)
            attribution = breaking_rank(others, before, waited_s=waited_s)
            if attribution is not None:
                return attribution
            time.sleep(TICK_S / 10)
        return None

    # The thread

    def _watch(self) -> None:
        place, idle_s = own_heartbeat().place, 0.0
        history, next_look_s = SignHistory(), IDLE_S
        while not self._stop.wait(TICK_S):
            self._check_launcher()
            if self._signs is None:
                continue
            self._give_sign()
            heartbeat = own_heartbeat()
            if heartbeat.place != place:
                place, idle_s, history, next_look_s = heartbeat.place, 0.0, SignHistory(), IDLE_S
                continue
            idle_s += TICK_S
            is_over = idle_s >= patience_s(self._timeout_s, phase=heartbeat.phase, steps_begun=heartbeat.steps_begun)
            if idle_s >= IDLE_S and self._world_size > 1:
                self._leave_if_reported()
                if idle_s >= next_look_s or is_over:
                    history = history.after(self._read_signs(), idle_s)
                    next_look_s = idle_s + max(SILENT_S, self._world_size / RANKS_PER_LOOK_S)
                dead = dead_rank(self._observed(history, idle_s))
                if dead is not None:
                    self._fail(dead)
            if is_over:
                self._give_up(history, idle_s)

    def _check_launcher(self) -> None:
        """A rank whose launcher was killed asks itself to stop: it saves and leaves, and no process is orphaned."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self._launcher = None
            warn("the launcher is gone: saving and ending")
            os.kill(os.getpid(), signal.SIGTERM)

    def _leave_if_reported(self) -> None:
        if not self._report.is_written and self._report.exists():
            os._exit(FAILED)

    def _give_up(self, history: SignHistory, idle_s: float) -> NoReturn:
        """Name the rank that stalls the run, end it where it cannot end itself, and leave."""
        assert self._signs is not None
        with suppress(OSError):
            dump_stacks(self._signs, self._rank)
        stalling = stalling_rank(self._own_sign(), self._observed(history, idle_s), idle_s=idle_s)
        if stalling.can_report and stalling.sign.rank != self._rank:
            time.sleep(2 * TICK_S)
        self._fail(stalling)

    def _fail(self, attribution: StallAttribution) -> NoReturn:
        assert self._signs is not None
        self._report.write(cause_of(attribution, self._signs))
        self._report.say()
        if not attribution.can_report and self._process.state_of(attribution.sign) in ("running", "stopped"):
            with suppress(ProcessLookupError):  # a stopped process ignores every other signal
                os.kill(attribution.sign.pid, signal.SIGKILL)
        os._exit(FAILED)

    # Heartbeats

    def _own_sign(self) -> Sign:
        return self._process.sign(own_heartbeat(), count=self._count, phase=self._phase_left)

    def _give_sign(self) -> None:
        if self._signs is None:
            return
        self._count += 1
        with suppress(OSError):  # what is wrong with the run folder is the journal's to report
            write_sign(self._signs, self._own_sign())

    def _remove_signs(self) -> None:
        """Remove the folder of the signs when no rank looks at them any more; one that does not leave keeps it."""
        deadline_s = time.monotonic() + LEAVING_S
        while sum(sign.has_left for sign in self._read_signs().values()) < self._world_size - 1:
            if time.monotonic() > deadline_s:
                return
            time.sleep(TICK_S / 20)
        shutil.rmtree(self._run / SIGNS, ignore_errors=True)

    def _read_signs(self) -> dict[int, Sign]:
        if self._signs is None:
            return {}
        return read_signs(self._signs, world_size=self._world_size, own_rank=self._rank)

    def _observed(self, history: SignHistory, idle_s: float) -> list[ObservedRank]:
        return [
            ObservedRank(sign=sign, silent_s=history.silent_s(rank, idle_s), process=self._process.state_of(sign))
            for rank, sign in history.signs.items()
        ]
