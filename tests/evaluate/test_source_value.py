"""Evidence on sources is right on cases with a known answer, and costs the run nothing but time."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.steps import LENGTH, VOCABULARY, bench
from trainer.base.errors import UserError
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.evidence.source_value import (
    DRAW_SCATTER,
    LEAST_READ,
    LEAST_ROWS,
    MOST_READ,
    MOST_ROWS,
    TRIAL_STEPS,
    SourceValueCounts,
    SourceValueEstimates,
    estimated,
    held_out_samples,
    measure_source_value,
    sized,
)
from trainer.model.build import build_model
from trainer.model.config import ModelConfig
from trainer.model.loss import token_losses

T = 16
JUNK = 45  # a token that real text never holds
COUNTS = SourceValueCounts(samples_per_step=12, held_out_samples=100)
FEW = SourceValueCounts(samples_per_step=5, held_out_samples=23)
MODEL = {
    "architecture": "llama",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
}


def language(rng: np.random.Generator, num_tokens: int, table_seed: int = 9) -> Any:
    """Text where each token follows from the one before, with some noise; ``table_seed`` 9 is real text."""
    table = np.random.default_rng(table_seed).permutation(np.arange(1, 40))
    tokens = np.empty(num_tokens, dtype=np.int64)
    tokens[0] = rng.integers(1, 40)
    for place in range(1, num_tokens):
        tokens[place] = table[tokens[place - 1] - 1] if rng.random() < 0.8 else rng.integers(1, 40)
    return tokens


def packed(rng: np.random.Generator, num_rows: int, table_seed: int = 9) -> Any:
    """Samples as preparation packs them, with end-of-document tokens."""
    pieces = [np.append(language(rng, int(rng.integers(10, 40)), table_seed), 0) for _ in range(num_rows * T // 10)]
    return np.concatenate(pieces)[: num_rows * T].reshape(num_rows, T)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    """A model after 30 steps of real text and junk, and its optimizer."""
    model = build_model(
        ModelConfig.model_validate(MODEL), vocabulary_size=50, end_of_document=0, sequence_length=T, seed=1
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    rng = np.random.default_rng(4)
    for _ in range(30):
        ids = torch.from_numpy(packed(rng, 16))
        ids[:4] = JUNK
        token_losses(model(ids).logits, ids, torch.full((16,), T)).sum().div(16 * (T - 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.fixture(scope="module")
def part(worlds: Any) -> Any:
    rng = np.random.default_rng(5)
    return worlds.Documents([language(rng, int(rng.integers(10, 40))).tolist() for _ in range(200)])


@pytest.fixture(scope="module")
def sources(worlds: Any, part: Any) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    pieces = [np.append(part.tokens[a:b], 0) for a, b in itertools.pairwise(part.offsets)]
    copied = np.concatenate(pieces).astype(np.int64)
    return {
        "copy": [worlds.Block(copied[: len(copied) // T * T].reshape(-1, T))],
        "fresh": [worlds.Block(packed(rng, 200)), worlds.Block(packed(rng, 9))],
        "learned": [worlds.Block(np.full((80, T), JUNK))],  # one sample repeated, which the model knows already
        "noise": [worlds.Block(rng.integers(1, 40, (200, T)))],
        "poison": [worlds.Block(packed(rng, 200, table_seed=10))],
    }


def text_of(part: Any, sequence_length: int = T) -> HeldOutText:
    return HeldOutText(part=part, seed=1, sequence_length=sequence_length, end_of_document=0, batch_rows=10)


def read(port: Any, part: Any, sources: Any, counts: SourceValueCounts = COUNTS, **more: Any) -> SourceValueEstimates:
    text = text_of(part, more.pop("sequence_length", T))
    return measure_source_value(text, sources, counts, port, **{"step": 3, "global_batch": 16, **more})


# What the evidence says


def test_real_text_is_worth_one_and_noise_and_poison_nothing_or_less(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    source_value = read(worlds.Replica(*copy.deepcopy(trained)), part, sources).source_value
    for name in ("copy", "fresh"):
        assert source_value[name].value == pytest.approx(1, abs=0.15)
        assert source_value[name].standard_error < 0.15
        assert source_value[name].num_samples == 12 * TRIAL_STEPS
        for bad in ("learned", "noise", "poison"):
            apart = math.hypot(source_value[bad].standard_error, source_value[name].standard_error)
            assert source_value[bad].value < source_value[name].value - 5 * apart
    for bad in ("noise", "poison"):
        assert source_value[bad].value < 0.05


def test_the_value_of_a_source_does_not_depend_on_which_others_are_measured(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    """Trial steps of every source start from the same weights: what one taught or spoilt is undone for the next."""
    port = worlds.Replica(*copy.deepcopy(trained))
    together = read(port, part, sources, FEW)
    reverse = read(port, part, dict(reversed(sources.items())), FEW)
    alone = read(port, part, {"copy": sources["copy"]}, FEW)
    assert together == reverse
    assert alone.source_value["copy"].value == together.source_value["copy"].value
    assert alone.fresh_gain_nats == together.fresh_gain_nats


@pytest.mark.parametrize(("world_size", "rows"), [(2, 4), (2, 5), (3, 5), (3, 2)])
def test_ranks_agree_and_find_what_one_process_finds(
    worlds: Any, trained: Any, part: Any, sources: Any, world_size: int, rows: int
) -> None:
    """Also with rows that do not divide by the ranks, and a rank that has none."""
    counts = SourceValueCounts(samples_per_step=rows, held_out_samples=23)
    few = {name: sources[name] for name in ("copy", "noise")}

    def work(rank: int, meeting: Any) -> SourceValueEstimates:
        return read(worlds.Replica(*copy.deepcopy(trained), rank, meeting), part, few, counts)

    alone = worlds.in_ranks(1, work)[0]
    results = worlds.in_ranks(world_size, work)
    assert all(result == results[0] for result in results)
    assert results[0].fresh_gain_nats == pytest.approx(alone.fresh_gain_nats, rel=1e-3)
    assert results[0].source_value.keys() == alone.source_value.keys() == few.keys()
    for name, source_value in alone.source_value.items():
        assert results[0].source_value[name].value == pytest.approx(source_value.value, abs=2e-3)


def test_a_source_with_fewer_samples_than_the_trial_steps_take_repeats_itself(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    port, trial_steps = worlds.Replica(*copy.deepcopy(trained)), []
    inner = port.trial_step

    def watched(ids: Any, valid: Any, **more: Any) -> None:
        trial_steps.append(ids[:, 0].numpy())
        inner(ids, valid, **more)

    port.trial_step = watched
    tiny = np.arange(1, 4)[:, None] * np.ones(T, dtype=np.int64)
    estimates = read(port, part, {"tiny": [worlds.Block(tiny)], "none": [worlds.Block(tiny[:0])]}, FEW)
    assert estimates.source_value.keys() == {"tiny"}  # a source without samples has no value
    times = np.bincount(np.concatenate(trial_steps[TRIAL_STEPS:]))[1:]  # the first steps are those on fresh text
    assert times.sum() == 5 * TRIAL_STEPS
    assert times.max() - times.min() <= 1


def test_the_rate_follows_the_square_root_of_the_batch_and_never_rises(
    worlds: Any, trained: Any, part: Any, sources: Any
) -> None:
    port = worlds.Replica(*copy.deepcopy(trained))
    inner, scales = port.trial, []

    def watched(*, rate_scale: float) -> Any:
        scales.append(rate_scale)
        return inner(rate_scale=rate_scale)

    port.trial = watched
    for global_batch in (20, 4):
        read(port, part, {"copy": sources["copy"]}, FEW, global_batch=global_batch)
    assert scales == [0.5, 1.0]


def test_documents_that_are_evaluated_are_not_trained_on_and_others_are_drawn_at_each_step(worlds: Any) -> None:
    documents = worlds.Documents([[number] * 20 for number in range(1, 101)])
    for step in range(5):
        drawn = [held_out_samples(text_of(documents), FEW, step=at) for at in (step, step, step + 1)]
        fresh, kept = drawn[0]
        assert fresh.token_ids.shape == (5 * TRIAL_STEPS, T)
        assert kept.token_ids.shape == (23, T)
        assert set(fresh.token_ids.flat) & set(kept.token_ids.flat) == {0}
        assert np.array_equal(kept.token_ids, drawn[1][1].token_ids)
        assert not np.array_equal(kept.token_ids, drawn[2][1].token_ids)


# What it does to the run: the engine itself


@pytest.fixture(scope="module")
def held_out(worlds: Any) -> Any:
    rng = np.random.default_rng(3)
    return worlds.Documents([rng.integers(1, VOCABULARY, 20).tolist() for _ in range(80)])


def everything(on: Any) -> Any:
    """Copies of weights, gradients and what the optimizer holds, its step counts included."""
    state = on.engine.sharding.optimizer.state_dict()["state"]
    return copy.deepcopy((on.weights(), state, [parameter.grad for parameter in on.model.parameters()]))


def measure(on: Any, worlds: Any, held_out: Any) -> SourceValueEstimates:
    blocks = {f"source {seed}": [worlds.Block(packed(np.random.default_rng(seed), 30))] for seed in (1, 2)}
    return read(on.engine, held_out, blocks, FEW, sequence_length=LENGTH)


def test_training_continues_bit_for_bit_as_if_nothing_had_been_measured(worlds: Any, held_out: Any) -> None:
    runs = []
    for measured in (False, True):
        with bench() as on:
            figures = [on.step(), on.step()]
            if measured:
                before = everything(on)
                measure(on, worlds, held_out)
                torch.testing.assert_close(everything(on), before, rtol=0, atol=0)
                assert on.model.training
                assert on.optimizer_steps() == {2}
            figures += [on.step(), on.step()]
            runs.append((figures, everything(on)))
    assert runs[0][0] == runs[1][0]
    torch.testing.assert_close(runs[1][1], runs[0][1], rtol=0, atol=0)


@pytest.mark.parametrize("forwards", [1, 4, 8])
def test_weights_and_optimizer_come_back_when_a_forward_fails(worlds: Any, held_out: Any, forwards: int) -> None:
    with bench() as on:
        on.step()
        before, inner, calls = everything(on), on.engine.eval_logits, itertools.count()

        def fail(ids: Any) -> Any:
            if next(calls) >= forwards:
                raise MemoryError
            return inner(ids)

        on.engine.eval_logits = fail
        with pytest.raises(MemoryError):
            measure(on, worlds, held_out)
        torch.testing.assert_close(everything(on), before, rtol=0, atol=0)


# Arithmetic


def test_source_value_is_the_ratio_of_gains_and_its_error_that_of_what_is_not_common_to_all() -> None:
    gains = {"": np.array([2.0, 4.0, 6.0]), "web": np.array([1.0, 3.0, 2.0]), "old": np.array([0.0, 2.0, 1.0])}
    result = estimated(gains, np.full(3, 10), step=7, counts=FEW, rate_scale=0.5)
    assert result.step == 7
    assert result.fresh_gain_nats == pytest.approx(0.4)
    assert result.fresh_gain_standard_error == pytest.approx(math.sqrt(3 / 2 * (4 + 0 + 4)) / 30)
    assert {name: source_value.value for name, source_value in result.source_value.items()} == {"web": 0.5, "old": 0.25}
    # less the mean [1, 3, 3]: web [0, 0, -1], old [-1, -1, -2]; both leave residuals of 1/3, 1/3 and -2/3
    expected = DRAW_SCATTER * math.sqrt(3 / 2 * (1 + 1 + 4) / 9) / 30 / 0.4
    assert [source_value.standard_error for source_value in result.source_value.values()] == pytest.approx(
        [expected, expected]
    )
    assert {source_value.num_samples for source_value in result.source_value.values()} == {5 * TRIAL_STEPS}


def test_what_the_rows_do_to_all_sources_alike_is_no_error() -> None:
    rng = np.random.default_rng(0)
    gains = {name: rng.normal(mean, 0.1, 50) for name, mean in {"": 2.0, "web": 1.0, "old": 0.5}.items()}
    rows = rng.normal(0, 1, 50)
    noisy = {name: gain + rows - rows.mean() for name, gain in gains.items()}
    plain, with_noise = (
        estimated(each, np.full(50, 15), step=1, counts=FEW, rate_scale=0.5).source_value for each in (gains, noisy)
    )
    for name, source_value in plain.items():
        assert with_noise[name].value == pytest.approx(source_value.value)
        assert with_noise[name].standard_error == pytest.approx(source_value.standard_error)


@pytest.mark.parametrize(
    "fresh", [np.zeros(20), -np.ones(20), np.tile([1.0, -1.0], 10) + 0.1, np.full(20, np.nan), np.ones(1)]
)
def test_without_a_significant_gain_of_fresh_text_there_is_no_evidence(fresh: Any) -> None:
    gains = {"": fresh, "web": np.ones(len(fresh))}
    assert estimated(gains, np.full(len(fresh), 15), step=1, counts=FEW, rate_scale=0.5).source_value == {}


# Cost


@given(
    st.integers(1, 60),
    st.integers(8, 4096),
    st.integers(1, 10**10),
    st.floats(1e-4, 1.0, exclude_min=True),
)
def test_the_cost_is_never_above_its_share_unless_at_the_least_counts(
    num_sources: int, length: int, interval_tokens: int, part: float
) -> None:
    config = SourceValueConfig(max_compute_share=part)
    counts = sized(config, num_sources=num_sources, sequence_length=length, interval_tokens=interval_tokens)
    rows, read = counts.samples_per_step, counts.held_out_samples
    assert LEAST_ROWS <= rows <= MOST_ROWS
    assert LEAST_READ <= read <= MOST_READ

    def cost(rows: int, read: int) -> float:
        paid = SourceValueCounts(samples_per_step=rows, held_out_samples=read)
        return paid.cost_tokens(num_sources=num_sources, sequence_length=length) / interval_tokens

    assert cost(rows if rows > LEAST_ROWS else 0, read if read > LEAST_READ else 0) <= part * (1 + 1e-9)
    if rows < MOST_ROWS and read < MOST_READ:  # and the budget is used: one more of both does not fit
        assert cost(rows + 1, read + 1) > part * (1 - 1e-9)


def test_the_default_of_the_quickstart_costs_a_tenth() -> None:
    """400 steps of 32 x 128 tokens, three measurements, four sources."""
    interval_tokens = 400 * 32 * 128 // 3
    counts = sized(SourceValueConfig(), num_sources=4, sequence_length=128, interval_tokens=interval_tokens)
    assert counts == SourceValueCounts(samples_per_step=7, held_out_samples=71)
    assert 0.09 < counts.cost_tokens(num_sources=4, sequence_length=128) / interval_tokens <= 0.10


def test_stated_counts_are_taken_as_they_are() -> None:
    config = SourceValueConfig(samples_per_step=5, held_out_samples=6)
    counts = sized(config, num_sources=3, sequence_length=128, interval_tokens=10)
    assert counts == SourceValueCounts(samples_per_step=5, held_out_samples=6)
    assert counts.cost_tokens(num_sources=3, sequence_length=100) == pytest.approx((4 * 8 * 5 + 5 * 6 / 3) * 100)


@pytest.mark.parametrize("texts", [[], [[]], [[1, 2, 3]] * 259])
def test_validation_text_that_is_too_small_is_refused_before_the_run(worlds: Any, texts: Any) -> None:
    """63 samples of 16 tokens, and two more for where the sets end, are 260 documents of 3 tokens and an end."""
    assert (5 * TRIAL_STEPS + 23 + 2) * T == 4 * 260
    with pytest.raises(UserError, match=r"too small to measure source values.*1040 are needed"):
        held_out_samples(text_of(worlds.Documents(texts)), FEW, step=0)
    enough = worlds.Documents([[1, 2, 3]] * 260)
    held_out_samples(text_of(enough), FEW, step=0)
