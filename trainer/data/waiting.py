"""How the processes of a run agree on a store through files: the main one prepares and updates a heartbeat, the others
wait.

Preparation happens before any process group exists, and can take longer than a collective may wait. So the main
process touches a heartbeat file while it works and at last writes a pointer to the store. The others look for the
pointer; a failure note, or a heartbeat that stops, ends their waiting. A stale note or heartbeat of an earlier
run is told apart by change, not by clocks, because machines disagree about the time.
"""

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.base.atomic import write_text
from trainer.base.errors import UserError
from trainer.data.store import is_complete

_BEAT_S = 1.0
_POLL_S = 0.1


def _folder(cache: Path) -> Path:
    return cache / "runs"


def _pointer(cache: Path, key: str) -> Path:
    return _folder(cache) / f"{key}.store"


def _failure(cache: Path, key: str) -> Path:
    return _folder(cache) / f"{key}.failed"


def _heartbeat(cache: Path, key: str) -> Path:
    return _folder(cache) / f"{key}.alive"


def _known_store(cache: Path, key: str) -> Path | None:
    """The store an earlier or the present preparation pointed to, if it is still whole."""
    pointer = _pointer(cache, key)
    if not pointer.is_file():
        return None
    folder = cache / "stores" / pointer.read_text(encoding="utf-8").strip()
    return folder if folder.name and is_complete(folder) else None


class Announcement:
    """The main process's side: beats while its body runs, and leaves a note when the body fails."""

    def __init__(self, cache: Path, key: str) -> None:
        self._cache, self._key = cache, key
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        _folder(self._cache).mkdir(exist_ok=True)
        _failure(self._cache, self._key).unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is not None:
            _failure(self._cache, self._key).write_text(str(error) or repr(error), encoding="utf-8")

    def _beat(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            with suppress(OSError):  # a full disk is reported by the preparation itself
                _heartbeat(self._cache, self._key).write_text(f"{time.monotonic_ns()} {number}", encoding="utf-8")
            self._stop.wait(_BEAT_S)

    def known_store(self) -> Path | None:
        """The store that was prepared from the same files before."""
        return _known_store(self._cache, self._key)

    def point_to(self, folder: Path) -> None:
        """Tells the others, and later runs, which store it is."""
        pointer = _pointer(self._cache, self._key)
        write_text(pointer, folder.name, durable=False)  # what it says can be found out again


def await_store(cache: Path, key: str, patience_s: float) -> Path:
    """Waits for the main process's store. Raises UserError when it failed, or did not touch its heartbeat
    file for ``patience_s`` seconds.
    """
    first_failure, last_beat, quiet_since = _read(_failure(cache, key)), _read(_heartbeat(cache, key)), time.monotonic()
    while (folder := _known_store(cache, key)) is None:
        failure, beat = _read(_failure(cache, key)), _read(_heartbeat(cache, key))
        if failure is not None and failure != first_failure:
            raise UserError(f"the main process could not prepare the data: {failure[1]}")
        if failure is None:
            first_failure = None
        if beat != last_beat:
            last_beat, quiet_since = beat, time.monotonic()
        elif time.monotonic() - quiet_since > patience_s:
            last_failure = f"; its last failure was: {failure[1]}" if failure else ""
            remedy = "See its own output; the preparation begins anew at the next start"
            raise UserError(
                f"the main process gave no heartbeat for {patience_s:g} s while it prepared the data{last_failure}",
                remedy=remedy,
            )
        time.sleep(_POLL_S)
    return folder


def _read(file: Path) -> tuple[int, str] | None:
    """Time of change and text of a file; None where there is none."""
    try:
        return file.stat().st_mtime_ns, file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
