"""The watchdog of a rank: a thread that tells, when a run stands still, which rank holds it up and where.

Collectives wait: one rank that hangs, is stopped or dies leaves the others waiting for half an hour, and then all of
them complain. Here every rank writes a sign of life into the run folder each second (rank, host, process, step, phase,
stack of its main thread). One that has made no progress itself reads the signs of the others: a process that is gone
is named within seconds, one that gives no sign or lags behind when ``training.timeout_s`` is over. The first to know
writes ``outcome.json`` and all leave, so that the launcher ends.

Time is counted in ticks of this thread, not read off a clock: a process that was stopped as a whole, or whose clock
jumps, goes on where it was. The training itself is not touched: ``heartbeat.beat`` is all that the hot path pays.
"""

import faulthandler
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from trainer.base.errors import UserError
from trainer.base.failures import Cause, is_echo, leave_for_launcher, own_rank, say, say_last
from trainer.base.heartbeat import own_heartbeat
from trainer.runs.folder import FAILED, INTERRUPTED, SIGNS, failed_outcome, write_outcome

STOPPED_EARLY = "stopped by a signal before the first step"
DIED = "died or was killed"
TICK_S = 1.0
LOOK_S = 3.0  # a rank that gave no sign for so long gives none: three ticks
IDLE_S = 2.0  # a rank that has not moved for so long looks at the others
LOST_S = 60.0  # a rank on another host that gave no sign for so long is lost; on this host /proc knows at once
RANKS_PER_LOOK_S = 64  # a thousand ranks that wait for a long save must not wear out the file system
ECHO_S = 6.0  # a rank whose collective broke waits so long for the one to blame to be known
PATIENT_PHASES = ("starting", "saving", "restoring", "finishing")
PATIENCE = 3  # times the time-out in these phases and until the second step: compiling, first collectives, large files
SIGN_BYTES = 4096  # signs are written in place and keep their size, so that they go on when the disk is full
STACK_FRAMES = 16
OWN = "trainer/"
_ROOT = f"{Path(__file__).parents[1]}/"
LEFT = ("ended", "failed")  # phases of a rank that went by itself
_WAITING = ("torch/distributed/", "torch/autograd/", "accelerate/utils/operations", "torch/cuda/streams")


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A sign of life of a rank. ``born`` tells its process from a later one of the same number; ``count`` grows."""

    rank: int
    host: str
    space: str  # in which the process's number is one: containers share a host's name, not its numbers
    pid: int
    born: str
    count: int
    step: int
    beats: int
    phase: str
    stack: tuple[str, ...]  # innermost last

    @property
    def place(self) -> tuple[int, int]:
        """How far the main thread has come."""
        return self.step, self.beats

    @property
    def waits(self) -> bool:
        """Whether its main thread is inside a collective, as far as Python can tell."""
        return any(part in frame for frame in self.stack[-6:] for part in _WAITING)

    def state(self) -> str | None:
        """What /proc says of the process, as one letter; None when it is gone. Only on its own host."""
        told = process_facts(self.pid)
        return told[0] if told is not None and told[1] == self.born else None


def process_facts(pid: int) -> tuple[str, str] | None:
    """State letter and start time of a process; None when there is none (or no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (fields[0], fields[19]) if fields[0] not in "ZX" else None


def process_space() -> str:
    """This boot and this name space of process numbers: where /proc shows what is meant. Empty without /proc."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


class Watchdog:
    """Watches the launcher from the start, and the ranks from ``watch`` on, until it is left: last, as ending can hang.

    ``run`` is the run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._rank, self._host = run, own_rank(), socket.gethostname()
        self._space = process_space()
        self._born = (process_facts(os.getpid()) or ("", ""))[1]
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._signs: Path | None = None
        self._world_size, self._timeout_s, self._count = 1, 0.0, 0
        self._asked: int | None = None  # where signals can be read
        self._phase_left: str | None = None
        self._written: Cause | None = None
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

    @contextmanager
    def leaving_on_a_signal(self) -> Iterator[None]:
        """Inside, before the first step, a signal to stop ends this process even where it waits for the others in
        native code, which keeps Python's own handlers waiting too: they are not coming if they were stopped as well.
        """
        evaluation, writing = os.pipe()
        os.set_blocking(evaluation, False)
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._asked = evaluation
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            self._asked = None
            os.close(writing)  # the other end stays open: the thread may be reading

    def _leave_if_asked(self) -> None:
        pipe = self._asked
        if pipe is None:
            return
        with suppress(BlockingIOError):
            if {signal.SIGTERM, signal.SIGUSR1} & set(os.read(pipe, 16)):
                if self._rank == 0:
                    write_outcome(self._run, state="interrupted", step=0, reason=STOPPED_EARLY, exit_code=INTERRUPTED)
                os._exit(INTERRUPTED)

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
    def telling(self) -> Iterator[None]:
        """Write down an error of the body before anything is closed: closing breaks the collectives of the others."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            self._write(self._cause_behind(error))
            raise

    def tell_error(self, error: Exception) -> None:
        """Tell why the run failed, unless a rank has told: one whose collective broke first looks who broke it."""
        if self._written is None:
            self._write(self._cause_behind(error))
        self._say_written()

    def _cause_behind(self, error: Exception) -> Cause:
        blamed = self._to_blame() if is_echo(error) and self._world_size > 1 else None
        return Cause.of(error) if blamed is None else self._cause(blamed, DIED)

    def _to_blame(self) -> Sign | None:
        before, started_s = self._read_signs(), time.monotonic()
        while (waited_s := time.monotonic() - started_s) < ECHO_S and failed_outcome(self._run) is None:
            signs = self._read_signs()
            missing = [sign for sign in signs.values() if self._is_gone(sign)]
            if waited_s > LOOK_S:
                missing += [sign for sign in signs.values() if sign == before.get(sign.rank) and sign.phase not in LEFT]
            if missing:
                return missing[0]
            time.sleep(TICK_S / 10)
        return None

    # The thread

    def _watch(self) -> None:
        place, idle_s, seen = own_heartbeat().place, 0.0, _Seen()
        while not self._stop.wait(TICK_S):
            self._mind_launcher()
            self._leave_if_asked()
            if self._signs is None:
                continue
            self._give_sign()
            heartbeat = own_heartbeat()
            if heartbeat.place != place:
                place, idle_s, seen = heartbeat.place, 0.0, _Seen()
                continue
            idle_s += TICK_S
            is_patient = heartbeat.phase in PATIENT_PHASES or heartbeat.steps_begun < 3
            patience_s = self._timeout_s * (PATIENCE if is_patient else 1)
            if idle_s >= IDLE_S and self._world_size > 1:
                self._leave_if_told()
                if idle_s >= seen.next_look_s or idle_s >= patience_s:
                    seen.look(self._read_signs(), idle_s, every_s=max(LOOK_S, self._world_size / RANKS_PER_LOOK_S))
                self._give_up_on_the_dead(seen, idle_s)
            if idle_s >= patience_s:
                self._give_up(seen, idle_s)

    def _mind_launcher(self) -> None:
        """A rank whose launcher was killed asks itself to stop: it saves and leaves, and no process is orphaned."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self._launcher = None
            say("warning: the launcher is gone: saving and ending")
            os.kill(os.getpid(), signal.SIGTERM)

    def _leave_if_told(self) -> None:
        if self._written is None and failed_outcome(self._run) is not None:
            os._exit(FAILED)

    def _give_up_on_the_dead(self, seen: "_Seen", idle_s: float) -> None:
        for sign in seen.signs.values():
            if self._is_gone(sign):
                self._tell(self._cause(sign, DIED))
                os._exit(FAILED)
            waits_long = sign.phase in (*LEFT, *PATIENT_PHASES)  # a busy file system delays signs too
            if not self._sees(sign) and not waits_long and seen.silent_s(sign.rank, idle_s) >= LOST_S:
                self._tell(self._cause(sign, f"has given no sign of life for {LOST_S:g} s: its host may be gone"))
                os._exit(FAILED)

    def _give_up(self, seen: "_Seen", idle_s: float) -> NoReturn:
        """Name who holds the run up, end it where it cannot end itself, and leave."""
        self._dump_stacks()
        blamed, why = self._who(seen, idle_s)
        mine = blamed.rank == self._rank
        if why is None and not mine:  # it can speak for itself, and knows more
            time.sleep(2 * TICK_S)
        place = f"in step {blamed.step} ({blamed.phase})"
        self._tell(self._cause(blamed, why or f"made no progress for {idle_s:g} s {place}, while the others wait"))
        if why is not None and not mine and self._sees(blamed) and blamed.state() is not None:
            with suppress(ProcessLookupError):  # a stopped process ignores every other signal
                os.kill(blamed.pid, signal.SIGKILL)
        os._exit(FAILED)

    def _who(self, seen: "_Seen", idle_s: float) -> tuple[Sign, str | None]:
        """The rank to blame, and why if it cannot say so itself."""
        own = self._own_sign()
        others = [sign for sign in seen.signs.values() if sign.rank != self._rank and sign.phase not in LEFT]
        for sign in others:
            if self._sees(sign) and sign.state() in ("T", "t"):
                return sign, f"is stopped by a signal in step {sign.step} ({sign.phase})"
        for sign in others:
            if seen.silent_s(sign.rank, idle_s) >= LOOK_S:
                return sign, f"gives no sign of life in step {sign.step} ({sign.phase})"
        everyone = [own, *others]
        behind = [sign for sign in everyone if sign.place == min(one.place for one in everyone)]
        return next((sign for sign in behind if not sign.waits), behind[0]), None

    # Signs of life

    def _own_sign(self) -> Sign:
        heartbeat = own_heartbeat()
        return Sign(
            rank=self._rank,
            host=self._host,
            space=self._space,
            pid=os.getpid(),
            born=self._born,
            count=self._count,
            step=heartbeat.step,
            beats=heartbeat.beats,
            phase=self._phase_left or heartbeat.phase,
            stack=_main_stack(),
        )

    def _give_sign(self) -> None:
        if self._signs is None:
            return
        self._count += 1
        fields = asdict(self._own_sign())
        while len(text := json.dumps(fields).encode()) > SIGN_BYTES:
            fields["stack"] = fields["stack"][1:]
        with suppress(OSError):  # what is wrong with the run folder is the journal's to tell
            descriptor = os.open(self._signs / _name(self._rank), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(descriptor, text.ljust(SIGN_BYTES), 0)
            finally:
                os.close(descriptor)  # on NFS this is what makes it seen

    def _read_signs(self) -> dict[int, Sign]:
        """The other ranks' last signs; one that is being written is left out this time."""
        signs = {}
        for rank in range(self._world_size):
            with suppress(OSError, ValueError, TypeError):
                if self._signs is not None and rank != self._rank:
                    fields = json.loads((self._signs / _name(rank)).read_bytes())
                    signs[rank] = Sign(**{**fields, "stack": tuple(fields["stack"])})
        return signs

    def _sees(self, sign: Sign) -> bool:
        """Whether /proc here shows the process of the sign."""
        return sign.host == self._host and sign.space == self._space

    def _is_gone(self, sign: Sign) -> bool:
        return self._sees(sign) and sign.phase not in LEFT and bool(sign.born) and sign.state() is None

    # Telling

    def _cause(self, sign: Sign, why: str) -> Cause:
        where = [frame for frame in sign.stack if frame.startswith(OWN)] or sign.stack
        what = f"{why}, at {where[-1]}" if where else why
        return Cause(rank=sign.rank, host=sign.host, what=what, trace=self._stacks_of(sign))

    def _tell(self, cause: Cause) -> None:
        self._write(cause)
        self._say_written()

    def _write(self, cause: Cause) -> None:
        """Into ``outcome.json``, unless a rank was there before; and to a launcher that may end this process soon."""
        first = write_outcome(
            self._run,
            state="failed",
            step=own_heartbeat().step or None,
            reason=cause.what,
            exit_code=FAILED,
            trace=cause.trace,
            rank=cause.rank,
            host=cause.host,
        )
        self._written = cause if first else None
        if first:
            leave_for_launcher(self._last_words(cause))

    def _say_written(self) -> None:
        if self._written is not None:
            if self._written.trace:
                say(self._written.trace)
            say_last(self._last_words(self._written))

    def _last_words(self, cause: Cause) -> str:
        where = f"\nsee {self._run / 'outcome.json'}" if failed_outcome(self._run) is not None else ""
        return f"the run failed: {cause}{where}"

    def _dump_stacks(self) -> None:
        if self._signs is not None:
            with suppress(OSError), (self._signs / f"{_name(self._rank)}.stacks").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)

    def _stacks_of(self, sign: Sign) -> str:
        """All threads of a rank that could still write them, else its main thread at its last sign."""
        assert self._signs is not None, "there are signs"
        with suppress(OSError):
            return (self._signs / f"{_name(sign.rank)}.stacks").read_text()
        return "\n".join([f"rank {sign.rank}, main thread at its last sign of life:", *sign.stack])


class _Seen:
    """What was seen of the others since this rank stopped moving. Times are this rank's idle seconds."""

    def __init__(self) -> None:
        self.signs: dict[int, Sign] = {}
        self.next_look_s = IDLE_S
        self._since_s: dict[int, float] = {}

    def look(self, signs: dict[int, Sign], idle_s: float, *, every_s: float) -> None:
        """Take note of the signs as they are now."""
        for rank, sign in signs.items():
            known = self.signs.get(rank)
            if known is None or known.count != sign.count:
                self._since_s[rank] = idle_s
        self.signs.update(signs)
        self.next_look_s = idle_s + every_s

    def silent_s(self, rank: int, idle_s: float) -> float:
        """How long the rank's last sign has stood."""
        return idle_s - self._since_s[rank]


def _name(rank: int) -> str:
    return f"rank-{rank:05d}"


def _main_stack() -> tuple[str, ...]:
    """Where the main thread is, innermost last; no source lines, which would have to be read from files."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    stack: list[str] = []
    while frame is not None and len(stack) < STACK_FRAMES:
        code = frame.f_code
        file = code.co_filename.removeprefix(_ROOT).rpartition("site-packages/")[2]
        stack.append(f"{file}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return tuple(reversed(stack))
