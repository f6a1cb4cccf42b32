"""What a round costs: by a price table, never above its limit, and told with the round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthesis.conftest import Synthesize
from tests.synthesis.openai_server import MODEL, OpenAIServer, good
from tests.synthesis.test_round import pool_rows
from trainer.base.errors import UserError
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.cost import Budget, budget_of, cost_of, estimate_round, most_cost_of
from trainer.synthesis.generators import Completion, Request, Sampling
from trainer.synthesis.pool import Pool
from trainer.synthesis.prices_config import PricesConfig

PRICES = PricesConfig(per_million_prompt_tokens=1.0, per_million_completion_tokens=4.0)
SECTION = """\
synthesis:
  pool: pool
  sources: [real]
  prompts: [{{template: rephrase}}]
  generator: {{kind: endpoint, url: "{url}", model: {model}, license: MIT, max_concurrency: 4}}
  sampling: {{max_new_tokens: 20}}
  requests: 40
  prices: {{per_million_prompt_tokens: 1000, per_million_completion_tokens: 4000, per_gpu_hour: 2, gpus: 3}}
"""


def completion(name: str, prompt_tokens: int = 10, completion_tokens: int = 5, **values: object) -> Completion:
    return Completion(
        request_id=name, text="a text", finish_reason="stop", prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens, counted="told", seconds=values.pop("seconds", 0.0), **values,
    )  # fmt: skip


def request(name: str, prompt: str = "x" * 40, max_new_tokens: int = 20) -> Request:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=max_new_tokens)
    return Request(id=name, prompt=prompt, sampling=sampling, seed=0)


def test_an_answer_costs_its_tokens_its_time_on_all_gpus_and_its_energy() -> None:
    prices = PricesConfig(
        per_million_prompt_tokens=2, per_million_completion_tokens=8, per_gpu_hour=3, gpus=4, per_kwh=0.5
    )
    answer = completion("a", 1000, 500, seconds=36.0, joules=7.2e6)
    assert cost_of(prices, answer) == pytest.approx(0.002 + 0.004 + 3 * 4 * 0.01 + 1.0)
    by_watts = prices.model_copy(update={"watts": 1000.0})
    assert cost_of(by_watts, completion("b", 0, 0, seconds=3600.0)) == pytest.approx(12 + 0.5)
    assert cost_of(prices, completion("c", 1000, 500, cached=True)) == 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=40), st.floats(1e-5, 1e-2))
def test_a_price_by_tokens_is_never_exceeded_however_many_calls_are_in_flight(
    texts: list[tuple[int, int]], limit: float
) -> None:
    budget, in_flight, spent = Budget(PRICES, limit), [], 0.0
    for number, (characters, tokens) in enumerate(texts):
        asked = request(str(number), "x" * characters)
        if budget.admit(asked):
            in_flight.append((asked.id, characters // 2, tokens))
        if number % 3 == 0:
            for name, prompt_tokens, written in in_flight:
                budget.settle([completion(name, prompt_tokens, written)])
            in_flight = []
        spent = budget.spent
        assert spent <= limit


def test_every_shard_has_its_part_of_what_the_pool_may_still_cost_and_a_pool_without_any_is_refused() -> None:
    section = {"sources": ["real"], "prompts": [{"template": "rephrase"}], "generator": {"kind": "transformers"}}
    config = SynthesisConfig.model_validate({**section, "prices": PRICES, "max_cost": 10.0})
    assert budget_of(config, spent_before=4.0, shards=3).admit(request("a"))
    with pytest.raises(UserError, match=r"has cost 10 of synthesis\.max_cost.*Raise it"):
        budget_of(config, spent_before=10.0, shards=1)


def test_a_round_is_estimated_as_if_every_text_reached_its_limit() -> None:
    estimate = estimate_round(PRICES, requests=1000, max_new_tokens=100, prompt_characters=[400, 800])
    assert (estimate.prompt_tokens, estimate.most_completion_tokens) == (150_000, 100_000)
    assert estimate.most_cost == pytest.approx(0.15 + 0.4)
    assert estimate_round(None, requests=1, max_new_tokens=1, prompt_characters=[]).most_cost is None


def test_each_turn_is_estimated_as_a_call_that_reads_all_that_was_said_before() -> None:
    ways = [(1, ()), (3, (40, 80))]  # one of four requests has one turn of 100 tokens, three critique and revise
    estimate = estimate_round(PRICES, requests=4, max_new_tokens=50, prompt_characters=[400], ways=ways)
    assert estimate.most_completion_tokens == 50 * (1 + 3 * 3)
    assert estimate.prompt_tokens == 100 + 3 * (100 + 160 + 230)


@pytest.mark.parametrize("prompt", ["水" * 40, "\U0001f600" * 40])
def test_what_a_call_can_cost_is_held_back_in_any_script_and_with_the_system_message(prompt: str) -> None:
    asked, tokens = request("a", prompt, max_new_tokens=0), len(prompt) * 3 // 2 + 100
    system = "Be brief. " * 20  # 100 tokens
    assert most_cost_of(PRICES, asked, system=system) >= cost_of(PRICES, completion("a", tokens, 0))


def test_no_limit_ends_the_taking_in_of_rows_of_another_engine() -> None:
    section = {"generator": {"kind": "files", "path": "rows", "written_by": "m"}, "prices": PRICES}
    SynthesisConfig.model_validate(section)
    with pytest.raises(ValueError, match="max_cost has no effect on rows that another engine has written"):
        SynthesisConfig.model_validate({**section, "max_cost": 1.0})


def test_a_call_that_is_tried_again_is_held_back_once() -> None:
    budget = Budget(PRICES, 1.5 * most_cost_of(PRICES, request("a")))
    assert budget.admit(request("a"))
    assert budget.admit(request("a"))
    assert not budget.admit(request("b"))


@pytest.fixture
def served() -> Iterator[OpenAIServer]:
    running = OpenAIServer(good)
    yield running
    running.close()


def recipe_of(tiny_recipe: Path, url: str) -> Path:
    file = tiny_recipe.with_name("priced.yaml")
    file.write_text(tiny_recipe.read_text() + SECTION.format(url=url, model=MODEL))
    return file


def test_a_round_tells_its_cost_by_source_and_ends_at_the_limit(
    synthesize: Synthesize, tiny_recipe: Path, served: OpenAIServer
) -> None:
    recipe = recipe_of(tiny_recipe, served.url)
    limit = 0.051 * 15  # an answer costs 11 prompt tokens and 10 written: 0.051
    output = synthesize(recipe, "--set", f"synthesis.max_cost={limit}", "--set", "synthesis.prices.per_gpu_hour=0")
    (record,) = Pool(tiny_recipe.parent / "pool").records()
    assert record.cost is not None
    assert 0 < record.cost <= limit
    assert record.cost_by_source == {"real": pytest.approx(record.cost)}
    assert record.requests + record.not_asked == 40
    assert record.requests == record.accepted + sum(record.dropped.values()) == sum(served.calls.values())
    assert sum(row["cost"] for row in pool_rows(tiny_recipe.parent / "pool")) == pytest.approx(record.cost)
    assert f"{record.not_asked} requests were not asked" in output
    more = synthesize(recipe, "--set", f"synthesis.max_cost={record.cost}", expected=2)
    assert "has cost" in more
    assert "cost: " in synthesize(recipe), "a round without a limit tells its cost as well"
