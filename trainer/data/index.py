"""Pins what is not a plain local file into one: hubs, remote files and streams pass once through a local index.

A stream has no random access and a hub can change under a run. Written once, then read like any other file, both
become local, repeatable and equal on all ranks; the index is kept until it is deleted, the recipe names another
revision, or a local file changes. Each line has a row's place of origin, so that ids, quarantine and audit name the
files that the user knows.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.base.atomic import replacing
from trainer.data.account import FileAccount
from trainer.data.columns import ColumnCheck, read_options
from trainer.data.config import DataConfig
from trainer.data.find import FoundFiles, content_hash, find_files, is_remote, stamp
from trainer.data.readers import Malformed, ReadOptions, Row, hub, read_rows
from trainer.data.remote import remote_files
from trainer.data.source_config import Rows


def index_file(config: DataConfig, name: str, base: Path, cache: Path) -> Path:
    """Where the index of a hub, remote or streaming segment lies: named after all that decides its content."""
    segment, options = config.every_segment[name], read_options(config, name)
    is_local = segment.hub is None and not is_remote(segment)
    key = [
        segment.hub or (str(base / str(segment.path)) if is_local else str(segment.path)),
        [stamp(file.path) for file in find_files(segment, base).files] if is_local else None,
        segment.configuration,
        segment.revision,
        segment.max_rows,
        sorted(options.columns),
        options.format,
        options.split,
        options.text_unit,
        [options.delimiter, options.quoting],
        options.max_row_bytes,
    ]
    return cache / "index" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.jsonl"


def write_index(config: DataConfig, name: str, base: Path, file: Path, note: Callable[[int], None]) -> None:
    """Reads a hub, remote files or a stream once into ``file``, with the needed columns. UserError where a column is
    missing or the data cannot be read to its end.
    """
    segment, options = config.every_segment[name], read_options(config, name)
    found = _found(config, segment, base)
    check = ColumnCheck(name, segment, options)
    with replacing(file) as aside, aside.open("wb") as stream:
        for number, row in enumerate(islice(_rows_to_index(segment, found, options), segment.max_rows), start=1):
            stream.write(_line(row, options))
            if isinstance(row, Row):
                check.add(row.columns)
            if number % 1000 == 0:
                note(number)
        check.refuse_unknown(found.files)
        account = FileAccount(read=max(1, len(found.files)), num_bytes=stream.tell(), skipped=found.skipped)
        with replacing(_account_file(file)) as beside:
            stream.flush()
            record = asdict(account)
            beside.write_text(json.dumps({"account": record, "sha256": _seal(aside, record)}), encoding="utf-8")


def is_whole_index(file: Path) -> bool:
    """Whether the index is there, as it was written."""
    try:
        written = json.loads(_account_file(file).read_text(encoding="utf-8"))
        return bool(written["sha256"] == _seal(file, written["account"]))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _seal(file: Path, account: Any) -> str:
    """Of the index and of its account."""
    return hashlib.sha256(json.dumps([content_hash(file), account]).encode()).hexdigest()


def read_index(file: Path) -> Iterator[Row | Malformed]:
    """The rows of an index, at the places where they came from."""
    with file.open("rb") as stream:
        for line in stream:
            place, number, row = json.loads(line.decode("utf-8", "surrogatepass"))
            yield Malformed(place, number, row) if isinstance(row, str) else Row(row, place, number)


def index_account(file: Path) -> FileAccount:
    """The files that the index was made from; ``num_bytes`` of the index."""
    return FileAccount.from_json(json.loads(_account_file(file).read_text(encoding="utf-8"))["account"])


def _account_file(file: Path) -> Path:
    return file.with_suffix(".files.json")


def _found(config: DataConfig, segment: Rows, base: Path) -> FoundFiles:
    if segment.hub:
        return FoundFiles([])
    if is_remote(segment):
        return remote_files(segment, config.remote_timeout_s)
    return find_files(segment, base)


def _rows_to_index(segment: Rows, found: FoundFiles, options: ReadOptions) -> Iterator[Row | Malformed]:
    if segment.hub is None:
        return read_rows(found.files, options)
    return hub.read(
        segment.hub,
        options,
        configuration=segment.configuration,
        revision=segment.revision,
        streaming=segment.streaming,
    )


def _line(row: Row | Malformed, options: ReadOptions) -> bytes:
    columns = (
        row.reason
        if isinstance(row, Malformed)
        else {name: row.columns[name] for name in options.columns if name in row.columns}
    )
    line = json.dumps([row.file, row.line, columns], default=str, ensure_ascii=False)
    return line.encode("utf-8", "surrogatepass") + b"\n"
