"""CSV with a header line."""

import csv
import io
from collections.abc import Iterator

from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row

SUFFIXES = (".csv",)


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """One row per record; its columns are the cells of the header."""
    csv.field_size_limit(max(options.max_row_bytes, csv.field_size_limit()))
    with io.TextIOWrapper(file.open_text(), encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
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
            elif sum(map(len, cells)) > options.max_row_bytes:
                yield Malformed(file.name, reader.line_num, options.too_long)
            else:
                yield Row(dict(zip(header, cells, strict=True)), file.name, reader.line_num)
