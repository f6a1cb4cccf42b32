"""The ledger: append-only, comparable, and equal after a trip through JSON."""

import json
from pathlib import Path
from typing import Any

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
    facts_of,
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


EDITED: dict[str, tuple[int, dict[str, Any], str]] = {
    "shares that do not sum": (4, {"shares": {"r": 999_999}}, "sum to 1000000"),
    "shares in ones": (4, {"shares": {"r": 1.0}}, "shares.r"),
    "shares as text": (4, {"shares": "r"}, "shares"),
    "shares of a source that never joined": (4, {"shares": {"q": 1_000_000}}, "source 'q', which has not joined"),
    "a negative share": (4, {"shares": {"r": 1_000_001, "s": -1}}, "sum to 1000000"),
    "no step": (2, {"step": None}, "step"),
    "a step before the last one": (6, {"step": 2}, "before that of the line above"),
    "an empty batch": (2, {"global_batch": 0}, "global_batch"),
    "a kind that does not exist": (1, {"kind": "imaginary"}, "kind"),
    "a field too many": (2, {"global_bach": 4}, "no field 'global_bach'"),
    "a snapshot of a segment that never joined": (5, {"segments": {"r": {"7": [8, 0]}}}, "segment 7 of source 'r'"),
    "no fact": (3, {"fact": ["topology"]}, "names no fact"),
}


@pytest.mark.parametrize("name", EDITED)
def test_a_line_that_was_edited_into_something_else_is_refused_with_its_number(name: str) -> None:
    number, change, words = EDITED[name]
    records = [to_record(fact) for fact in FACTS]
    records[number - 1] = {**records[number - 1], **change}
    with pytest.raises(UserError, match=words) as refused:
        facts_of(enumerate(records, start=1), Path("run/ledger.jsonl"))
    assert str(refused.value).startswith(f"run/ledger.jsonl:{number}: ")


def test_a_field_that_is_missing_is_named() -> None:
    records = [{key: value for key, value in to_record(fact).items() if key != "num_samples"} for fact in FACTS]
    with pytest.raises(UserError, match="num_samples"):
        facts_of(enumerate(records, start=1), Path("ledger.jsonl"))
