"""JSON Lines: one object a line. The reader of `datasets` gives up the whole file at the first malformed line."""

import json
from collections.abc import Iterator

from trainer.base.errors import DataError
from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row, numbered_lines

SUFFIXES = (".jsonl", ".ndjson")


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per line that is not blank. UserError where the last line breaks off."""
    name = file.name
    for number, line, ends in numbered_lines(file, options.max_line_bytes):
        if line is None:
            yield Malformed(name, number, options.too_long)
        elif line.strip():
            row = _parsed(line, name, number)
            if isinstance(row, Malformed) and not ends and line.lstrip().startswith(b"{"):
                raise DataError(
                    "the last line of a data file breaks off",
                    got=line[-40:].decode("utf-8", "replace"),
                    remedy="Is the file whole? If it is, take the line out",
                    file=file.path,
                    line=number,
                )
            yield row


def _parsed(line: bytes, name: str, number: int) -> Row | Malformed:
    try:
        columns = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Malformed(name, number, "bad UTF-8")
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return Malformed(name, number, "bad JSON")
    return Row(columns, name, number) if isinstance(columns, dict) else Malformed(name, number, "not a JSON object")
