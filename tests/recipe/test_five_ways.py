"""The recipes of the five known ways: a round of each with a writer that is small, and a few steps on what it made."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import trainer
from tests.synthesis.chat_model import write_model
from trainer.commands.synthesize import synthesize
from trainer.recipe.shipped import shipped_path
from trainer.synthesis.paths import equations
from trainer.synthesis.pool import Pool, RoundRecord

FEW = ["training.steps=4", "training.schedule={kind: constant}", "evaluation.every_steps=2", "checkpoint.every_steps=4"]


def a_round(name: str, pool: Path, *overrides: str) -> tuple[RoundRecord, list[dict[str, Any]]]:
    """The record and the rows of the recipe's first generation, made by the command's function."""
    sets = [f"synthesis.pool={pool}", *overrides]
    synthesize(shipped_path(name), sets, run=None, shard=None, generation=None)
    (record,) = Pool(pool).records()
    return record, list(pq.read_table(Pool(pool).shard_file(1, 0, 1)).to_pylist())


def few_steps(name: str, run: Path, *overrides: str) -> None:
    outcome = trainer.fit(
        name, [*FEW, "tracking.trackers=[]", f"data.cache={run.parent / 'cache'}", *overrides], run=run
    )
    assert (outcome.state, outcome.step) == ("finished", 4)


def test_of_many_answers_those_that_mathematics_verifies_are_kept_once_for_each_way_and_trained_on(
    tmp_path: Path,
) -> None:
    pytest.importorskip("math_verify", reason="NOT TESTED: math-verify is not installed")
    pool = tmp_path / "pool"
    solver = ("synthesis.generator={kind: 'tests.synthesis.solving:Solving'}", "synthesis.requests=120")
    record, rows = a_round("verified", pool, *solver, f"data.cache={tmp_path / 'cache'}")
    wrong = record.dropped["grader mathematics: another answer, or none"]
    assert 20 < wrong < 60
    assert record.dropped["paths: the same equations as another answer"] > 0
    assert record.requests == record.accepted + sum(record.dropped.values())
    ways = {(row["source_id"], equations(row["answer"])) for row in rows}
    assert len(ways) == len(rows)
    for row in rows:
        question, answer = row["text"].splitlines()
        assert question == f"What is {row['source_id']}?"
        assert answer.endswith(f"The answer is {eval(row['source_id'])}.")
        assert dict(row["scores"])["mathematics"] == 1.0
    few_steps("verified", tmp_path / "run", f"data.sources.verified.path={pool}/rows")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writer")
    write_model(folder)
    return folder


def written_by(writer: Path, cache: Path) -> tuple[str, ...]:
    """A model of random weights writes: its texts are as bad as can be, so no filter looks at them."""
    return (
        f"synthesis.generator.model={writer}",
        "synthesis.filters=[]",
        "synthesis.sampling={max_new_tokens: 8, temperature: [1.0]}",
        f"data.cache={cache}",
    )


@pytest.mark.slow
def test_every_text_is_a_revision_after_criticism_by_the_principles_of_the_recipe(tmp_path: Path, writer: Path) -> None:
    pool = tmp_path / "pool"
    own = (
        "synthesis.prompts=[{template: '{{ id[:9] }}', turns: ['{{ principle }}', Again.], principles: [Be short.]}]",
    )
    record, rows = a_round("principled", pool, *written_by(writer, tmp_path / "cache"), *own, "synthesis.requests=12")
    assert record.accepted > 0
    assert all([turn["next"] for turn in row["turns"]] == ["Be short.", "Again."] for row in rows)
    few_steps("principled", tmp_path / "run", f"data.sources.revised.path={pool}/rows")


@pytest.mark.slow
def test_textbooks_and_rewrites_come_in_the_published_shares_and_rewrites_are_stitched(
    tmp_path: Path, writer: Path
) -> None:
    pool = tmp_path / "pool"
    own = (
        "synthesis.prompts=[{template: '{{ id[:9] }}', name: textbook}, {template: '{{ id[:8] }}', name: rephrase}]",
        "synthesis.requests=40",
    )
    _, rows = a_round("textbooks-and-rewrites", pool, *written_by(writer, tmp_path / "cache"), *own)
    rewrites = [row for row in rows if row["prompt_name"] == "rephrase"]
    assert rewrites
    assert all(len(row["parents"]) == 1 + row["text"].count("\n\n") + 1 for row in rewrites if "\n\n" in row["text"])
    paths = [f"data.sources.{name}.path={pool}/rows" for name in ("taught", "rewrites")]
    few_steps("textbooks-and-rewrites", tmp_path / "run", *paths)
    shares = trainer.open_run(tmp_path / "run").recipe.mixture.shares
    assert shares == {"taught": 0.4, "rewrites": 0.15, "wikipedia": 0.15, "code": 0.2, "books": 0.1}


@pytest.mark.slow
def test_a_student_learns_from_the_model_of_another_run(tmp_path: Path) -> None:
    few_steps("mostly-synthetic", tmp_path / "teacher")
    model = tmp_path / "teacher" / "model"
    few_steps("distilled", tmp_path / "student", f"data.teacher.model={model}", f"data.tokenizer.pretrained={model}")
