"""Keys in one spelling, rows without a key, and the columns that are named when one is missing."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.corpus import documents, recipe, small_files, write_jsonl
from trainer.base.errors import DataError, UserError
from trainer.data.account import FileAccount, RowTally
from trainer.data.account_text import account_in_words
from trainer.data.config import DataConfig
from trainer.data.documents import Document, DocumentReader
from trainer.data.keys import spelled
from trainer.data.quarantine import Quarantine

BUCKET = {"kind": "bucket", "source": "web", "by": "doc", "of": 5, "validation": [0], "test": [1]}


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        ((17, 17.0, "17", "17.0", "17.00", Decimal("17.0")), "17"),
        ((-3, -3.0, "-3.0"), "-3"),
        ((True, "true", "True", "TRUE"), "true"),
        ((False, "False"), "false"),
        (((1 << 63) - 1, str((1 << 63) - 1)), str((1 << 63) - 1)),
        ((0.5, "0.5", Decimal("0.5")), "0.5"),
        (("17.05",), "17.05"),
        (("v1.0",), "v1.0"),
        ((None, math.nan, "", "  ", Decimal("nan")), None),
    ],
)
def test_a_key_has_one_spelling_whatever_its_type(spellings: Iterable[object], key: str | None) -> None:
    assert {spelled(spelling) for spelling in spellings} == {key}


def read(folder: Path, tally: RowTally | None = None, **changes: Any) -> list[Document]:
    """The documents of the source `web`; what is missing of the corpus is made."""
    tree = recipe(**changes)
    write_jsonl(folder / "made.jsonl", documents(60, "made"))
    quarantine = Quarantine(folder / "quarantine.jsonl", 0.01)
    reader = DocumentReader(
        DataConfig.model_validate(tree), seed=0, base=folder, cache=folder / "cache", quarantine=quarantine
    )
    return list(reader.documents("web", tally=tally))


def web(path: str, **keys: Any) -> dict[str, Any]:
    made = {"kind": "synthetic", "path": "made.jsonl", "id_column": "id"}
    return {"web": {"kind": "real", "path": path, **keys}, "made": made}


def shard(folder: Path, name: str, values: Iterable[object]) -> None:
    """A shard of one row a value, in the format of its name."""
    rows = [
        {"text": f"{name} {number} tells of {number * 31 % 97} birds", "doc": value}
        for number, value in enumerate(values)
    ]
    (folder / name).parent.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    elif name.endswith(".csv"):
        lines = [f"{row['text']},{'' if row['doc'] is None else row['doc']}" for row in rows]
        (folder / name).write_text("\n".join(["text,doc", *lines, ""]))
    else:
        write_jsonl(folder / name, rows)


SHARDS: dict[str, dict[str, Iterable[object]]] = {
    "int and float": {"a.parquet": range(100), "b.parquet": map(float, range(100))},
    "float for a null": {"a.parquet": range(100), "b.jsonl": [*map(float, range(100)), None]},
    "text": {
        "a.parquet": range(100),
        "b.csv": range(100),
        "c.csv": map(float, range(100)),
        "d.jsonl": map(str, range(100)),
    },
    "bool": {"a.parquet": [True, False], "b.csv": [True, False], "c.csv": ["true", "false"]},
}


@pytest.mark.parametrize("shards", SHARDS.values(), ids=list(SHARDS))
def test_rows_of_one_document_lie_in_one_part_whatever_the_type_of_its_key(
    tmp_path: Path, shards: Mapping[str, Iterable[object]]
) -> None:
    for name, values in shards.items():
        shard(tmp_path, f"web/{name}", values)
    rows = read(tmp_path, sources=web("web", slice="doc"), held_out=BUCKET)
    parts: dict[str, set[str]] = {}
    for row in rows:
        if row.slice != "(none)":
            parts.setdefault(row.slice, set()).add(row.part)
    assert len(parts) == (2 if "true" in parts else 100)
    assert all(len(where) == 1 for where in parts.values())


@pytest.mark.parametrize("missing", [None, math.nan, "", " "])
def test_rows_without_a_key_are_counted_and_spread_like_documents_of_their_own(
    tmp_path: Path, missing: object, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**row, "doc": row["id"] if number % 2 else missing} for number, row in enumerate(documents(400, "web"))]
    (tmp_path / "web.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tally = RowTally()
    with caplog.at_level(logging.WARNING):
        outcome = read(tmp_path, tally, sources=web("web.jsonl", id_column="id"), held_out=BUCKET)
    assert tally.without_key == 200
    assert "source 'web': 200 of 400 rows have no doc" in caplog.text
    assert "200 without a key" in account_in_words(tally.account(FileAccount(read=1, num_bytes=0)))
    parts = [row.part for row in outcome if int(row.id.removeprefix("web")) % 2 == 0]
    assert all(20 < parts.count(part) < 60 for part in ("validation", "test"))  # 40 of 200 each, if they are spread


def test_a_column_without_any_key_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "web.jsonl", [{**row, "doc": None} for row in documents(50, "web")])
    with pytest.raises(DataError, match=r"no row of source 'web' has a key.*doc"):
        read(tmp_path, sources=web("web.jsonl"), held_out=BUCKET)


def test_a_float_that_stands_for_several_whole_numbers_is_no_key(tmp_path: Path) -> None:
    shard(tmp_path, "web/a.parquet", [float((1 << 60) + number) for number in range(3)])
    with pytest.raises(DataError, match=r"a\.parquet:1: a key is a float too large to be exact"):
        read(tmp_path, sources=web("web"), held_out=BUCKET)


def test_rows_without_a_key_are_sampled_one_by_one(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "web.jsonl", [{**row, "doc": None if number else 1} for number, row in enumerate(documents(300))]
    )
    sample = {"by": "doc", "of": 3, "buckets": [0]}
    outcome = read(tmp_path, sources=web("web.jsonl", sample=sample))
    assert 60 < sum(row.part == "train" for row in outcome) < 140


@pytest.mark.parametrize("name", ["web.jsonl", "web.json", "web.csv", "web.parquet"])
def test_a_missing_text_column_is_refused_with_the_columns_there_are(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": f"p {number}", "completion": f"c {number}"} for number in range(30)]
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    elif name.endswith("csv"):
        (tmp_path / name).write_text("prompt,completion\n" + "".join(f"{row['prompt']},c\n" for row in rows))
    elif name.endswith("jsonl"):
        write_jsonl(tmp_path / name, rows)
    else:
        (tmp_path / name).write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"\(got '(text_column: )?text'\).*The columns are \['completion', 'prompt'\]"):
        read(tmp_path, sources=web(name))


@pytest.mark.parametrize("text", [[{"role": "user", "content": "hi"}], None, 5])
def test_a_text_column_without_text_is_refused_with_the_columns_there_are(tmp_path: Path, text: object) -> None:
    write_jsonl(tmp_path / "web.jsonl", [{"text": text, "body": f"row {number}"} for number in range(30)])
    with pytest.raises(DataError, match=r"30 of 30 rows.*are malformed.*The columns are \['body', 'text'\]"):
        read(tmp_path, sources=web("web.jsonl"))


def test_numbers_are_ids_in_one_spelling_and_no_id_falls_back_to_the_place(tmp_path: Path) -> None:
    small_files(tmp_path)
    shard(tmp_path, "web/a.parquet", [7.0, None, math.nan])
    assert [row.id for row in read(tmp_path, sources=web("web", id_column="doc"))] == [
        "7",
        "a.parquet:2",
        "a.parquet:3",
    ]
