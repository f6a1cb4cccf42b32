"""The answers of a round that is not whole yet: appended as they come, so that nothing is asked for twice.

A file of JSON lines. Its first line names the requests of the round: answers to others are never mixed in. A line that
a kill cut short is dropped when the file is opened again.
"""

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from trainer.base.errors import UserError
from trainer.synthesis.generators.protocol import Completion, Request

_FORMAT = 1
_LOCK_PATIENCE_S = 3.0  # a process that was killed may take a moment to end


class OtherRequestsError(UserError):
    """The answers that are kept are to other requests: recipe, or what was taken down, has changed since."""


class Responses:
    """The answers in ``file`` to ``requests``; one process at a time writes it."""

    def __init__(self, file: Path, requests: Sequence[Request]) -> None:
        self.file = file
        self.completions: dict[str, Completion] = {}
        self.failed: dict[str, Completion] = {}
        header = _header(requests)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _locked(file)
        try:
            whole = self._read(header)
            self._stream.truncate(whole)
            self._stream.seek(whole)
            if not whole:
                self._append([header])
        except BaseException:
            self._stream.close()
            raise

    def _read(self, header: dict[str, Any]) -> int:
        """Takes the whole lines; returns how many bytes they fill."""
        content = self.file.read_bytes()
        whole = content.rfind(b"\n") + 1
        lines = content[:whole].splitlines()
        if not lines:
            return 0
        if _header_of(lines[0]) != header:
            remedy = f"Finish it with the recipe and data that it was begun with, or remove {self.file} to begin anew"
            raise OtherRequestsError("an unfinished round asked for other texts", file=self.file, line=1, remedy=remedy)
        for number, line in enumerate(lines[1:], start=2):
            try:
                completion = Completion.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                remedy = "Remove the line: its text will be asked for again"
                raise UserError(
                    "a line of an unfinished round is damaged", file=self.file, line=number, remedy=remedy
                ) from error
            self.completions[completion.request_id] = completion
        return whole

    def add(self, completions: Iterable[Completion], *, durable: bool = True) -> None:
        """Keeps the answers: on the disk when this returns, or, not ``durable``, safe from a kill and on the disk after
        ``sync``. Failed calls are ``failed`` in this process only: they are asked for again.
        """
        every = list(completions)
        self.failed |= {each.request_id: each for each in every if each.finish_reason == "error"}
        kept = [completion for completion in every if completion.finish_reason != "error"]
        self._append([asdict(completion) for completion in kept], durable=durable)
        self.completions.update((completion.request_id, completion) for completion in kept)

    def sync(self) -> None:
        """Waits until all answers are on the disk."""
        os.fsync(self._stream.fileno())

    def _append(self, records: Sequence[dict[str, Any]], *, durable: bool = True) -> None:
        lines = [json.dumps(record, ensure_ascii=True).encode() + b"\n" for record in records]
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
            if durable:
                self.sync()
        except OSError as error:  # a write that finds no room does not say where
            raise OSError(error.errno, error.strerror, str(self.file)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _locked(file: Path) -> IO[bytes]:
    """The file, made where there is none, for this process alone; a kill frees it. ``UserError`` where another process
    makes the shard. A file system without locks has none: there the user sees to it.
    """
    stream = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    deadline_s = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_own = file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat())
        except BlockingIOError:
            if time.monotonic() < deadline_s:
                time.sleep(0.1)
                continue
            is_own = False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                stream.close()
                raise
            is_own = True
        if not is_own:  # held by another, or removed by one that has just made the shard whole
            stream.close()
            remedy = "Wait for it or stop it, then run this again"
            raise UserError("another process makes this shard of the round", file=file, remedy=remedy)
        return stream


def begun_for_others(file: Path, requests: Sequence[Request]) -> bool:
    """Whether the answers in ``file`` are to other requests."""
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        first = stream.readline()
    return first.endswith(b"\n") and _header_of(first) != _header(requests)


def _header(requests: Sequence[Request]) -> dict[str, Any]:
    return {"format": _FORMAT, "requests": len(requests), "digest": _digest(requests)}


def _header_of(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # of no round that can be finished


def _digest(requests: Sequence[Request]) -> str:
    return hashlib.sha256("\n".join(request.id for request in requests).encode()).hexdigest()
