"""Random rows, good and bad, in every format, and what must become of each of them.

A row is drawn by its kind. Its fate follows from the recipe's rules alone: malformed, left out by `where`, held out,
not sampled, filtered, a copy of a held-out document, or used.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import zstandard
from pyarrow import ipc, parquet

from trainer.data.config import DataConfig
from trainer.data.documents import bucket_of

TOKENIZER = Path(__file__).parents[1] / "cases" / "folders" / "15-tokenizer-one-larger" / "model"
MAX_ROW_BYTES = 2000
BUCKETS, VALIDATION, TEST, SAMPLED = 10, 3, 4, [0, 1, 2, 5, 6, 7, 8]
LINE_FORMATS = ("jsonl", "ndjson", "csv", "tsv", "txt")
BINARY_FORMATS = ("parquet", "arrow-stream", "arrow-file", "saved")
COMPRESSIONS = ("", ".gz", ".xz", ".bz2", ".zst")
_COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@dataclass
class Fates:
    """What must become of the rows of one source."""

    counts: Counter[str] = field(default_factory=Counter)  # by field of RowAccount; filtered rows as `filtered`
    malformed: set[tuple[str, int]] = field(default_factory=set)  # file, line

    @property
    def read(self) -> int:
        """All rows."""
        return self.counts.total()


@dataclass(frozen=True)
class Drawn:
    """One row as it is written: its columns, or for a line of text the bytes of a broken one."""

    columns: dict[str, Any]
    raw: bytes | None = None
    is_malformed: bool = False


class RowMaker:
    """Draws rows for files of one format."""

    def __init__(self, seed: int, format: str) -> None:
        self._random, self.format = random.Random(seed), format
        self._held_out_texts: list[str] = []
        self._number = 0

    def draw(self) -> Drawn | None:
        """The next row; None for a blank line, which is none."""
        self._number += 1
        kinds = ["good"] * 10 + ["short", "long", "nul", "copy", "copy", "odd"]
        if self.format != "txt":  # where a blank line is no row, and every line the text of one
            kinds += ["empty", "blank", "elsewhere", "quoted"]
        if self.format in ("jsonl", "ndjson", "json", *BINARY_FORMATS):
            kinds += ["null"]
        if self.format in ("jsonl", "ndjson", "json"):
            kinds += ["missing", "number", "list", "surrogate"]
        if self.format in LINE_FORMATS:
            kinds += ["nothing", "bytes"]
        if self.format in ("jsonl", "ndjson"):
            kinds += ["no JSON", "no object", "nested"]
        if self.format == "csv":
            kinds += ["cells", "quote"]
        if self.format in BINARY_FORMATS:
            kinds += ["bytes"]
        row = self._made(self._random.choice(kinds))
        if row is not None and self.fate(row) == "held_out":
            self._held_out_texts.append(row.columns["text"])
        return row

    def _words(self, count: int) -> str:
        letters = "bdfgklmnprstvz", "aeiou"
        words = ("".join(self._random.choice(letters[place % 2]) for place in range(6)) for _ in range(count))
        return f"{' '.join(words)} {self._number}"

    def _made(self, kind: str) -> Drawn | None:
        text: Any = self._words(20)
        columns = {"key": f"key {self._random.randrange(10**9)}", "lang": "en", "text": text}
        if kind in ("no JSON", "no object", "nested", "cells", "quote"):
            return Drawn(columns, self._broken(kind), is_malformed=True)
        if kind == "bytes":
            return Drawn(columns | {"text": f"{text} \udcff\udcfe"}, is_malformed=True)
        if kind == "nothing":
            return None
        if kind == "missing":
            return Drawn({name: columns[name] for name in ("key", "lang")}, is_malformed=True)
        if kind == "elsewhere":
            defect = self._random.choice([text, "", text + "\0"])
            return Drawn(columns | {"lang": "xx", "text": defect})
        if kind == "copy" and self._held_out_texts:
            return Drawn(columns | {"text": self._random.choice(self._held_out_texts)})
        texts = {
            "short": f"pa {self._number}",
            "long": "la " * MAX_ROW_BYTES,
            "empty": "",
            "blank": " \t ",
            "nul": f"{text}\0",
            "null": None,
            "number": self._number,
            "list": [text],
            "surrogate": f"{text} \ud800",
            "quoted": f"{text} \"said\"\n,;\t it 'is'\r\n done",
            "odd": f"{text} \u2028 日本 \u202e 🎈 é \x1b[2J",
        }
        return Drawn(
            columns | {"text": texts.get(kind, text)},
            is_malformed=kind in ("long", "empty", "blank", "nul", "null", "number", "list", "surrogate"),
        )

    def _broken(self, kind: str) -> bytes:
        return {
            "no JSON": b'{"text": "cut off',
            "no object": b'["text"]',
            "nested": b'{"lang": "en", "text": ' + b"[" * 900 + b"]" * 900 + b"}",
            "cells": b"one,two",
            "quote": b'key,en,"closed"too early',
        }[kind]

    def fate(self, row: Drawn) -> str:
        """The field of the account that the row counts in."""
        columns = row.columns
        key = columns["text"] if self.format == "txt" else columns["key"]
        if row.raw is None and columns["lang"] != "en":
            return "not_selected"
        if row.is_malformed:
            return "quarantined"
        bucket = bucket_of(key, BUCKETS)
        if bucket in (VALIDATION, TEST):
            return "held_out"
        if self.format != "txt" and bucket not in SAMPLED:
            return "not_sampled"
        if len(columns["text"].split()) < 5:
            return "filtered"
        return "used"


def data_section(format: str, path: str) -> dict[str, Any]:
    """A recipe's data: the real source `real` at ``path``, and a small synthetic one."""
    key = "text" if format == "txt" else "key"
    rules: dict[str, Any] = {"where": {"lang": "en"}, "sample": {"by": "key", "of": BUCKETS, "buckets": SAMPLED}}
    return {
        "sequence_length": 16,
        "tokenizer": {"pretrained": str(TOKENIZER)},
        "sources": {
            "real": {"kind": "real", "path": path, **({} if format == "txt" else rules)},
            "made": {"kind": "synthetic", "path": "made.jsonl"},
        },
        "held_out": {
            "kind": "bucket",
            "source": "real",
            "by": key,
            "of": BUCKETS,
            "validation": [VALIDATION],
            "test": [TEST],
        },
        "filters": [{"kind": "length", "min_words": 5}],
        "max_row_bytes": MAX_ROW_BYTES,
        "max_quarantined_share": 1.0,
        "cache": "cache",
    }


def write_rows(folder: Path, *, seed: int, format: str, compression: str, num_rows: int) -> tuple[DataConfig, Fates]:
    """Writes ``num_rows`` random rows into three files and an empty one, or a data set; with the recipe's data section
    and what must become of the rows.
    """
    maker, fates, generator = RowMaker(seed, format), Fates(), random.Random(seed + 1)
    (folder / "made.jsonl").write_text(
        "".join(json.dumps({"text": f"made number {i} of it all"}) + "\n" for i in range(9))
    )
    data = folder / "data"
    data.mkdir()
    cuts = sorted(generator.randrange(num_rows + 1) for _ in range(2))
    held_out, training = [], []
    counts = (num_rows,) if format == "saved" else (cuts[0], cuts[1] - cuts[0], num_rows - cuts[1], 0)
    for number, count in enumerate(counts):
        rows = [maker.draw() for _ in range(count)]
        name = _write(data, f"part-{number}", rows, maker, compression)
        for line, row in _lines(rows, format):
            fate = maker.fate(row)
            fates.counts[fate] += 1
            if fate == "quarantined":
                fates.malformed.add((name, line))
            if fate in ("held_out", "used"):
                (held_out if fate == "held_out" else training).append(_words_of(row))
    copies = sum(text in set_of for set_of in [set(held_out)] for text in training)
    fates.counts["contaminated"], fates.counts["used"] = copies, fates.counts["used"] - copies
    path = "data/part-0" if format == "saved" else "data"
    return DataConfig.model_validate(data_section(format, path)), fates


def _words_of(row: Drawn) -> str:
    return " ".join(row.columns["text"].split())


def _lines(rows: Iterable[Drawn | None], format: str) -> Iterable[tuple[int, Drawn]]:
    """Each row with the number it is known by: its last line in a file of lines, else its place."""
    if format not in LINE_FORMATS:
        yield from enumerate((row for row in rows if row is not None), 1)
        return
    line = 1 if format in ("csv", "tsv") else 0
    for row in rows:
        line += 1 if row is None else _line_of(row, format).count(b"\n")
        if row is not None:
            yield line, row


def _write(folder: Path, stem: str, rows: list[Drawn | None], maker: RowMaker, compression: str) -> str:
    """Writes one file; its name."""
    format = maker.format
    if format in BINARY_FORMATS:
        return _write_table(folder, stem, [row for row in rows if row is not None], format)
    if format == "json":
        data = json.dumps([row.columns for row in rows if row is not None]).encode()
    else:
        head = {"csv": b"key,lang,text\n", "tsv": b"key\tlang\ttext\n"}.get(format, b"")
        data = head + b"".join(b"\n" if row is None else _line_of(row, format) for row in rows)
    compress, half = _COMPRESS[compression], len(data) // 2
    name = f"{stem}.{format}{compression}"
    # two members: as `cat a.gz b.gz` and parallel compressors leave them
    (folder / name).write_bytes(compress(data[:half]) + compress(data[half:]) if half else compress(data))
    return name


def _line_of(row: Drawn, format: str) -> bytes:
    if row.raw is not None:
        return row.raw + b"\n"
    if format in ("jsonl", "ndjson"):
        escaped = "\udcff" not in str(row.columns.get("text"))
        return json.dumps(row.columns, ensure_ascii=escaped).encode("utf-8", "surrogateescape") + b"\n"
    if format == "txt":
        return str(row.columns["text"]).encode("utf-8", "surrogateescape") + b"\n"
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t" if format == "tsv" else ",", lineterminator="\n").writerow(row.columns.values())
    return stream.getvalue().encode("utf-8", "surrogateescape")


def _table(rows: list[Drawn]) -> pa.Table:
    columns = {}
    for name in ("key", "lang", "text"):
        cells = [row.columns[name] for row in rows]
        data = pa.array(
            [cell if cell is None else cell.encode("utf-8", "surrogateescape") for cell in cells], pa.binary()
        )
        columns[name] = pa.Array.from_buffers(pa.string(), len(data), data.buffers(), data.null_count)
    return pa.table(columns)


def _write_table(folder: Path, stem: str, rows: list[Drawn], format: str) -> str:
    table = _table(rows)
    if format == "parquet":
        parquet.write_table(table, folder / f"{stem}.parquet", row_group_size=100)
        return f"{stem}.parquet"
    if format == "saved":
        import datasets

        datasets.Dataset(pa.table(table)).save_to_disk(folder / stem)
        return stem
    name = f"{stem}.arrow"
    new = ipc.new_stream if format == "arrow-stream" else ipc.new_file
    with new(folder / name, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    return name
