"""Prepares a recipe's data once: split, decontaminate, tokenize, pack, store; every later run opens the store.

The store is keyed by a fingerprint of the files' content and of every setting that changes a byte of it, so a changed
file is never mistaken for the old one, and five seeds share one store. It is written aside and renamed when whole: a
preparation that is killed leaves no store, only a folder that the next one removes. A store that is damaged is said
to be, and prepared again; one that is whole is used from where nothing can be written. Training text is streamed (read,
matched against the held-out documents, tokenized, appended), so memory holds a few batches and the held-out documents,
whatever the size of the sources.
"""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainer.base.atomic import sync_file, sync_folder, sync_tree
from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.base.room import told_if_no_room
from trainer.data.config import DataConfig
from trainer.data.files import files_of
from trainer.data.find import is_indexed
from trainer.data.fingerprint import CACHE_VARIABLE, cache_folder, content_fingerprint, stamp_key
from trainer.data.index import index_file, is_whole_index, write_index
from trainer.data.store import COMPLETE, MANIFEST, PreparedData, is_complete, open_prepared, seal_of
from trainer.data.store_files import DamagedStoreError
from trainer.data.store_writer import Progress, StoreWriter
from trainer.data.waiting import Announcement, await_store, pointed_store
from trainer.data.whole import mark_whole, open_whole

ASIDE, DAMAGED = ".tmp", ".damaged"  # suffixes of a store that is being written, and of one that it replaces

__all__ = ["PreparedData", "Progress", "open_prepared", "prepare"]


def prepare(
    config: DataConfig,
    *,
    seed: int,
    base: Path = Path(),
    is_main: bool = True,
    progress: Progress | None = None,
    first: Callable[[], None] | None = None,
    patience_s: float = 120.0,
) -> PreparedData:
    """The prepared data of a recipe in folder ``base``; from the store where it is there already.

    Only the main process prepares. The others wait for its store, and raise UserError when it failed or has not
    touched its heartbeat file for ``patience_s`` seconds. ``progress(what, documents)`` is called now and then, and
    ``first`` before anything is prepared: what it raises the others hear of.
    """
    base, cache = base.resolve(), cache_folder(config, base)
    _make_cache(cache)
    key = stamp_key(config, seed=seed, base=base, cache=cache)
    if not is_main:
        return await_store(cache, key, patience_s)
    with Announcement(cache, key) as announcement:
        if first is not None:
            first()
        pointed = pointed_store(cache, key)
        data = None if pointed is None else _open_or_tell(pointed)
        if data is None:
            preparation = _Preparation(config, seed, base, cache, progress or (lambda what, documents: None))
            data = preparation.data(damaged=pointed)
            announcement.point_to(data.folder)
    return data


def _open_or_tell(folder: Path) -> PreparedData | None:
    """The store, whole; None where it is damaged, after saying so: it is prepared again."""
    try:
        return open_whole(folder)
    except DamagedStoreError as error:
        warn(f"the prepared data in {folder} are damaged ({error.problem}): preparing them again")
    return None


def _make_cache(cache: Path) -> None:
    """Makes the folder of the prepared stores. Raises UserError where there is none and it cannot be made."""
    try:
        for folder in (cache, cache / "runs", cache / "stores"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not (cache / "stores").is_dir():
            raise _unusable(cache, "made", error) from error


def _require_writable(cache: Path) -> None:
    """Raises UserError where nothing can be written. What others have prepared can be used from there all the same."""
    try:
        with tempfile.TemporaryFile(dir=cache / "stores"):
            pass
    except OSError as error:
        raise _unusable(cache, "written to", error) from error


def _unusable(cache: Path, action: str, error: OSError) -> UserError:
    remedy = f"Name a folder that can be written in data.cache, or in ${CACHE_VARIABLE}"
    return UserError(f"the folder of prepared data cannot be {action}: {error.strerror}", got=str(cache), remedy=remedy)


@dataclass(frozen=True)
class _Preparation:
    """A recipe's data, to be found by its content or prepared."""

    config: DataConfig
    seed: int
    base: Path
    cache: Path
    note: Progress

    def data(self, *, damaged: Path | None) -> PreparedData:
        """The store of this content; it takes the place of one that is ``damaged``."""
        self._write_indexes()
        fingerprint, inputs = content_fingerprint(self.config, seed=self.seed, base=self.base, cache=self.cache)
        folder = self.cache / "stores" / fingerprint[:32]
        if folder != damaged and is_complete(folder) and (data := _open_or_tell(folder)) is not None:
            return data
        _require_writable(self.cache)
        with told_if_no_room("the prepared data", self.cache, self._source_bytes):
            self._prepare(folder, fingerprint, inputs)
        data = open_prepared(folder)
        mark_whole(data)
        return data

    def _write_indexes(self) -> None:
        for name, segment in self.config.every_segment.items():
            if is_indexed(segment) and not is_whole_index(
                index := index_file(self.config, name, self.base, self.cache)
            ):
                if index.exists():
                    warn(f"the local index of {name} is not what was written: reading the source again ({index})")
                _require_writable(self.cache)
                with told_if_no_room("the local index of a source", index.parent):
                    write_index(self.config, name, self.base, index, partial(self.note, f"index {name}"))

    def _source_bytes(self) -> int:
        """About what a store takes: of text the tokens take half, and what is kept of each document comes to them."""
        files = {
            file.path for name in self.config.sources for file in files_of(self.config, name, self.base, self.cache)
        }
        return sum(Path(file).stat().st_size for file in files)

    def _prepare(self, folder: Path, fingerprint: str, inputs: dict[str, Any]) -> None:
        seal = _seal(folder)
        remove_abandoned(folder)
        aside = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}{ASIDE}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            StoreWriter(
                self.config, seed=self.seed, base=self.base, cache=self.cache, folder=aside, note=self.note
            ).write(fingerprint, inputs)
            _publish(aside, folder, seal)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # gone already when all went well


def remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine that are no longer alive left of this store."""
    for abandoned in folder.parent.glob(f"{folder.name}.*"):
        if abandoned.suffix in (ASIDE, DAMAGED):
            host, pid = abandoned.stem.removeprefix(f"{folder.name}.").rsplit(".", 1)
            if host == socket.gethostname() and not _is_alive(int(pid)):
                shutil.rmtree(abandoned, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _publish(aside: Path, folder: Path, seal: bytes | None) -> None:
    """Give the store its name; what had it before, with this ``seal`` (None: without any), is damaged, and removed."""
    sync_tree(aside)
    preparation = f"{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
    (aside / COMPLETE).write_text(seal_of((aside / MANIFEST).read_bytes(), preparation), encoding="utf-8")
    sync_file(aside / COMPLETE)
    sync_folder(aside)
    replaced = aside.with_suffix(DAMAGED)
    if folder.exists() and _seal(folder) == seal:  # else another run has prepared it meanwhile
        folder.rename(replaced)
    try:
        aside.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise  # anything but another run that finished the same store first
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _seal(folder: Path) -> bytes | None:
    return (folder / COMPLETE).read_bytes() if is_complete(folder) else None
