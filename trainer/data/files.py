"""Finds the files of a source, and pins what is not a local file into one: hubs, remote files and streams pass once
through a local index.

A stream has no random access and a hub can change under a run. Written once as plain jsonl, then read like
any other file, both become local, repeatable and equal on all ranks; the index is kept until it is deleted or the
recipe names another revision.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from trainer.base.atomic import replacing
from trainer.base.errors import DataError
from trainer.data.account import FileAccount, FileTally, SkippedFiles
from trainer.data.columns import ColumnCheck
from trainer.data.config import DataConfig, Rows, needed_columns
from trainer.data.readers import Malformed, OpenableFile, ReadOptions, Row, formats_by_suffix, hub, read_rows

_HASH_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class FoundFiles:
    """The data files of a source in a fixed order, and those that were seen there and left out."""

    files: list[Path]
    skipped: tuple[SkippedFiles, ...] = ()


def local_files(config: Rows, base: Path) -> list[Path]:
    """The source's local files in a fixed order. Raises UserError where there is none."""
    return find_files(config, base).files


def find_files(config: Rows, base: Path) -> FoundFiles:
    """The source's local files, and what else lies there. Raises UserError where there is no data file."""
    if config.path is None:
        raise ValueError("a hub source has no local files before it is indexed")
    if config.package:
        return FoundFiles([_package_file(config.package, config.path)])
    path = Path(config.path).expanduser()
    root = path if path.is_absolute() else base / path
    tally = FileTally()
    if root.is_file():
        return FoundFiles([root.resolve()])
    if root.is_dir():
        if (root / "dataset_info.json").exists() or (root / "dataset_dict.json").exists():
            return FoundFiles([root.resolve()])  # an arrow folder, as `save_to_disk` writes it
        files = []
        for file in (file for file in sorted(root.rglob("*")) if file.is_file()):
            if reason := _why_no_data(file.name, config):
                tally.skip(reason, file.relative_to(root).as_posix())
            else:
                files.append(file)
    else:
        anchor = Path(root.anchor)
        files = [file for file in sorted(anchor.glob(str(root.relative_to(anchor)))) if file.is_file()]
    if not files:
        raise DataError(
            "a source has no files", got=config.path, remedy="Paths are relative to the recipe's file", file=root
        )
    return FoundFiles([file.resolve() for file in files], tally.skipped)


def file_account(config: DataConfig, name: str, base: Path, cache: Path) -> FileAccount:
    """The files that segment ``name`` is read from, and those left out. An indexed segment is read from its index."""
    segment = config.every_segment[name]
    found = FoundFiles([index_file(config, name, base, cache)]) if is_indexed(segment) else find_files(segment, base)
    num_bytes = sum(part.stat().st_size for file in found.files for part in _parts(file))
    return FileAccount(read=len(found.files), num_bytes=num_bytes, skipped=found.skipped)


def remote_files(config: Rows) -> list[OpenableFile]:
    """The files behind a URL with a scheme that fsspec knows: one file, those of a glob, or those of a folder."""
    import fsspec

    url = str(config.path)
    try:
        system, path = fsspec.core.url_to_fs(url)
        if any(sign in path for sign in "*?["):
            paths = sorted(system.glob(path))
        elif system.isdir(path):
            paths = [file for file in sorted(system.find(path)) if not _why_no_data(Path(file).name, config)]
        else:
            paths = [path] if system.exists(path) else []
    except (ImportError, OSError, ValueError) as error:  # ImportError: the scheme needs a package such as s3fs
        remedy = "Check the path, the credentials and the network"
        raise DataError("remote files cannot be listed", got=url, remedy=f"{error}. {remedy}") from error
    if not paths:
        raise DataError("a source has no files", got=url, remedy="Check the path")
    return [OpenableFile(str(system.unstrip_protocol(file))) for file in paths]


def _why_no_data(name: str, config: Rows) -> str | None:
    """Why a file of a folder is not read; None where it is."""
    formats, suffix = formats_by_suffix(), OpenableFile(name).suffix
    if name.startswith("."):
        return "hidden"
    if config.format and config.format not in formats.values():
        return None  # a reader from outside that claims no suffix is given every file
    if suffix not in formats:
        return "not a data format"
    if config.format:
        return None if formats[suffix] == config.format else f"not {config.format}"
    return "documentation" if Path(name).stem.upper() in ("README", "LICENSE") else None


def _package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        remedy = "Run: pip install 'hybrid-trainer[demo]' (or the package that your own recipe names)"
        raise DataError(f"the package that holds a source's data is not installed: {package}", remedy=remedy)
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise DataError(f"the package {package} does not hold this file", got=path, file=file)
    return file.resolve()


def is_indexed(config: Rows) -> bool:
    """Whether the source is read through a local index."""
    return config.hub is not None or config.streaming or _is_remote(config)


def _is_remote(config: Rows) -> bool:
    return config.path is not None and "://" in config.path


def read_options(config: DataConfig, name: str) -> ReadOptions:
    """How the rows of segment ``name`` are read where they come from."""
    segment = config.every_segment[name]
    return ReadOptions(
        text_column=segment.text_column,
        columns=needed_columns(config, name),
        format=segment.format,
        text_unit=segment.text_unit,
        split=segment.split,
        max_row_bytes=config.max_row_bytes,
    )


def files_of(config: DataConfig, name: str, base: Path, cache: Path) -> list[Path]:
    """The files that segment ``name`` is read from: its own, or its local index."""
    segment = config.every_segment[name]
    return [index_file(config, name, base, cache)] if is_indexed(segment) else local_files(segment, base)


def index_file(config: DataConfig, name: str, base: Path, cache: Path) -> Path:
    """Where the index of a hub, remote or streaming segment lies: named after all that decides its content."""
    segment, options = config.every_segment[name], read_options(config, name)
    origin = segment.hub or (str(segment.path) if _is_remote(segment) else str(base / str(segment.path)))
    key = [
        origin,
        segment.configuration,
        segment.revision,
        segment.max_rows,
        sorted(options.columns),
        options.format,
        options.split,
        options.text_unit,
        options.max_row_bytes,
    ]
    return cache / "index" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.jsonl"


def write_index(config: DataConfig, name: str, base: Path, file: Path, note: Callable[[int], None]) -> None:
    """Reads a hub, remote files or a stream once into ``file``, with the needed columns. A malformed row stays
    malformed, on its own line. UserError where a column is missing or the data cannot be read to its end.
    """
    segment, options = config.every_segment[name], read_options(config, name)
    files = [] if segment.hub else _indexed_files(segment, base)
    check = ColumnCheck(name, segment, options)
    with replacing(file) as aside, aside.open("w", encoding="utf-8") as stream:
        for number, row in enumerate(islice(_rows_to_index(segment, files, options), segment.max_rows), start=1):
            stream.write(_index_line(row, options) + "\n")
            if isinstance(row, Row):
                check.add(row.columns)
            if number % 1000 == 0:
                note(number)
        check.refuse_unknown(files)


def _indexed_files(segment: Rows, base: Path) -> list[OpenableFile]:
    if _is_remote(segment):
        return remote_files(segment)
    return [OpenableFile(str(file)) for file in local_files(segment, base)]


def _rows_to_index(segment: Rows, files: list[OpenableFile], options: ReadOptions) -> Iterator[Row | Malformed]:
    if segment.hub is None:
        return read_rows(files, options)
    return hub.read(
        segment.hub,
        options,
        configuration=segment.configuration,
        revision=segment.revision,
        streaming=segment.streaming,
    )


def _index_line(row: Row | Malformed, options: ReadOptions) -> str:
    if isinstance(row, Malformed):
        return f"malformed: {row.reason}"
    return json.dumps({name: row.columns[name] for name in options.columns if name in row.columns}, default=str)


def content_hash(file: Path) -> str:
    """sha256 of a file, or of all files of an arrow folder with their names."""
    digest = hashlib.sha256()
    for part in _parts(file):
        if file.is_dir():
            digest.update(part.relative_to(file).as_posix().encode())
        with part.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def stamp(file: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change: what decides, cheaply, whether a file is still the one that was prepared."""
    return [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in _parts(file)]


def _parts(file: Path) -> Iterator[Path]:
    if file.is_dir():
        yield from (part for part in sorted(file.rglob("*")) if part.is_file())
    else:
        yield file
