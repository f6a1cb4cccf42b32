"""Every token is predicted once, whoever computes it."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.base.hashing import derived_rng
from trainer.evaluate.eval_batches import (
    EvalSamples,
    cut_windows,
    fixed_batches,
    gather_samples,
    local_nats,
    my_batches,
    ratio_standard_error,
    row_targets,
)

END = 0


def bigram_logits(ids: torch.Tensor) -> torch.Tensor:
    table = torch.randn(50, 50, generator=torch.Generator().manual_seed(2))
    return table[ids]


documents_strategy = st.lists(st.lists(st.integers(1, 49), max_size=30), min_size=1, max_size=8)


@given(texts=documents_strategy, sequence_length=st.integers(2, 13))
def test_windows_predict_each_token_once_with_the_token_before_it_as_context(
    worlds: Any, texts: list[list[int]], sequence_length: int
) -> None:
    windows = cut_windows(
        worlds.Documents(texts), np.arange(len(texts)), sequence_length=sequence_length, end_of_document=END
    )
    predicted: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(texts))}
    for row in range(len(windows.num_valid)):
        ids, valid = windows.ids(np.array([row]))[0], windows.num_valid[row]
        assert 2 <= valid <= sequence_length
        assert (ids[valid:] == END).all()
        predicted[int(windows.documents[row])] += list(
            zip(ids[: valid - 1].tolist(), ids[1:valid].tolist(), strict=True)
        )
    for index, text in enumerate(texts):
        assert predicted[index] == list(zip([END, *text], text, strict=False))


@given(texts=documents_strategy, batch_rows=st.integers(1, 5), world_size=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_sum_of_all_ranks_is_one_process_bit_for_bit(
    worlds: Any, texts: list[list[int]], batch_rows: int, world_size: int
) -> None:
    windows = cut_windows(worlds.Documents(texts), np.arange(len(texts)), sequence_length=9, end_of_document=END)
    alone = local_nats(windows, worlds.Ranked(bigram_logits), batch_rows=batch_rows)
    shards = [
        local_nats(windows, worlds.Ranked(bigram_logits, rank, world_size), batch_rows=batch_rows)
        for rank in range(world_size)
    ]
    assert np.array_equal(sum(shards), alone)


def test_every_rank_runs_the_same_number_of_forwards(worlds: Any) -> None:
    batches = fixed_batches(np.arange(2, 12), 3)
    for world_size in range(1, 9):
        turns = [my_batches(batches, worlds.Ranked(bigram_logits, rank, world_size)) for rank in range(world_size)]
        assert len({len(turn) for turn in turns}) == 1
        counted = [row for turn in turns for batch, counts in turn if counts for row in batch.tolist()]
        assert sorted(counted) == list(range(10))


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary_on_every_token(worlds: Any) -> None:
    windows = cut_windows(worlds.Documents([[1, 2, 3] * 7, [4]]), np.arange(2), sequence_length=8, end_of_document=END)
    nats = local_nats(windows, worlds.Ranked(lambda ids: torch.zeros(*ids.shape, 50)), batch_rows=2)
    np.testing.assert_allclose(nats, row_targets(windows) * np.log(50), rtol=1e-6)


def test_samples_are_counted_through_the_segments_in_turn(worlds: Any) -> None:
    rows, picks = np.arange(10)[:, None] * np.ones(4, dtype=np.int64), np.array([0, 2, 3, 4, 9])
    samples = gather_samples([worlds.Block(rows[:3]), worlds.Block(rows[3:4]), worlds.Block(rows[4:])], picks)
    assert samples.token_ids[:, 0].tolist() == picks.tolist()


def test_no_rows_cost_no_forward(worlds: Any) -> None:
    empty = EvalSamples(token_ids=np.zeros((0, 4), dtype=np.int64), num_valid=np.zeros(0, dtype=np.int64))

    def fail(ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError(ids)

    assert local_nats(empty, worlds.Ranked(fail), batch_rows=2).shape == (0,)


def test_derived_randomness_is_a_function_of_its_names() -> None:
    assert derived_rng(1, "a").random() == derived_rng(1, "a").random() != derived_rng(1, "b").random()


def test_the_standard_error_of_a_ratio_covers_its_spread() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 200, size=(4000, 50))
    nats = tokens * rng.normal(5.0, 0.6, size=tokens.shape)
    errors = np.array([ratio_standard_error(n, t) for n, t in zip(nats, tokens, strict=True)])
    spread = (nats.sum(1) / tokens.sum(1)).std()
    assert errors.mean() == pytest.approx(spread, rel=0.05)


def test_one_document_has_no_standard_error() -> None:
    assert ratio_standard_error(np.array([3.0]), np.array([2])) == float("inf")
