"""How the processes of a run agree on a store through files: the main one prepares and updates a heartbeat, the others
wait.

Preparation happens before any process group exists, and can take longer than a collective may wait. So the main
process touches a heartbeat file while it works and at last writes a pointer to the store. The others look for the
pointer; a failure note, or a heartbeat that stops, ends their waiting. A stale note or heartbeat of an earlier
run is told apart by change, not by clocks, because machines disagree about the time.

The notes lie in the cache, or in the user's own where the cache is another's or read-only; where neither can be written
there are none, and a store is still found by its content.
"""

import hashlib
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.base.atomic import write_text
from trainer.base.errors import DataError, UserError
from trainer.data.fingerprint import default_cache
from trainer.data.store import PreparedData, is_complete, open_prepared
from trainer.data.whole import is_large, is_marked

_BEAT_S = 1.0
_SILENCE_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True)
class _Notes:
    """What is noted in a folder about the data of a recipe."""

    folder: Path
    key: str

    @property
    def pointer(self) -> Path:
        return self.folder / f"{self.key}.store"

    @property
    def failure(self) -> Path:
        return self.folder / f"{self.key}.failed"

    @property
    def heartbeat(self) -> Path:
        return self.folder / f"{self.key}.alive"


def _notes(cache: Path, key: str) -> tuple[_Notes, ...]:
    """Where notes may lie: in the cache, and in the user's own."""
    of_this_cache = hashlib.sha256(os.fsencode(cache)).hexdigest()[:8]
    return _Notes(cache / "runs", key), _Notes(default_cache() / "runs", f"{key}-{of_this_cache}")


def pointed_store(cache: Path, key: str) -> Path | None:
    """The store that an earlier or the present preparation of the same files pointed to, if it is there."""
    for notes in _notes(cache, key):
        pointer = _read(notes.pointer)
        if pointer is not None and re.fullmatch("[0-9a-f]{32}", name := pointer[1].strip()):
            folder = cache / "stores" / name
            if is_complete(folder):
                return folder
    return None


def known_store(cache: Path, key: str, *, check_sizes: bool = True) -> PreparedData | None:
    """That store, opened; None where there is none, or where it is seen at once that it is damaged."""
    folder = pointed_store(cache, key)
    with suppress(DataError):  # also one that is being replaced: the main process says what is wrong with any other
        return None if folder is None else open_prepared(folder, check_sizes=check_sizes)
    return None


class Announcement:
    """The main process's side: beats while its body runs, and leaves a note when the body fails."""

    def __init__(self, cache: Path, key: str) -> None:
        self._places = _notes(cache, key)
        self._notes: _Notes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._notes = next((notes for notes in self._places if _takes_notes(notes)), None)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None and self._notes is not None:
            with suppress(OSError):  # the others see that the heartbeat stops
                self._notes.failure.write_text(str(error) or repr(error), encoding="utf-8", errors="backslashreplace")

    def _beat(self) -> None:
        number = 0
        while self._notes is not None and not self._stop.is_set():
            number += 1
            with suppress(OSError):  # a full disk is reported by the preparation itself
                self._notes.heartbeat.write_text(f"{time.monotonic_ns()} {number}", encoding="utf-8")
            self._stop.wait(_BEAT_S)

    def point_to(self, folder: Path) -> None:
        """Tells the others, and later runs, which store it is."""
        if self._notes is not None:
            with suppress(OSError):  # what it says can be found out again
                write_text(self._notes.pointer, folder.name, durable=False)


def _takes_notes(notes: _Notes) -> bool:
    """Whether this process can write there; a failure that an earlier one noted is removed."""
    try:
        notes.folder.mkdir(parents=True, exist_ok=True)
        notes.heartbeat.touch()
        notes.failure.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def await_store(cache: Path, key: str, patience_s: float) -> PreparedData:
    """Waits for the main process's store. Raises UserError when it failed, or did not touch its heartbeat
    file for ``patience_s`` seconds.

    A large store without a mark is waited for while the main process shows life: it may be hashing it. Its mark and its
    heartbeat may also be where this process does not see them, in a home or on a disk of another node's own; then a
    complete store is opened all the same. The ranks compare which store it is before they use it.
    """
    first_failure, last_beat, quiet_since = _failure(cache, key), _beats(cache, key), time.monotonic()
    silence_s = _silence_s(cache, key)
    while True:
        if (beats := _beats(cache, key)) != last_beat:
            last_beat, quiet_since = beats, time.monotonic()
        quiet_s = time.monotonic() - quiet_since
        data = known_store(cache, key, check_sizes=os.environ.get("LOCAL_RANK", "0") == "0")
        if data is not None and (not is_large(data) or is_marked(data) or quiet_s >= silence_s):
            return data
        failure = _failure(cache, key)
        if failure is not None and failure != first_failure:
            raise UserError(f"the main process could not prepare the data: {failure[1]}")
        if failure is None:
            first_failure = None
        if quiet_s > patience_s:
            last_failure = f"; its last failure was: {failure[1]}" if failure else ""
            remedy = "See its own output; the preparation begins anew at the next start"
            raise UserError(
                f"the main process gave no heartbeat for {patience_s:g} s while it prepared the data{last_failure}",
                remedy=remedy,
            )
        time.sleep(_POLL_S if data is None else 10 * _POLL_S)  # a store that is there is looked at whole each time


def _silence_s(cache: Path, key: str) -> float:
    """Seconds without a heartbeat after which the main process is not at work on the store, as far as is seen here."""
    return _SILENCE_S if any(_may_write(notes.folder) for notes in _notes(cache, key)) else 0.0


def _may_write(folder: Path) -> bool:
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _failure(cache: Path, key: str) -> tuple[int, str] | None:
    found = [failure for notes in _notes(cache, key) if (failure := _read(notes.failure)) is not None]
    return max(found, default=None)  # the newest


def _beats(cache: Path, key: str) -> list[tuple[int, str] | None]:
    return [_read(notes.heartbeat) for notes in _notes(cache, key)]


def _read(file: Path) -> tuple[int, str] | None:
    """Time of change and text of a file; None where there is none that can be read."""
    try:
        return file.stat().st_mtime_ns, file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
