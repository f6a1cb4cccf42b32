"""A corpus of many files in several formats, and ten defects to plant in it.

python -m benchmarks.corpus FOLDER [--documents 100000] [--files 200] [--defects]
"""

import argparse
import csv
import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from pyarrow import parquet

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet")
LIMIT_BYTES = 4000  # of a row
WORDS, WORDS_A_DOCUMENT = 20_000, 40
Row = dict[str, Any]


def data_section(sequence_length: int = 64) -> dict[str, Any]:
    """A recipe's data: the corpus in `data`, and one small synthetic file."""
    return {
        "sequence_length": sequence_length,
        "tokenizer": {"train_bpe": 512, "max_training_bytes": 200_000},
        "sources": {
            "corpus": {"kind": "real", "path": "data", "id_column": "key", "license": "CC0-1.0"},
            "made": {"kind": "synthetic", "path": "made.jsonl", "license": "CC0-1.0"},
        },
        "held_out": {"kind": "bucket", "source": "corpus", "by": "key", "of": 50, "validation": [3], "test": [4]},
        "max_row_bytes": LIMIT_BYTES,
        "cache": "cache",
    }


def rows_of(number: int, count: int) -> list[Row]:
    """The rows of file ``number``: documents of made-up words, no two of them alike."""
    random = np.random.default_rng(number)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(word) for word in np.random.default_rng(0).choice(letters, size=(WORDS, 6))]
    drawn = random.integers(0, WORDS, size=(count, WORDS_A_DOCUMENT)).tolist()
    return [{"key": f"d{number}-{i}", "text": " ".join([words[place] for place in row])} for i, row in enumerate(drawn)]


def encoded(rows: list[Row], format: str) -> bytes:
    """The bytes of a file of ``rows``."""
    if format == "parquet":
        stream = io.BytesIO()
        columns = {name: [row[name] for row in rows] for name in ("key", "text")}
        parquet.write_table(pa.table(columns, schema=pa.schema({"key": pa.string(), "text": pa.string()})), stream)
        return stream.getvalue()
    if format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, ["key", "text"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if format == "jsonl.gz":
        return gzip.compress(lines, 1, mtime=0)
    return zstandard.ZstdCompressor(write_checksum=True).compress(lines) if format == "jsonl.zst" else lines


def write_corpus(folder: Path, num_documents: int = 100_000, num_files: int = 200) -> None:
    """Writes `data/part-NNN.FORMAT` and `made.jsonl` into ``folder``; keeps a corpus that is there already."""
    data = folder / "data"
    if data.exists():
        return
    data.mkdir(parents=True)
    each = num_documents // num_files
    for number in range(num_files):
        format = FORMATS[number % len(FORMATS)]
        (data / f"part-{number:03}.{format}").write_bytes(encoded(rows_of(number, each), format))
    (folder / "made.jsonl").write_bytes(encoded(rows_of(num_files, 100), "jsonl"))


@dataclass(frozen=True)
class Planted:
    """The files that each defect was planted in, by the defect's name; paths from the corpus."""

    files: Mapping[str, str]
    documents_per_file: int


def plant_defects(folder: Path, num_documents: int = 100_000, num_files: int = 200) -> Planted:
    """Plants ten defects in the corpus of ``folder``: four that must stop a preparation, six that must be counted."""
    data, each = folder / "data", num_documents // num_files
    parts = {
        format: [data / f"part-{i:03}.{format}" for i in range(num_files) if FORMATS[i % 5] == format]
        for format in FORMATS
    }
    half = num_files // 10
    cut_gz, cut_zst = parts["jsonl.gz"][half], parts["jsonl.zst"][half + 1]
    for file in (cut_gz, cut_zst):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    no_text = parts["parquet"][half - 1]
    parquet.write_table(parquet.read_table(no_text).rename_columns(["key", "body"]), no_text)
    unclosed = parts["csv"][half]
    lines = unclosed.read_text().splitlines(keepends=True)
    lines[each // 2] = lines[each // 2].replace(",", ',"', 1)
    unclosed.write_text("".join(lines))
    split = data / "test-00000-of-00001.parquet"
    split.write_bytes(encoded(rows_of(num_files + 1, each), "parquet"))

    empty = data / "part-empty.parquet"
    empty.write_bytes(encoded([], "parquet"))
    hidden = data / ".ipynb_checkpoints" / "part-000-checkpoint.jsonl"
    hidden.parent.mkdir()
    hidden.write_bytes(parts["jsonl"][0].read_bytes())
    linked = data / "the-newest.jsonl"
    linked.symlink_to(parts["jsonl"][1].name)
    bad, long = parts["jsonl"][2], parts["jsonl"][3]
    lines_of_bytes = bad.read_bytes().splitlines(keepends=True)
    lines_of_bytes[each // 3] = lines_of_bytes[each // 3].replace(b'"text": "', b'"text": "\xff\xfe')
    bad.write_bytes(b"".join(lines_of_bytes))
    rows = rows_of(int(long.name.split("-")[1].split(".")[0]), each)
    rows[each // 4]["text"] *= LIMIT_BYTES // 100
    long.write_bytes(encoded(rows, "jsonl"))
    files = {
        "cut gzip file": cut_gz,
        "cut zstd file": cut_zst,
        "file without the text column": no_text,
        "unclosed quote": unclosed,
        "test split": split,
        "empty shard": empty,
        "hidden copy": hidden,
        "linked copy": linked,
        "bad UTF-8": bad,
        "oversized row": long,
    }
    return Planted({name: file.relative_to(data).as_posix() for name, file in files.items()}, each)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--defects", action="store_true", help="plant ten defects, and name the files")
    arguments = parser.parse_args()
    write_corpus(arguments.folder, arguments.documents, arguments.files)
    if arguments.defects:
        print(json.dumps(plant_defects(arguments.folder, arguments.documents, arguments.files).files, indent=1))


if __name__ == "__main__":
    main()
