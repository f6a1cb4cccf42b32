"""Rows that are malformed, and columns that no row has: set aside with their place, or refused by name."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.data.corpus import all_ids, documents, prepared, recipe, stores, write_jsonl
from trainer.base.errors import UserError


def test_malformed_rows_are_set_aside_with_their_place(folder: Path) -> None:
    bad: list[Any] = [
        b"{",
        b'{"text": "\xff"}',
        {"text": None},
        {"id": "no text"},
        {"text": " \n"},
        {"text": "a\x00b"},
        {"text": 5},
    ]
    bad += [{"text": "x" * 2000}, b'{"text": "lone \\ud800"}']
    write_jsonl(folder / "made.jsonl", [*documents(30, "made"), *bad, *documents(30, "made", start=30)])
    data = prepared(folder, recipe(max_row_bytes=1000))
    assert all_ids(data, "made") == [row["id"] for row in documents(60, "made")]
    listed = [json.loads(line) for line in (data.folder / data.quarantine["file"]).read_text().splitlines()]
    assert [(row["source"], row["file"], row["line"]) for row in listed] == [
        ("made", "made.jsonl", 31 + i) for i in range(len(bad))
    ]
    assert [row["reason"] for row in listed] == [
        "bad JSON",
        "bad UTF-8",
        "missing or null text",
        "missing or null text",
        "empty text",
        "NUL byte",
        "text is not a string",
        "row over 1000 bytes",
        "bad UTF-8",
    ]
    assert data.quarantine["sources"]["made"]["quarantined"] == len(bad)


def test_too_many_malformed_rows_stop_and_the_list_is_kept(folder: Path) -> None:
    write_jsonl(folder / "web.jsonl", [*documents(200, "web"), *[b"{"] * 11])
    with pytest.raises(UserError, match="11 of 211 rows of source 'web' are malformed") as error:
        prepared(folder, recipe())
    (kept,) = (folder / "cache" / "stores").glob("*.quarantine.jsonl")
    assert str(kept) in str(error.value)
    assert len(kept.read_text().splitlines()) == 11
    assert stores(folder) == []
    assert prepared(folder, recipe(max_quarantined_share=0.2)).quarantine["sources"]["web"]["quarantined"] == 11


def test_a_limit_of_zero_tolerates_nothing(folder: Path) -> None:
    write_jsonl(folder / "web.jsonl", [*documents(200, "web"), b"{"])
    with pytest.raises(UserError, match="1 of 201 rows"):
        prepared(folder, recipe(max_quarantined_share=0))


def test_a_wrong_text_column_says_so(folder: Path) -> None:
    tree = recipe()
    tree["sources"]["web"]["text_column"] = "body"
    with pytest.raises(UserError, match=r"got 'text_column: body'.. The columns are .'id', 'text', 'topic'."):
        prepared(folder, tree)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"slice": "topik"}, "slice: topik"),
        ({"id_column": "ids"}, "id_column: ids"),
        ({"provenance": ["topic", "seed"]}, "provenance: seed"),
        ({"where": {"lang": "en"}}, "where: lang"),
        ({"sample": {"by": "title", "of": 2, "buckets": [0]}}, "sample.by: title"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_column_that_no_row_has_is_named_with_those_that_exist(
    folder: Path, keys: dict[str, Any], named: str, suffix: str
) -> None:
    if suffix == "parquet":
        datasets.Dataset.from_list(documents(60, "made")).to_parquet(str(folder / "made.parquet"))
    tree = recipe()
    tree["sources"]["made"] = {"kind": "synthetic", "path": f"made.{suffix}", **keys}
    with pytest.raises(UserError) as caught:
        prepared(folder, tree)
    assert f"source 'made' has no row with this column (got '{named}')" in str(caught.value)
    assert "['id', 'text', 'topic']" in str(caught.value)


def test_a_column_that_one_row_has_is_enough(folder: Path) -> None:
    rows = documents(60, "made")
    write_jsonl(folder / "made.jsonl", [*rows[:-1], {**rows[-1], "seed": None}])
    tree = recipe()
    tree["sources"]["made"]["provenance"] = ["seed"]
    assert prepared(folder, tree).sources["made"].segments[0].describe(0)["seed"] is None
