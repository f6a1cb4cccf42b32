from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer

from tests.data.corpus import (
    RECIPES,
    WIKIPEDIA,
    all_ids,
    by_bucket,
    documents,
    prepared,
    recipe,
    wiki_entries,
    write_jsonl,
)
from trainer.base.errors import UserError
from trainer.data.account import COPY_KINDS
from trainer.data.config import DataConfig
from trainer.data.documents import bucket_of
from trainer.data.prepare import prepare
from trainer.data.store import PreparedData


def texts_of(data: PreparedData, source: str) -> list[str]:
    segment = data.sources[source].segments[0]
    return [data.decode(segment.document_tokens(i)) for i in range(segment.num_documents)]


def test_the_quickstarts_data_is_prepared_as_its_recipe_says(tmp_path: Path) -> None:
    titles = list(wiki_entries())
    synthetic = {
        name: {"kind": "synthetic", "path": f"data/{name}.jsonl.xz", "slice": "topic", "provenance": ["source_title"]}
        for name in ("written", "invented", "scrambled")
    }
    tree = recipe(
        sequence_length=128,
        tokenizer={"train_bpe": 2048},
        sources={"wikipedia": {**WIKIPEDIA, "sample": {"by": "title", "of": 10, "buckets": [0]}}, **synthetic},
        held_out=by_bucket(source="wikipedia", by="title"),
        cache=str(tmp_path / "cache"),
    )
    data = prepared(RECIPES, tree)
    assert list(data.sources) == ["wikipedia", "written", "invented", "scrambled"]
    assert all_ids(data, "wikipedia") == [title for title in titles if bucket_of(title, 10) == 0]
    assert data.validation.ids == [title for title in titles if bucket_of(title, 10) == 8]
    assert data.test.ids == [title for title in titles if bucket_of(title, 10) == 9]
    assert len(data.validation.slices) == 12
    assert data.vocabulary_size == 2048
    written = data.sources["written"].segments[0]
    assert bucket_of(written.describe(0)["source_title"], 10) < 8
    assert data.quarantine["sources"]["wikipedia"] == {"rows": 10033, "quarantined": 0, "reasons": {}}


def test_held_out_buckets_leave_training_before_sampling_narrows_it(folder: Path) -> None:
    tree = recipe(held_out=by_bucket())
    tree["sources"]["web"]["sample"] = {"by": "id", "of": 10, "buckets": [0, 1]}
    data = prepared(folder, tree)
    ids = [row["id"] for row in documents(200, "web")]
    assert data.validation.ids == [name for name in ids if bucket_of(name, 10) == 8]
    assert data.test.ids == [name for name in ids if bucket_of(name, 10) == 9]
    assert all_ids(data, "web") == [name for name in ids if bucket_of(name, 10) in (0, 1)]


def test_the_largest_id_of_every_part_is_in_the_store(folder: Path) -> None:
    data = prepared(folder, recipe(held_out=by_bucket()))
    for part in (data.validation, data.test):
        assert part.largest_id == part.tokens.max()
    for segments in data.segments.values():
        for segment in segments:
            assert segment.largest_id == segment.gather(np.arange(segment.num_samples)).max()


def test_held_out_by_share_depends_on_text_and_seed_only(folder: Path) -> None:
    data = prepared(folder, recipe())
    held_out = {*data.validation.ids, *data.test.ids}
    assert 20 < len(held_out) < 60
    assert not held_out & set(all_ids(data, "web"))
    assert not set(data.validation.ids) & set(data.test.ids)
    assert set(prepared(folder, recipe(), seed=1).validation.ids) != set(data.validation.ids)
    write_jsonl(folder / "web.jsonl", reversed(documents(250, "web")))
    more = prepared(folder, recipe())
    assert held_out <= {*more.validation.ids, *more.test.ids}


def test_held_out_data_sets_of_their_own_are_used_whole(folder: Path) -> None:
    write_jsonl(folder / "s.jsonl", documents(10, "validation"))
    write_jsonl(folder / "r.jsonl", documents(12, "test"))
    part = {"kind": "real", "id_column": "id"}
    tree = recipe(
        held_out={"kind": "dataset", "validation": {**part, "path": "s.jsonl"}, "test": {**part, "path": "r.jsonl"}}
    )
    data = prepared(folder, tree)
    assert (len(data.validation.ids), len(data.test.ids), len(all_ids(data, "web"))) == (10, 12, 200)
    write_jsonl(
        folder / "r.jsonl", [*documents(12, "test"), {"id": "x", "text": documents(1, "validation")[0]["text"].upper()}]
    )
    with pytest.raises(UserError, match="disjoint, but share 1 documents"):
        prepared(folder, tree)


def test_a_document_twice_in_held_out_data_stays_in_test_only(folder: Path) -> None:
    twins = [{"id": f"web{i}", "text": "the very same words in every one of these rows"} for i in range(40)]
    write_jsonl(folder / "web.jsonl", [*documents(200, "web", start=100), *twins])
    data = prepared(folder, recipe(held_out=by_bucket()))
    validation = {data.decode(data.validation.document_tokens(i)) for i in range(len(data.validation.ids))}
    test = {data.decode(data.test.document_tokens(i)) for i in range(len(data.test.ids))}
    assert twins[0]["text"] in test
    assert not validation & test
    assert data.held_out["left_validation_for_test"] > 0


@pytest.mark.parametrize(
    "held_out",
    [
        by_bucket(source="made"),
        {"kind": "share", "source": "made"},
        {
            "kind": "dataset",
            "validation": {"kind": "synthetic", "path": "made.jsonl"},
            "test": {"kind": "real", "path": "web.jsonl"},
        },
    ],
)
def test_synthetic_documents_are_refused_as_held_out(held_out: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="held-out documents must be real"):
        DataConfig.model_validate(recipe(held_out=held_out))


def test_an_empty_held_out_part_is_an_error(folder: Path) -> None:
    with pytest.raises(UserError, match="the held-out part `validation` has no documents"):
        prepared(folder, recipe(held_out=by_bucket(of=10**9, validation=[1], test=[2])))


def test_a_planted_held_out_document_is_dropped_from_every_source_and_counted(folder: Path) -> None:
    rows = documents(200, "web")
    held_out = [row for row in rows if bucket_of(row["id"], 10) in (8, 9)]
    copies = [{"id": f"copy{i}", "text": f"  {row['text'].upper()}!"} for i, row in enumerate(held_out)]
    long_id = next(name for name in (f"long{i}" for i in range(1000)) if bucket_of(name, 10) == 8)
    long = {"id": long_id, "text": " ".join(f"w{i}" for i in range(100))}
    near = {"id": "near", "text": str(long["text"]).replace("w50 ", "changed ")}
    twin_id = next(name for name in (f"twin{i}" for i in range(1000)) if bucket_of(name, 10) == 3)
    write_jsonl(folder / "web.jsonl", [*rows, long, {"id": twin_id, "text": held_out[0]["text"]}])
    write_jsonl(folder / "made.jsonl", [*documents(60, "made"), *copies, near])
    data = prepared(folder, recipe(held_out=by_bucket()))
    assert kinds_of_copies(data, "made") == {"exact": len(copies), "near": 1, "part": 0}
    assert kinds_of_copies(data, "web") == {"exact": 1, "near": 0, "part": 0}
    assert all_ids(data, "made") == [row["id"] for row in documents(60, "made")]
    assert twin_id not in all_ids(data, "web")
    fatal = recipe(held_out=by_bucket(), contamination={"action": "fatal"})
    with pytest.raises(
        UserError, match=rf"1 of \d+ documents of source 'web' are copies .*{twin_id} is {held_out[0]['id']}"
    ):
        prepared(folder, fatal)


def kinds_of_copies(data: PreparedData, segment: str) -> dict[str, int]:
    return {kind: getattr(data.rows[segment].copies, kind) for kind in COPY_KINDS}


def joining(**changes: Any) -> dict[str, Any]:
    """The small data section, with a segment that joins each of its sources."""
    tree = recipe(held_out=by_bucket(), **changes)
    for name, source in tree["sources"].items():
        source["joins"] = [{"from_step": 5, "path": f"{name}-later.jsonl"}]
    return tree


def write_later(folder: Path) -> None:
    """The files of the segments that join; those of `web` continue its numbers."""
    write_jsonl(folder / "web-later.jsonl", documents(50, "web", start=200))
    write_jsonl(folder / "made-later.jsonl", documents(40, "made", start=60))


def test_segments_that_join_are_prepared_as_the_first_is(folder: Path) -> None:
    write_later(folder)
    planted = next(row for row in documents(200, "web") if bucket_of(row["id"], 10) == 8)
    copied = {**planted, "id": "copied"}
    write_jsonl(folder / "made-later.jsonl", [*documents(40, "made", start=60), copied, {"text": None}])
    data = prepared(folder, joining())
    later = data.sources["made"].segments[1]
    assert [later.describe(n)["id"] for n in range(later.num_documents)] == [f"made{n}" for n in range(60, 100)]
    assert kinds_of_copies(data, "made:1") == {"exact": 1, "near": 0, "part": 0}
    assert data.quarantine["sources"]["made:1"]["quarantined"] == 1
    assert data.quarantine["sources"]["made"]["quarantined"] == 0
    web = data.sources["web"].segments[1]
    kept = [row["id"] for row in documents(50, "web", start=200) if bucket_of(row["id"], 10) not in (8, 9)]
    assert [web.describe(n)["id"] for n in range(web.num_documents)] == kept
    assert set(web.slice_tokens) == {"t0", "t1", "t2"}


def test_what_joins_later_leaves_the_beginning_of_the_run_as_it_was(folder: Path) -> None:
    write_later(folder)
    alone, joined = prepared(folder, recipe(held_out=by_bucket())), prepared(folder, joining())
    assert joined.validation.ids == alone.validation.ids
    assert joined.test.ids == alone.test.ids
    for name, source in alone.sources.items():
        assert joined.sources[name].segments[0].fingerprint == source.segments[0].fingerprint


def test_when_a_segment_joins_is_no_part_of_its_store(folder: Path) -> None:
    write_later(folder)
    first = prepared(folder, joining())
    tree = joining()
    tree["sources"]["made"]["joins"][0] |= {"from_step": 77, "retires": True}
    assert prepared(folder, tree).folder == first.folder
    write_jsonl(folder / "made-later.jsonl", documents(41, "made", start=60))
    assert prepared(folder, tree).folder != first.folder


def test_a_cache_that_is_no_folder_is_a_users_mistake(folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.cache"):
        prepared(folder, recipe(cache="web.jsonl"))


def test_rows_are_filtered_by_column_value_and_counted_off(folder: Path) -> None:
    tree = recipe()
    tree["sources"]["made"] |= {"where": {"topic": ["t0", "t2"]}, "max_documents": 7}
    ids = [row["id"] for row in documents(60, "made") if row["topic"] in ("t0", "t2")]
    assert all_ids(prepared(folder, tree), "made") == ids[:7]
    tree["sources"]["made"] = {"kind": "synthetic", "path": "made.jsonl", "id_column": "id", "max_rows": 20}
    assert all_ids(prepared(folder, tree), "made") == [row["id"] for row in documents(20, "made")]


def test_texts_come_back_from_tokens_byte_for_byte(folder: Path) -> None:
    rows = [
        {"id": text, "text": text}
        for text in ("Caf\u00e9 \u6f22\u5b57 \U0001f600", " two  spaces \n\ttab ", "a <|endoftext|> b", "x")
    ]
    write_jsonl(folder / "made.jsonl", rows)
    data = prepared(folder, recipe())
    assert texts_of(data, "made") == [row["text"] for row in rows]
    assert "Caf\u00e9 \u6f22\u5b57 \U0001f600" in data.document_texts("made", 0)


def test_a_document_cannot_forge_its_own_end(folder: Path) -> None:
    write_jsonl(folder / "made.jsonl", [{"id": "1", "text": "a <|endoftext|> b"}, {"id": "2", "text": "c"}])
    data = prepared(folder, recipe())
    segment = data.sources["made"].segments[0]
    tokens = segment.gather(np.arange(segment.num_samples)).ravel()[: segment.num_tokens]
    assert (tokens == data.end_of_document).sum() == 2


def test_the_tokenizer_has_not_seen_held_out_text(folder: Path) -> None:
    rows = documents(300, "web")
    for row in rows:
        if bucket_of(row["id"], 10) in (8, 9):
            row["text"] = f"zyzzyva zyzzyva zyzzyva zyzzyva {row['id']} " * 3
    held_out = [row["text"] for row in rows if "zyzzyva" in row["text"]]
    copies = [{"id": f"copy{i}", "text": text} for i, text in enumerate(held_out) if bucket_of(f"copy{i}", 10) < 8]
    write_jsonl(folder / "web.jsonl", [*rows, *copies])
    data = prepared(folder, recipe(held_out=by_bucket(), tokenizer={"train_bpe": 500}))
    vocabulary = Tokenizer.from_file(str(data.tokenizer_folder / "tokenizer.json")).get_vocab()
    assert not [token for token in vocabulary if "zy" in token]


def test_transformers_loads_the_tokenizer(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = prepared(folder, recipe())
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(data.tokenizer_folder))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == data.end_of_document
    assert len(tokenizer) == data.vocabulary_size
    text = "made number 3 tells, caf\u00e9"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    segment = data.sources["made"].segments[0]
    assert tokenizer(data.document_texts("made", 0)[0])["input_ids"] == segment.document_tokens(0).tolist()


def test_a_pretrained_tokenizer_is_taken_from_its_folder(folder: Path) -> None:
    trained = prepared(folder, recipe())
    tree = recipe(tokenizer={"pretrained": str(trained.tokenizer_folder)})
    again = prepared(folder, tree)
    assert again.folder != trained.folder
    assert again.sources["web"].segments[0].fingerprint == trained.sources["web"].segments[0].fingerprint
    assert (again.end_of_document, again.vocabulary_size) == (trained.end_of_document, trained.vocabulary_size)
    tree["tokenizer"]["end_of_document"] = "<none>"
    with pytest.raises(UserError, match="no such end-of-document token"):
        prepared(folder, tree)
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        prepared(folder, recipe(tokenizer={"pretrained": "empty"}))


def test_processes_change_nothing_but_the_time(folder: Path) -> None:
    alone = prepared(folder, recipe())
    together = prepared(folder, recipe(num_proc=2, cache="other"))
    assert together.fingerprint == alone.fingerprint
    for name in alone.sources:
        assert together.sources[name].segments[0].fingerprint == alone.sources[name].segments[0].fingerprint


def test_a_source_that_is_wholly_held_out_is_an_error(folder: Path) -> None:
    tree = recipe(held_out=by_bucket())
    tree["sources"]["web"]["sample"] = {"by": "id", "of": 10, "buckets": [8]}
    with pytest.raises(UserError, match="source 'web' has no training documents"):
        prepared(folder, tree)


def test_a_stream_is_prepared_like_a_file(folder: Path) -> None:
    plain = prepared(folder, recipe())
    tree = recipe()
    tree["sources"]["made"]["streaming"] = True
    streamed = prepared(folder, tree)
    assert streamed.sources["made"].segments[0].fingerprint == plain.sources["made"].segments[0].fingerprint


def test_a_column_that_only_the_held_out_buckets_need_is_read_from_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [f"{word} stands near the {word} of row {i}" for i, word in enumerate(["river", "tower", "bird"] * 30)]
    pq.write_table(pa.table({"text": texts, "name": [f"n{i}" for i in range(90)]}), tmp_path / "real.parquet")
    config = DataConfig.model_validate(
        {
            "sequence_length": 16,
            "tokenizer": {"train_bpe": 300},
            "cache": str(tmp_path / "cache"),
            "sources": {"real": {"kind": "real", "path": "real.parquet", "license": "CC0-1.0"}},
            "held_out": {"kind": "bucket", "source": "real", "by": "name", "of": 5, "validation": [3], "test": [4]},
        }
    )
    data = prepare(config, seed=1, base=tmp_path)
    assert 5 < len(data.validation.ids) < 40
    assert 5 < len(data.test.ids) < 40
