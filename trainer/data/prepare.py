"""Prepares a recipe's data once: split, decontaminate, tokenize, pack, store; every later run opens the store.

The store is keyed by a fingerprint of the files' content and of every setting that changes a byte of it, so a changed
file is never mistaken for the old one, and five seeds share one store. It is written aside and renamed when whole: a
preparation that is killed leaves no store, only a folder that the next one removes. Training text is streamed (read,
matched against the held-out documents, tokenized, appended), so memory holds a few batches and the held-out documents,
whatever the size of the sources.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trainer.base.atomic import sync_tree
from trainer.base.errors import UserError
from trainer.data.config import DataConfig
from trainer.data.find import is_indexed
from trainer.data.fingerprint import CACHE_VARIABLE, cache_folder, content_fingerprint, stamp_key
from trainer.data.index import index_file, write_index
from trainer.data.store import COMPLETE, PreparedData, is_complete, open_prepared
from trainer.data.store_writer import Progress, StoreWriter
from trainer.data.waiting import Announcement, await_store

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
        return open_prepared(await_store(cache, key, patience_s))
    with Announcement(cache, key) as announcement:
        if first is not None:
            first()
        if (folder := announcement.known_store()) is None:
            folder = _prepared_folder(
                config, seed=seed, base=base, cache=cache, note=progress or (lambda what, documents: None)
            )
            announcement.point_to(folder)
    return open_prepared(folder)


def _make_cache(cache: Path) -> None:
    """Makes the folder of the prepared stores. Raises UserError where it cannot be."""
    try:
        for folder in (cache, cache / "runs", cache / "stores"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
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


def _prepared_folder(config: DataConfig, *, seed: int, base: Path, cache: Path, note: Progress) -> Path:
    _require_writable(cache)
    for name, segment in config.every_segment.items():
        if is_indexed(segment) and not (index := index_file(config, name, base, cache)).exists():
            write_index(config, name, base, index, partial(note, f"index {name}"))
    fingerprint, inputs = content_fingerprint(config, seed=seed, base=base, cache=cache)
    folder = cache / "stores" / fingerprint[:32]
    if is_complete(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # stores appear whole: one without its marker was half deleted
    remove_abandoned(folder)
    aside = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        StoreWriter(config, seed=seed, base=base, cache=cache, folder=aside, note=note).write(fingerprint, inputs)
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already when all went well
    return folder


def remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine that are no longer alive left of this store."""
    for abandoned in folder.parent.glob(f"{folder.name}.*.tmp"):
        host, pid = abandoned.name.removesuffix(".tmp").removeprefix(f"{folder.name}.").rsplit(".", 1)
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


def _publish(aside: Path, folder: Path) -> None:
    sync_tree(aside)
    (aside / COMPLETE).touch()
    try:
        aside.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise  # anything but another run that finished the same store first
