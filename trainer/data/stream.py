"""From the plan to this rank's micro-batches: a memory-mapped gather, done ahead of time in one background thread.

The plan decides who is in the global batch; here it is only dealt out. What is planned ahead is worthless once a fact
changes the plan, so facts enter the ledger through ``Stream.append``, which throws away what was prefetched: a decision
after step n governs batch n + 1.
"""

# G samples of the global batch, T tokens a sample, B samples of a micro-batch, R ranks, M micro-batches per rank,
# K sources

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch

from trainer.mixture.ledger import Fact, Shares
from trainer.mixture.order import Words
from trainer.mixture.plan import Batch, Cells, Plan, State, capped_shares
from trainer.records import IntArray, UserError

PREFETCH_STEPS = 2  # one being trained on, one ready: the gather is far quicker than a step
FED_VERSION = "fed-1"


class SampleStore(Protocol):
    """What the stream needs of a prepared segment."""

    def gather(self, samples: IntArray) -> IntArray:
        """Tokens int64 [n, T]."""
        ...

    def valid_tokens(self, samples: IntArray) -> IntArray:
        """How many of the T tokens are real, int64 [n]."""
        ...


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward sees: ``input_ids[B, T]`` and ``num_valid[B]`` (0 marks a padding sample, which weighs nothing)."""

    input_ids: torch.Tensor
    num_valid: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """This rank's part of a global batch. ``target_tokens`` counts the predicted tokens of the whole global batch, on
    all ranks alike.
    """

    step: int
    plan: Batch
    micro_batches: tuple[MicroBatch, ...]
    target_tokens: int
    fed: int  # this rank's part of the sum mod 2^64 over all samples
    after: State


@dataclass(frozen=True, kw_only=True)
class _CapReached:
    step: int
    sources: frozenset[str]


@lru_cache(maxsize=8)
def _fed_keys(length: int) -> Words:
    digest = hashlib.shake_128(FED_VERSION.encode()).digest(8 * (length + 1))
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64) | np.uint64(1)


def sample_hashes(tokens: IntArray) -> Words:
    """64-bit hash of each row of ``tokens[n, T]``: multilinear over the positions, then splitmix64's finaliser, so that
    rows may be summed.
    """
    keys = _fed_keys(tokens.shape[1])
    word: Words = (tokens.astype(np.uint64) + np.uint64(1)) @ keys[1:] + keys[0]
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def gather(
    batch: Batch, positions: IntArray, stores: Mapping[tuple[int, int], SampleStore], length: int
) -> tuple[IntArray, IntArray]:
    """Tokens int64 [n, T] and valid counts int64 [n] of the samples at ``positions`` of the batch."""
    tokens = np.empty((len(positions), length), dtype=np.int64)
    valid = np.empty(len(positions), dtype=np.int64)
    pairs = batch.source[positions] * (1 << 32) + batch.segment[positions]
    for pair in np.unique(pairs):
        rows = np.flatnonzero(pairs == pair)
        store, samples = stores[divmod(int(pair), 1 << 32)], batch.sample[positions[rows]]
        tokens[rows] = store.gather(samples)
        valid[rows] = store.valid_tokens(samples)
    return tokens, valid


def fed(batch: Batch, stores: Mapping[tuple[int, int], SampleStore], length: int) -> int:
    """What a run must journal as ``fed`` for this batch, from the plan and the store alone."""
    tokens, _ = gather(batch, np.arange(len(batch.source)), stores, length)
    return int(sample_hashes(tokens).sum(dtype=np.uint64))


class Stream:
    """This rank's batches, one per step, in the order of the plan. Not to be given to ``accelerator.prepare``: it deals
    the ranks itself.
    """

    def __init__(
        self,
        plan: Plan,
        stores: Mapping[tuple[str, int], SampleStore],
        *,
        state: State,
        cells: Cells,
        sequence_length: int,
        padding: int,
        max_epochs: Mapping[str, float] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.plan, self.state = plan, state
        self._stores = {(plan.sources.index(source), segment): store for (source, segment), store in stores.items()}
        self._cells = cells
        self._length, self._padding, self._pin = sequence_length, padding, pin_memory
        self._max_epochs = dict(max_epochs or {})
        self._ahead = state  # touched by the worker alone, except while it idles after a flush
        self._pending: deque[Future[StepBatch | _CapReached]] = deque()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")

    def next(self) -> StepBatch:
        """The next step's batch. ``UserError`` when a source is spent and nobody of its kind is left to take its share."""
        while True:
            while len(self._pending) < PREFETCH_STEPS:
                self._pending.append(self._worker.submit(self._prepare))
            ready = self._pending.popleft().result()
            if isinstance(ready, StepBatch):
                self.state = ready.after
                return ready
            self.append([self._cap(ready)])

    def append(self, facts: Iterable[Fact]) -> None:
        """Take facts into the ledger and throw away what was planned without them."""
        for future in self._pending:
            future.cancel()
        for future in self._pending:
            if not future.cancelled():
                future.result()
        self._pending.clear()
        self._ahead = self.state
        for fact in facts:
            self.plan.ledger.append(fact)

    def close(self) -> None:
        """Stop the background thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _prepare(self) -> StepBatch | _CapReached:
        state = self._ahead
        batch, after = self.plan.draw(state)
        spent = self._spent(after)
        if spent:
            return _CapReached(step=state.step, sources=spent)
        self._ahead = after
        cells = self._cells.positions(len(batch.source))
        width = -(-len(batch.source) // (self._cells.world_size * len(cells)))
        tokens, valid = gather(batch, np.concatenate(cells), self._stores, self._length)
        return StepBatch(
            step=state.step,
            plan=batch,
            micro_batches=tuple(self._micro(tokens, valid, rows, width) for rows in _ranges(map(len, cells))),
            target_tokens=self._target_tokens(batch),
            fed=int(sample_hashes(tokens).sum(dtype=np.uint64)),
            after=after,
        )

    def _micro(self, tokens: IntArray, valid: IntArray, rows: slice, width: int) -> MicroBatch:
        filled = rows.stop - rows.start
        input_ids = torch.full((width, self._length), self._padding, dtype=torch.int64, pin_memory=self._pin)
        num_valid = torch.zeros(width, dtype=torch.int64, pin_memory=self._pin)
        input_ids[:filled] = torch.from_numpy(tokens[rows])
        num_valid[:filled] = torch.from_numpy(valid[rows])
        return MicroBatch(input_ids=input_ids, num_valid=num_valid)

    def _target_tokens(self, batch: Batch) -> int:
        """Predicted tokens of the global batch: one fewer than the valid ones of each sample."""
        total = 0
        for k, segment in sorted(set(zip(batch.source.tolist(), batch.segment.tolist(), strict=True))):
            samples = batch.sample[(batch.source == k) & (batch.segment == segment)]
            total += int(np.maximum(self._stores[k, segment].valid_tokens(samples) - 1, 0).sum())
        return total

    def _spent(self, after: State) -> frozenset[str]:
        if not self._max_epochs:
            return frozenset()
        epochs = self.plan.epochs(after)
        shares = self.plan.shares(after.step - 1)
        return frozenset(name for name, most in self._max_epochs.items() if shares[name] > 0 and epochs[name] > most)

    def _cap(self, cap: _CapReached) -> Shares:
        kinds = dict(zip(self.plan.sources, self.plan.kinds, strict=True))
        names = ", ".join(f"{name} (max_epochs {self._max_epochs[name]:g})" for name in sorted(cap.sources))
        shares = capped_shares(self.plan.shares(cap.step), kinds, set(cap.sources))
        if shares is None:
            raise UserError(
                f"before step {cap.step} {names} would go over its cap, "
                "and no other source of its kind has a share to take it",
                remedy="raise mixture.max_epochs, lower training.steps, or give another source of the kind a share",
            )
        return Shares(step=cap.step, shares=shares, reason=f"cap: {names} reached")


def _ranges(lengths: Iterable[int]) -> list[slice]:
    slices, start = [], 0
    for length in lengths:
        slices.append(slice(start, start + length))
        start += length
    return slices
