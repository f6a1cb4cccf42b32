"""Plain text: each line that is not blank, or each whole file, is one document."""

from collections.abc import Iterable, Iterator

from trainer.data.readers.rows import Malformed, OpenableFile, ReadOptions, Row, numbered_lines

SUFFIXES = (".txt", ".text", ".md")


def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
    """Rows with the text and a column `file`, the name of the file without its suffix."""
    name, stem = file.name, file.stem
    for number, piece in _pieces(file, options):
        if piece is None:
            yield Malformed(name, number, options.too_long)
            continue
        try:
            yield Row({options.text_column: piece.decode("utf-8"), "file": stem}, name, number)
        except UnicodeDecodeError:
            yield Malformed(name, number, "bad UTF-8")


def _pieces(file: OpenableFile, options: ReadOptions) -> Iterable[tuple[int, bytes | None]]:
    if options.text_unit == "line":
        lines = numbered_lines(file, options.max_row_bytes)
        return ((line.number, line.body) for line in lines if line.body is None or line.body.strip())
    with file.open_text() as stream:
        whole = stream.read(options.max_row_bytes + 1)
    return [(1, whole if len(whole) <= options.max_row_bytes else None)]
