"""The run's own record: append-only JSON lines that survive kill -9, for the journal and for the ledger.

A line is one ``os.write`` on a descriptor opened with O_APPEND, newline included, so a process that dies leaves whole
lines and at most one torn one at the end; a line counts only when its newline is there. A write takes 70 us on a busy
machine and never waits for the disk: ``sync`` does, and is called when a checkpoint is saved, whose manifest holds the
byte offset. On resume ``cut`` takes the file back to that offset.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer.base import atomic, failures
from trainer.base.errors import UserError
from trainer.base.json_values import jsonable
from trainer.tracking.record import JournalLine

Line = Mapping[str, Any]

TAIL_BYTES = 1 << 20  # how much is read in one piece when the last newline of a file is looked for


class AppendOnlyFile:
    """A JSONL file that only grows, with one writer; any thread of it may append. ``offset`` is its length in bytes.

    A torn last line on opening (the process before this one was killed) is moved to the ``.lost`` file first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            cut(path, _end_of_last_line(path))
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        self.offset = os.fstat(self._descriptor).st_size
        atomic.sync_folder(path.parent)

    def append(self, record: Line) -> dict[str, Any]:
        """Write one line and return the record as written. OSError when the disk is full; no half line is left then."""
        value = jsonable(record)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # A lone surrogate is written as its \u escape, which JSON reads back.
        line = text.encode("utf-8", errors="backslashreplace") + b"\n"
        with self._lock:
            if self._descriptor is None:
                raise ValueError(f"{self.path} is closed")
            num_written = self._written(self._descriptor, line)
            if num_written < len(line):
                os.ftruncate(self._descriptor, self.offset)
                problem = f"{os.strerror(errno.ENOSPC)}: only {num_written} of {len(line)} bytes of a line were written"
                raise OSError(errno.ENOSPC, problem, str(self.path))
            self.offset += num_written
        return dict(value)

    def _written(self, descriptor: int, line: bytes) -> int:
        """How many bytes of the line were; OSError that names the file."""
        try:
            return os.write(descriptor, line)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> int:
        """Wait until all lines are on the disk; the offset they reach."""
        with self._lock:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
            return self.offset

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        with self._lock:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = None


class JournalWriter(Protocol):
    """What a run needs of a journal: a ``Journal`` on the main rank, a ``SilentJournal`` on the others."""

    def write(self, line: JournalLine) -> None:
        """Write one line."""

    def sync(self) -> int:
        """Wait until all lines are on the disk; the offset they reach."""

    def close(self) -> None:
        """Sync and close."""


class Journal:
    """The journal of the main rank: each line goes to the file first, then to the views (terminal, trackers).

    A view is decoration: one that raises is switched off with a warning, and the run continues.
    """

    def __init__(
        self,
        path: Path,
        views: Sequence[Callable[[JournalLine], None]] = (),
        *,
        warn: Callable[[str], None] = failures.warn,
    ) -> None:
        self._file, self._warn = AppendOnlyFile(path), warn
        self._views = list(views)

    def write(self, line: JournalLine) -> None:
        """Write the line and show it to the views. OSError when the disk is full."""
        self._file.append(line.to_line())
        for view in tuple(self._views):
            try:
                view(line)
            except Exception as error:  # noqa: BLE001 -- whatever happens in a view, training continues
                self._views.remove(view)
                name = getattr(view, "__qualname__", type(view).__name__)
                self._warn(f"{name} is switched off for the rest of this run: {type(error).__name__}: {error}")

    def sync(self) -> int:
        """Wait until all lines are on the disk; the offset they reach."""
        return self._file.sync()

    def close(self) -> None:
        """Sync and close; closing twice is allowed."""
        self._file.close()


class SilentJournal:
    """The journal of every rank but the main one: writes nothing."""

    def write(self, line: JournalLine) -> None:
        """Nothing: the main rank writes."""

    def sync(self) -> int:
        """Nothing to wait for."""
        return 0

    def close(self) -> None:
        """Nothing to close."""


def read(path: Path, *, skip: Container[int] = ()) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file, in order; a torn last line (no newline) is ignored, also while a process is writing.
    Lines whose number (from 1) is in ``skip`` are passed over unread.

    UserError with the line number when a line that is not the last is broken, or when there is no such file.
    """
    return (line for _, line in read_numbered(path, skip=skip))


def read_numbered(path: Path, *, skip: Container[int] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """``read``, each line with its number (from 1)."""
    for number, line in parsed_lines(path, skip=skip):
        if isinstance(line, bytes):
            raise broken_line(path, number, line)
        yield number, line


def parsed_lines(path: Path, *, skip: Container[int] = ()) -> Iterator[tuple[int, dict[str, Any] | bytes]]:
    """``read_numbered`` for one who can do without a broken line: it comes as the bytes that it is."""
    if not path.is_file():
        raise UserError("no such file", file=path, remedy="Is this a run folder?")
    with path.open("rb") as file:
        for index, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            if index in skip:
                continue
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):  # bad JSON, bad UTF-8
                line = None
            yield index, line if isinstance(line, dict) else raw


def broken_line(path: Path, number: int, raw: bytes) -> UserError:
    """The refusal of a line that is no JSON object."""
    return UserError(
        "broken line: not a JSON object",
        got=raw[:80].decode("utf-8", errors="replace"),
        file=path,
        line=number,
        remedy="Only the last line may be torn: bring the file back from a backup",
    )


def lost_path(path: Path) -> Path:
    """Where ``cut`` keeps what it takes away: journal.jsonl -> journal.lost.jsonl."""
    return path.with_name(f"{path.stem}.lost{path.suffix}")


def cut(path: Path, offset: int) -> int:
    """Shorten a JSONL file to ``offset`` bytes and add the rest to ``<name>.lost.jsonl``; the number of bytes moved.

    Crash-safe: the rest is on the disk under its new name before the file is shortened, so a kill between the two
    leaves it in both, and the next cut, finding it at the end of the lost file, does not add it again. A torn line is
    kept as {"torn": text}. UserError when the file is shorter than ``offset`` or ``offset`` is not the end of a line:
    then it is not the file that the checkpoint refers to.
    """
    size = path.stat().st_size if path.exists() else 0
    if offset < 0 or size < offset:
        raise UserError(
            f"the file has {size} bytes, fewer than the checkpoint says",
            got=offset,
            file=path,
            remedy="It was changed after the checkpoint was saved: restore it, or start in a new run folder",
        )
    if size == offset:
        return 0
    with path.open("r+b") as file:
        if offset > 0:
            file.seek(offset - 1)
            if file.read(1) != b"\n":
                raise UserError("the offset is not the end of a line", got=offset, file=path, remedy="Restore the file")
        rest = file.read()
        _add_lost(lost_path(path), _complete_lines(rest))
        file.truncate(offset)
        os.fsync(file.fileno())
    return size - offset


def prefix_digest(path: Path, offset: int) -> str:
    """SHA-256 of the first ``offset`` bytes of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while offset > 0 and (block := file.read(min(offset, TAIL_BYTES))):
            digest.update(block)
            offset -= len(block)
    return digest.hexdigest()


def _add_lost(lost: Path, rest: bytes) -> None:
    """Add ``rest`` to the lost file, unless it ends with it already; the file is never there in part."""
    before = lost.read_bytes() if lost.exists() else b""
    if not before.endswith(rest):
        atomic.write_bytes(lost, before + rest)


def _complete_lines(rest: bytes) -> bytes:
    whole, newline, torn = rest.rpartition(b"\n")
    if not torn:
        return rest
    torn_line = json.dumps({"torn": torn.decode("utf-8", errors="backslashreplace")}).encode() + b"\n"
    return whole + newline + torn_line


def _end_of_last_line(path: Path) -> int:
    """The number of bytes up to and with the last newline; 0 when there is none."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - TAIL_BYTES)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
