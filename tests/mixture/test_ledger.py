"""The ledger: append-only, comparable, and equal after a trip through JSON."""

import json

import pytest

from trainer.base.errors import UserError
from trainer.mixture.ledger import (
    BatchSize,
    Ledger,
    Rollback,
    Segment,
    Shares,
    Snapshot,
    Topology,
    from_record,
    to_record,
)

FACTS = [
    Segment(step=1, source="r", kind="real", segment=0, num_samples=5, fingerprint="ab"),
    BatchSize(step=1, global_batch=4),
    Topology(step=1, world_size=2, micro_batch=2, accumulation=1),
    Shares(step=1, shares={"r": 1_000_000}, reason="start"),
    Snapshot(step=3, slot=8, synthetic_deficit=0, deficits={"r": 0}, segments={"r": {"0": (8, 0)}}),
    Rollback(step=4, to_step=2, first_slot=8, last_slot=12, reason="guard"),
]


def test_every_fact_survives_json() -> None:
    assert [from_record(json.loads(json.dumps(to_record(fact)))) for fact in FACTS] == FACTS


def test_the_digest_tells_two_ledgers_apart_by_a_single_millionth() -> None:
    one, other = Ledger(FACTS), Ledger(FACTS)
    assert one.digest == other.digest
    one.append(Shares(step=9, shares={"r": 999_999, "s": 1}))
    other.append(Shares(step=9, shares={"r": 999_998, "s": 2}))
    assert one.digest != other.digest


def test_a_fact_about_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="change the past"):
        Ledger(FACTS).append(BatchSize(step=2, global_batch=8))


@pytest.mark.parametrize("shares", [{"r": 999_999}, {"r": 1_000_001, "s": -1}, {}])
def test_shares_that_are_no_shares_are_refused(shares: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="sum to 1000000"):
        Shares(step=1, shares=shares)


def test_an_unknown_line_names_the_known_facts() -> None:
    with pytest.raises(UserError, match="rollback"):
        from_record({"fact": "sharez", "step": 1})
