"""Every token is predicted once, whoever computes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluate.windows import (
    Samples,
    cut_windows,
    derived_rng,
    fixed_batches,
    gather_samples,
    local_nats,
    my_batches,
    ratio_standard_error,
    row_targets,
)

END = 0


@dataclass
class Documents:
    """Held-out documents in memory."""

    texts: list[list[int]]
    slice_of: Any = None
    slices: tuple[str, ...] = ("all",)
    tokens: Any = field(init=False)
    offsets: Any = field(init=False)
    num_bytes: Any = field(init=False)
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = np.array([token for text in self.texts for token in text] + [END], dtype=np.uint16)
        self.offsets = np.cumsum([0, *map(len, self.texts)]).astype(np.int64)
        self.num_bytes = np.array([4 * len(text) for text in self.texts], dtype=np.int64)
        self.slice_of = np.zeros(len(self.texts), dtype=np.int64) if self.slice_of is None else np.asarray(self.slice_of)
        self.ids = [f"document {index}" for index in range(len(self.texts))]


@dataclass(frozen=True)
class Ranked:
    """One rank of several, with a given function of ids as its model; sums nothing."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    def eval_logits(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return self.logits(input_ids_BT)

    def reduce(self, array: Any) -> Any:
        return array


def bigram_logits(ids: torch.Tensor) -> torch.Tensor:
    table = torch.randn(50, 50, generator=torch.Generator().manual_seed(2))
    return table[ids]


documents_strategy = st.lists(st.lists(st.integers(1, 49), max_size=30), min_size=1, max_size=8)


@given(texts=documents_strategy, sequence_length=st.integers(2, 13))
def test_windows_predict_each_token_once_with_the_token_before_it_as_context(
    texts: list[list[int]], sequence_length: int
) -> None:
    windows = cut_windows(
        Documents(texts), np.arange(len(texts)), sequence_length=sequence_length, end_of_document=END
    )
    predicted: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(texts))}
    for row in range(len(windows.num_valid)):
        ids, valid = windows.ids(np.array([row]))[0], windows.num_valid[row]
        assert 2 <= valid <= sequence_length
        assert (ids[valid:] == END).all()
        predicted[int(windows.documents[row])] += list(zip(ids[: valid - 1].tolist(), ids[1:valid].tolist(), strict=True))
    for index, text in enumerate(texts):
        assert predicted[index] == list(zip([END, *text], text, strict=False))


@given(texts=documents_strategy, batch_rows=st.integers(1, 5), world_size=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_sum_of_all_ranks_is_one_process_bit_for_bit(
    texts: list[list[int]], batch_rows: int, world_size: int
) -> None:
    windows = cut_windows(Documents(texts), np.arange(len(texts)), sequence_length=9, end_of_document=END)
    alone = local_nats(windows, Ranked(bigram_logits), batch_rows=batch_rows)
    shards = [
        local_nats(windows, Ranked(bigram_logits, rank, world_size), batch_rows=batch_rows) for rank in range(world_size)
    ]
    assert np.array_equal(sum(shards), alone)


def test_every_rank_runs_the_same_number_of_forwards() -> None:
    batches = fixed_batches(np.arange(2, 12), 3)
    for world_size in range(1, 9):
        turns = [my_batches(batches, Ranked(bigram_logits, rank, world_size)) for rank in range(world_size)]
        assert len({len(turn) for turn in turns}) == 1
        counted = [row for turn in turns for batch, counts in turn if counts for row in batch.tolist()]
        assert sorted(counted) == list(range(10))


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary_on_every_token() -> None:
    windows = cut_windows(Documents([[1, 2, 3] * 7, [4]]), np.arange(2), sequence_length=8, end_of_document=END)
    nats = local_nats(windows, Ranked(lambda ids: torch.zeros(*ids.shape, 50)), batch_rows=2)
    np.testing.assert_allclose(nats, row_targets(windows) * np.log(50), rtol=1e-6)


@dataclass
class Block:
    first: int
    num_samples: int

    def gather(self, samples: Any) -> Any:
        return (self.first + samples)[:, None] * np.ones(4, dtype=np.int64)

    def valid_tokens(self, samples: Any) -> Any:
        return np.full(len(samples), 4)


def test_samples_are_counted_through_the_segments_in_turn() -> None:
    picks = np.array([0, 2, 3, 4, 9])
    samples = gather_samples([Block(0, 3), Block(3, 1), Block(4, 6)], picks)
    assert samples.token_ids[:, 0].tolist() == picks.tolist()


def test_no_rows_cost_no_forward() -> None:
    empty = Samples(token_ids=np.zeros((0, 4), dtype=np.int64), num_valid=np.zeros(0, dtype=np.int64))

    def fail(ids: torch.Tensor) -> torch.Tensor:
        raise AssertionError(ids)

    assert local_nats(empty, Ranked(fail), batch_rows=2).shape == (0,)


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
