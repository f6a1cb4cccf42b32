"""Readers: one per format, each giving the rows of a file one by one.

One bad byte in a million rows must cost one row: a malformed row is a value, not an exception. A reader is a module,
class or object with

    read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]

It raises ``UserError`` where a file as a whole cannot be read. It may have ``SUFFIXES``, the file names that it is
chosen for by default, and ``columns(file, options)``, all columns of a file whose rows hold only those asked for. A
recipe names it by ``format``: a key of ``READERS``, ``package.module:Name``, or an entry point of the group
``hybrid_trainer.readers``.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from trainer.base.errors import DataError, UserError
from trainer.base.seams import Seam
from trainer.data.readers import arrow, csv_file, json_file, jsonl, parquet, text
from trainer.data.readers.compression import COMPRESSED
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

__all__ = ["COMPRESSED", "READERS", "Malformed", "OpenableFile", "ReadOptions", "Reader", "Row", "read_rows"]


class Reader(Protocol):
    """Gives the rows of a file; see the module's description."""

    def read(self, file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
        """The rows of ``file`` in order."""
        ...


_BUILTIN: dict[str, Reader] = {
    "jsonl": jsonl,
    "json": json_file,
    "csv": csv_file,
    "text": text,
    "parquet": parquet,
    "arrow": arrow,
}
READERS: Seam[Reader] = Seam("readers", _BUILTIN, requires=("read",), calls={"read": ("file", "options")})


def formats_by_suffix() -> dict[str, str]:
    """The format that a suffix stands for; built-in formats come first, those of installed entry points are added.

    One that cannot be imported is left out: whoever names it gets the error, and no other run does.
    """
    formats: dict[str, str] = {}
    for kind in READERS.kinds():
        try:
            reader = READERS.resolve(kind)
        except UserError:
            continue
        for suffix in getattr(reader, "SUFFIXES", ()):
            formats.setdefault(suffix, kind)
    return formats


def format_of(file: OpenableFile, options: ReadOptions) -> str:
    """The format named in the recipe, else the one of the suffix."""
    if options.format:
        return options.format
    formats = formats_by_suffix()
    if file.suffix not in formats:
        raise DataError(
            "the format of a data file cannot be told from its name",
            got=file.name,
            remedy=f"Name it: `format: {' | '.join(sorted(set(formats.values())))}`",
            file=file.path,
        )
    return formats[file.suffix]


def read_rows(files: Iterable[OpenableFile], options: ReadOptions) -> Iterator[Row | Malformed]:
    """All rows of the files in order, those over the limit as malformed. Raises UserError where a file as a whole
    cannot be read.
    """
    for file in files:
        yield from _rows_of(file, options)


def _rows_of(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    kind, line = format_of(file, options), 0
    reader = READERS.resolve(kind)
    try:
        for row in reader.read(file, options):
            line = row.line
            is_too_long = isinstance(row, Row) and options.is_too_long(row.columns)
            yield Malformed(row.file, line, options.too_long) if is_too_long else row
    except UserError:
        raise
    except (EOFError, OSError) as error:
        what, remedy = "a data file cannot be read to its end", "Is it whole?"
        got = f"{error or type(error).__name__}, {f'after line {line}' if line else 'before its first row'}"
        raise DataError(what, got=got, remedy=remedy, file=file.path) from error
    except Exception as error:
        what = f"the reader {kind!r} failed: {type(error).__name__}: {error}"
        raise DataError(what, remedy="Is the file whole?", file=file.path, line=line or None) from error
