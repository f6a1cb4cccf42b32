"""Finds the files of a source, and pins what is not a local file into one: hubs and streams pass once through a local
index.

A stream has no random access and a hub can change under a run. Written once as plain jsonl, then read like
any other file, both become local, repeatable and equal on all ranks; the index is kept until it is deleted or the
recipe names another revision.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.data.config import SourceConfig
from trainer.data.rows import COMPRESSED, FORMAT_OF_SUFFIX, Malformed, Row, dataset_rows, format_of, unknown_columns

_HASH_BLOCK_BYTES = 1 << 22


def local_files(config: SourceConfig, base: Path) -> list[Path]:
    """The source's local files in a fixed order. Raises UserError where there is none."""
    if config.path is None:
        raise ValueError("a hub source has no local files before it is indexed")
    if config.package:
        return [_package_file(config.package, config.path)]
    wanted = Path(config.path).expanduser()
    root = wanted if wanted.is_absolute() else base / wanted
    if root.is_file():
        return [root.resolve()]
    if root.is_dir():
        if (root / "dataset_info.json").exists() or (root / "dataset_dict.json").exists():
            return [root.resolve()]  # an arrow folder, as `save_to_disk` writes it
        found = [file for file in sorted(root.rglob("*")) if file.is_file() and _looks_like_data(file, config)]
    else:
        anchor = Path(root.anchor)
        found = [file for file in sorted(anchor.glob(str(root.relative_to(anchor)))) if file.is_file()]
    if not found:
        raise UserError(
            "a source has no files", got=config.path, remedy="Paths are relative to the recipe's file", file=root
        )
    return [file.resolve() for file in found]


def _looks_like_data(file: Path, config: SourceConfig) -> bool:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in COMPRESSED]
    if file.name.startswith(".") or not suffixes or suffixes[-1] not in FORMAT_OF_SUFFIX:
        return False
    if config.format:
        return FORMAT_OF_SUFFIX[suffixes[-1]] == config.format
    return file.stem.upper() not in ("README", "LICENSE")  # documentation beside the data is not data


def _package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        remedy = "Run: pip install 'hybrid-trainer[demo]' (or the package that your own recipe names)"
        raise UserError(f"the package that holds a source's data is not installed: {package}", remedy=remedy)
    file = Path(next(iter(spec.submodule_search_locations))) / path
    if not file.is_file():
        raise UserError(f"the package {package} does not hold this file", got=path, file=file)
    return file.resolve()


def is_indexed(config: SourceConfig) -> bool:
    """Whether the source is read through a local index."""
    return config.hub is not None or config.streaming


def index_file(config: SourceConfig, base: Path, cache: Path) -> Path:
    """Where the index of a hub or streaming source lies: named after all that decides its content."""
    origin = config.hub or str(base / str(config.path))
    key = [
        origin,
        config.configuration,
        config.revision,
        config.split,
        config.format,
        sorted(config.columns),
        config.max_rows,
    ]
    return cache / "index" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.jsonl"


def write_index(config: SourceConfig, base: Path, file: Path, note: Callable[[int], None]) -> None:
    """Reads the hub or stream once into ``file`` (written aside, then renamed). A malformed row stays malformed, on
    its own line.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as stream:
            for number, row in enumerate(islice(_stream_rows(config, base), config.max_rows), start=1):
                line = (
                    f"malformed: {row.reason}"
                    if isinstance(row, Malformed)
                    else json.dumps(dict(row.columns), default=str)
                )
                stream.write(line + "\n")
                if number % 1000 == 0:
                    note(number)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)  # gone already when all went well


def _stream_rows(config: SourceConfig, base: Path) -> Iterator[Row | Malformed]:
    import datasets
    import pyarrow

    name = config.hub or str(config.path)
    data = _load(config, base)
    known = set(data.column_names or config.columns)  # a stream may not know its columns before its first row
    if missing := [column for column in config.columns if column not in {*known, config.text_column}]:
        raise unknown_columns(name, config, missing, known)
    try:
        yield from dataset_rows(data, config, name)
    except (OSError, datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException) as error:
        remedy = "A stream cannot be read past a broken row; without `streaming` a local file can"
        raise UserError(f"a data set broke off while it was indexed: {name}", got=str(error), remedy=remedy) from error


def _load(config: SourceConfig, base: Path) -> Any:
    import datasets

    try:
        if config.hub:
            return datasets.load_dataset(
                config.hub,
                config.configuration,
                split=config.split,
                revision=config.revision,
                streaming=config.streaming,
            )
        where = str(config.path)
        remote = "://" in where
        kind = format_of(Path(where), config) if remote else format_of(local_files(config, base)[0], config)
        builder = "json" if kind == "jsonl" else kind
        names = where if remote else [str(file) for file in local_files(config, base)]
        return datasets.load_dataset(builder, data_files=names, split="train", streaming=True)
    except (OSError, ValueError) as error:  # hub errors and unknown configurations are OSError and ValueError
        remedy = "Check the id, the configuration, the split and the network (HF_HUB_OFFLINE, HF_TOKEN)"
        raise UserError(
            f"a data set cannot be loaded: {config.hub or config.path}", got=str(error), remedy=remedy
        ) from error


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
