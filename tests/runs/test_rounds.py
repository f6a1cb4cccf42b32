"""The rules of rounds inside a run: shares when a generation joins, quarantine instead of a cut, and the plan."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthesis.pools import publish, record, row
from trainer.base.records import SHARE_ONE, Decision
from trainer.control.policies.protocol import PlainState
from trainer.control.state import ControlState
from trainer.mixture.ledger import BatchSize, Fact, Ledger, Retire, Segment, Shares, Source
from trainer.mixture.plan import Plan
from trainer.runs.rounds.documents import documents_of
from trainer.runs.rounds.files import Made, RoundFiles
from trainer.runs.rounds.quarantine import MOST, instead_of_cut
from trainer.runs.rounds.shares import with_made_source
from trainer.runs.rounds.withdrawn import withdrawn
from trainer.runs.rounds.worker import summed
from trainer.synthesis.lineage import Origin, take_down
from trainer.synthesis.pool import Pool

KINDS = {"books": "real", "web": "real", "old": "synthetic", "made": "synthetic"}


def real(shares: dict[str, int]) -> int:
    return shares["books"] + shares["web"]


# Shares


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3), st.integers(1, 1000), st.integers(0, 1000))
def test_no_generation_takes_more_than_its_share_or_brings_real_data_below_its_floor(
    parts: list[int], share: int, floor: int
) -> None:
    total = sum(parts)
    if not parts[0] and not parts[1]:
        return
    whole = [part * SHARE_ONE // total for part in parts]
    whole[0] += SHARE_ONE - sum(whole)
    before = dict(zip(("books", "web", "old"), whole, strict=True)) | {"made": 0}
    after = with_made_source(before, KINDS, "made", share=share / 1000, real_floor=floor / 1000)
    assert sum(after.values()) == SHARE_ONE
    assert after["made"] <= share * 1000 + 1000
    assert real(after) >= min(real(before), floor * 1000) - 2
    assert all(after[name] == 0 for name in before if before[name] == 0 and name != "made")


def test_a_generation_gets_its_share_from_all_others_in_proportion() -> None:
    before = {"books": 400_000, "web": 200_000, "old": 400_000, "made": 0}
    after = with_made_source(before, KINDS, "made", share=0.25, real_floor=0.3)
    assert after == {"books": 300_000, "web": 150_000, "old": 300_000, "made": 250_000}


def test_a_generation_gets_what_the_floor_of_real_data_leaves() -> None:
    before = {"books": 400_000, "web": 0, "old": 600_000, "made": 0}
    assert with_made_source(before, KINDS, "made", share=0.5, real_floor=0.3)["made"] == 250_000
    assert with_made_source(before, KINDS, "made", share=0.5, real_floor=0.4) == before


# Quarantine


def segment(number: int, step: int, size: int = 7) -> Segment:
    return Segment(
        step=step, source="made", kind="synthetic", segment=number, num_samples=size, fingerprint=f"f{number}"
    )


BEFORE = ControlState(policy=PlainState())
AFTER = ControlState(policy=PlainState(), cut=("made",))
SHARES = {"books": 700_000, "web": 0, "old": 0, "made": 300_000}
CUT = Decision(
    from_step=101,
    action="cut",
    shares={"books": 1_000_000, "web": 0, "old": 0, "made": 0},
    reason="Held-out loss has risen.",
    policy="constant",
)


def test_instead_of_a_cut_what_joined_last_retires_and_earlier_generations_keep_the_share() -> None:
    live = [segment(0, 21), segment(1, 41), segment(2, 81)]
    done = instead_of_cut("made", BEFORE, AFTER, CUT, live=live, shares=SHARES, healthy_step=90, num_before=0)
    assert done is not None
    assert (list(done.segments), done.control.cut, dict(done.decision.shares)) == ([2], (), SHARES)
    assert done.facts("made") == [Retire(step=101, source="made", segment=2)]


def test_all_that_joined_since_the_last_healthy_step_retires_and_with_nothing_left_the_share_is_0() -> None:
    live = [segment(1, 41), segment(2, 81)]
    done = instead_of_cut("made", BEFORE, AFTER, CUT, live=live, shares=SHARES, healthy_step=30, num_before=1)
    assert done is not None
    assert (list(done.segments), done.control.cut) == ([1, 2], ())
    assert done.decision.shares["made"] == 0


@pytest.mark.parametrize(
    ("after", "num_before", "live"),
    [(BEFORE, 0, [segment(0, 21)]), (AFTER, MOST, [segment(0, 21)]), (AFTER, 0, [])],
)
def test_the_cut_of_another_source_and_one_after_too_many_quarantines_stand(
    after: ControlState, num_before: int, live: list[Segment]
) -> None:
    assert (
        instead_of_cut("made", BEFORE, after, CUT, live=live, shares=SHARES, healthy_step=0, num_before=num_before)
        is None
    )


# Plans (promises 1, 3, 5)


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """A run that begins on real data alone, whose generations join, and perhaps retire, at arbitrary steps."""
    steps = sorted(draw(st.sets(st.integers(2, 40), min_size=1, max_size=5)))
    facts: list[Fact] = [
        segment_of_real,
        Source(step=1, source="made", kind="synthetic"),
        BatchSize(step=1, global_batch=draw(st.integers(1, 12))),
        Shares(step=1, shares={"books": SHARE_ONE, "made": 0}),
    ]
    live: list[int] = []
    for number, step in enumerate(steps):
        facts.append(segment(number, step, draw(st.integers(1, 30))))
        if live and draw(st.booleans()):
            facts.append(Retire(step=step, source="made", segment=live.pop(0)))
        live.append(number)
        share = draw(st.integers(1, 900)) * 1000
        facts.append(Shares(step=step, shares={"books": SHARE_ONE - share, "made": share}))
    return facts


segment_of_real = Segment(step=1, source="books", kind="real", segment=0, num_samples=11)
LAST = 45


@given(histories())
def test_the_batch_of_a_step_is_the_same_however_late_the_ledger_learnt_what_comes_after_it(facts: list[Fact]) -> None:
    whole, growing = Plan(3, Ledger(facts)), Plan(3, Ledger(fact for fact in facts if fact.step == 1))
    state, later = growing.start(), [fact for fact in facts if fact.step > 1]
    for step in range(1, LAST):
        while later and later[0].step == step:
            growing.ledger.append(later.pop(0))
        batch, state = growing.draw(state)
        expected = whole.batch(step)
        for column in ("source", "segment", "epoch", "sample"):
            assert getattr(batch, column).tolist() == getattr(expected, column).tolist()


@given(histories())
def test_within_an_epoch_of_a_segment_that_joined_no_sample_is_lost_or_doubled(facts: list[Fact]) -> None:
    plan, used, state = Plan(3, Ledger(facts)), Counter[tuple[int, int, int, int]](), None
    state = plan.start()
    for _ in range(1, LAST):
        batch, state = plan.draw(state)
        used.update(
            zip(*(getattr(batch, name).tolist() for name in ("source", "segment", "epoch", "sample")), strict=True)
        )
    assert set(used.values()) <= {1}
    for source, number in {(source, number) for source, number, _, _ in used}:
        size = next(
            s.num_samples for s in plan.segments if (plan.sources.index(s.source), s.segment) == (source, number)
        )
        newest = max(epoch for s, n, epoch, _ in used if (s, n) == (source, number))
        for epoch in range(newest):
            assert {sample for s, n, e, sample in used if (s, n, e) == (source, number, epoch)} == set(range(size))


@given(histories())
def test_synthetic_samples_stay_the_nearest_integer_through_joins(facts: list[Fact]) -> None:
    plan, due, drawn = Plan(3, Ledger(facts)), 0, 0
    state = plan.start()
    for step in range(1, LAST):
        due += plan.global_batch(step) * plan.shares(step)["made"]
        batch, state = plan.draw(state)
        drawn += int((batch.source == plan.sources.index("made")).sum())
        assert abs(due - drawn * SHARE_ONE) <= SHARE_ONE // 2


# What is packed


def test_a_lot_is_its_first_shards_whatever_a_killed_process_had_made_besides(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    for shard in range(3):
        publish(tmp_path, 1, [row(f"{shard}{place}") for place in "ab"], shard=shard, shards=3)
    assert [document.id for document in documents_of(pool, 1, 1)] == ["1-0a", "1-0b"]
    assert [document.id for document in documents_of(pool, 1, 3)] == [f"1-{n}{place}" for n in "012" for place in "ab"]
    take_down(pool, Origin(document="1-0a"), "asked")
    assert [document.id for document in documents_of(pool, 1, 2)] == ["1-0b", "1-1a", "1-1b"]
    pool.quarantine(1, by="user", reason="worse")
    assert not list(documents_of(pool, 1, 3))


def test_a_generation_is_quarantined_for_the_run_where_it_is_for_the_pool(tmp_path: Path) -> None:
    publish(tmp_path, 1, [row("a")], shards=2)
    publish(tmp_path, 1, [row("b")], shard=1, shards=2, quarantined="not diverse")
    assert 1 in Pool(tmp_path).manifest().quarantined
    assert not list(documents_of(Pool(tmp_path), 1, 2))
    assert summed(Pool(tmp_path).records())["quarantined"] == "not diverse"


def test_the_record_of_a_round_of_lots_adds_up() -> None:
    lots = [
        record(1, 4, shard=n, shards=2, cost=1.5, cost_by_source={"books": 1.5}, joules=None if n else 7.0, cached=n)
        for n in range(2)
    ]
    whole = summed(lots)
    assert (whole["requests"], whole["cost"], whole["cost_by_source"]) == (8, 3.0, {"books": 3.0})
    assert (whole["joules"], whole["cached"], whole["stitched"], whole["quarantined"]) == (7.0, 1, None, None)


def test_a_generation_that_was_packed_after_a_takedown_stays(tmp_path: Path) -> None:
    files = RoundFiles(tmp_path)
    for number in (1, 2):
        publish(files.pool, number, [row("a", number), row("b", number, source_id="b2", parents=["books:b2"])])
    take_down(Pool(files.pool), Origin(document="books:b2"), "asked")
    for number, takedowns in ((1, 0), (2, 1)):
        files.write_made(
            Made(generation=number, record={}, fingerprint=f"f{number - 1}", num_samples=7, takedowns=takedowns)
        )
    source = Source(step=1, source="made", kind="synthetic")
    shares = Shares(step=1, shares={"made": SHARE_ONE})
    joined = [segment(number, 1) for number in (0, 1)]
    plan = Plan(1, Ledger([source, BatchSize(step=1, global_batch=2), *joined, shares]))
    assert [item.generation for item in withdrawn(plan, files, "made", 4)] == [1]
