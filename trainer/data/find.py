"""Finds the local files of a source: a file, a pattern, a folder, a saved data set, or a file inside a package."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from trainer.base.errors import DataError
from trainer.base.paths import expanded
from trainer.data.account import FileTally, SkippedFiles
from trainer.data.pool_manifest import Manifest, PoolView, pool_of
from trainer.data.readers import COMPRESSED, OpenableFile, formats_by_suffix
from trainer.data.source_config import Rows
from trainer.data.splits import of_split
from trainer.data.walk import Pattern, WalkedFile, split_pattern, twins, walk

_DOCUMENTATION = {"README", "LICENSE", "NOTICE", "CITATION", "CHANGELOG", "CONTRIBUTING", "CODE_OF_CONDUCT"}


@dataclass(frozen=True)
class FoundFiles:
    """The data files of a source in a fixed order, and those that were seen there and left out. Of a pool also
    the ids of the rows in them that are taken down.
    """

    files: list[OpenableFile]
    skipped: tuple[SkippedFiles, ...] = ()
    of_pool: bool = False
    taken_down: frozenset[str] = frozenset()


def is_remote(config: Rows) -> bool:
    """Whether the source's path is a URL."""
    return config.path is not None and "://" in config.path


def is_indexed(config: Rows) -> bool:
    """Whether the source is read through a local index."""
    return config.hub is not None or config.streaming or is_remote(config)


def local_files(config: Rows, base: Path) -> list[OpenableFile]:
    """The source's local files in a fixed order. Raises UserError where there is none."""
    return find_files(config, base).files


def find_files(config: Rows, base: Path) -> FoundFiles:
    """The source's local files, named by their paths from where the source begins, and what else lies there. Raises
    UserError where there is no data file, and where a link to data leads nowhere.
    """
    if config.path is None:
        raise ValueError("a hub source has no local files before it is indexed")
    if config.package:
        file = _package_file(config.package, config.path)
        return chosen(config, [WalkedFile(str(file), file.name)], FileTally())
    root, pattern = split_pattern(base, expanded(config.path))
    tally = FileTally()
    view = _pool_view(config, root)
    if not pattern.parts and not root.is_dir():
        return _of_pool(config, _single(root), tally, view, None, root)
    try:
        walked = walk(root, pattern, tally, partial(_is_data, config, pattern)) if root.is_dir() else []
    except OSError as error:
        remedy = "Check that it can be read"
        raise DataError("a folder cannot be searched for data", got=str(error), remedy=remedy, file=root) from error
    return _of_pool(config, walked, tally, view, pattern, root)


def _pool_view(config: Rows, root: Path) -> PoolView | None:
    """What the source reads of the pool that ``root`` is in; None where it is in none."""
    pool = pool_of(root)
    if pool is None:
        if (root / "manifest").is_dir() and pool_of(root / "rows"):
            raise DataError("a source names a pool, not its rows", got=config.path, remedy=f"Write {config.path}/rows")
        if config.generations is not None:
            remedy = "Leave it out, or name the rows of a pool: `path: POOL/rows`"
            raise DataError("`generations` has an effect only on a pool", got=config.path, remedy=remedy)
        return None
    if config.streaming:
        raise DataError("a pool is not read by `streaming`", got=config.path, remedy="Leave `streaming` out")
    return Manifest(pool).view(config.newest_generations)


def _of_pool(
    config: Rows,
    walked: Sequence[WalkedFile],
    tally: FileTally,
    view: PoolView | None,
    pattern: Pattern | None,
    root: Path,
) -> FoundFiles:
    """Of the files that were walked, those that the source reads of the pool; all, where it is none."""
    if view is None:
        return chosen(config, walked, tally, pattern, file=root)
    kept = []
    for file in walked:
        shard = view.files.get(Path(file.path).name)
        if shard is None:
            tally.skip(view.left_out.get(Path(file.path).name, "not in the pool's manifest"), file.name)
            continue
        if (size := Path(file.path).stat().st_size) != shard.num_bytes:
            what, remedy = "a file of the pool is damaged", "Restore it, or quarantine its generation"
            raise DataError(what, got=f"{size} bytes, not {shard.num_bytes}", remedy=remedy, file=file.path)
        kept.append(file)
    if missing := sorted(view.files.keys() - {Path(file.path).name for file in kept}) if pattern == Pattern() else []:
        remedy = "Restore it, or quarantine its generation"
        raise DataError("a file of the pool is missing", got=missing[0], remedy=remedy, file=root)
    return replace(chosen(config, kept, tally, pattern, file=root), of_pool=True, taken_down=view.taken_down)


def chosen(
    config: Rows, walked: Sequence[WalkedFile], tally: FileTally, pattern: Pattern | None = None, *, file: object = None
) -> FoundFiles:
    """Of the files that were found, those that are data of the source's format and split. ``pattern`` is None where
    the recipe names one file. Raises UserError where none is left.
    """
    kept, formats = [], formats_by_suffix()
    for candidate in walked:
        reason = _why_no_data(candidate.name, config, pattern, formats) if pattern else None
        if reason:
            tally.skip(reason, candidate.name)
        else:
            kept.append(candidate)
    if not kept:
        left_out = ", ".join(f"{files.num_files} {files.reason}" for files in tally.skipped)
        remedy = "Paths are relative to the recipe's file" + (f". Left out there: {left_out}" if left_out else "")
        raise DataError("a source has no files", got=config.path, remedy=remedy, file=str(file) if file else None)
    if both := twins((candidate.name for candidate in kept), COMPRESSED):
        remedy = "They would be read twice: remove one, or name the others by a pattern"
        raise DataError("a file lies next to its compressed form", got=both, remedy=remedy, file=str(file))
    kept = of_split(kept, config.split, path=str(config.path), tally=tally)
    return FoundFiles([OpenableFile(candidate.path, candidate.name) for candidate in kept], tally.skipped)


def _single(file: Path) -> list[WalkedFile]:
    """A file that is named as such, by its name as it is written."""
    if not file.exists() and os.path.lexists(file):
        raise DataError("a link leads nowhere", got=str(file.readlink()), remedy="Fetch the file", file=file)
    return [WalkedFile(str(file), file.name)] if file.exists() else []


def _why_no_data(name: str, config: Rows, pattern: Pattern, formats: Mapping[str, str]) -> str | None:
    """Why a file of a folder is not read; None where it is. A pattern names its formats itself."""
    suffix, last = OpenableFile(name).suffix, PurePosixPath(name).name
    is_documentation = last.split(".")[0].upper() in _DOCUMENTATION and not pattern.names(last)
    if config.format and config.format not in formats.values():
        return None  # a reader from outside that claims no suffix is given every file
    if not pattern.parts and suffix not in formats:
        return "not a data format"
    if not pattern.parts and config.format and formats[suffix] != config.format:
        return f"not {config.format}"
    return "documentation" if is_documentation and not (config.format and not pattern.parts) else None


def _is_data(config: Rows, pattern: Pattern, name: str) -> bool:
    """Whether a file of this name would be read, were it there; by a pattern or a reader that takes any name, only
    one with the suffix of a format.
    """
    formats = formats_by_suffix()
    return OpenableFile(name).suffix in formats and not _why_no_data(name, config, pattern, formats)


def _package_file(package: str, path: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # `__main__` has none
        spec = None
    if spec is None or not spec.submodule_search_locations:
        remedy = "Run: pip install 'hybrid-trainer[demo]' (or the package that your own recipe names)"
        raise DataError(f"the package that holds a source's data is not installed: {package}", remedy=remedy)
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise DataError(f"the package {package} does not hold this file", got=path, file=file)
    return file


def content_hash(file: str | Path) -> str:
    """sha256 of a file."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(file: str | Path) -> tuple[str, int, int, int]:
    """Path, size and times of change: what decides, cheaply, whether a file is still the one that was prepared.

    The time of the inode's change as well: a copy that keeps the time of writing (`cp -p`, `rsync -t`) has a new one.
    """
    status = Path(file).stat()
    return str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns
