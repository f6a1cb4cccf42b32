"""Reads rows of any source one by one, and turns a malformed row into a value instead of an exception.

One bad byte in a million rows must cost one row. The JSON reader of `datasets` gives up the whole file at the first
malformed line, so jsonl, csv and text are read line by line here; `datasets` reads what has its own framing (parquet,
arrow, hubs). A line is read up to the limit and no further, so a file without line ends cannot fill the memory.
"""

import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from trainer.base.errors import UserError
from trainer.data.config import Format, SourceConfig

FORMAT_OF_SUFFIX: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
COMPRESSED = (".gz", ".xz", ".zst")
_ARROW_BATCH_ROWS = 256
_COLUMNS_SHOWN = 30


class Row(NamedTuple):
    """A well-formed row: its columns, and where it stands."""

    columns: Mapping[str, Any]
    file: str
    line: int


class Malformed(NamedTuple):
    """A row that cannot be used, where it stands, and why."""

    file: str
    line: int
    reason: str


class ColumnCheck:
    """Finds the columns that a recipe names and no row of the source has: a misspelt one would give every document the
    slice "(none)", or the file and line for an id, without a word.
    """

    def __init__(self, source: str, config: SourceConfig) -> None:
        self._source, self._config = source, config
        self._missing = {*config.columns} - {config.text_column}  # without a text a row is malformed, and counted
        self._known: set[str] = set()

    def saw(self, columns: Mapping[str, Any]) -> None:
        """Takes note of a row."""
        if self._missing:
            self._missing.difference_update(columns)
            self._known.update(columns)

    def refuse_unknown(self, files: Iterable[Path]) -> None:
        """Raises UserError for the columns of no row; a source without any well-formed row is refused elsewhere."""
        if self._missing and self._known:
            for file in files:
                if format_of(file, self._config) in ("parquet", "arrow"):  # rows hold only the columns asked for
                    self._known.update(_table(file, self._config).column_names or ())
            raise unknown_columns(self._source, self._config, sorted(self._missing), self._known)


def unknown_columns(source: str, config: SourceConfig, missing: Iterable[str], known: Iterable[str]) -> UserError:
    """What to say of columns that a source's rows do not have, with the key of the recipe that names each."""
    keys = {"id_column": (config.id_column,), "slice": (config.slice,), "provenance": config.provenance}
    keys |= {"where": tuple(config.where), "sample.by": (config.sample.by if config.sample else None,)}
    named = [f"{key}: {column}" for column in missing for key, columns in keys.items() if column in columns]
    some = sorted(known)[:_COLUMNS_SHOWN]
    return UserError(
        f"source {source!r} has no row with this column", got=", ".join(named), remedy=f"The columns are {some}"
    )


def format_of(file: Path, config: SourceConfig) -> Format:
    """The format named in the recipe, else the one of the suffix (compression set aside)."""
    if config.format:
        return config.format
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in COMPRESSED]
    found = FORMAT_OF_SUFFIX.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise UserError(
            "the format of a data file cannot be told from its name",
            got=file.name,
            remedy=f"Name it: `format: {' | '.join(sorted(set(FORMAT_OF_SUFFIX.values())))}`",
            file=file,
        )
    return found


def open_bytes(file: Path) -> IO[bytes]:
    """The file's bytes, decompressed by suffix."""
    if file.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(file))
    if file.suffix == ".xz":
        return lzma.open(file, "rb")
    if file.suffix == ".zst":
        import zstandard

        return io.BufferedReader(
            zstandard.ZstdDecompressor().stream_reader(file.open("rb"), read_across_frames=True, closefd=True)
        )
    return file.open("rb", buffering=1 << 20)


def read_rows(files: Iterable[Path], config: SourceConfig, max_row_bytes: int) -> Iterator[Row | Malformed]:
    """All rows of the files in order. Raises UserError where a file as a whole cannot be read."""
    for file in files:
        kind = format_of(file, config)
        try:
            if kind == "jsonl":
                yield from _jsonl_rows(file, max_row_bytes)
            elif kind == "json":
                yield from _json_rows(file, max_row_bytes)
            elif kind == "csv":
                yield from _csv_rows(file, max_row_bytes)
            elif kind == "text":
                yield from _text_rows(file, config, max_row_bytes)
            else:
                yield from _table_rows(file, config)
        except (EOFError, lzma.LZMAError, OSError) as error:
            raise UserError(
                "a data file cannot be read to its end", got=str(error), remedy="Is it whole?", file=file
            ) from error


def _lines(file: Path, max_row_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines without their line ends; None for a line over the limit, which is skipped piecewise."""
    with open_bytes(file) as stream:
        number = 0
        while line := stream.readline(max_row_bytes + 2):
            number += 1
            body = line.rstrip(b"\r\n")
            if len(body) <= max_row_bytes:
                yield number, body.removeprefix(b"\xef\xbb\xbf") if number == 1 else body
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(max_row_bytes)
            yield number, None


def _too_long(max_row_bytes: int) -> str:
    return f"row over {max_row_bytes} bytes"


def _jsonl_rows(file: Path, max_row_bytes: int) -> Iterator[Row | Malformed]:
    name = file.name
    for number, line in _lines(file, max_row_bytes):
        if line is None:
            yield Malformed(name, number, _too_long(max_row_bytes))
        elif line.strip():
            yield _parsed(line, name, number)


def _parsed(line: bytes, name: str, number: int) -> Row | Malformed:
    try:
        columns = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Malformed(name, number, "bad UTF-8")
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return Malformed(name, number, "bad JSON")
    return Row(columns, name, number) if isinstance(columns, dict) else Malformed(name, number, "not a JSON object")


def _json_rows(file: Path, max_row_bytes: int) -> Iterator[Row | Malformed]:
    """A list of objects, or an object of objects (whose keys become the column `key`); read whole, so for files that
    fit in memory.
    """
    try:
        with open_bytes(file) as stream:
            tree = json.loads(stream.read().decode("utf-8-sig"))
    except ValueError as error:
        remedy = "If it holds one object a line, say `format: jsonl`"
        raise UserError("a JSON file cannot be parsed", got=str(error), remedy=remedy, file=file) from error
    if not isinstance(tree, list | dict):
        raise UserError(
            "a JSON file must hold a list of objects or an object of objects", got=type(tree).__name__, file=file
        )
    entries = enumerate(tree) if isinstance(tree, list) else tree.items()
    for number, (key, entry) in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            yield Malformed(file.name, number, "not a JSON object")
        elif sum(len(value) for value in entry.values() if isinstance(value, str)) > max_row_bytes:
            yield Malformed(file.name, number, _too_long(max_row_bytes))
        else:
            yield Row({"key": key, **entry} if isinstance(tree, dict) else entry, file.name, number)


def _csv_rows(file: Path, max_row_bytes: int) -> Iterator[Row | Malformed]:
    csv.field_size_limit(max(max_row_bytes, csv.field_size_limit()))
    with io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = next(reader, [])
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Malformed(file.name, reader.line_num, f"bad CSV: {error}")
                continue
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield Malformed(file.name, reader.line_num, "bad CSV: the number of cells is not that of the header")
            elif sum(map(len, cells)) > max_row_bytes:
                yield Malformed(file.name, reader.line_num, _too_long(max_row_bytes))
            else:
                yield Row(dict(zip(header, cells, strict=True)), file.name, reader.line_num)


def _text_rows(file: Path, config: SourceConfig, max_row_bytes: int) -> Iterator[Row | Malformed]:
    if config.text_unit == "line":
        pieces: Iterable[tuple[int, bytes | None]] = (
            piece for piece in _lines(file, max_row_bytes) if piece[1] is None or piece[1].strip()
        )
    else:
        with open_bytes(file) as stream:
            whole = stream.read(max_row_bytes + 1)
        pieces = [(1, whole if len(whole) <= max_row_bytes else None)]
    for number, piece in pieces:
        if piece is None:
            yield Malformed(file.name, number, _too_long(max_row_bytes))
            continue
        try:
            yield Row({config.text_column: piece.decode("utf-8"), "file": file.stem}, file.name, number)
        except UnicodeDecodeError:
            yield Malformed(file.name, number, "bad UTF-8")


def _table_rows(file: Path, config: SourceConfig) -> Iterator[Row | Malformed]:
    yield from dataset_rows(_table(file, config), config, file.name)


def _table(file: Path, config: SourceConfig) -> Any:
    """A parquet or arrow file, or an arrow folder, as a data set. Raises UserError when it is none."""
    import datasets

    kind = format_of(file, config)
    try:
        if kind == "parquet":
            return datasets.load_dataset("parquet", data_files=str(file), split="train", streaming=True)
        if file.is_dir():
            data = datasets.load_from_disk(str(file))
            return data[config.split] if isinstance(data, datasets.DatasetDict) else data
        return datasets.Dataset.from_file(str(file))
    except (KeyError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise UserError(f"a {kind} file cannot be opened", got=str(error), file=file) from error


def dataset_rows(data: Any, config: SourceConfig, name: str) -> Iterator[Row | Malformed]:
    """Rows of a `datasets` data set (map style or iterable), in record batches of its needed columns."""
    known = data.column_names or []
    if known and config.text_column not in known:
        raise UserError(
            "the text column does not exist",
            got=config.text_column,
            remedy=f"The columns are {sorted(known)}",
            file=name,
        )
    needed = [column for column in config.columns if column in known]
    number = 0
    for table in data.select_columns(needed).with_format("arrow").iter(batch_size=_ARROW_BATCH_ROWS) if needed else ():
        for index in range(table.num_rows):
            number += 1
            try:
                yield Row({column: table.column(column)[index].as_py() for column in table.column_names}, name, number)
            except UnicodeDecodeError:
                yield Malformed(name, number, "bad UTF-8")
