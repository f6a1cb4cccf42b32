"""Grading through the real command: scores in the pool, reasons, the record, the terminal, kills."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.synthesis.conftest import Synthesize
from tests.synthesis.test_round import pool_rows, with_synthesis
from trainer.synthesis.pool import Pool

FUNCTION = "{kind: function, function: 'tests.synthesis.graders.test_grading_round:always_ten', keep_from: 0.5}"


def always_ten(row: dict[str, Any]) -> float:
    return 10.0


def test_a_grader_without_a_vote_scores_rows_and_drops_none(
    synthesize: Synthesize,
    tiny_recipe: Path,
) -> None:
    recipe = with_synthesis(tiny_recipe)
    graders = f"synthesis.graders=[{FUNCTION.replace('0.5', '11')}]"
    output = synthesize(recipe, "--set", graders, "--set", "synthesis.filters=[]")
    (record,) = Pool(recipe.parent / "pool").records()
    assert record.requests == sum(record.dropped.values()) + record.accepted
    assert all(dict(row["scores"]) == {"always_ten": 10.0} for row in pool_rows(recipe.parent / "pool"))
    assert record.graders[0].would_drop == {"score below 11": record.accepted}
    assert "LOST ITS VOTE: agreement 0.50" in output
    assert not list((recipe.parent / "pool" / "unfinished").iterdir())


def test_a_grader_that_is_none_or_has_the_name_of_another_is_refused(
    synthesize: Synthesize,
    tiny_recipe: Path,
) -> None:
    recipe = with_synthesis(tiny_recipe)
    outside = "synthesis.graders=[{kind: 'tests.synthesis.graders.test_grading_round:always_ten'}]"
    assert "cannot be called as a grader is" in synthesize(recipe, "--set", outside, expected=2)
    twice = f"synthesis.graders=[{FUNCTION}, {FUNCTION}]"
    assert "graders need different names" in synthesize(recipe, "--set", twice, expected=2)


@pytest.mark.faults
def test_a_round_that_is_killed_while_it_is_judged_asks_the_judge_for_nothing_twice(
    synthesize: Synthesize,
    tiny_recipe: Path,
) -> None:
    recipe = with_synthesis(tiny_recipe)
    log, answers = recipe.parent / "judged.log", recipe.parent / "pool" / "unfinished"
    judge = f"{{kind: judge, model: {{kind: 'tests.synthesis.counting:Counting', log: {log}, pause_s: 0.05}}}}"
    sets = ["--set", f"synthesis.graders=[{judge}]"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "synthesize", str(recipe), *sets],
        cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline_s = time.monotonic() + 100
    while time.monotonic() < deadline_s and len(_kept(answers)) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    kept = _kept(answers)
    assert len(kept) >= 5
    synthesize(recipe, *sets)
    asked = Counter(log.read_text().splitlines())
    assert all(asked[name] == 1 for name in kept)
    assert len([name for name, times in asked.items() if times > 1]) <= 1, "the one that was being answered"
    (record,) = Pool(recipe.parent / "pool").records()
    assert record.graders[0].calls == len(asked)
    assert not list(answers.iterdir())


def _kept(folder: Path) -> list[str]:
    lines = [line for file in folder.glob("*.answers.jsonl") for line in file.read_text().split("\n")[:-1]]
    return [json.loads(line)["key"] for line in lines]


def test_dropped_rows_are_kept_with_their_scores_and_the_reason(
    synthesize: Synthesize,
    tiny_recipe: Path,
) -> None:
    recipe = with_synthesis(tiny_recipe)
    knows = FUNCTION.replace("always_ten", "knows_its_source").replace("keep_from: 0.5", "keep_from: 1")
    output = synthesize(
        recipe, "--set", f"synthesis.graders=[{knows}]", "--set", "synthesis.filters=[]", "--set",
        "synthesis.grading.max_self_preference=0.5",
    )  # fmt: skip
    (record,) = Pool(recipe.parent / "pool").records()
    assert record.graders[0].has_vote, record.graders[0].lost_vote_for
    dropped = record.dropped["grader knows_its_source: score below 1"]
    assert dropped == record.graders[0].would_drop["score below 1"] > 0
    assert "found of shuffled 1.00" in output
    assert "clean rows more than without grading" in output
    (file,) = (recipe.parent / "pool" / "rejected").glob("*.parquet")
    rejected = [row for row in pq.read_table(file).to_pylist() if row["dropped_by"] == "grader knows_its_source"]
    assert len(rejected) == min(dropped, 20)
    assert all(dict(row["scores"]) == {"knows_its_source": 0.0} for row in rejected)


def knows_its_source(row: dict[str, Any]) -> float:
    """1 for the real text, and for texts of the generator of the tests that begin with an even digit."""
    return float(row["text"] == row["prompt_row"]["text"] or (row["text"][:1] in "02468ace" and row["prompt"] != ""))


def test_a_judge_whose_terms_forbid_it_is_refused_before_anything_is_asked(
    synthesize: Synthesize,
    tiny_recipe: Path,
) -> None:
    recipe = with_synthesis(tiny_recipe)
    model = "{kind: endpoint, url: 'http://127.0.0.1:9/v1', model: judge, license: LicenseRef-OpenAI-Terms}"
    output = synthesize(recipe, "--set", f"synthesis.graders=[{{kind: judge, model: {model}}}]", expected=2)
    assert "grader judge: LicenseRef-OpenAI-Terms forbids training" in " ".join(output.split())
    assert not (recipe.parent / "pool" / "unfinished").exists()
