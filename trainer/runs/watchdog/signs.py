"""Heartbeats: what a rank writes into the run folder each second, and what /proc says of the process behind it."""

import faulthandler
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

from trainer.base.heartbeat import Heartbeat

SIGN_BYTES = 4096  # signs are written in place and keep their size, so that a full disk does not stop them
STACK_FRAMES = 16
LEFT = ("ended", "failed")  # phases of a rank that has left by itself
_ROOT = f"{Path(__file__).parents[3]}/"  # above the package
_WAITING = ("torch/distributed/", "torch/autograd/", "accelerate/utils/operations", "torch/cuda/streams")

ProcessState = Literal["running", "stopped", "gone", "hidden"]  # hidden: /proc here does not show the process


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A heartbeat of a rank. ``born`` tells its process from a later one of the same number; ``count`` grows."""

    rank: int
    host: str
    space: str  # in which the process's number is valid: containers share a host's name, not its numbers
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

    @property
    def has_left(self) -> bool:
        """Whether the rank ended by itself."""
        return self.phase in LEFT

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """What ``to_json`` gave; TypeError where fields are missing."""
        return cls(**{**fields, "stack": tuple(fields["stack"])})


@dataclass(frozen=True, kw_only=True)
class OwnProcess:
    """This process, as its signs name it."""

    rank: int
    host: str
    space: str
    born: str

    @classmethod
    def of(cls, rank: int) -> Self:
        """This process as the rank."""
        born = (process_facts(os.getpid()) or ("", ""))[1]
        return cls(rank=rank, host=socket.gethostname(), space=process_space(), born=born)

    def sign(self, heartbeat: Heartbeat, *, count: int, phase: str | None = None) -> Sign:
        """The sign of now; ``phase`` where it is not that of the heartbeat."""
        return Sign(
            rank=self.rank,
            host=self.host,
            space=self.space,
            pid=os.getpid(),
            born=self.born,
            count=count,
            step=heartbeat.step,
            beats=heartbeat.beats,
            phase=phase or heartbeat.phase,
            stack=main_stack(),
        )

    def state_of(self, sign: Sign) -> ProcessState:
        """What /proc says of the process behind a sign."""
        if (sign.host, sign.space) != (self.host, self.space):
            return "hidden"
        facts = process_facts(sign.pid)
        if facts is None or facts[1] != sign.born:
            return "gone" if sign.born else "running"  # without /proc nobody is called gone
        return "stopped" if facts[0] in "Tt" else "running"


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


def write_sign(folder: Path, sign: Sign) -> None:
    """Into the rank's own file, in place; OSError where that fails."""
    while len(text := json.dumps(sign.to_json()).encode()) > SIGN_BYTES:
        sign = replace(sign, stack=sign.stack[1:])
    descriptor = os.open(folder / _name(sign.rank), os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, text.ljust(SIGN_BYTES), 0)
    finally:
        os.close(descriptor)  # on NFS this is what makes it visible


def read_signs(folder: Path, *, world_size: int, own_rank: int) -> dict[int, Sign]:
    """The other ranks' last signs; one that is being written is left out this time."""
    signs = {}
    for rank in range(world_size):
        with suppress(OSError, ValueError, TypeError):
            if rank != own_rank:
                signs[rank] = Sign.from_json(json.loads((folder / _name(rank)).read_bytes()))
    return signs


def dump_stacks(folder: Path, rank: int) -> None:
    """Write where all threads of this process are; OSError where that fails."""
    with (folder / f"{_name(rank)}.stacks").open("w") as file:
        faulthandler.dump_traceback(file, all_threads=True)


def stacks_of(folder: Path, sign: Sign) -> str:
    """All threads of a rank that could still write them, else its main thread at its last sign."""
    with suppress(OSError):
        return (folder / f"{_name(sign.rank)}.stacks").read_text()
    return "\n".join([f"rank {sign.rank}, main thread at its last heartbeat:", *sign.stack])


def main_stack() -> tuple[str, ...]:
    """Where the main thread is, innermost last; no source lines, which would have to be read from files."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    stack: list[str] = []
    while frame is not None and len(stack) < STACK_FRAMES:
        code = frame.f_code
        file = code.co_filename.removeprefix(_ROOT).rpartition("site-packages/")[2]
        stack.append(f"{file}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return tuple(reversed(stack))


def _name(rank: int) -> str:
    return f"rank-{rank:05d}"
