"""Handed cases, data files: every row is read once, or the file is named and nothing is prepared."""

import json
import re
import shutil

import pytest

from tests.cases.commands import Case
from trainer.tracking.schema import StartLine


@pytest.mark.kind("truncated or damaged file")
def test_a_zstandard_file_that_was_cut_off_is_refused_by_name(case: Case) -> None:
    case.take("01-zst-cut-off").fit().refused("real.jsonl.zst", "cannot be read to its end")
    assert not case.is_prepared()


@pytest.mark.kind("truncated or damaged file")
def test_a_zstandard_file_with_a_changed_byte_is_refused_by_name(case: Case) -> None:
    case.take("02-zst-damaged").fit().refused("real.jsonl.zst", "cannot be read to its end")
    assert not case.is_prepared()


@pytest.mark.kind("empty shard")
def test_a_parquet_shard_without_rows_is_passed_over(case: Case) -> None:
    assert case.take("03-empty-parquet-shard").fit().succeeded()
    assert case.rows()["read"] == 80


@pytest.mark.kind("CSV quoting")
def test_an_unclosed_quote_is_refused_with_its_line_or_costs_one_row(case: Case) -> None:
    ended = case.take("04-csv-unclosed-quote").fit()
    if ended.succeeded():
        assert (case.rows()["read"], case.rows()["quarantined"]) == (80, 1)
    else:
        ended.refused("real.csv")
        assert re.search(r"\b42\b", ended.stderr), "the line on which the quote opens"
        assert re.search(r"\b(39|40|41|38) (more )?(lines|rows)", ended.stderr), "what it swallowed"


@pytest.mark.kind("stale cache")
def test_a_streamed_local_file_that_was_replaced_is_read_anew(case: Case) -> None:
    case.take("05-streaming-local-file-edited").fit(run="a").told()
    shutil.copy(case.folder / "second.jsonl", case.folder / "real.jsonl")
    case.fit(run="b").told()
    read = [line.rows["real"]["read"] for run in "ab" for line in case.journal(run) if isinstance(line, StartLine)]
    assert read == [80, 40]


@pytest.mark.kind("splits of a folder")
def test_the_test_split_of_a_folder_is_not_trained_on(case: Case) -> None:
    ended = case.take("06-test-split-in-folder").fit()
    if ended.succeeded():
        assert case.rows()["read"] == 60
    else:
        ended.refused("split")


@pytest.mark.kind("hidden files and folders")
def test_copies_in_a_hidden_folder_are_not_read(case: Case) -> None:
    case.take("07-notebook-copies").fit().told()
    assert case.rows()["read"] == 80


@pytest.mark.kind("links")
def test_a_link_to_a_blob_without_suffix_is_read_by_its_own_name(case: Case) -> None:
    case.take("08-hub-cache-link").fit().told()
    assert case.rows()["read"] == 80


@pytest.mark.kind("links")
def test_a_linked_folder_is_entered_or_refused_by_name(case: Case) -> None:
    ended = case.take("09-linked-folder").fit()
    if ended.succeeded():
        assert case.rows()["read"] == 80
    else:
        ended.refused("repo/b")


def parts_of_documents(case: Case) -> dict[int, set[str]]:
    """Document -> the parts in which it has rows: training, validation, test."""
    from pyarrow.parquet import read_table

    documents = {shard: read_table(case.folder / f"real/{shard}.parquet")["doc"].to_pylist() for shard in "ab"}
    rows = {(shard, line): int(doc) for shard, docs in documents.items() for line, doc in enumerate(docs, 1) if doc}
    held_out = {
        (match[1], int(match[2])): part
        for part in ("validation", "test")
        for match in re.finditer(r"([ab])\.parquet:(\d+)", (case.store() / part / "names.json").read_text())
    }
    assert len(held_out) == case.rows()["held_out"] > 0
    parts: dict[int, set[str]] = {}
    for row, document in rows.items():
        parts.setdefault(document, set()).add(held_out.get(row, "training"))
    return parts


@pytest.mark.kind("keys of two types")
def test_a_document_whose_number_is_whole_or_float_lies_in_one_part(case: Case) -> None:
    ended = case.take("10-whole-number-keys").fit()
    if ended.succeeded():
        assert all(len(parts) == 1 for parts in parts_of_documents(case).values())
    else:
        ended.refused("doc", "type")


@pytest.mark.kind("odd columns that nobody named")
def test_a_column_of_type_map_that_nobody_named_is_not_read(case: Case) -> None:
    case.take("11-unused-map-column").fit().told()
    assert case.rows()["read"] == 80


@pytest.mark.kind("formats of one suffix")
def test_an_arrow_file_in_the_file_format_is_read(case: Case) -> None:
    case.take("12-arrow-file-format").fit().told()
    assert case.rows()["read"] == 80


@pytest.mark.kind("names that look like patterns")
def test_brackets_in_the_name_of_the_recipes_folder_are_no_pattern(case: Case) -> None:
    ended = case.take("24-[1] folder").run("check", "24-[1] folder/recipe.yaml", folder=case.home)
    ended.told("no mistakes")


@pytest.mark.kind("rows without the text column")
def test_rows_without_the_text_column_are_refused_with_the_columns_they_have(case: Case) -> None:
    case.take("25-no-text-column").fit().refused("prompt", "completion")


@pytest.mark.kind("templated text")
def test_rows_of_one_template_that_are_dropped_are_told_with_count_share_and_example(case: Case) -> None:
    ended = case.take("26-one-template").fit()
    ended.told()
    dropped, read = case.rows()["contaminated"], case.rows()["read"]
    if dropped > read // 100:
        ended.told(f"{dropped}", "%", "Notice to all readers of the daily list")
    first = json.loads((case.home / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert first["rows"]["real"]["contaminated"] == dropped
