"""One process or several, small or large micro-batches: the same gradients, the same verdicts, one small all-reduce."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.gloo import on_ranks
from tests.engines.steps import (
    asked_and_astray,
    bench,
    collectives_of_a_step,
    continued,
    first_step,
    losses_by_hand,
    poisoned_on_one_rank,
    training,
)
from trainer.base.errors import UserError
from trainer.engines import check_engine
from trainer.engines.launch import NUM_PROCESSES_VARIABLE, check_launch
from trainer.engines.seeds import step_seed

REMEDY = "accelerate launch --multi_gpu"


def assert_same_first_step(actual: tuple, expected: tuple) -> None:
    figures, moments = actual
    assert figures.loss == pytest.approx(expected[0].loss, rel=1e-6)
    assert figures.grad_norm == pytest.approx(expected[0].grad_norm, rel=1e-5)
    assert figures.batch_hash == expected[0].batch_hash
    assert moments.keys() == expected[1].keys()
    for name, moment in moments.items():
        np.testing.assert_allclose(moment, expected[1][name], rtol=1e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("micro_batch", [1, 5, 12])
def test_gradients_do_not_depend_on_the_micro_batch(micro_batch: int) -> None:
    assert_same_first_step(first_step(micro_batch, 12), first_step(3, 12))


@pytest.mark.parametrize("global_batch", [12, 7, 1], ids=["even", "uneven", "more ranks than samples"])
def test_gradients_do_not_depend_on_the_number_of_ranks(tmp_path: Path, global_batch: int) -> None:
    expected = first_step(3, global_batch)
    for actual in on_ranks(first_step, 2, tmp_path, 2, global_batch):
        assert_same_first_step(actual, expected)


@pytest.mark.parametrize("global_batch", [12, 1], ids=["several", "one sample"])
def test_the_loss_is_given_by_source_whatever_the_micro_batch_and_the_number_of_ranks(
    tmp_path: Path, global_batch: int
) -> None:
    expected = losses_by_hand(global_batch)
    on_two = on_ranks(first_step, 2, tmp_path, 3, global_batch)
    for figures, _ in (first_step(12, global_batch), first_step(5, global_batch), *on_two):
        assert [loss.tokens for loss in figures.losses] == [loss.tokens for loss in expected]
        for loss, by_hand in zip(figures.losses, expected, strict=True):
            assert loss.loss_sum_nats == pytest.approx(by_hand.loss_sum_nats, rel=1e-5)
        assert figures.loss == sum(loss.loss_sum_nats for loss in figures.losses) / sum(
            loss.tokens for loss in figures.losses
        )


def test_a_loss_that_is_not_finite_is_that_of_its_source_alone() -> None:
    with bench(micro_batch=12) as on:
        batch = on.stream.next()
        row = int((batch.row_sources == 1).nonzero()[0])

        def poison(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
            factor = torch.ones(len(logits), 1, 1)
            factor[row] = float("nan")
            return logits * factor

        on.model.lm_head.register_forward_hook(poison)
        figures = on.engine.train_step(batch, learning_rate=1e-2, stop=False, ledger_digest=0).result()
    assert not figures.updated
    assert [bool(np.isfinite(loss.loss_sum_nats)) for loss in figures.losses] == [True, False]


def test_a_gradient_that_is_not_finite_on_one_rank_leaves_all_ranks_as_they_were(tmp_path: Path) -> None:
    ranks = on_ranks(poisoned_on_one_rank, 2, tmp_path)
    for before, poisoned, after in ranks:
        assert (before[0].updated, poisoned[0].updated, after[0].updated) == (True, False, True)
        assert not np.isfinite(poisoned[0].grad_norm)
        assert all(np.array_equal(poisoned[1][name], weights) for name, weights in before[1].items())
        assert any(not np.array_equal(after[1][name], weights) for name, weights in before[1].items())
    assert all(np.array_equal(ranks[0][2][1][name], weights) for name, weights in ranks[1][2][1].items())


def test_a_skipped_step_does_not_age_the_optimizer() -> None:
    with bench() as on:
        on.step()
        parameter = next(on.model.parameters())
        hook = parameter.register_hook(lambda gradient: gradient * float("inf"))
        assert not on.step().updated
        hook.remove()
        assert on.optimizer_steps() == {1}


def test_any_rank_can_ask_to_stop_and_a_strange_ledger_is_noticed_on_all(tmp_path: Path) -> None:
    assert on_ranks(asked_and_astray, 2, tmp_path) == [[(False, True), (True, True), (False, False)]] * 2


def test_a_step_costs_one_all_reduce_of_five_numbers_and_one_for_each_source_beyond_training(tmp_path: Path) -> None:
    for names, sizes in on_ranks(collectives_of_a_step, 2, tmp_path):
        assert sizes == [5 + 2], "only the figures of the step are asked for in Python"
        assert names == ["gloo:all_reduce"] * 2, "one bucket of gradients, and the figures"


@pytest.mark.parametrize("world_size", [1, 2])
def test_restoring_a_checkpoint_repeats_the_steps_after_it_bit_for_bit(tmp_path: Path, world_size: int) -> None:
    for expected, repeated, expected_weights, weights in on_ranks(continued, world_size, tmp_path, tmp_path):
        assert repeated == expected
        assert all(np.array_equal(weights[name], value) for name, value in expected_weights.items())


def test_the_seed_of_a_step_follows_from_seed_step_and_rank_alone() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(5) for rank in range(4)}
    assert len(seeds) == 60
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_master_address_without_world_size_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=REMEDY):
        check_launch()


def test_fewer_processes_than_the_batch_script_expects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_PROCESSES_VARIABLE, "4")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="asks for 4 processes, but 2 started"):
        check_launch()
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_launch()


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUM_PROCESSES_VARIABLE, "four")
    with pytest.raises(UserError, match=NUM_PROCESSES_VARIABLE):
        check_launch()


@pytest.mark.parametrize("launched", ["bf16", "fp16"])
def test_a_precision_of_the_launcher_against_the_recipe_is_refused_before_anything_is_prepared(
    monkeypatch: pytest.MonkeyPatch, launched: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(UserError, match=f"mixed precision {launched}"):
        check_engine(training())


def test_a_compiler_of_the_launcher_is_refused_and_none_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    with pytest.raises(UserError, match=r"training.compile.*INDUCTOR"):
        check_engine(training())
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")  # what the launcher leaves by default
    check_engine(training())


def test_a_strategy_for_lightning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_STRATEGY", "ddp")
    with pytest.raises(UserError, match="engine: lightning"):
        check_engine(training())
