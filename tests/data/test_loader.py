"""What reaches the model is what the plan says, whatever was read ahead, however it is split over ranks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.corpus import prepared, recipe, small_files
from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind
from trainer.data.batch_hash import batch_hash, sample_hashes
from trainer.data.loader import StepBatch, Stream
from trainer.mixture.ledger import BatchSize, Ledger, Segment, Shares
from trainer.mixture.partition import RankPartition, accumulation
from trainer.mixture.plan import Plan

LENGTH, PADDING, SEED = 4, 7, 3
SIZES: dict[str, tuple[Kind, int]] = {"real": ("real", 20), "good": ("synthetic", 15), "bad": ("synthetic", 9)}
SHARES = {"real": 500_000, "good": 300_000, "bad": 200_000}


class Samples:
    """Tokens that say which sample of which source they are; the last sample is half padding."""

    def __init__(self, source: int, num_samples: int) -> None:
        self.tokens = np.array([[source, sample, 1, 2] for sample in range(num_samples)], dtype=np.int64)
        self.valid = np.full(num_samples, LENGTH)
        self.valid[-1] = 2

    def gather(self, samples: Any) -> Any:
        return self.tokens[samples]

    def valid_tokens(self, samples: Any) -> Any:
        return self.valid[samples]


def plan_of(
    sizes: Mapping[str, tuple[Kind, int]] = SIZES, shares: Mapping[str, int] = SHARES, global_batch: int = 12
) -> Plan:
    facts = [
        Segment(step=1, source=name, kind=kind, segment=0, num_samples=size) for name, (kind, size) in sizes.items()
    ]
    return Plan(
        SEED, Ledger([*facts, BatchSize(step=1, global_batch=global_batch), Shares(step=1, shares=dict(shares))])
    )


@contextmanager
def stream_of(plan: Plan, *, partition: RankPartition | None = None, step: int = 1, **more: Any) -> Iterator[Stream]:
    sizes = {segment.source: segment.num_samples for segment in plan.segments}
    stores = {(name, 0): Samples(number, size) for number, (name, size) in enumerate(sizes.items())}
    partition = partition or RankPartition(rank=0, world_size=1, micro_batch=5)
    stream = Stream(
        plan, stores, state=plan.state(step), partition=partition, sequence_length=LENGTH, padding=PADDING, **more
    )
    try:
        yield stream
    finally:
        stream.close()


def samples_in(batch: StepBatch) -> Counter[tuple[int, int]]:
    """(source, sample) handed to the model; samples of weight 0 are padding."""
    return Counter(
        (int(row[0]), int(row[1]))
        for micro in batch.micro_batches
        for row, valid in zip(micro.input_ids, micro.num_valid, strict=True)
        if valid > 0
    )


def planned(plan: Plan, step: int) -> Counter[tuple[int, int]]:
    batch = plan.batch(step)
    return Counter(zip(batch.source.tolist(), batch.sample.tolist(), strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_every_row_knows_its_source_and_every_rank_the_targets_of_all(world_size: int) -> None:
    drawn_by_step: list[Counter[int]] = [Counter() for _ in range(9)]
    for rank in range(world_size):
        plan = plan_of(shares={**SHARES, "bad": 0, "good": 500_000})
        with stream_of(plan, partition=RankPartition(rank=rank, world_size=world_size, micro_batch=2)) as stream:
            for counts in drawn_by_step:
                batch = stream.next()
                expected = Counter({0: 0, 1: 0, 2: 0})
                for (source, sample), times in planned(plan, batch.step).items():
                    expected[source] += times * int(stream._stores[source, 0].valid_tokens(sample) - 1)
                assert batch.source_targets == tuple(expected[source] for source in range(3))
                assert batch.target_tokens == sum(batch.source_targets)
                rows = torch.cat([micro.input_ids[:, 0] for micro in batch.micro_batches])
                own = torch.cat([micro.num_valid for micro in batch.micro_batches]) > 0
                assert torch.equal(batch.row_sources[own], rows[own])  # the first token of a sample says its source
                counts.update(rows[own].tolist())
    assert [sum(counts.values()) for counts in drawn_by_step] == [12] * 9


def test_the_model_gets_what_the_plan_says_in_every_step() -> None:
    plan = plan_of()
    with stream_of(plan) as stream:
        for step in range(1, 41):
            batch = stream.next()
            assert batch.step == step
            assert samples_in(batch) == planned(plan, step)


@settings(max_examples=40, deadline=None)
@given(world_size=st.integers(1, 7), micro_batch=st.integers(1, 13), global_batch=st.integers(1, 30))
def test_dealing_out_changes_nothing_but_who_gets_what(world_size: int, micro_batch: int, global_batch: int) -> None:
    expected = plan_of(global_batch=global_batch)
    hashes = {
        (k, i): int(h) for k, n in enumerate((20, 15, 9)) for i, h in enumerate(sample_hashes(Samples(k, n).tokens))
    }
    parts: list[list[StepBatch]] = []
    for rank in range(world_size):
        partition = RankPartition(rank=rank, world_size=world_size, micro_batch=micro_batch)
        with stream_of(plan_of(global_batch=global_batch), partition=partition) as stream:
            parts.append([stream.next() for _ in range(4)])
    for step, batches in enumerate(zip(*parts, strict=True), start=1):
        assert sum((samples_in(batch) for batch in batches), Counter()) == planned(expected, step)
        total = sum(hashes[key] * count for key, count in planned(expected, step).items())
        assert sum(batch.batch_hash for batch in batches) % 2**64 == total % 2**64
        assert {len(batch.micro_batches) for batch in batches} == {accumulation(global_batch, world_size, micro_batch)}
        assert len({batch.target_tokens for batch in batches}) == 1
        trained = sum(int((micro.num_valid - 1).clip(0).sum()) for batch in batches for micro in batch.micro_batches)
        assert batches[0].target_tokens == trained
        shapes = {tuple(micro.input_ids.shape) for batch in batches for micro in batch.micro_batches}
        assert len(shapes) == 1, "every forward of every rank has the same shape"
        assert shapes.pop()[0] <= micro_batch


def test_padding_samples_are_padding_and_do_not_count_in_the_batch_hash() -> None:
    with stream_of(plan_of(global_batch=2), partition=RankPartition(rank=2, world_size=3, micro_batch=4)) as stream:
        batch = stream.next()
    assert batch.batch_hash == 0
    assert [micro.num_valid.tolist() for micro in batch.micro_batches] == [[0]]
    assert batch.micro_batches[0].input_ids.tolist() == [[PADDING] * LENGTH]


@pytest.mark.parametrize("taken_before", [0, 1, 5, 16, 17])
def test_a_decision_governs_the_next_batch_whatever_was_prefetched(taken_before: int) -> None:
    shares = {"real": 0, "good": SHARE_ONE, "bad": 0}
    with stream_of(plan_of()) as stream:
        before = [stream.next() for _ in range(taken_before)]
        stream.append([Shares(step=taken_before + 1, shares=shares)])
        after = [stream.next() for _ in range(3)]
    reference = plan_of()
    for batch in before:
        assert samples_in(batch) == planned(reference, batch.step)
    assert [batch.step for batch in after] == [taken_before + 1, taken_before + 2, taken_before + 3]
    assert all({source for source, _ in samples_in(batch)} == {1} for batch in after)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_stream_resumed_anywhere_continues_as_if_nothing_had_happened(data: st.DataObject) -> None:
    changes = data.draw(st.dictionaries(st.integers(2, 30), st.sampled_from(["real", "good", "bad"]), max_size=4))
    stop = data.draw(st.integers(1, 30))
    plan, uninterrupted = plan_of(), {}
    with stream_of(plan) as stream:
        for step in range(1, 31):
            if step in changes:
                stream.append(
                    [Shares(step=step, shares={name: SHARE_ONE * (name == changes[step]) for name in SHARES})]
                )
            uninterrupted[step] = stream.next().batch_hash
    with stream_of(Plan(SEED, Ledger(plan.ledger.facts)), step=stop) as resumed:
        assert {step: resumed.next().batch_hash for step in range(stop, 31)} == {
            s: uninterrupted[s] for s in range(stop, 31)
        }


def test_batch_hash_is_what_plan_and_store_predict() -> None:
    plan = plan_of()
    stores = {(number, 0): Samples(number, size) for number, (_, size) in enumerate(SIZES.values())}
    with stream_of(plan) as stream:
        assert [stream.next().batch_hash for _ in range(20)] == [
            batch_hash(plan.batch(step), stores) for step in range(1, 21)
        ]


def test_one_changed_token_or_two_swapped_ones_change_the_hash() -> None:
    tokens = np.random.default_rng(0).integers(0, 50_000, (200, 32))
    expected = sample_hashes(tokens)
    assert len(set(expected.tolist())) == 200
    for place in range(32):
        changed = tokens.copy()
        changed[:, place] += 1
        assert not (sample_hashes(changed) == expected).any()
    swapped = tokens[:, [1, 0, *range(2, 32)]]
    assert ((sample_hashes(swapped) != expected) == (tokens[:, 0] != tokens[:, 1])).all()


# Caps


def test_a_cap_acts_from_the_batch_that_would_exceed_it_and_the_share_stays_in_the_kind() -> None:
    plan = plan_of()
    with stream_of(plan, max_epochs={"bad": 1.0}) as stream:
        batches = [stream.next() for _ in range(30)]
    drawn = Counter(source for batch in batches for source, _ in samples_in(batch).elements())
    assert drawn[2] <= 9, "bad has 9 samples, one epoch of which is allowed"
    capped = [batch for batch in batches if batch.capped]
    assert [list(batch.capped) for batch in capped] == [["bad"]]
    step = capped[0].step
    assert capped[0].capped["bad"] == pytest.approx(drawn[2] / 9)
    assert plan.shares(step - 1) == SHARES
    assert plan.shares(step) == {"real": 500_000, "good": 500_000, "bad": 0}
    assert drawn[2] + 12 * SHARES["bad"] / SHARE_ONE > 9 - 1, "the cap acted too early"


def test_a_cap_in_the_middle_of_what_was_prefetched_is_resumed_the_same() -> None:
    plan = plan_of()
    with stream_of(plan, max_epochs={"bad": 1.0, "good": 9.0}) as stream:
        batch_hashes = [stream.next().batch_hash for _ in range(15)]
    for stop in range(1, 16):
        facts = [fact for fact in plan.ledger.facts if fact.step < stop or fact.step == 1]
        with stream_of(Plan(SEED, Ledger(facts)), step=stop, max_epochs={"bad": 1.0, "good": 9.0}) as resumed:
            assert [resumed.next().batch_hash for _ in range(stop, 16)] == batch_hashes[stop - 1 :]


def test_a_cap_that_nobody_of_the_kind_can_take_over_stops_with_a_clear_message() -> None:
    with stream_of(plan_of(), max_epochs={"real": 1.0}) as stream:
        for _ in range(3):  # 6 a step of 20 samples: the fourth batch would go over
            stream.next()
        with pytest.raises(UserError) as caught:
            stream.next()
    message = str(caught.value)
    assert "real (max_epochs 1)" in message
    assert "before step 4" in message
    assert "raise mixture.max_epochs" in message


def test_two_caps_in_one_batch_act_together() -> None:
    sizes: dict[str, tuple[Kind, int]] = {"a": ("synthetic", 6), "b": ("synthetic", 6), "c": ("synthetic", 50)}
    shares = {"a": 400_000, "b": 400_000, "c": 200_000}
    with stream_of(plan_of(sizes, shares, 5), max_epochs={"a": 1.0, "b": 1.0}) as stream:
        batches = [stream.next() for _ in range(8)]
    assert [sorted(batch.capped) for batch in batches if batch.capped] == [["a", "b"]]
    assert {source for source, _ in samples_in(batches[-1])} == {2}


# Extremes


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ({"one": ("real", 1)}, {"one": SHARE_ONE}),
        ({"one": ("real", 1), "two": ("synthetic", 1)}, {"one": SHARE_ONE, "two": 0}),
        ({"one": ("real", 1), "two": ("synthetic", 3)}, {"one": 0, "two": SHARE_ONE}),
        ({"one": ("real", 1), "two": ("synthetic", 1)}, {"one": 1_000, "two": 999_000}),
    ],
)
def test_shares_of_zero_and_one_and_sources_of_one_sample_do_not_block(
    sizes: dict[str, tuple[Kind, int]], shares: dict[str, int]
) -> None:
    plan = plan_of(sizes, shares, 7)
    with stream_of(plan, partition=RankPartition(rank=0, world_size=1, micro_batch=3)) as stream:
        for step in range(1, 40):
            batch = stream.next()
            assert samples_in(batch).total() == 7
            assert {plan.sources[source] for source, _ in samples_in(batch)} <= {
                name for name in shares if shares[name]
            }
            assert batch.step == step


def test_tensors_are_int64_and_do_not_change_when_the_stream_continues() -> None:
    with stream_of(plan_of()) as stream:
        first = stream.next()
        copies = [micro.input_ids.clone() for micro in first.micro_batches]
        for _ in range(40):
            stream.next()
    for micro, copy in zip(first.micro_batches, copies, strict=True):
        assert str(micro.input_ids.dtype) == str(micro.num_valid.dtype) == "torch.int64"
        assert (micro.input_ids == copy).all()


def test_an_error_of_a_store_reaches_whoever_asks_for_the_batch() -> None:
    class Broken(Samples):
        def gather(self, samples: Any) -> Any:
            raise OSError("the disk is gone")

    plan = plan_of()
    stores = {(name, 0): Broken(k, size) for k, (name, (_, size)) in enumerate(SIZES.items())}
    partition = RankPartition(rank=0, world_size=1, micro_batch=4)
    stream = Stream(plan, stores, state=plan.start(), partition=partition, sequence_length=LENGTH, padding=0)
    with pytest.raises(OSError, match="the disk is gone"):
        stream.next()
    stream.close()


def test_a_stream_over_a_memory_mapped_store_equals_reading_its_documents_one_by_one(tmp_path: Path) -> None:
    small_files(tmp_path)
    data = prepared(tmp_path, recipe())
    segments = {(name, 0): source.segments[0] for name, source in data.sources.items()}
    sizes = {name: (source.kind, source.segments[0].num_samples) for name, source in data.sources.items()}
    plan = plan_of(sizes, {"web": 700_000, "made": 300_000}, 10)
    partition = RankPartition(rank=0, world_size=1, micro_batch=4)
    stream = Stream(
        plan, segments, state=plan.start(), partition=partition, sequence_length=16, padding=data.end_of_document
    )
    for step in range(1, 30):
        rows = [
            row for micro in stream.next().micro_batches for row in zip(micro.input_ids, micro.num_valid, strict=True)
        ]
        drawn = Counter(tuple(ids.tolist()) for ids, valid in rows if valid > 0)
        batch = plan.batch(step)
        names = [plan.sources[source] for source in batch.source]
        slow = Counter(slowly(segments[name, 0], int(i), 16) for name, i in zip(names, batch.sample, strict=True))
        assert drawn == slow
    stream.close()


def slowly(segment: Any, sample: int, length: int) -> tuple[int, ...]:
    """One sample, token by token from the file."""
    stored = np.load(segment.folder / "tokens.npy").reshape(-1)
    return tuple(int(stored[place]) for place in range(sample * length, (sample + 1) * length))
