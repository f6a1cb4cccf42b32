"""The forgetting probe: right where the answer is known, honest about its error, and without a trace in the run."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.steps import LENGTH, VOCABULARY, bench
from trainer.control.priced.forgetting import LONGEST_WAIT
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.evidence.forgetting import (
    LASTING_STEPS,
    LEAST_ERROR,
    TokenForgetting,
    cost_tokens,
    forgetting_rate,
    forgetting_sized,
    forgetting_times,
)
from trainer.evaluate.evidence.source_value import (
    LEAST_READ,
    LEAST_ROWS,
    MOST_READ,
    MOST_ROWS,
    PART_OF_FORGETTING,
    TRIAL_STEPS,
    SourceValueCounts,
)
from trainer.evaluate.schedule import Times

FEW = SourceValueCounts(samples_per_step=2, held_out_samples=23)
ONES = np.ones(60, dtype=np.int64)


def probe(worlds: Any, rng: np.random.Generator, taught: tuple[str, ...] = ("made",)) -> TokenForgetting:
    """Of random tokens."""
    documents = [rng.integers(1, VOCABULARY, 20).tolist() for _ in range(80)]
    sources = {
        name: [worlds.Block(rng.integers(1, VOCABULARY, (num, LENGTH)))]
        for name, num in (("real", 50), ("made", 30), ("none", 0))
    }
    return TokenForgetting(
        text=HeldOutText(
            part=worlds.Documents(documents), seed=1, sequence_length=LENGTH, end_of_document=0, batch_rows=10
        ),
        sources=sources,
        taught=taught,
        counts=FEW,
        times=Times(start=1, end=1, every_steps=1),
    )


@given(st.floats(0.05, 1.3), st.floats(0.05, 1.0), st.floats(-3.0, 3.0))
def test_what_is_left_is_the_slope_of_the_rows_whatever_they_have_in_common(
    left: float, rate_scale: float, common: float
) -> None:
    earlier = np.random.default_rng(0).normal(size=60)
    estimate = forgetting_rate(earlier, left * earlier + common, ONES, counts=FEW, rate_scale=rate_scale)
    assert estimate is not None
    a_step = left ** (1 / LASTING_STEPS)
    assert estimate.value == pytest.approx((1 - a_step) / rate_scale, abs=1e-9)
    assert estimate.standard_error == pytest.approx(a_step * LEAST_ERROR / LASTING_STEPS / rate_scale)


@pytest.mark.parametrize("left", [0.3, 0.7, 1.0])
def test_the_error_holds_where_the_rows_and_the_draws_scatter(left: float) -> None:
    """Rows scatter around the slope, and the slope of each draw around the truth by one and a half times as much."""
    rng, far = np.random.default_rng(1), []
    for _ in range(200):
        earlier = rng.normal(size=60)
        scatter = 0.3 / math.sqrt(60)
        later = (left + 1.5 * scatter * rng.normal()) * earlier + 0.3 * rng.normal(size=60)
        estimate = forgetting_rate(earlier, later, ONES, counts=FEW, rate_scale=0.5)
        assert estimate is not None
        far.append((estimate.value - (1 - left ** (1 / LASTING_STEPS)) / 0.5) / estimate.standard_error)
    assert np.mean(np.abs(far) > 2) < 0.1
    assert 0.4 < np.std(far) < 1.3  # nor is it so wide that it says nothing


def test_where_nothing_is_left_only_a_bound_is_known() -> None:
    rng = np.random.default_rng(2)
    estimate = forgetting_rate(rng.normal(size=60), 0.01 * rng.normal(size=60), ONES, counts=FEW, rate_scale=1.0)
    assert estimate is not None
    assert estimate.value > 0.1
    assert estimate.value - 3 * estimate.standard_error < 0.2 < estimate.value + 3 * estimate.standard_error


@pytest.mark.parametrize("earlier", [np.zeros(60), np.ones(60), np.full(60, np.nan)])
def test_copies_that_do_not_differ_say_nothing(earlier: Any) -> None:
    assert forgetting_rate(earlier, np.ones(60), ONES, counts=FEW, rate_scale=1.0) is None


def everything(on: Any) -> Any:
    """Copies of weights, gradients and what the optimizer holds."""
    state = on.engine.sharding.optimizer.state_dict()["state"]
    return copy.deepcopy((on.weights(), state, [parameter.grad for parameter in on.model.parameters()]))


def test_training_continues_bit_for_bit_as_if_nothing_had_been_probed(worlds: Any) -> None:
    runs = []
    for probed in (False, True):
        with bench() as on:
            figures = [on.step(), on.step()]
            if probed:
                before = everything(on)
                estimates = probe(worlds, np.random.default_rng(3))(
                    on.engine, step=2, sources={"real": [0], "made": [0], "none": []}, global_batch=16
                )
                assert estimates.keys() == {"made"}
                torch.testing.assert_close(everything(on), before, rtol=0, atol=0)
            figures += [on.step(), on.step()]
            runs.append((figures, everything(on)))
    assert runs[0][0] == runs[1][0]
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=0, atol=0)


def test_both_copies_train_on_the_same_rows_and_ranks_agree(worlds: Any) -> None:
    with bench() as on:
        model = copy.deepcopy(on.model)
    stepped: dict[tuple[int, int], list[Any]] = {}

    def work(rank: int, meeting: Any) -> Any:
        own = copy.deepcopy(model)
        port = worlds.Replica(own, torch.optim.SGD(own.parameters(), lr=0.1), rank, meeting)
        inner, rows = port.trial_step, stepped.setdefault((rank, meeting.world_size), [])

        def watched(ids: Any, valid: Any, **more: Any) -> None:
            rows.append(ids.numpy().tolist())
            inner(ids, valid, **more)

        port.trial_step = watched
        return probe(worlds, np.random.default_rng(3))(port, step=4, sources={"real": [0], "made": [0]}, global_batch=8)

    alone, *together = [worlds.in_ranks(1, work)[0], *worlds.in_ranks(2, work)]
    assert together[0] == together[1]
    assert together[0]["made"].value == pytest.approx(alone["made"].value, rel=0.01)
    rows = stepped[0, 1]
    half = len(rows) // 2
    assert rows[TRIAL_STEPS:half] == rows[half + TRIAL_STEPS :]
    assert rows[:TRIAL_STEPS] != rows[half : half + TRIAL_STEPS]


def test_without_a_source_to_hold_against_fresh_text_there_is_no_probe(worlds: Any) -> None:
    measurement = probe(worlds, np.random.default_rng(3), taught=("none",))
    assert measurement(None, step=4, sources={"real": [0], "none": []}, global_batch=8) == {}


@given(st.integers(8, 4096), st.integers(1, 10**10), st.floats(1e-4, 1.0, exclude_min=True))
def test_the_cost_is_never_above_its_part_unless_at_the_least_counts(
    length: int, interval_tokens: int, share: float
) -> None:
    counts = forgetting_sized(
        SourceValueConfig(max_compute_share=share), sequence_length=length, interval_tokens=interval_tokens
    )
    rows, read = counts.samples_per_step, counts.held_out_samples
    assert LEAST_ROWS <= rows <= MOST_ROWS
    assert LEAST_READ <= read <= MOST_READ
    paid = SourceValueCounts(
        samples_per_step=rows if rows > LEAST_ROWS else 0, held_out_samples=read if read > LEAST_READ else 0
    )
    assert cost_tokens(paid, sequence_length=length) <= share * PART_OF_FORGETTING * interval_tokens * (1 + 1e-9)


@settings(max_examples=200)
@given(st.integers(200, 100_000), st.integers(1, 40), st.floats(0.0, 0.3))
def test_the_first_probe_comes_before_the_plan_stops_waiting_for_it(
    num_steps: int, evaluations: int, needed_from: float
) -> None:
    every = max(1, num_steps // (40 + evaluations))
    when = forgetting_times(SourceValueConfig(), needed_from, num_steps=num_steps, every_steps=every)
    assert when is not None
    first = next(step for step in range(every, num_steps, every) if when.due(step, step))  # a run reads after steps
    assert first <= (needed_from + LONGEST_WAIT) * num_steps
    assert 1 <= when.count <= 6


def test_nobody_asks_nothing_is_probed() -> None:
    assert forgetting_times(SourceValueConfig(), None, num_steps=100, every_steps=10) is None
    assert forgetting_times(SourceValueConfig(enabled="off"), 0.1, num_steps=100, every_steps=10) is None
