"""Files and folders that are complete or absent, whatever kills the process: written aside, synced, renamed.

A rename inside one file system is atomic (POSIX), so a reader sees the old content or the new, never a part. What was
renamed survives a power cut only when the file and then its folder were synced; where the content can be made again
(a page, a pointer), ``durable=False`` leaves that out.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A path to write to, in the same folder (which is made); it takes the place of ``path`` when the block ends well.

    After an error ``path`` is as it was, and nothing is left aside. Two processes may write the same ``path`` at the
    same time: the last one to end wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        if durable:
            sync_file(aside)
        aside.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a write that finds no room does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        aside.unlink(missing_ok=True)  # renamed already when all went well
    if durable:
        sync_folder(path.parent)


def write_text(path: Path, text: str, *, durable: bool = True) -> Path:
    """Replace the content of ``path`` by ``text`` in UTF-8; what UTF-8 lacks is escaped. Returns ``path``."""
    with replacing(path, durable=durable) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> Path:
    """Replace the content of ``path``; returns ``path``."""
    with replacing(path, durable=durable) as aside:
        aside.write_bytes(content)
    return path


def sync_tree(folder: Path) -> None:
    """Wait until all files and folders below ``folder``, and itself, are on the disk."""
    inner = list(folder.rglob("*"))
    for path in inner:
        if path.is_file():
            sync_file(path)
    for path in (*(path for path in inner if path.is_dir()), folder):
        sync_folder(path)


def replace_folder(aside: Path, folder: Path) -> None:
    """Give the complete folder ``aside`` the name ``folder``; one that had it before is removed afterwards.

    A folder cannot be replaced in one rename. A process that dies between the two leaves the old one as
    ``.NAME.replaced``, which ``recover_folder`` puts back.
    """
    replaced = _replaced(folder)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    aside.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Put back what a killed ``replace_folder`` left aside: the old folder where the new one never got its name."""
    replaced = _replaced(folder)
    if not replaced.exists():
        return
    if folder.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(folder)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")
