"""A round through the real command: what is asked, kept, dropped and added to the pool, whatever kills it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.cases.commands import Ended
from tests.synthesis.conftest import Synthesize
from trainer.data.documents import bucket_of
from trainer.synthesis.pool import Pool

SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  prompts: [{{template: rephrase}}, {{template: "{{{{ id }}}} is", name: title}}]
  generator: {{kind: "tests.synthesis.counting:Counting", log: {log}, pause_s: {pause_s}}}
  requests: {requests}
  filters: [{{kind: length, min_words: 3}}]
"""
NOT_PACED, PACED_S = 0.0, 0.02


def with_synthesis(recipe: Path, *, requests: int = 60, pause_s: float = NOT_PACED) -> Path:
    log = recipe.parent / "asked.log"
    text = recipe.read_text() + SECTION.format(log=log, pause_s=pause_s, requests=requests)
    file = recipe.with_name("synthesis.yaml")
    file.write_text(text)
    return file


def pool_rows(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((folder / "rows").glob("*")) for row in pq.read_table(file).to_pylist()]


def test_every_request_is_accepted_or_dropped_for_a_reason(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    output = synthesize(recipe)
    (record,) = Pool(recipe.parent / "pool").records()
    rows = pool_rows(recipe.parent / "pool")
    assert record.requests == 60 == sum(record.dropped.values()) + record.accepted
    assert record.accepted == len(rows) > 0
    assert set(record.dropped) == {
        "generator: empty text", "generator: NUL byte", "generator: cut off at max_new_tokens",
        "duplicate: same words as an earlier row", "length: fewer than 3 words",
    }  # fmt: skip
    assert f"{record.accepted} rows accepted" in output
    rejected = pq.read_table(next((recipe.parent / "pool" / "rejected").glob("*"))).to_pylist()
    assert Counter(f"{row['dropped_by']}: {row['reason']}" for row in rejected) == record.dropped
    assert not list((recipe.parent / "pool" / "unfinished").iterdir())


def test_a_row_tells_what_made_it(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe)
    real = {row["title"]: row for row in map(json.loads, (recipe.parent / "real.jsonl").read_text().splitlines())}
    for row in pool_rows(recipe.parent / "pool"):
        assert row["generator"] == "counting"
        assert row["generator_weights"] == "w1"
        assert row["slice"] == real[row["source_id"]]["topic"]
        assert row["prompt"].endswith((real[row["source_id"]]["text"], f"{row['source_id']} is"))
        assert row["license"] == "CC0-1.0"
        assert row["parents"] == [f"real:{row['source_id']}"]
        assert row["filters"] == ["length"]
        assert (row["scores"], row["cost"], row["messages"], row["judge_license"]) == ([], None, None, None)
        assert bucket_of(row["source_id"], 5) not in (3, 4), "a held-out document is never a prompt"


def test_a_training_document_that_copies_a_held_out_one_is_no_prompt(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe, requests=160)
    file = recipe.parent / "real.jsonl"
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    held_out = next(document for document in documents if bucket_of(document["title"], 5) == 3)
    copy = next(document for document in documents if bucket_of(document["title"], 5) not in (3, 4))
    copy["text"] = " ".join(["In", "short", *held_out["text"].split()[2:]])
    file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    synthesize(recipe)
    asked_about = {row["source_id"] for row in pool_rows(recipe.parent / "pool")}
    assert len(asked_about) > 20
    assert copy["title"] not in asked_about


def test_answers_to_a_row_are_chosen_from_whatever_the_number_of_shards(
    synthesize: Synthesize, tiny_recipe: Path
) -> None:
    recipe = with_synthesis(tiny_recipe)
    for shard in ("0/2", "1/2"):
        words = ["--set", "synthesis.samples_per_row=4", "--set", "synthesis.paths={most_per_row: 1}"]
        synthesize(recipe, "--generation", 1, "--shard", shard, *words)
    answers = Counter(row["source_id"] for row in pool_rows(recipe.parent / "pool"))
    assert len(answers) > 5
    assert set(answers.values()) == {1}


def test_a_source_of_a_recipe_trains_on_the_pool(
    trainer: Callable[..., Ended], synthesize: Synthesize, tiny_recipe: Path
) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe)
    sets = ["data.sources.good.path=pool/rows", "training.steps=3"]
    arguments = [argument for value in sets for argument in ("--set", value)]
    trainer("fit", recipe, "--run", recipe.parent / "run", *arguments)


def test_the_next_round_is_another_generation_and_repeats_no_text_of_the_pool(
    synthesize: Synthesize, tiny_recipe: Path
) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe)
    synthesize(recipe)
    rows = pool_rows(recipe.parent / "pool")
    assert {row["generation"] for row in rows} == {1, 2}
    assert len({row["text"] for row in rows}) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)


def test_shards_make_the_round_that_one_process_would_have_made(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe)
    alone = {row["id"]: row for row in pool_rows(recipe.parent / "pool")}
    for shard in range(3):
        synthesize(recipe, "--set", "synthesis.pool=sharded", "--generation", 1, "--shard", f"{shard}/3")
    assert {row["id"]: row for row in pool_rows(recipe.parent / "sharded")} == alone
    assert "in the pool already" in synthesize(
        recipe, "--set", "synthesis.pool=sharded", "--generation", 1, "--shard", "1/3"
    )


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_round_resumes_and_asks_for_nothing_that_was_kept(
    synthesize: Synthesize, tiny_recipe: Path, sign: signal.Signals
) -> None:
    recipe = with_synthesis(tiny_recipe, requests=150, pause_s=PACED_S)
    log, unfinished = recipe.parent / "asked.log", recipe.parent / "pool" / "unfinished"
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "synthesize", str(recipe)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + 100
    while time.monotonic() < deadline_s and not _num_kept(unfinished):
        time.sleep(0.02)
    kept_before = _num_kept(unfinished)
    assert kept_before
    process.send_signal(sign)
    process.wait(timeout=60)
    kept = _kept(unfinished)
    synthesize(recipe)
    asked = Counter(log.read_text().splitlines())
    assert all(asked[name] == 1 for name in kept), "what was kept is not asked for again"
    (record,) = Pool(recipe.parent / "pool").records()
    assert len(asked) == record.requests == 150, "nothing is lost"
    resumed = pool_rows(recipe.parent / "pool")
    synthesize(recipe, "--set", "synthesis.pool=twin", "--set", "synthesis.generator.pause_s=0")
    assert resumed == pool_rows(recipe.parent / "twin")


def _kept(unfinished: Path) -> set[str]:
    lines = [line for file in unfinished.glob("*.jsonl") for line in file.read_text().split("\n")[1:-1]]
    return {json.loads(line)["request_id"] for line in lines}


def _num_kept(unfinished: Path) -> int:
    return len(_kept(unfinished)) if unfinished.is_dir() else 0


def test_what_was_answered_before_the_server_went_away_is_kept(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    output = synthesize(recipe, "--set", "synthesis.generator.fails_after=25", expected=2)
    assert "the server went away" in output
    assert _num_kept(recipe.parent / "pool" / "unfinished") == 25
    synthesize(recipe)
    assert max(Counter((recipe.parent / "asked.log").read_text().splitlines()).values()) == 1


def test_an_unfinished_round_is_not_finished_with_another_model(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe, "--set", "synthesis.generator.fails_after=25", expected=2)
    output = synthesize(recipe, "--set", "synthesis.generator.weights=w2", expected=2)
    assert "asked for other texts" in output


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["synthesis.sources=[good]"], "good is synthetic"),
        (["synthesis.sources=[reel]"], "did you mean 'real'"),
        (["synthesis.prompts=[{template: '{{ text'}]"], "not valid jinja2"),
        (["synthesis.prompts=[{template: '{{ author }}'}]"], "'author' is undefined"),
        (["synthesis.generator={kind: transformers}"], "the generator has no model"),
        (["synthesis.generator={kind: transformers, model: nowhere}"], "cannot be fetched"),
        (["synthesis=null"], "no section `synthesis`"),
    ],
)
def test_a_mistake_is_one_message(synthesize: Synthesize, tiny_recipe: Path, sets: list[str], message: str) -> None:
    recipe = with_synthesis(tiny_recipe)
    arguments = [argument for value in sets for argument in ("--set", value)]
    assert message.lower() in synthesize(recipe, *arguments, expected=2).lower()


def test_check_tells_how_to_fill_a_pool_that_is_not_there(trainer: Callable[..., Ended], tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    ended = trainer("check", recipe, "--set", "data.sources.good.path=pool/rows", expected=2)
    assert "Fill its pool with `trainer synthesize` first" in ended.stderr + ended.stdout


def test_a_round_whose_every_row_is_dropped_says_so(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    output = synthesize(recipe, "--set", "synthesis.filters=[{kind: length, min_words: 99}]", expected=2)
    assert "added no row to the pool" in output


def test_a_generation_is_not_made_in_two_splits(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe, "--generation", 1, "--shard", "0/3")
    assert "was made in 3 shards" in synthesize(recipe, "--generation", 1, "--shard", "1/2", expected=2)


def test_a_damaged_file_of_the_pool_is_named(synthesize: Synthesize, tiny_recipe: Path) -> None:
    recipe = with_synthesis(tiny_recipe)
    synthesize(recipe)
    (file,) = (recipe.parent / "pool" / "rows").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:100])
    assert file.name in synthesize(recipe, expected=2)
