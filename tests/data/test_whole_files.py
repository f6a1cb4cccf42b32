"""A file that is not whole is refused, and its name is in the message; nothing is read as if it were complete."""

import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from tests.data.test_readers import data, read, reasons, texts
from trainer.base.errors import DataError
from trainer.data.columns import read_options
from trainer.data.readers import OpenableFile, read_rows

ROWS = [f"row {number} of {random.Random(number).random()}" for number in range(2000)]
JSONL = b"".join(json.dumps({"text": row}).encode() + b"\n" for row in ROWS)


def checked_zstandard(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def streamed_zstandard(content: bytes, window_log: int = 10) -> bytes:
    """A frame that says neither its size nor a checksum, with a window of 2^``window_log`` bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(content) + compressor.flush()


COMPRESSORS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": (".gz", gzip.compress),
    "xz": (".xz", lzma.compress),
    "bzip2": (".bz2", bz2.compress),
    "zstandard": (".zst", checked_zstandard),
    "zstandard streamed": (".zst", streamed_zstandard),
    "capitals": (".GZ", gzip.compress),
}
each_compression = pytest.mark.parametrize(("suffix", "compress"), COMPRESSORS.values(), ids=list(COMPRESSORS))


def refusal(folder: Path, name: str, match: str = "cannot be read to its end") -> DataError:
    with pytest.raises(DataError, match=match) as caught:
        read(folder, path=name)
    assert str(caught.value.file) == str(folder / name)
    return caught.value


@each_compression
def test_a_compressed_file_is_read_whole_also_in_several_members(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    half = JSONL.index(b"\n", len(JSONL) // 2) - 30  # in the middle of a line
    (tmp_path / f"one.jsonl{suffix}").write_bytes(compress(JSONL))
    (tmp_path / f"more.jsonl{suffix}").write_bytes(compress(JSONL[:half]) + compress(b"") + compress(JSONL[half:]))
    assert texts(read(tmp_path, path=f"one.jsonl{suffix}")) == ROWS
    assert texts(read(tmp_path, path=f"more.jsonl{suffix}")) == ROWS


@each_compression
@pytest.mark.parametrize("part", [0.0, 0.0004, 0.01, 0.5, 0.99, 0.99995])
def test_a_compressed_file_that_is_cut_off_anywhere_is_refused(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], part: float
) -> None:
    content = compress(JSONL)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(content[: int(part * len(content))])
    refusal(tmp_path, f"a.jsonl{suffix}")


@each_compression
def test_a_second_member_that_is_cut_off_or_damaged_is_refused(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    first, second = compress(JSONL), compress(JSONL[:5000])
    for number, rest in enumerate((second[:3], second[:-3], b"\x01" + second[1:], b"no member at all", b"\x00\x01")):
        (tmp_path / f"{number}.jsonl{suffix}").write_bytes(first + rest)
        refusal(tmp_path, f"{number}.jsonl{suffix}")


@each_compression
def test_damage_in_the_middle_and_plain_text_under_a_compressed_name_are_refused(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    content = bytearray(compress(JSONL))
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(byte ^ 0xA5 for byte in content[middle : middle + 400])
    (tmp_path / f"a.jsonl{suffix}").write_bytes(content)
    refusal(tmp_path, f"a.jsonl{suffix}", match="cannot be read to its end|damaged")
    (tmp_path / f"plain.jsonl{suffix}").write_bytes(JSONL)
    refusal(tmp_path, f"plain.jsonl{suffix}")


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_zstandard_windows_of_the_format_are_accepted_up_to_the_longest(tmp_path: Path, window_log: int) -> None:
    content = bytearray(streamed_zstandard(JSONL))
    content[5] = (window_log - 10) << 3  # the window descriptor: what matters is what the header asks for
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    assert texts(read(tmp_path, path="a.jsonl.zst")) == ROWS


def test_zstandard_frames_to_be_skipped_are_skipped_and_padding_of_gzip_is_passed_over(tmp_path: Path) -> None:
    skippable = b"\x50\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"any way"
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + checked_zstandard(JSONL) + skippable)
    assert texts(read(tmp_path, path="a.jsonl.zst")) == ROWS
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSONL) + bytes(1000))
    assert texts(read(tmp_path, path="a.jsonl.gz")) == ROWS
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(JSONL) + bytes(1 << 20))  # a hole where data was
    refusal(tmp_path, "b.jsonl.gz")


def test_a_plain_file_whose_last_line_breaks_off_is_refused(tmp_path: Path) -> None:
    for number, end in enumerate((-3, -9, JSONL.index(b"\n") + 2 - len(JSONL))):
        (tmp_path / f"{number}.jsonl").write_bytes(JSONL[:end])
        refusal(tmp_path, f"{number}.jsonl", match="last line of a data file breaks off")
    (tmp_path / "whole.jsonl").write_bytes(JSONL[:-1])
    assert texts(read(tmp_path, path="whole.jsonl")) == ROWS


def test_a_json_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    content = json.dumps([{"text": row} for row in ROWS])
    for number, end in enumerate((-1, len(content) // 2, 1)):
        (tmp_path / f"{number}.json").write_text(content[:end])
        refusal(tmp_path, f"{number}.json", match="cannot be parsed")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (gzip.compress(JSONL), "gzip"),
        (checked_zstandard(JSONL), "Zstandard"),
        (b"PAR1....PAR1", "parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("text\nrow\n".encode("utf-16"), "UTF-16"),
    ],
    ids=["gzip", "zstandard", "parquet", "lfs", "utf-16"],
)
def test_a_file_that_is_something_else_than_its_name_says_is_refused(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path, name, match=what)


def parquet_bytes(rows: list[str], **keys: object) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": rows}), buffer, **keys)
    return buffer.getvalue()


def test_a_parquet_file_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    whole = parquet_bytes(ROWS, write_page_checksum=True, use_dictionary=False)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little") + 10
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "end": whole[:-1],
        "start": whole[4:],
        "footer": whole[:footer] + bytes(20) + whole[footer + 20 :],
        "encrypted": whole[:-4] + b"PARE",
        "length": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:],
        "page": whole[:3000] + bytes(3) + whole[3003:],
        "text": JSONL,
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
        refusal(tmp_path, f"{name}.parquet", match="a parquet file cannot be (opened|read to its end)")


def arrow_bytes(rows: list[str], *, as_stream: bool, batch_rows: int = 500) -> bytes:
    buffer, table = io.BytesIO(), pyarrow.table({"text": rows, "n": range(len(rows))})
    new = pyarrow.ipc.new_stream if as_stream else pyarrow.ipc.new_file
    with new(buffer, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return buffer.getvalue()


@pytest.mark.parametrize("as_stream", [True, False])
def test_an_arrow_file_is_read_in_both_formats_and_refused_where_it_is_cut_off(tmp_path: Path, as_stream: bool) -> None:
    whole = arrow_bytes(ROWS, as_stream=as_stream)
    (tmp_path / "whole.arrow").write_bytes(whole)
    (tmp_path / "none.arrow").write_bytes(arrow_bytes([], as_stream=as_stream))
    (tmp_path / "packed.arrow.zst").write_bytes(checked_zstandard(whole))
    assert texts(read(tmp_path, path="whole.arrow")) == ROWS
    assert texts(read(tmp_path, path="none.arrow")) == []
    assert texts(read(tmp_path, path="packed.arrow.zst")) == ROWS
    for end in (0, 3, 100, len(whole) // 2, len(whole) - 12, len(whole) - 8, len(whole) - 4, len(whole) - 1):
        (tmp_path / "cut.arrow").write_bytes(whole[:end])
        refusal(tmp_path, "cut.arrow", match="an arrow file cannot be")


def test_an_arrow_stream_cut_off_between_two_batches_or_followed_by_another_is_refused(tmp_path: Path) -> None:
    buffer, table, ends = io.BytesIO(), pyarrow.table({"text": ROWS}), []
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        for batch in table.to_batches(500):
            writer.write_batch(batch)
            ends.append(buffer.tell())
    whole = buffer.getvalue()
    for end in ends:
        (tmp_path / "cut.arrow").write_bytes(whole[:end])
        refusal(tmp_path, "cut.arrow", match="no end mark")
    (tmp_path / "twice.arrow").write_bytes(whole + whole)
    refusal(tmp_path, "twice.arrow", match="continues after the end mark")


def test_empty_shards_are_skipped_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_bytes([]))
    (tmp_path / "b.arrow").write_bytes(arrow_bytes([], as_stream=True))
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.jsonl.zst").write_bytes(checked_zstandard(b""))
    (tmp_path / "e.csv").write_bytes(b"text,n\n")
    (tmp_path / "f.csv").write_bytes(b"")
    (tmp_path / "g.json").write_bytes(b"[]")
    (tmp_path / "h.jsonl").write_bytes(JSONL)
    names = sorted(path.name for path in tmp_path.iterdir())
    rows = list(read_rows([OpenableFile(str(tmp_path / name)) for name in names], read_options(data(), "web")))
    assert texts(rows) == ROWS


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_row_group_costs_nothing(tmp_path: Path, empty: int) -> None:
    table = pyarrow.table({"text": ROWS[:4]})
    groups = [table, table]
    groups.insert(empty, table.slice(0, 0))
    with parquet.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for group in groups:
            writer.write_table(group)
    assert texts(read(tmp_path, path="a.parquet")) == ROWS[:4] * 2


def test_columns_that_nobody_names_are_not_read(tmp_path: Path) -> None:
    odd = pyarrow.array([[("a", "1")]] * 3, pyarrow.map_(pyarrow.string(), pyarrow.string()))
    table = pyarrow.Table.from_arrays([pyarrow.array(ROWS[:3]), odd, odd, odd], names=["text", "map", "twice", "twice"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts(read(tmp_path, path="a.parquet")) == ROWS[:3]
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert texts(read(tmp_path, path="a.arrow")) == ROWS[:3]


def test_two_text_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(ROWS[:3])] * 2, names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    refusal(tmp_path, "a.parquet", match="two columns have one name")


def test_a_value_that_python_cannot_hold_costs_its_row(tmp_path: Path) -> None:
    times = pyarrow.array([0, 1 << 45, 0], pyarrow.timestamp("s"))
    parquet.write_table(pyarrow.table({"text": ROWS[:3], "time": times}), tmp_path / "a.parquet")
    config = data(path="a.parquet", provenance=["time"])
    rows = list(read_rows([OpenableFile(str(tmp_path / "a.parquet"))], read_options(config, "web")))
    assert texts(rows) == [ROWS[0], ROWS[2]]
    assert "cannot be read" in reasons(rows)[0][1]


def test_labels_are_read_by_the_names_of_their_classes(tmp_path: Path) -> None:
    labels = datasets.ClassLabel(names=["sea", "land"])
    features = datasets.Features({"text": datasets.Value("string"), "topic": labels})
    rows = datasets.Dataset.from_dict({"text": ROWS[:3], "topic": [1, 0, -1]}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    config = data(slice="topic")
    for name in ("a.parquet", "saved/data-00000-of-00001.arrow"):
        outcome = read_rows([OpenableFile(str(tmp_path / name))], read_options(config, "web"))
        assert [row.columns["topic"] for row in outcome if hasattr(row, "columns")] == ["land", "sea", None]


class Overflowing:
    """A stand-in for whatever else a library raises: the zstandard module's own class derives from Exception alone."""

    @staticmethod
    def read(file: OpenableFile, options: object) -> object:
        yield from ()
        raise zstandard.ZstdError("of its own")


def test_a_readers_own_exception_is_a_refusal_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    with pytest.raises(DataError, match=r"a\.jsonl: the reader .*Overflowing' failed: ZstdError: of its own"):
        read(tmp_path, path="a.jsonl", format="tests.data.test_whole_files:Overflowing")
