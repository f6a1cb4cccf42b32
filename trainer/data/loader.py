"""From the plan to this rank's micro-batches: a memory-mapped gather, done ahead of time in one background thread.

The plan decides which samples are in the global batch; here each rank takes its part. What was planned ahead is invalid
once a fact changes the plan, so facts enter the ledger through ``Stream.append``, which discards what was
prefetched: a decision after step n governs batch n + 1.
"""

# G samples of the global batch, T tokens a sample, B samples of a micro-batch, R ranks, M micro-batches per rank,
# K sources

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Self

import numpy as np
import torch

from trainer.base.errors import DataError
from trainer.base.records import IntArray
from trainer.data.batch_hash import SampleStore, SegmentSlots, by_segment, sample_hashes
from trainer.data.teacher_rows import Teachers
from trainer.mixture import lookups
from trainer.mixture.advance import State
from trainer.mixture.draw import Batch
from trainer.mixture.ledger import Fact, Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.mixture.shares import without_within_kinds
from trainer.model.distillation import TeacherTargets

# Steps are planned and gathered a block at a time, because small batches cost mostly calls: in blocks a batch of
# 32 samples of 128 tokens takes a tenth of the time. A block is bounded by its tokens, because a decision throws blocks
# away, and by its slots, because every rank plans them all.
BLOCK_STEPS, BLOCK_BYTES, BLOCK_SLOTS = 32, 8 << 20, 1 << 14
PREFETCH_BLOCKS = 2  # one in use, one ready


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward sees: ``input_ids[B, T]`` and ``num_valid[B]``, where 0 marks a padding sample, which weighs
    nothing; and what a teacher expects after each token, in a run that has one.
    """

    input_ids: torch.Tensor
    num_valid: torch.Tensor
    teacher: TeacherTargets | None = None


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """This rank's part of a global batch. ``target_tokens`` counts the predicted tokens of the whole global batch, on
    all ranks alike, and ``source_targets[K]`` those of each source; it is empty where samples have no tokens.
    ``taught_tokens`` counts those that a teacher has read, on all ranks; None in a run without one.
    ``row_sources`` (int64) is the source of each row of the micro-batches, one after the other; a padding row's is 0.
    """

    step: int
    plan: Batch
    micro_batches: tuple[MicroBatch, ...]
    row_sources: torch.Tensor
    target_tokens: int
    source_targets: tuple[int, ...]
    taught_tokens: int | None = None
    batch_hash: int  # this rank's part of the sum mod 2^64 over all samples
    after: State
    capped: Mapping[str, float] = field(default_factory=dict)  # epochs of the sources whose cap acts from this step on


@dataclass(frozen=True, kw_only=True)
class _CapReached:
    step: int
    sources: frozenset[str]


def _by_source(tokens: IntArray, source: IntArray, starts: IntArray, *, num_sources: int) -> IntArray:
    """Tokens of the slots of each of S batches, ``starts[S + 1]``, by source: [S, K]."""
    num_batches = len(starts) - 1
    bins = np.repeat(np.arange(num_batches), np.diff(starts)) * num_sources + source
    counts = np.bincount(bins, weights=tokens, minlength=num_batches * num_sources)  # exact below 2^53
    return counts.astype(np.int64).reshape(num_batches, num_sources)


@dataclass(frozen=True)
class _Layout:
    """Where a global batch lies on this rank: slot ``slots[i]`` in row ``rows[i]`` of M micro-batches of ``width``."""

    slots: IntArray
    rows: IntArray
    num_micro: int
    width: int

    @classmethod
    def of(cls, partition: RankPartition, global_batch: int) -> Self:
        parts = partition.positions(global_batch)
        width = -(-global_batch // (partition.world_size * len(parts)))
        rows = np.concatenate([m * width + np.arange(len(part)) for m, part in enumerate(parts)])
        return cls(np.concatenate(parts), rows, len(parts), width)

    @property
    def num_rows(self) -> int:
        return self.num_micro * self.width

    def micro_rows(self, first_row: int) -> list[tuple[int, int]]:
        return [(first_row + m * self.width, first_row + (m + 1) * self.width) for m in range(self.num_micro)]


class Stream:
    """This rank's batches, one per step, in the order of the plan. Do not give it to ``accelerator.prepare``: it
    already takes this rank's part.
    """

    def __init__(
        self,
        plan: Plan,
        stores: Mapping[tuple[str, int], SampleStore],
        *,
        state: State,
        partition: RankPartition,
        sequence_length: int,
        padding: int,
        max_epochs: Mapping[str, float] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.plan, self.state = plan, state
        self._stores = {(plan.sources.index(source), segment): store for (source, segment), store in stores.items()}
        self._length, self._padding, self._pin = sequence_length, padding, pin_memory
        self._teachers = Teachers(self._stores, sequence_length)
        self._max_epochs = dict(max_epochs or {})
        self._ahead = state  # touched by the worker alone, except while it idles after a flush
        self._layout = lru_cache(maxsize=4)(partial(_Layout.of, partition))
        self._ready: deque[StepBatch | _CapReached] = deque()
        self._pending: deque[Future[list[StepBatch | _CapReached]]] = deque()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")

    def next(self) -> StepBatch:
        """The next step's batch. ``UserError`` when a source is at its cap of epochs and no other source of its kind
        has a share to take it.
        """
        capped: dict[str, float] = {}
        while True:
            while len(self._pending) < PREFETCH_BLOCKS:
                self._pending.append(self._worker.submit(self._prepare))
            if not self._ready:
                self._ready.extend(self._pending.popleft().result())
                continue
            ready = self._ready.popleft()
            if isinstance(ready, StepBatch):
                self.state = ready.after
                return replace(ready, capped=capped) if capped else ready
            epochs = lookups.epochs(self.plan, self.state)
            capped |= {name: epochs[name] for name in sorted(ready.sources)}
            self.append([self._cap(ready)])

    def add_store(self, source: str, segment: int, store: SampleStore) -> None:
        """Where the samples of a segment are that joins later; before the fact that lets it join."""
        self._stores[self.plan.sources.index(source), segment] = store

    def append(self, facts: Iterable[Fact]) -> None:
        """Take facts into the ledger and discard what was planned without them, failures included."""
        for future in self._pending:
            future.cancel()
        wait(self._pending)
        self._pending.clear()
        self._ready.clear()
        self._ahead = self.state
        for fact in facts:
            self.plan.ledger.append(fact)

    def close(self) -> None:
        """Stop the background thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _prepare(self) -> list[StepBatch | _CapReached]:
        """The next block: at least one step, or a cap alone."""
        cap: list[StepBatch | _CapReached] = []
        drawn = self.plan.draw_ahead(self._ahead, self._block_steps(self.plan.terms(self._ahead.step).global_batch))
        for number, (batch, after) in enumerate(drawn):
            sources = self._over_cap(after)
            if sources:
                cap = [_CapReached(step=batch.step, sources=sources)]
                drawn = drawn[:number]
                break
        if not drawn:
            return cap
        steps = self._gathered(drawn)
        self._ahead = drawn[-1][1]  # not before: a store that failed is read again, no step is skipped
        return [*steps, *cap]

    def _block_steps(self, global_batch: int) -> int:
        layout = self._layout(global_batch)
        bytes_per_token = 8 + self._teachers.bytes_per_token
        steps_in_bytes = BLOCK_BYTES // (layout.num_rows * self._length * bytes_per_token)
        return max(1, min(BLOCK_STEPS, steps_in_bytes, BLOCK_SLOTS // global_batch))

    def _gathered(self, drawn: Sequence[tuple[Batch, State]]) -> list[StepBatch]:
        """All steps of a block, whose micro-batches are views of one buffer."""
        layouts = [self._layout(len(batch.source)) for batch, _ in drawn]
        slot_starts = np.cumsum([0, *(len(batch.source) for batch, _ in drawn)])
        row_starts = np.cumsum([0, *(layout.num_rows for layout in layouts)])
        row_of_slot = np.full(slot_starts[-1], -1)  # other ranks' slots have no row
        for layout, first_slot, first_row in zip(layouts, slot_starts, row_starts, strict=False):
            row_of_slot[first_slot + layout.slots] = first_row + layout.rows
        source, segment, sample = (
            np.concatenate([getattr(batch, column) for batch, _ in drawn]) for column in ("source", "segment", "sample")
        )
        parts = list(by_segment(source, segment))
        input_ids, num_valid, valid = self._read(parts, sample, row_of_slot, int(row_starts[-1]))
        row_sources = self._row_sources(source, row_of_slot, int(row_starts[-1]))
        hashes = np.where(num_valid.numpy() > 0, sample_hashes(input_ids.numpy()), np.uint64(0))
        batch_hash_parts = np.add.reduceat(hashes, row_starts[:-1]).tolist()
        predicted = np.maximum(valid - 1, 0)
        targets = _by_source(predicted, source, slot_starts, num_sources=len(self.plan.sources))
        teacher, taught = self._teachers.read(parts, sample, row_of_slot, int(row_starts[-1]))
        taught_tokens = np.add.reduceat(np.where(taught, predicted, 0), slot_starts[:-1]).tolist()
        return [
            StepBatch(
                step=batch.step,
                plan=batch,
                micro_batches=tuple(
                    MicroBatch(
                        input_ids=input_ids[row:end],
                        num_valid=num_valid[row:end],
                        teacher=None if teacher is None else teacher.rows(row, end),
                    )
                    for row, end in layout.micro_rows(first_row)
                ),
                row_sources=row_sources[first_row : first_row + layout.num_rows],
                target_tokens=sum(source_targets),
                source_targets=tuple(source_targets),
                taught_tokens=None if teacher is None else step_taught,
                batch_hash=batch_hash_part,
                after=after,
            )
            for (batch, after), layout, first_row, source_targets, step_taught, batch_hash_part in zip(
                drawn, layouts, row_starts[:-1].tolist(), targets.tolist(), taught_tokens, batch_hash_parts, strict=True
            )
        ]

    def _row_sources(self, source: IntArray, row_of_slot: IntArray, num_rows: int) -> torch.Tensor:
        row_sources = torch.zeros(num_rows, dtype=torch.int64, pin_memory=self._pin)
        own = np.flatnonzero(row_of_slot >= 0)
        row_sources.numpy()[row_of_slot[own]] = source[own]
        return row_sources

    def _read(
        self, parts: SegmentSlots, sample: IntArray, row_of_slot: IntArray, num_rows: int
    ) -> tuple[torch.Tensor, torch.Tensor, IntArray]:
        """Own samples as ``input_ids[rows, T]`` and ``num_valid[rows]``, and valid tokens of all slots of all ranks."""
        input_ids = torch.empty((num_rows, self._length), dtype=torch.int64, pin_memory=self._pin)
        num_valid = torch.zeros(num_rows, dtype=torch.int64, pin_memory=self._pin)
        tokens, valid = input_ids.numpy(), np.empty(len(sample), dtype=np.int64)
        for pair, slots in parts:
            valid[slots] = self._stores[pair].valid_tokens(sample[slots])
            own = slots[row_of_slot[slots] >= 0]
            if own.size:
                tokens[row_of_slot[own]] = self._stores[pair].gather(sample[own])
        own = np.flatnonzero(row_of_slot >= 0)
        num_valid.numpy()[row_of_slot[own]] = valid[own]
        tokens[num_valid.numpy() == 0] = self._padding
        return input_ids, num_valid, valid

    def _over_cap(self, after: State) -> frozenset[str]:
        if not self._max_epochs:
            return frozenset()
        epochs = lookups.epochs(self.plan, after)
        shares = self.plan.shares(after.step - 1)
        return frozenset(name for name, most in self._max_epochs.items() if shares[name] > 0 and epochs[name] > most)

    def _cap(self, cap: _CapReached) -> Shares:
        kinds = dict(zip(self.plan.sources, self.plan.kinds, strict=True))
        names = ", ".join(f"{name} (max_epochs {self._max_epochs[name]:g})" for name in sorted(cap.sources))
        shares = without_within_kinds(self.plan.shares(cap.step), cap.sources, kinds)
        if shares is None:
            raise DataError(
                f"before step {cap.step} {names} would go over its cap, "
                "and no other source of its kind has a share to take it",
                remedy="raise mixture.max_epochs, lower training.steps, or give another source of the kind a share",
            )
        return Shares(step=cap.step, shares=shares, reason=f"cap: {names} reached")
