"""Counting: exact through every change, spread over ranks, nothing lost or repeated, resumable from a snapshot."""

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.base.records import SHARE_ONE, Kind
from trainer.mixture import lookups
from trainer.mixture.advance import MissingSamplesError, State, rebased
from trainer.mixture.config import MixtureConfig
from trainer.mixture.draw import Batch
from trainer.mixture.ledger import BatchSize, Fact, Ledger, Retire, Segment, Shares, from_record, to_record
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import SNAPSHOT_EVERY_STEPS, Plan
from trainer.mixture.shares import rounded, without_within_kinds

KINDS: tuple[Kind, ...] = ("real", "synthetic")


def ledger_of(sizes: dict[str, tuple[Kind, int]], shares: dict[str, int], global_batch: int) -> Ledger:
    facts: list[Fact] = [
        Segment(step=1, source=s, kind=kind, segment=0, num_samples=n) for s, (kind, n) in sizes.items()
    ]
    return Ledger([*facts, BatchSize(step=1, global_batch=global_batch), Shares(step=1, shares=shares)])


def walk(plan: Plan, steps: int) -> Iterator[tuple[State, Batch, State]]:
    state = plan.start()
    for _ in range(steps):
        batch, after = plan.draw(state)
        yield state, batch, after
        state = after


@st.composite
def random_shares(draw: st.DrawFn, num_sources: int) -> dict[str, int]:
    weights = draw(st.lists(st.integers(0, 1000), min_size=num_sources, max_size=num_sources).filter(any))
    return rounded({f"s{i}": w for i, w in enumerate(weights)})


@st.composite
def ledgers_with_changes(draw: st.DrawFn) -> tuple[Ledger, int]:
    """1-7 sources of both kinds, changes of shares and of batch size at random steps."""
    num_sources = draw(st.integers(1, 7))
    sizes = {f"s{i}": (draw(st.sampled_from(KINDS)), draw(st.integers(1, 200))) for i in range(num_sources)}
    ledger = ledger_of(sizes, draw(random_shares(num_sources)), draw(st.integers(1, 40)))
    steps = draw(st.integers(1, 60))
    for step in sorted(draw(st.lists(st.integers(2, 60), max_size=6))):
        if draw(st.booleans()):
            ledger.append(Shares(step=step, shares=draw(random_shares(num_sources))))
        else:
            ledger.append(BatchSize(step=step, global_batch=draw(st.integers(1, 40))))
    return ledger, steps


@given(case=ledgers_with_changes())
@settings(max_examples=150, deadline=None)
def test_synthetic_samples_are_the_nearest_integer_of_the_integral_through_every_change(
    case: tuple[Ledger, int],
) -> None:
    ledger, steps = case
    plan = Plan(0, ledger)
    synthetic = np.array([kind == "synthetic" for kind in plan.kinds])
    integral, drawn = 0, 0
    for state, batch, _ in walk(plan, steps):
        shares = np.array(list(plan.shares(state.step).values()))
        integral += int(shares[synthetic].sum()) * len(batch.source)
        drawn += int(synthetic[batch.source].sum())
        assert 2 * abs(integral - drawn * SHARE_ONE) <= SHARE_ONE


@given(case=ledgers_with_changes())
@settings(max_examples=150, deadline=None)
def test_each_source_stays_within_one_sample_while_shares_stand_still(case: tuple[Ledger, int]) -> None:
    ledger, steps = case
    plan = Plan(0, ledger)
    span_shares: dict[str, int] = {}
    for state, batch, _ in walk(plan, steps):
        shares = plan.shares(state.step)
        if shares != span_shares:  # a new span starts from the (clipped) deficits
            span_shares = shares
            due = rebased(state, plan.terms(state.step)).deficits.astype(object)
            assert max(abs(due)) < SHARE_ONE
        counts = np.bincount(batch.source, minlength=len(plan.sources))
        due = due + np.array(list(shares.values())) * len(batch.source) - counts * SHARE_ONE
        assert max(abs(due)) < SHARE_ONE


@given(case=ledgers_with_changes())
@settings(max_examples=100, deadline=None)
def test_a_source_at_share_zero_is_never_drawn(case: tuple[Ledger, int]) -> None:
    ledger, steps = case
    plan = Plan(0, ledger)
    for state, batch, _ in walk(plan, steps):
        shares = plan.shares(state.step)
        assert all(shares[plan.sources[k]] > 0 for k in set(batch.source.tolist()))


@given(case=ledgers_with_changes(), shares_last=random_shares(7))
@settings(max_examples=60, deadline=None)
def test_a_late_decision_leaves_earlier_batches_alone(case: tuple[Ledger, int], shares_last: dict[str, int]) -> None:
    ledger, steps = case
    before = [batch for _, batch, _ in walk(Plan(0, ledger), steps)]
    plan = Plan(0, ledger)
    late = max(steps, ledger.facts[-1].step) + 1
    ledger.append(Shares(step=late, shares=rounded({s: shares_last[s] + 1 for s in plan.sources})))
    for old, (_, new, _) in zip(before, walk(Plan(0, ledger), steps), strict=True):
        assert np.array_equal(old.sample, new.sample)
        assert np.array_equal(old.source, new.source)


@given(case=ledgers_with_changes())
@settings(max_examples=60, deadline=None)
def test_within_an_epoch_each_sample_is_drawn_once_across_changes(case: tuple[Ledger, int]) -> None:
    ledger, steps = case
    plan = Plan(3, ledger)
    draws: Counter[tuple[int, int, int]] = Counter()
    for _, batch, _after in walk(plan, steps):
        draws.update(zip(batch.source.tolist(), batch.epoch.tolist(), batch.sample.tolist(), strict=True))
    assert max(draws.values()) == 1
    per_epoch = Counter((source, epoch) for source, epoch, _ in draws)
    last = {source: max(e for s, e in per_epoch if s == source) for source, _ in per_epoch}
    for (source, epoch), count in per_epoch.items():
        if epoch < last[source]:
            assert count == plan.segments[source].num_samples


@given(case=ledgers_with_changes(), at=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_a_snapshot_replaces_all_that_came_before_it(case: tuple[Ledger, int], at: int) -> None:
    ledger, steps = case
    at = min(at, steps)
    whole = Plan(0, ledger)
    snapshot = whole.snapshot(whole.state(at))
    facts = (
        [fact for fact in ledger.facts if fact.step < at]
        + [snapshot]
        + [fact for fact in ledger.facts if fact.step >= at]
    )
    lines = [from_record(to_record(fact)) for fact in facts]
    resumed = Plan(0, Ledger(lines))
    for step in range(at, steps + 1):
        old, new = whole.batch(step), resumed.batch(step)
        assert old.first_slot == new.first_slot
        assert np.array_equal(old.sample, new.sample)
        assert np.array_equal(old.epoch, new.epoch)


@given(
    shares=random_shares(5),
    global_batch=st.integers(1, 300),
    world_size=st.integers(1, 9),
    micro_batch=st.integers(1, 17),
)
@settings(max_examples=100, deadline=None)
def test_every_rank_and_micro_batch_holds_each_source_within_one_of_its_part(
    shares: dict[str, int], global_batch: int, world_size: int, micro_batch: int
) -> None:
    plan = Plan(0, ledger_of({f"s{i}": (KINDS[i % 2], 1000) for i in range(5)}, shares, global_batch))
    batch = plan.batch(1)
    ranks = [RankPartition(rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)]
    parts = [part for rank in ranks for part in rank.positions(global_batch)]
    assert len({len(rank.positions(global_batch)) for rank in ranks}) == 1
    assert sorted(itertools.chain.from_iterable(part.tolist() for part in parts)) == list(range(global_batch))
    assert max(map(len, parts)) <= micro_batch
    for source in range(5):
        due = float(np.sum(batch.source == source)) / len(parts)
        assert all(abs(float(np.sum(batch.source[part] == source)) - due) < 1 for part in parts)


@given(case=ledgers_with_changes(), with_snapshot=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_steps_that_used_a_sample_are_found_without_looking_at_every_batch(
    case: tuple[Ledger, int], with_snapshot: bool
) -> None:
    ledger, steps = case
    plan = Plan(3, ledger)
    used = [
        (k, e, i, s.step)
        for s, b, _ in walk(plan, steps)
        for k, e, i in zip(b.source.tolist(), b.epoch.tolist(), b.sample.tolist(), strict=True)
    ]
    if with_snapshot:
        ledger.append(plan.snapshot(plan.state(max(steps, ledger.facts[-1].step))))
    for source, epoch, sample, step in used[:: max(1, len(used) // 20)]:
        place = epoch * plan.segments[source].num_samples + lookups.place_in_epoch(plan, source, epoch, sample)
        assert lookups.step_that_draws(plan, source, place) == step


def test_shares_of_zero_and_one_and_a_single_sample_run_without_end() -> None:
    ledger = ledger_of({"real": ("real", 1), "made": ("synthetic", 1)}, {"real": SHARE_ONE, "made": 0}, 3)
    ledger.append(Shares(step=3, shares={"real": 0, "made": SHARE_ONE}))
    batches = [batch for _, batch, _ in walk(Plan(0, ledger), 4)]
    assert [batch.source.tolist() for batch in batches] == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]
    assert batches[1].epoch.tolist() == [3, 4, 5]


def test_a_segment_joins_and_retires_at_its_step_and_segments_are_used_evenly() -> None:
    ledger = ledger_of({"real": ("real", 100), "made": ("synthetic", 30)}, {"real": 500_000, "made": 500_000}, 8)
    ledger.append(Segment(step=5, source="made", kind="synthetic", segment=1, num_samples=90))
    ledger.append(Retire(step=40, source="made", segment=0))
    plan = Plan(0, ledger)
    used: Counter[tuple[int, int]] = Counter()
    for state, batch, _ in walk(plan, 60):
        used.update(
            (0 if state.step < 5 else 1 if state.step < 40 else 2, g) for g in batch.segment[batch.source == 1].tolist()
        )
    assert used[0, 1] == 0
    assert used[2, 0] == 0
    assert abs(used[1, 0] - 35 * 4 * 30 / 120) <= 1  # in proportion to their sizes: both finish an epoch together


def test_sizes_and_epochs_are_those_of_the_live_segments() -> None:
    ledger = ledger_of({"real": ("real", 100), "made": ("synthetic", 30)}, {"real": 500_000, "made": 500_000}, 8)
    ledger.append(Segment(step=5, source="made", kind="synthetic", segment=1, num_samples=90))
    ledger.append(Retire(step=40, source="made", segment=0))
    plan = Plan(0, ledger)
    assert [lookups.live_segments(plan, step)["made"] for step in (4, 5, 39, 40)] == [(0,), (0, 1), (0, 1), (1,)]
    assert [lookups.live_sizes(plan, step)["made"] for step in (4, 5, 40)] == [30, 120, 90]
    assert lookups.epochs(plan, plan.state(4))["made"] == 12 / 30
    assert lookups.epochs(plan, plan.state(5))["made"] == 16 / 120
    both = lookups.segment_epochs(plan, plan.state(40))
    assert both["made", 0] * 30 + both["made", 1] * 90 == pytest.approx(39 * 4)
    assert lookups.epochs(plan, plan.state(40))["made"] == both["made", 1]
    assert lookups.epochs(plan, plan.state(40))["real"] == 39 * 4 / 100


@given(case=ledgers_with_changes(), joins=st.integers(2, 60), kind=st.sampled_from(KINDS), share=st.integers(1, 900))
@settings(max_examples=60, deadline=None)
def test_a_source_that_joins_late_leaves_earlier_batches_alone_and_a_resume_counts_the_same(
    case: tuple[Ledger, int], joins: int, kind: Kind, share: int
) -> None:
    ledger, steps = case
    earlier = [fact for fact in ledger.facts if fact.step < joins]
    present = next(fact.shares for fact in reversed(earlier) if isinstance(fact, Shares))
    late = rounded({**{name: held * (1000 - share) for name, held in present.items()}, "late": share * SHARE_ONE})
    growing = Ledger(earlier)
    plan = Plan(0, growing)
    lived, state = [], plan.start()
    while state.step < joins + steps:
        if state.step == joins:
            growing.append(Segment(step=joins, source="late", kind=kind, segment=0, num_samples=50))
            growing.append(Shares(step=joins, shares=late))
        batch, state = plan.draw(state)
        lived.append(batch)
    assert not any((batch.source == len(present)).any() for batch in lived if batch.step < joins)
    reread = Plan(0, Ledger(growing.facts))
    for batch in lived:
        same = reread.batch(batch.step)
        assert np.array_equal(same.source, batch.source)
        assert np.array_equal(same.sample, batch.sample)


def test_a_source_without_live_segments_is_a_clear_error() -> None:
    ledger = ledger_of({"real": ("real", 100), "made": ("synthetic", 30)}, {"real": 500_000, "made": 500_000}, 8)
    ledger.append(Retire(step=2, source="made", segment=0))
    with pytest.raises(MissingSamplesError, match="made"):
        list(walk(Plan(0, ledger), 3))


def test_batches_drawn_ahead_end_before_the_one_that_lacks_samples() -> None:
    ledger = ledger_of({"real": ("real", 100), "made": ("synthetic", 30)}, {"real": 500_000, "made": 500_000}, 8)
    ledger.append(Retire(step=4, source="made", segment=0))
    plan = Plan(0, ledger)
    assert [batch.step for batch, _ in plan.draw_ahead(plan.start(), 10)] == [1, 2, 3]


@given(case=ledgers_with_changes(), block=st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_batches_drawn_ahead_are_those_drawn_one_by_one(case: tuple[Ledger, int], block: int) -> None:
    ledger, steps = case
    plan = Plan(0, ledger)
    ahead = [drawn for first in range(1, steps + 1, block) for drawn in plan.draw_ahead(plan.state(first), block)]
    assert len(ahead) >= steps
    for (batch, after), (_, alone, then) in zip(ahead, walk(plan, steps), strict=False):
        for field in ("source", "segment", "epoch", "sample"):
            assert np.array_equal(getattr(batch, field), getattr(alone, field))
        assert (batch.step, batch.first_slot, after.slot) == (alone.step, alone.first_slot, then.slot)
        assert np.array_equal(after.cursors, then.cursors)
        assert np.array_equal(after.deficits, then.deficits)


def test_a_cut_resets_the_deficit_and_says_so() -> None:
    ledger = ledger_of(
        {"a": ("synthetic", 9), "b": ("synthetic", 9), "r": ("real", 9)}, {"a": 300_000, "b": 300_000, "r": 400_000}, 1
    )
    ledger.append(Shares(step=2, shares={"a": 0, "b": 600_000, "r": 400_000}))
    plan = Plan(0, ledger)
    changes = {change.source: change for change in lookups.deficit_changes(plan, plan.state(2))}
    assert changes["a"].before != 0
    assert changes["a"].after == 0


def test_capped_sources_leave_their_share_to_their_kind() -> None:
    kinds: dict[str, Kind] = {"r1": "real", "r2": "real", "s": "synthetic"}
    shares = {"r1": 300_000, "r2": 100_000, "s": 600_000}
    assert without_within_kinds(shares, {"r1"}, kinds) == {"r1": 0, "r2": 400_000, "s": 600_000}
    assert without_within_kinds(shares, {"s"}, kinds) is None


def test_resume_at_step_a_million_counts_no_more_than_one_span_of_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = ledger_of({"r": ("real", 10**12), "s": ("synthetic", 10**12)}, {"r": 300_000, "s": 700_000}, 512)
    plan = Plan(0, ledger)
    near = plan.state(3)
    far = State(
        step=1_000_001,
        slot=512 * 10**6,
        synthetic_deficit=near.synthetic_deficit,
        deficits=near.deficits,
        cursors=near.cursors + 10**8,
        segment_deficits=near.segment_deficits,
    )
    ledger.append(plan.snapshot(far))
    counted = []
    count = Plan.counted
    monkeypatch.setattr(Plan, "counted", lambda self, state: counted.append(state.step) or count(self, state))
    plan.batch(1_000_001 + 400)
    assert len(counted) == 401 <= SNAPSHOT_EVERY_STEPS


def test_a_recipes_shares_are_used_as_written_to_the_millionth() -> None:
    config = MixtureConfig(global_batch=8, shares={"a": 0.9995, "b": 0.0003, "c": 0.0002})
    assert config.shares_in_millionths() == {"a": 999_500, "b": 300, "c": 200}


def test_a_recipes_share_that_is_no_whole_millionth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the nearest that can be kept are \{a: 0.333334, b: 0.333333, c: 0.333333\}"):
        MixtureConfig(global_batch=8, shares={"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_a_millionth_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match=r"they sum to 1.000001; divide each by 1.000001"):
        MixtureConfig(global_batch=8, shares={"a": 0.5, "b": 0.500001})


def test_shares_that_do_not_sum_to_one_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"divide each by 1\.5"):
        MixtureConfig(global_batch=8, shares={"a": 1.0, "b": 0.5})


def test_a_source_that_is_ahead_at_a_tiny_share_does_not_starve_the_others() -> None:
    """Found by chance: s4 comes ahead by 0.68 of a sample into a share of a thousandth and can never give back."""
    kinds: list[Kind] = ["real", "real", "synthetic", "synthetic", "real", "real", "synthetic"]
    sizes = {f"s{i}": (kind, 100) for i, kind in enumerate(kinds)}

    def shares(*thousandths: int) -> dict[str, int]:
        return {f"s{i}": 1000 * share for i, share in enumerate(thousandths)}

    ledger = ledger_of(sizes, shares(0, 334, 333, 333, 0, 0, 0), 17)
    ledger.append(Shares(step=2, shares=shares(0, 334, 0, 0, 333, 333, 0)))
    ledger.append(Shares(step=4, shares=shares(410, 586, 1, 1, 1, 0, 1)))
    plan = Plan(0, ledger)
    for state, batch, _ in walk(plan, 40):
        if state.step == 4:
            due = rebased(state, plan.terms(state.step)).deficits.astype(object)
        if state.step >= 4:
            counts = np.bincount(batch.source, minlength=7)
            due = due + np.array(list(plan.shares(state.step).values())) * 17 - counts * SHARE_ONE
            assert max(abs(due)) < SHARE_ONE
