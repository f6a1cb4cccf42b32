"""What every reader gives and takes: rows, malformed rows, files that can be opened, and options."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from trainer.base.errors import DataError
from trainer.data.readers.compression import BLOCK_BYTES, COMPRESSED, Decompressed
from trainer.data.readers.remote_file import RemoteFile

_MOST_ESCAPE = 6  # bytes of `\u0041`, which is one byte of text
_MIN_LINE_BYTES = 32 << 20  # a line may hold columns that nobody asks for
_NOT_TEXT = {
    b"\x1f\x8b": "compressed (gzip), and its name does not end in .gz",
    b"\xfd7zXZ\x00": "compressed (xz), and its name does not end in .xz",
    b"\x28\xb5\x2f\xfd": "compressed (Zstandard), and its name does not end in .zst",
    b"BZh": "compressed (bzip2), and its name does not end in .bz2",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
    b"version https://git-lfs": "a pointer of Git LFS, not the data: run `git lfs pull`",
}


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


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a recipe says of the rows in a file. A reader gives at least ``columns`` where a row has them."""

    text_column: str
    columns: tuple[str, ...]
    format: str | None = None  # default: from the file's suffix
    text_unit: Literal["line", "file"] = "line"
    split: str | None = None  # of a data set that is asked for it; files are chosen before
    delimiter: str | None = None  # of CSV; default: a tab for .tsv, else a comma
    quoting: bool | Literal["trusted"] = True  # whether quotes in CSV are signs, not text; trusted: unchecked as well
    max_row_bytes: int = 8_000_000

    @property
    def too_long(self) -> str:
        """The reason of a row over the limit."""
        return f"row over {self.max_row_bytes} bytes"

    @property
    def max_line_bytes(self) -> int:
        """What a line may have where text can be written longer than it is."""
        return max(_MOST_ESCAPE * self.max_row_bytes, _MIN_LINE_BYTES)

    def is_too_long(self, columns: Mapping[str, Any]) -> bool:
        """Whether the text in the columns asked for is over the limit, in UTF-8 and however the file writes it."""
        return sum(_text_bytes(columns[name]) for name in self.columns if name in columns) > self.max_row_bytes


@dataclass(frozen=True)
class OpenableFile:
    """A data file: a local path, or a URL of any file system that fsspec knows (``s3://``, ``memory://`` ...).

    ``label`` is its path from where its source begins, which tells files of one name in different folders apart.
    """

    path: str
    label: str = ""
    timeout_s: float = 30.0  # that the server of a URL may take for an answer

    @property
    def name(self) -> str:
        """The label, or else the last part of the path, compression included."""
        return self.label or PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return str(PurePosixPath(self.name).with_suffix(""))

    @property
    def suffix(self) -> str:
        """The suffix that tells the format, in lower case and without compression; empty where there is none."""
        suffixes = [suffix.lower() for suffix in PurePosixPath(self.path).suffixes]
        plain = [suffix for suffix in suffixes if suffix not in COMPRESSED]
        return plain[-1] if plain else ""

    def open(self) -> io.BufferedReader:
        """The file's bytes, decompressed by suffix. Reading raises ``OSError`` where a compressed file is not whole."""
        compression = PurePosixPath(self.path).suffix.lower()
        if compression in COMPRESSED:
            return io.BufferedReader(Decompressed(self._open_raw(), compression), BLOCK_BYTES)
        return io.BufferedReader(self._open_raw(), BLOCK_BYTES)

    def _open_raw(self) -> Any:
        if "://" not in self.path:
            return Path(self.path).open("rb", buffering=0)
        return RemoteFile(self.path, self.timeout_s)

    def open_text(self) -> io.BufferedReader:
        """As ``open``, for a format made of text. ``UserError`` where the first bytes are those of something else."""
        stream = self.open()
        head = stream.peek(32)
        for beginning, what in _NOT_TEXT.items():
            if head.startswith(beginning):
                stream.close()
                raise DataError(f"a data file is {what}", remedy="Name it for what it is", file=self.path)
        return stream


def _text_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, Mapping):
        return sum(_text_bytes(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return sum(map(_text_bytes, value))
    return len(value) if isinstance(value, bytes) else 0


class Line(NamedTuple):
    """A line without its line end; ``body`` is None where it is over the limit. ``ends`` where it has a line end."""

    number: int
    body: bytes | None
    ends: bool


def numbered_lines(file: OpenableFile, max_bytes: int) -> Iterator[Line]:
    """Lines from 1 on. One over the limit is skipped piecewise, so that a file without line ends cannot fill the
    memory.
    """
    with file.open_text() as stream:
        number = 0
        while line := stream.readline(max_bytes + 2):
            number += 1
            body = line.rstrip(b"\r\n")
            if len(body) <= max_bytes:
                body = body.removeprefix(b"\xef\xbb\xbf") if number == 1 else body
                yield Line(number, body, line.endswith(b"\n"))
                continue
            while line and not line.endswith(b"\n"):
                line = stream.readline(max_bytes)
            yield Line(number, None, bool(line))
