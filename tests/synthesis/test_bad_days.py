"""On each bad day of an endpoint a round ends with one message, loses no answer, and is whole when it is run again."""

from pathlib import Path

import pytest

from tests.synthesis.bad_days import CASES, REQUESTS, run_case
from tests.synthesis.conftest import Synthesize
from trainer.recipe import load_recipe
from trainer.tools.plan.synthesis import synthesis_notes

FAST = (
    "dies midway", "half of the answers are a 500", "ten times too long", "one text whatever is asked", "disk full",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_bad_day_is_told_costs_no_answer_and_the_round_ends_whole(
    synthesize: Synthesize, name: str, tiny_recipe: Path
) -> None:
    case = CASES[name]
    outcome = run_case(case, tiny_recipe.parent, synthesize)
    assert case.says in outcome.output
    assert outcome.asked_again == 0
    assert outcome.requests == REQUESTS == outcome.accepted + outcome.dropped


def test_plan_tells_what_a_round_takes_and_costs_at_most(tiny_recipe: Path) -> None:
    section = """\
synthesis:
  sources: [real]
  prompts: [{template: rephrase}]
  generator: {kind: endpoint, url: "http://127.0.0.1:9/v1", model: m}
  requests: 1000
  sampling: {max_new_tokens: 100}
  prices: {per_million_completion_tokens: 10}
  max_cost: 5
"""
    tiny_recipe.write_text(tiny_recipe.read_text() + section)
    (note,) = synthesis_notes(load_recipe(tiny_recipe))
    assert "1,000 requests" in note
    assert "at most 100,000 written: at most 1 USD by tokens" in note
    assert "synthesis.max_cost, 5" in note
