"""Walks a folder for data files: what is hidden or temporary is left out, links are followed once, names stay as
written.

A hub's cache, git-annex and DVC lay files out as links to blobs without a suffix, so a file is known by the name it is
reached by, never by the one it resolves to. The same file reached twice would train every document twice; a link to a
folder above would read everything else; so each real file and folder is visited once, by its own name where it has one
below the root.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.base.errors import DataError
from trainer.data.account import FileTally

_WILD = re.compile(r"[*?\[]")
_TEMPORARY = {"tmp", "temp", "temporary", "lost+found"}
_TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".crdownload", "~")
_CHECKPOINT = re.compile(r"(checkpoint|ckpt)s?([-_.].*)?", re.IGNORECASE)
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # what `datasets` writes beside data


@dataclass(frozen=True)
class WalkedFile:
    """A file by its path, its path from the root, and the split that a saved data set gives it."""

    path: str
    name: str
    split: str | None = None


@dataclass(frozen=True)
class Pattern:
    """The part of a path from its first wildcard on, as its components. Without any it takes every file."""

    parts: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the path matches."""
        return not self.parts or _matches(PurePosixPath(name).parts, self.parts)

    def may_hold(self, folder: str) -> bool:
        """Whether a path below the folder can match."""
        return not self.parts or _may_hold(PurePosixPath(folder).parts, self.parts)

    def names(self, part: str) -> bool:
        """Whether a component was written for this name: as a shell's, a wildcard does not stand for a leading dot."""
        return any(
            fnmatchcase(part, wanted) and wanted.strip("*?") and (part[0] not in "._" or wanted[0] == part[0])
            for wanted in self.parts
        )


def split_pattern(base: Path, path: Path) -> tuple[Path, Pattern]:
    """The folder or file that a path surely means, and the pattern after it. Whatever exists as it is written is no
    pattern, and the folder of the recipe never is.
    """
    root = Path(path.anchor) if path.is_absolute() else base
    parts = path.relative_to(root).parts if path.is_absolute() else path.parts
    for place, part in enumerate(parts):
        if _WILD.search(part) and not os.path.lexists(root / part):
            return root, Pattern(parts[place:])
        root /= part
    return root, Pattern()


def why_left_out(name: str, *, is_folder: bool) -> str | None:
    """The reason why a file or folder of this name is no data wherever it lies; None for any other."""
    if name.startswith("."):
        return "hidden"
    if name.startswith("_"):  # as Spark, Hadoop and pyarrow have it: `_temporary`, `_SUCCESS`, `_delta_log`
        return "hidden (its name begins with _)"
    if name.lower().endswith(_TEMPORARY_SUFFIXES) or (is_folder and name.lower() in _TEMPORARY):
        return "temporary"
    if is_folder and _CHECKPOINT.fullmatch(name):
        return "in a checkpoint folder"
    return None


def walk(root: Path, pattern: Pattern, tally: FileTally, is_data: Callable[[str], bool]) -> list[WalkedFile]:
    """The files below ``root`` that the pattern takes, in the order of their names; what is left out is counted.
    UserError for a link that leads nowhere by a name that ``is_data``.
    """
    return _Walk(root, pattern, tally, is_data).files()


class _Walk:
    def __init__(self, root: Path, pattern: Pattern, tally: FileTally, is_data: Callable[[str], bool]) -> None:
        self._root, self._pattern, self._tally, self._is_data = root, pattern, tally, is_data
        real = root.resolve()
        self._above = {_identity(folder.stat()) for folder in (real, *real.parents)}
        self._folders: set[tuple[int, int]] = set()
        self._linked: deque[tuple[Path, str]] = deque()
        self._found: list[tuple[bool, WalkedFile]] = []  # whether it was reached through a link

    def files(self) -> list[WalkedFile]:
        """Walks the tree itself first, then what its links lead to, so that real names win over links."""
        self._enter(self._root, "", through_link=False)
        while self._linked:
            folder, name = self._linked.popleft()
            identity = _identity(folder.stat())
            if identity in self._above:
                self._tally.skip("a link to a folder above", name)
            elif identity in self._folders:
                self._tally.skip("a link to a folder that is read already", name)
            else:
                self._enter(folder, name, through_link=True)
        return sorted(self._each_once(), key=lambda file: PurePosixPath(file.name).parts)

    def _each_once(self) -> Iterator[WalkedFile]:
        names: dict[tuple[int, int], str] = {}
        for _, file in sorted(self._found, key=lambda found: (found[0], found[1].name)):
            status = Path(file.path).stat()
            if status.st_ino and names.setdefault(_identity(status), file.name) != file.name:
                self._tally.skip("the same file as another", file.name)
            else:
                yield file

    def _enter(self, folder: Path, name: str, *, through_link: bool) -> None:
        self._folders.add(_identity(folder.stat()))
        saved = _SavedSet.of(folder)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            below, path = f"{name}/{entry.name}" if name else entry.name, folder / entry.name
            is_link = entry.is_symlink()
            is_folder = path.is_dir() if is_link else entry.is_dir()  # the folder tells what is no link, at no cost
            reason = why_left_out(entry.name, is_folder=is_folder)
            if reason and not self._pattern.names(entry.name):
                self._leave_out(path, below, reason)
            elif is_link and not path.exists():
                self._note_broken(path, below)
            elif not is_folder:
                self._add(path, below, saved, through_link=through_link or is_link)
            elif not self._pattern.may_hold(below):
                continue
            elif is_link:
                self._linked.append((path, below))
            else:
                self._enter(path, below, through_link=through_link)

    def _add(self, path: Path, name: str, saved: "_SavedSet | None", *, through_link: bool) -> None:
        if not self._pattern.takes(name):
            return
        if not self._pattern.names(path.name) and (reason := _why_beside_data(path.name, saved)):
            self._tally.skip(reason, name)
        elif path.is_file():
            file = WalkedFile(str(path), name, saved.split if saved else None)
            self._found.append((through_link, file))
        else:
            self._tally.skip("not a regular file", name)

    def _leave_out(self, path: Path, name: str, reason: str) -> None:
        """Counts a file, or every file of a folder, whose links are not followed."""
        if not path.is_dir() or path.is_symlink():
            if self._pattern.takes(name) or path.is_dir():
                self._tally.skip(reason, name)
            return
        for folder, _, files in os.walk(path):
            for file in sorted(files):
                self._tally.skip(reason, f"{name}/{(Path(folder) / file).relative_to(path).as_posix()}")

    def _note_broken(self, path: Path, name: str) -> None:
        """Refuses a link that leads nowhere where it stands for data."""
        if not self._pattern.takes(name):
            return
        if not self._is_data(name):
            self._tally.skip("a link that leads nowhere", name)
            return
        remedy = f"Fetch the file, or remove the link {name}"
        raise DataError("a link leads nowhere", got=str(path.readlink()), remedy=remedy, file=path)


@dataclass(frozen=True)
class _SavedSet:
    """A data set as `datasets` leaves it in a folder: its files and its split where they are known."""

    shards: tuple[str, ...] | None
    split: str | None

    @classmethod
    def of(cls, folder: Path) -> "_SavedSet | None":
        """The one in this folder, if there is one. Raises UserError where it is not whole."""
        if not (folder / "dataset_info.json").is_file():
            return None
        if not (folder / "state.json").is_file():
            return cls(None, None)
        state = _parsed(folder / "state.json")
        try:
            shards = tuple(str(file["filename"]) for file in state["_data_files"])
        except (KeyError, TypeError) as error:
            remedy = "Is it whole?"
            raise DataError("a saved data set cannot be opened", remedy=remedy, file=folder / "state.json") from error
        if missing := [name for name in shards if not (folder / name).exists()]:
            raise DataError("a file of a saved data set is missing", got=missing, remedy="Is it whole?", file=folder)
        above = folder.parent / "dataset_dict.json"
        splits = _parsed(above).get("splits", []) if above.is_file() else []
        return cls(shards, folder.name if folder.name in splits else state.get("_split"))


def _parsed(file: Path) -> Any:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = "Is it whole?"
        raise DataError("a saved data set cannot be opened", got=str(error), remedy=remedy, file=file) from error
    return tree if isinstance(tree, dict) else {}


def _why_beside_data(name: str, saved: _SavedSet | None) -> str | None:
    if name in _OF_DATASETS or (saved and saved.shards is not None and name == "state.json"):
        return "about a saved data set"
    if saved and saved.shards is not None and name not in saved.shards:
        return "not a file of the saved data set"
    if saved and name.startswith("cache-") and name.endswith(".arrow"):
        return "cached by datasets"
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:] or ("*",)) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_hold(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not parts or not pattern:
        return bool(pattern)
    return pattern[0] == "**" or (fnmatchcase(parts[0], pattern[0]) and _may_hold(parts[1:], pattern[1:]))


def twins(names: Iterable[str], compressed: tuple[str, ...]) -> list[str]:
    """The names of which one is the compressed form of another, as `gzip -k` leaves them: the same data twice."""
    plain: dict[str, list[str]] = {}
    for name in names:
        stem = name.removesuffix(PurePosixPath(name).suffix)
        plain.setdefault(stem if PurePosixPath(name).suffix.lower() in compressed else name, []).append(name)
    return next((both for both in plain.values() if len(both) > 1), [])
