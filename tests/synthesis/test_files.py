"""Rows that another engine wrote, taken in through the real command: mapped, with lineage, each counted."""

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.synthesis.conftest import Synthesize
from tests.synthesis.test_round import pool_rows
from trainer.data.documents import bucket_of
from trainer.synthesis.pool import Pool

SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  generator:
    kind: files
    path: written.jsonl
    written_by: writer-135m
    weights: abc
    license: Apache-2.0
    columns: {text: output, source_id: about, temperature: settings.temperature, finish_reason: done}
"""


def rows_about_real(folder: Path) -> list[dict[str, Any]]:
    """A row on each real document, held-out ones included; one on none, one empty, one cut off."""
    titles = [json.loads(line)["title"] for line in (folder / "real.jsonl").read_text().splitlines()]
    rows = [
        {"output": f"written about {title} number {number}", "about": title, "done": True}
        for number, title in enumerate(titles)
    ]
    title = next(title for title in titles if is_training(title))
    rows += [
        {"output": "about nothing that is real", "about": "nowhere", "done": True},
        {"output": " ", "about": title, "done": True},
        {"output": "it was cut off in the", "about": title, "done": False},
    ]
    return [{**row, "settings": {"temperature": 0.7}} for row in rows]


def recipe_of(tiny_recipe: Path, section: str = SECTION) -> Path:
    file = tiny_recipe.with_name("files.yaml")
    file.write_text(tiny_recipe.read_text() + section)
    return file


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def is_training(title: str) -> bool:
    return bucket_of(title, 5) not in (3, 4)


def test_every_row_joins_with_its_lineage_or_is_dropped_for_a_reason(synthesize: Synthesize, tiny_recipe: Path) -> None:
    rows = rows_about_real(tiny_recipe.parent)
    write_jsonl(tiny_recipe.parent / "written.jsonl", rows)
    synthesize(recipe_of(tiny_recipe))
    (record,) = Pool(tiny_recipe.parent / "pool").records()
    held_out = sum(not is_training(row["about"]) for row in rows[:-3])
    assert record.requests == len(rows) == record.accepted + sum(record.dropped.values())
    assert record.dropped == {
        "generator: its real row is not a training row of synthesis.sources": held_out + 1,
        "generator: empty text": 1,
        "generator: cut off at max_new_tokens": 1,
    }
    real = {row["title"]: row for row in map(json.loads, (tiny_recipe.parent / "real.jsonl").read_text().splitlines())}
    for row in pool_rows(tiny_recipe.parent / "pool"):
        assert is_training(row["source_id"])
        assert row["slice"] == real[row["source_id"]]["topic"]
        assert (row["generator"], row["generator_weights"]) == ("writer-135m", "abc")
        assert (row["temperature"], row["top_p"], row["seed"]) == (0.7, None, None)
        assert row["license"] == "CC0-1.0 AND Apache-2.0"
        assert row["tokens_counted"] == "estimated"


def test_each_round_takes_the_next_rows_until_none_is_left(synthesize: Synthesize, tiny_recipe: Path) -> None:
    rows = rows_about_real(tiny_recipe.parent)
    write_jsonl(tiny_recipe.parent / "written.jsonl", rows)
    recipe = recipe_of(tiny_recipe)
    for _ in range(3):
        synthesize(recipe, "--set", "synthesis.requests=30")
    records = Pool(tiny_recipe.parent / "pool").records()
    assert [record.requests for record in records] == [30, 30, 23]
    texts = [row["text"] for row in pool_rows(tiny_recipe.parent / "pool")]
    assert sorted(texts) == sorted(row["output"] for row in rows[:-3] if is_training(row["about"]))
    assert "were taken in before" in synthesize(recipe, expected=2)
    write_jsonl(tiny_recipe.parent / "written.jsonl.more.jsonl", [row for row in rows if is_training(row["about"])][:1])
    more = synthesize(recipe, "--set", "synthesis.generator.path=written.jsonl*", expected=2)
    assert "same words as an earlier row" in more, "a new file is taken, and its copy is not"


def test_the_gate_holds_taken_rows_against_real_text(synthesize: Synthesize, tiny_recipe: Path) -> None:
    write_jsonl(tiny_recipe.parent / "written.jsonl", rows_about_real(tiny_recipe.parent))
    synthesize(recipe_of(tiny_recipe), "--set", "synthesis.gate={fewest_rows: 20}")
    (record,) = Pool(tiny_recipe.parent / "pool").records()
    assert record.gate is not None
    assert record.gate.real is not None
    assert record.gate.real.vendi > record.gate.diversity.vendi > 1


def test_the_items_of_a_list_in_a_row_are_rows_each(synthesize: Synthesize, tiny_recipe: Path) -> None:
    title = next(
        json.loads(line)["title"]
        for line in (tiny_recipe.parent / "real.jsonl").read_text().splitlines()
        if is_training(json.loads(line)["title"])
    )
    results = [
        {"text": f"rollout {number}", "finish_reason": finish, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        for number, finish in enumerate(["stop", "length", "stop"])
    ]
    write_jsonl(
        tiny_recipe.parent / "written.jsonl",
        [{"text": "the prompt", "id": title, "metadata": {"rollout_results": results}}],
    )
    generator = {
        "kind": "files", "path": "written.jsonl", "written_by": "writer", "each": "metadata.rollout_results",
        "columns": {
            "text": "item.text", "prompt": "text", "source_id": "id", "finish_reason": "item.finish_reason",
            "prompt_tokens": "item.usage.prompt_tokens", "completion_tokens": "item.usage.completion_tokens",
        },
    }  # fmt: skip
    synthesize(recipe_of(tiny_recipe), "--set", f"synthesis.generator={json.dumps(generator)}")
    rows = pool_rows(tiny_recipe.parent / "pool")
    assert [row["text"] for row in rows] == ["rollout 0", "rollout 2"]
    assert {(row["prompt"], row["prompt_tokens"], row["completion_tokens"], row["tokens_counted"]) for row in rows} == {
        ("the prompt", 7, 3, "told")
    }


def test_a_conversation_keeps_its_messages_beside_its_last_answer(synthesize: Synthesize, tiny_recipe: Path) -> None:
    messages = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because of this"}]
    pq.write_table(pa.Table.from_pylist([{"chat": messages}]), tiny_recipe.parent / "written.parquet")
    section = SECTION.replace("written.jsonl", "written.parquet").replace("  sources: [real]\n", "")
    section = section[: section.index("    columns:")] + "    columns: {messages: chat}\n"
    synthesize(recipe_of(tiny_recipe, section))
    (row,) = pool_rows(tiny_recipe.parent / "pool")
    assert row["text"] == "because of this"


def test_shards_and_compressed_files_give_the_rows_of_one_process(synthesize: Synthesize, tiny_recipe: Path) -> None:
    rows = rows_about_real(tiny_recipe.parent)
    write_jsonl(tiny_recipe.parent / "written.jsonl", rows)
    recipe = recipe_of(tiny_recipe)
    synthesize(recipe)
    alone = Counter(row["text"] for row in pool_rows(tiny_recipe.parent / "pool"))
    packed = tiny_recipe.parent / "packed.jsonl.xz"
    packed.write_bytes(lzma.compress((tiny_recipe.parent / "written.jsonl").read_bytes()))
    sets = ["synthesis.pool=sharded", "synthesis.generator.path=packed.jsonl.xz"]
    arguments = [argument for value in sets for argument in ("--set", value)]
    for shard in range(2):
        synthesize(recipe, *arguments, "--generation", 1, "--shard", f"{shard}/2")
    assert Counter(row["text"] for row in pool_rows(tiny_recipe.parent / "sharded")) == alone


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["synthesis.generator.columns.temperature=settings.heat"], "no row has what the mapping names"),
        (["synthesis.generator.path=nowhere.jsonl"], "has no files"),
        (["synthesis.prompts=[{template: rephrase}]"], "prompts have no effect"),
        (["synthesis.sources=[]"], "go together"),
    ],
)
def test_a_mistake_is_one_message(synthesize: Synthesize, tiny_recipe: Path, sets: list[str], message: str) -> None:
    write_jsonl(tiny_recipe.parent / "written.jsonl", rows_about_real(tiny_recipe.parent))
    arguments = [argument for value in sets for argument in ("--set", value)]
    assert message in synthesize(recipe_of(tiny_recipe), *arguments, expected=2)
