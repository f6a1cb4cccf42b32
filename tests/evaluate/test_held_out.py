"""Evaluations: which documents, what they cost, and figures that do not depend on who computes them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.base.errors import UserError
from trainer.base.records import Evaluation
from trainer.evaluate.config import EvaluationConfig
from trainer.evaluate.eval_batches import HeldOutText
from trainer.evaluate.held_out import (
    Evaluator,
    all_documents,
    evaluation_cost_tokens,
    evaluator_of_all,
    plan_validation,
    summary,
    tail_documents,
)


def bigram_logits(ids: torch.Tensor) -> torch.Tensor:
    return torch.randn(50, 50, generator=torch.Generator().manual_seed(2))[ids]


def sliced_part(worlds: Any, sizes: list[int], length: int = 10) -> Any:
    slice_of = np.repeat(np.arange(len(sizes)), sizes)
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 50, size=length).tolist() for _ in slice_of]
    return worlds.Documents(texts, slice_of=slice_of, slices=tuple(f"slice {index}" for index in range(len(sizes))))


def evaluation(nats: list[float], tokens: list[int], slice_of: list[int] | None = None) -> Evaluation:
    return Evaluation(
        step=1,
        loss_sum_nats=np.array(nats),
        tokens=np.array(tokens),
        num_bytes=np.array(tokens) * 4,
        slice_of=np.array(slice_of or [0] * len(nats)),
        slices=("a", "b", "empty"),
    )


def test_every_rank_count_reads_the_same_bits(worlds: Any) -> None:
    part = sliced_part(worlds, [5, 9], length=23)
    segments = {"web": [worlds.Block(np.random.default_rng(3).integers(50, size=(20, 8)))]}

    def read(rank: int, meeting: Any) -> Evaluation:
        class Port(worlds.Ranked):  # type: ignore[misc]
            def reduce(self, array: Any) -> Any:
                return meeting.add(rank, array)

        evaluator = Evaluator(
            text=HeldOutText(part=part, seed=7, sequence_length=8, end_of_document=0, batch_rows=3),
            documents=np.arange(1, 13),
            sources=segments,
            source_samples=5,
        )
        return evaluator.evaluate(Port(bigram_logits, rank, meeting.world_size), step=4, live={"web": [0]})

    alone = worlds.in_ranks(1, read)[0]
    assert alone.tokens.tolist() == [23] * 12
    for world_size in (2, 3, 4):
        for other in worlds.in_ranks(world_size, read):
            assert np.array_equal(other.loss_sum_nats, alone.loss_sum_nats)
            assert other.source_nats_per_token == alone.source_nats_per_token


def test_the_fixed_samples_of_a_source_are_those_of_its_live_segments(worlds: Any) -> None:
    ids = np.random.default_rng(3).integers(1, 50, size=(3, 20, 8))
    part, segments = sliced_part(worlds, [6]), [worlds.Block(rows) for rows in ids]

    def read(live: list[int], step: int = 0) -> float:
        evaluator = Evaluator(
            text=HeldOutText(part=part, seed=7, sequence_length=8, end_of_document=0, batch_rows=4),
            documents=np.arange(6),
            sources={"web": segments},
            source_samples=5,
        )
        evaluation = evaluator.evaluate(worlds.Ranked(bigram_logits), step=step, live={"web": live})
        return evaluation.source_nats_per_token["web"]

    assert read([0], step=1) == read([0], step=9)
    assert len({read([0]), read([0, 1]), read([2])}) == 3


def test_a_model_that_knows_nothing_reads_the_logarithm_of_the_vocabulary(worlds: Any) -> None:
    part = sliced_part(worlds, [6], length=15)
    text = HeldOutText(part=part, seed=0, sequence_length=8, end_of_document=0, batch_rows=4)
    result = evaluator_of_all(text).evaluate(worlds.Ranked(lambda ids: torch.zeros(*ids.shape, 50)), step=0, live={})
    figures = summary(result)
    assert figures.nats_per_token == pytest.approx(math.log(50), rel=1e-6)
    assert figures.bits_per_byte == pytest.approx(math.log2(50) / 4, rel=1e-6)
    assert figures.standard_error < 1e-6


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    interval_tokens=st.integers(0, 60_000),
    share=st.sampled_from([0.01, 0.05, 0.2]),
)
@settings(max_examples=40, deadline=None)
def test_an_evaluation_stays_inside_its_share_of_the_compute(
    worlds: Any, sizes: list[int], interval_tokens: int, share: float
) -> None:
    part = sliced_part(worlds, sizes)
    config = EvaluationConfig(max_compute_share=share, source_samples=0)
    chosen = plan_validation(part, config, interval_tokens=interval_tokens, seed=1)
    cost = evaluation_cost_tokens(part, chosen, num_sources=0, source_samples=0, sequence_length=8)
    assert (np.diff(chosen) > 0).all()
    assert cost <= share * interval_tokens or len(chosen) <= 8
    if len(chosen) < len(part.ids):
        assert cost + 10 / 3 > share * interval_tokens
    if len(chosen) >= 4 * len(sizes):
        kept = np.bincount(part.slice_of[chosen], minlength=len(sizes))
        assert (kept >= np.minimum(sizes, 4)).all()


def test_slices_are_read_in_proportion(worlds: Any) -> None:
    part = sliced_part(worlds, [200, 100, 20])
    chosen = plan_validation(part, EvaluationConfig(validation_documents=160), interval_tokens=0, seed=1)
    np.testing.assert_allclose(np.bincount(part.slice_of[chosen]), [100, 50, 10], atol=4)


def test_a_larger_subset_holds_the_smaller_one_and_another_seed_another(worlds: Any) -> None:
    part = sliced_part(worlds, [50, 50])

    def chosen(count: int, seed: int) -> set[int]:
        return set(
            plan_validation(part, EvaluationConfig(validation_documents=count), interval_tokens=0, seed=seed).tolist()
        )

    assert chosen(20, 1) < chosen(40, 1)
    assert chosen(20, 1) != chosen(20, 2)


def test_source_samples_are_paid_from_the_same_budget(worlds: Any) -> None:
    part, config = sliced_part(worlds, [300]), EvaluationConfig(max_compute_share=0.05, source_samples=8)
    chosen = plan_validation(part, config, interval_tokens=20_000, seed=1, num_sources=4, sequence_length=16)
    cost = evaluation_cost_tokens(part, chosen, num_sources=4, source_samples=8, sequence_length=16)
    assert 0.99 * 1000 < cost <= 1000


def test_more_documents_than_there_are_is_an_error(worlds: Any) -> None:
    with pytest.raises(UserError, match="It has 3"):
        plan_validation(sliced_part(worlds, [3]), EvaluationConfig(validation_documents=4), interval_tokens=0, seed=1)


def test_documents_without_tokens_are_not_read(worlds: Any) -> None:
    assert all_documents(worlds.Documents([[1], [], [2, 3]])).tolist() == [0, 2]


def test_the_summary_weighs_tokens_and_names_the_worst_slice() -> None:
    figures = summary(evaluation([10.0, 60.0, 40.0], [10, 20, 10], [0, 0, 1]))
    assert figures.nats_per_token == pytest.approx(110 / 40)
    assert figures.slices["a"].nats_per_token == pytest.approx(70 / 30)
    assert set(figures.slices) == {"a", "b"}
    assert figures.worst_slice.name == "b"
    assert figures.worst_slice.bits_per_byte == pytest.approx(40 / math.log(2) / 40)


def test_the_tail_stays_the_anchors_choice() -> None:
    tokens = [10] * 20
    anchor = np.arange(20.0)
    now = evaluation(list(anchor[::-1]), tokens)
    assert tail_documents(anchor, now.tokens).tolist() == [18, 19]
    assert summary(now, anchor).tail_nats_per_token == pytest.approx((1 + 0) / 20)
    assert summary(now).tail_nats_per_token is None
