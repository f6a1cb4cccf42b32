"""The accounting that a controlled share rests on: what is drawn is what was decided, in every window, on any ranks."""

from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest

from trainer.base.records import SHARE_ONE
from trainer.mixture.ledger import BatchSize, Ledger, Segment, Shares
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.mixture.shares import rounded

BATCH, STEPS, CHANGE_EVERY = 24, 120, 10
KINDS = {"real": "real", "one": "synthetic", "other": "synthetic"}


def ran(decisions):
    """Batches of a run under ``decisions`` ({step: shares}), and the shares in force at each step."""
    ledger = Ledger(
        [
            *(Segment(step=1, source=name, kind=kind, segment=0, num_samples=700) for name, kind in KINDS.items()),
            BatchSize(step=1, global_batch=BATCH),
            *(Shares(step=step, shares=shares) for step, shares in decisions.items()),
        ]
    )
    plan = Plan(17, ledger)
    state, batches, in_force = plan.start(), [], []
    for step in range(1, STEPS + 1):
        batch, state = plan.draw(state)
        batches.append(batch)
        in_force.append(decisions[max(first for first in decisions if first <= step)])
    return batches, in_force


@pytest.fixture(scope="module")
def changing_run():
    """Shares that change at every tenth step."""
    rng = np.random.default_rng(3)
    decided = (rounded(dict(zip(KINDS, rng.dirichlet([1, 1, 1]).tolist(), strict=True))) for _ in range(STEPS))
    return ran(dict(zip(range(1, STEPS, CHANGE_EVERY), decided, strict=False)))


def counts_of(batches):
    """Samples drawn [steps, sources]."""
    return np.array([np.bincount(batch.source, minlength=len(KINDS)) for batch in batches])


def due_of(in_force, name):
    """What the shares ask for of a source up to each step, exactly, from 0 on."""
    return [Fraction(0), *accumulate(Fraction(shares[name] * BATCH, SHARE_ONE) for shares in in_force)]


def test_real_and_synthetic_counts_are_the_target_to_one_sample_in_every_window(changing_run):
    """Windows of every place and length, across every change of shares."""
    batches, in_force = changing_run
    drawn = [0, *accumulate(counts_of(batches)[:, 0].tolist())]
    owed = [due - count for due, count in zip(due_of(in_force, "real"), drawn, strict=True)]
    assert max(owed) - min(owed) <= 1
    assert {count - round(due) for due, count in zip(due_of(in_force, "real"), drawn, strict=True)} == {0}


def test_every_source_is_at_its_target_to_one_sample_while_shares_stand_still():
    batches, in_force = ran({1: rounded({"real": 0.357, "one": 0.41, "other": 0.233})})
    drawn = counts_of(batches).cumsum(axis=0)
    for index, name in enumerate(KINDS):
        assert max(abs(due - count) for due, count in zip(due_of(in_force, name)[1:], drawn[:, index], strict=True)) < 1


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 24), (2, 12), (3, 4), (5, 2), (7, 24), (48, 1)])
def test_every_micro_batch_of_every_rank_holds_its_part_and_all_of_them_the_batch(
    changing_run, world_size, micro_batch
):
    batches, _ = changing_run
    parts = [
        part
        for rank in range(world_size)
        for part in RankPartition(rank=rank, world_size=world_size, micro_batch=micro_batch).positions(BATCH)
    ]
    for batch, counts in zip(batches, counts_of(batches), strict=True):
        drawn = np.array([np.bincount(batch.source[part], minlength=len(KINDS)) for part in parts])
        assert (drawn.sum(axis=0) == counts).all()
        assert np.abs(drawn - counts / len(parts)).max() < 1
