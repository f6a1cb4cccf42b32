"""Filters: what they drop, that it is counted with its reason, and that held-out documents are left alone."""

import csv
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from pydantic import TypeAdapter, ValidationError

from tests.data.corpus import all_ids, documents, prepared, recipe, write_jsonl
from trainer.base.config import Config
from trainer.base.errors import DataError, UserError
from trainer.data.config import DataConfig
from trainer.data.documents import bucket_of
from trainer.data.filters import FilterChain, FilterConfig
from trainer.data.filters.repetition import duplicate_ngram_share, duplicate_shares, top_ngram_share


def chain(*filters: Mapping[str, Any]) -> FilterChain:
    return FilterChain(TypeAdapter(FilterConfig).validate_python(each) for each in filters)


def dropped(filter_keys: Mapping[str, Any], text: str = "", **columns: Any) -> str | None:
    """The reason of one filter for one document."""
    verdict = chain(filter_keys).dropped_by(text, columns)
    return verdict[1] if verdict else None


def test_a_length_filter_counts_words_and_characters() -> None:
    words = {"kind": "length", "min_words": 2, "max_words": 3}
    assert [dropped(words, text) for text in ("one", "one two", "a b c", "a b c d")] == [
        "fewer than 2 words",
        None,
        None,
        "more than 3 words",
    ]
    assert dropped({"kind": "length", "max_characters": 3}, "four") == "more than 3 characters"
    assert dropped({"kind": "length", "min_characters": 4}, "four") is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "length"}, "needs a limit"),
        ({"kind": "length", "min_words": 3, "max_words": 2}, "min_words must be at most max_words"),
        ({"kind": "regex", "pattern": "("}, "not a regular expression"),
        ({"kind": "score", "column": "q"}, "needs a limit"),
        ({"kind": "repetition", "max_top_ngram_share": {2: 1.5}}, "a share in"),
        ({"kind": "lengths", "min_words": 1}, "length"),
    ],
)
def test_a_filter_without_effect_or_meaning_is_refused(keys: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(recipe(filters=[keys]))


def test_a_pattern_drops_what_matches_or_the_rest() -> None:
    assert dropped({"kind": "regex", "pattern": "lorem"}, "a lorem b") == "matches lorem"
    assert dropped({"kind": "regex", "pattern": "lorem"}, "clean") is None
    assert dropped({"kind": "regex", "pattern": "^[a-z]+$", "drop": "other"}, "UPPER") == "does not match ^[a-z]+$"
    by_column = {"kind": "regex", "pattern": "^gpt", "column": "generator"}
    assert dropped(by_column, generator="gpt-9") == "matches ^gpt"
    assert dropped(by_column, generator=None) is None


def test_a_score_filter_needs_the_number_and_its_limits() -> None:
    keys = {"kind": "score", "column": "quality", "minimum": 2, "maximum": 5}
    assert [dropped(keys, quality=value) for value in (1.9, 2, "5", 6, None, "good", float("nan"))] == [
        "quality below 2",
        None,
        None,
        "quality above 5",
        "no number in quality",
        "no number in quality",
        "no number in quality",
    ]


def test_the_first_of_equal_documents_is_kept() -> None:
    filters = chain({"kind": "exact_duplicate"})
    verdicts = [filters.dropped_by(text, {}) for text in ("One two", "one  TWO\n", "three")]
    assert verdicts == [None, ("exact_duplicate", "same words as an earlier document"), None]


def test_repetition_is_measured_as_gopher_does() -> None:
    assert duplicate_shares(["aa", "b", "aa", "aa"]) == (0.5, 4 / 7)
    words = ["ab", "cd", "ab", "cd", "efgh"]
    assert top_ngram_share(words, 2) == 8 / 12
    assert duplicate_ngram_share(words, 2) == 4 / 12  # the second `ab cd`
    assert duplicate_ngram_share(["a"] * 4, 2) == 3 / 4
    assert top_ngram_share(["only"], 2) == 0


def test_repeated_text_is_dropped_and_ordinary_text_is_kept() -> None:
    ordinary = "The river rises in the hills, passes two mills and a small town, and then meets the sea."
    assert dropped({"kind": "repetition"}, ordinary) is None
    assert "of the lines are duplicates" in str(dropped({"kind": "repetition"}, "buy now\n" * 9))
    assert "sequence of 2 words" in str(dropped({"kind": "repetition"}, "buy now " * 9))
    assert (
        dropped({"kind": "repetition", "max_top_ngram_share": {}, "max_duplicate_ngram_share": {}}, "a b " * 9) is None
    )


class FirstLetter:
    """A filter from outside: drops documents that begin with a letter."""

    class Config(Config):
        kind: str
        letter: str
        only: str | None = None

    def __init__(self, config: "FirstLetter.Config") -> None:
        self.letter = config.letter

    def __call__(self, text: str, columns: Mapping[str, Any]) -> str | None:
        return f"begins with {self.letter}" if text.startswith(self.letter) else None


OUTSIDE = "tests.data.test_filters:FirstLetter"


def test_a_filter_from_outside_brings_its_own_configuration(folder: Path) -> None:
    write_jsonl(folder / "made.jsonl", [*documents(50, "made"), *documents(7, "other")])
    tree = recipe(filters=[{"kind": OUTSIDE, "letter": "o"}])
    data = prepared(folder, tree)
    (rows,) = data.rows["made"].filters
    assert (rows.filter, rows.reason, rows.num_rows) == (OUTSIDE, "begins with o", 7)
    assert [example.id for example in rows.examples] == ["other0", "other1", "other2"]
    assert all_ids(data, "made") == [row["id"] for row in documents(50, "made")]
    with pytest.raises(ValidationError, match="letter"):
        DataConfig.model_validate(recipe(filters=[{"kind": OUTSIDE}]))


class NotAFilter(FirstLetter):
    """What has the configuration of a filter and is not a function."""

    def __init__(self) -> None:
        self.letter = "o"


def gives_a_text(config: Any) -> Any:
    """What gives a text where a function is needed."""
    return "o"


gives_a_text.Config = FirstLetter.Config  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [("NotAFilter", "cannot be called as a filter is"), ("gives_a_text", "is not a function of a document")],
)
def test_what_is_not_a_filter_is_named(name: str, message: str) -> None:
    with pytest.raises((DataError, ValidationError), match=message):
        chain({"kind": f"{__name__}:{name}", "letter": "o"})


def failing(config: Any) -> Callable[..., str | None]:
    """A filter that fails."""

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        raise RuntimeError("no model loaded")

    return reason


failing.Config = FirstLetter.Config  # type: ignore[attr-defined]


def test_a_filter_that_fails_is_named(folder: Path) -> None:
    tree = recipe(filters=[{"kind": "tests.data.test_filters:failing", "letter": "x"}])
    with pytest.raises(UserError, match="failing' failed: RuntimeError: no model"):
        prepared(folder, tree)


def test_filters_of_all_sources_come_before_those_of_one_and_can_be_for_one_kind(folder: Path) -> None:
    pattern = {"kind": "regex", "pattern": "number 1"}
    tree = recipe(filters=[{**pattern, "only": "synthetic"}])
    tree["sources"]["made"]["filters"] = [{"kind": "regex", "pattern": "number [12]"}]
    data = prepared(folder, tree)
    assert {rows.reason: rows.num_rows for rows in data.rows["made"].filters} == {
        "matches number 1": 11,
        "matches number [12]": 11,
    }
    assert data.rows["web"].filters == ()


def test_a_filter_may_drop_most_rows_without_the_limit_on_malformed_ones(folder: Path) -> None:
    tree = recipe(max_quarantined_share=0)
    tree["sources"]["made"]["filters"] = [{"kind": "regex", "pattern": "number 1[0-9]", "drop": "other"}]
    data = prepared(folder, tree)
    assert len(all_ids(data, "made")) == 10
    assert data.rows["made"].filtered == 50
    assert data.quarantine["sources"]["made"]["quarantined"] == 0


def test_a_filter_that_drops_everything_says_what_dropped_it(folder: Path) -> None:
    tree = recipe()
    tree["sources"]["made"]["filters"] = [{"kind": "length", "min_words": 1000}]
    with pytest.raises(UserError, match=r"no training documents .*filter length: fewer than 1000 words: 60"):
        prepared(folder, tree)


def test_held_out_documents_are_not_filtered_unless_their_own_data_set_says_so(folder: Path) -> None:
    held_out = {"kind": "bucket", "source": "web", "by": "id", "of": 10, "validation": [8], "test": [9]}
    plain = prepared(folder, recipe(held_out=held_out))
    strict = recipe(held_out=held_out, filters=[{"kind": "regex", "pattern": "number 1"}])
    strict["sources"]["web"]["filters"] = [{"kind": "regex", "pattern": "number 2"}]
    data = prepared(folder, strict)
    assert (data.validation.ids, data.test.ids) == (plain.validation.ids, plain.test.ids)
    assert any(name.startswith("web1") for name in data.validation.ids)
    assert len(all_ids(data, "web")) < len(all_ids(plain, "web"))
    own = {"kind": "real", "id_column": "id"}
    write_jsonl(folder / "v.jsonl", documents(20, "validation"))
    write_jsonl(folder / "t.jsonl", documents(20, "test"))
    filters = [{"kind": "regex", "pattern": "number 1"}]
    parts = {"validation": {**own, "path": "v.jsonl", "filters": filters}, "test": {**own, "path": "t.jsonl"}}
    data = prepared(folder, recipe(held_out={"kind": "dataset", **parts}, filters=filters))
    assert (len(data.validation.ids), len(data.test.ids)) == (9, 20)
    assert data.rows["held_out.validation"].filtered == 11


def test_another_filter_is_another_store(folder: Path) -> None:
    stores = {
        prepared(folder, recipe(filters=filters)).folder
        for filters in ([], [{"kind": "length", "min_words": 3}], [{"kind": "length", "min_words": 4}])
    }
    assert len(stores) == 3


def test_a_column_that_a_filter_reads_has_to_exist(folder: Path) -> None:
    tree = recipe()
    tree["sources"]["made"]["filters"] = [{"kind": "score", "column": "qualty", "minimum": 1}]
    with pytest.raises(UserError, match=r"no row with this column .*qualty"):
        prepared(folder, tree)


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> str:
    return write_jsonl(folder / "made.jsonl", rows).name


def as_json(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "made.json").write_text(json.dumps(rows))
    return "made.json"


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> str:
    with (folder / "made.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "text", "topic", "quality"])
        writer.writeheader()
        writer.writerows(rows)
    return "made.csv"


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "made.parquet"))
    return "made.parquet"


def as_arrow(folder: Path, rows: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "made"))
    return "made"


def as_text(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "made.txt").write_text("\n".join(row["text"] or "\0" for row in rows))
    return "made.txt"


def made_rows(choices: list[int]) -> list[dict[str, Any]]:
    """One row per choice: a document, a copy of a held-out one, a short one, a bad score, a duplicate, no text."""
    web = documents(200, "web")
    planted = [row["text"] for row in web if bucket_of(row["id"], 10) == 8]
    synthetic = documents(len(choices), "made")
    rows = []
    for number, (row, choice) in enumerate(zip(synthetic, choices, strict=True)):
        text = {1: planted[number % len(planted)], 2: "too short", 3: synthetic[0]["text"], 4: ""}.get(
            choice, row["text"]
        )
        rows.append({**row, "text": text, "quality": 0.0 if choice == 5 else 1.0})
    return rows


@pytest.mark.parametrize("write", [as_jsonl, as_json, as_csv, as_parquet, as_arrow, as_text])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_row_read_is_used_or_dropped_for_a_reason_in_every_format(
    folder: Path, write: Callable[[Path, list[dict[str, Any]]], str], seed: int
) -> None:
    rng = random.Random(seed)
    choices, limit = rng.choices(range(10), k=rng.randint(12, 40)), rng.choice([None, rng.randint(1, 20)])
    rows = made_rows([6, 7, *choices])
    is_text = write is as_text
    columns: dict[str, Any] = (
        {} if is_text else {"where": {"topic": ["t0", "t1"]}, "sample": {"by": "id", "of": 4, "buckets": [0, 1, 2]}}
    )
    filters: list[dict[str, Any]] = [{"kind": "length", "min_words": 3}, {"kind": "exact_duplicate"}]
    filters += [] if is_text else [{"kind": "score", "column": "quality", "minimum": 0.5}]
    source = {"kind": "synthetic", "path": write(folder, rows), "filters": filters, "max_documents": limit, **columns}
    held_out = {"kind": "bucket", "source": "web", "by": "id", "of": 10, "validation": [8], "test": [9]}
    tree = recipe(held_out=held_out, max_quarantined_share=1)
    tree["sources"]["made"] = source
    data = prepared(folder, tree)
    for name, segment in (("made", data.sources["made"].segments[0]), ("web", data.sources["web"].segments[0])):
        account = data.rows[name]
        assert account.used == segment.num_documents
        assert account.read == account.used + sum(account.dropped.values())
    made_account = data.rows["made"]
    assert made_account.read == len(rows)
    assert made_account.contaminated == made_account.copies.dropped
    assert made_account.quarantined == sum(made_account.malformed.values())
    assert made_account.quarantined == data.quarantine["sources"]["made"]["quarantined"]
    assert data.rows["web"].held_out == len(data.validation.ids) + len(data.test.ids)
    if is_text:
        assert made_account.quarantined == sum(not row["text"] for row in rows)
