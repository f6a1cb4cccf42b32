"""Graders are graded: a good one has a vote, and one that is biased, sure of all, or of nothing, loses it."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.synthesis.graders.rivers import own_row, row
from trainer.base.errors import UserError
from trainer.synthesis.graders import GraderConfig, GraderRecord, GradingConfig, Surroundings
from trainer.synthesis.graders.kept import Kept
from trainer.synthesis.graders.panel import Examiner, Graded, graded
from trainer.synthesis.pool import RoundRecord

RIVERS = "tests.synthesis.graders.rivers"


def config(**settings: Any) -> Any:
    return TypeAdapter(GraderConfig).validate_json(json.dumps(settings))


def function(of: str, **settings: Any) -> Any:
    return config(kind="function", function=f"{RIVERS}:{of}", **{"keep_from": 0.8, **settings})


def run(folder: Path, *configs: Any, own: int = 60, real: int = 60) -> Graded:
    examiner = Examiner(limits=GradingConfig(), real=[row(number) for number in range(real)], seed=3, generation=1)
    surroundings = Surroundings(
        base=folder, generator=None, real=[row(1000 + number) for number in range(60)], answers=folder / "answers"
    )
    with Kept(folder / "grades") as kept:
        return graded(configs, [own_row(2000 + number) for number in range(own)], examiner, surroundings, kept)


def record_of(outcome: Graded) -> GraderRecord:
    return outcome.grades[0][0]


def test_a_good_grader_keeps_its_vote(tmp_path: Path) -> None:
    record = record_of(run(tmp_path, function("fair", worst_and_best=[0, 1])))
    assert record.has_vote
    assert record.lost_vote_for == ()
    assert record.agreement is not None
    assert record.agreement.low > 0.9
    assert set(record.found) == {"shuffled", "swapped", "truncated", "repeated", "other"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"of": "likes_long", "keep_from": 1.0}, "length bias"),
        ({"of": "likes_its_own"}, "self-preference"),
        ({"of": "always_ten", "worst_and_best": [1, 10], "keep_from": 6}, "agreement 0.50"),
        ({"of": "always_ten", "worst_and_best": [1, 10], "keep_from": 6}, "calibration error 0.50"),
        ({"of": "never_sure"}, "gives no verdict on 100%"),
    ],
)
def test_a_grader_out_of_range_loses_its_vote(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    record = record_of(run(tmp_path, function(**settings)))
    assert not record.has_vote
    assert any(reason in why for why in record.lost_vote_for), record.lost_vote_for


def test_a_bias_is_named_for_what_it_is(tmp_path: Path) -> None:
    long_record = record_of(run(tmp_path, function("likes_long", keep_from=1.0)))
    own_record = record_of(run(tmp_path, function("likes_its_own")))
    assert all("self-preference" not in why for why in long_record.lost_vote_for)
    assert all("length" not in why for why in own_record.lost_vote_for)


def test_graders_that_have_no_vote_bound_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, function("always_ten", keep_from=6)).verifier is None
    together = run(tmp_path, function("always_ten", keep_from=6), function("fair"))
    alone = run(tmp_path, function("fair"))
    assert together.verifier == alone.verifier
    assert alone.verifier is not None
    assert alone.verifier.breaking_error.value > 0.9
    assert alone.verifier.wrong_before.value == 0.0


def test_records_are_saved_as_they_are(tmp_path: Path) -> None:
    outcome = run(tmp_path, function("fair", worst_and_best=[0, 1]))
    record = RoundRecord(
        generation=1, shard=0, shards=1, generator="writer", generator_weights="w1", requests=60, accepted=60,
        graders=(record_of(outcome),), verifier=outcome.verifier,
    )  # fmt: skip
    assert RoundRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_what_is_graded_is_not_graded_again(tmp_path: Path) -> None:
    before = run(tmp_path, function("fair"))
    size = (tmp_path / "grades").stat().st_size
    again = run(tmp_path, function("fair"))
    assert (tmp_path / "grades").stat().st_size == size
    assert [grades for _, grades in again.grades] == [grades for _, grades in before.grades]


def test_a_line_that_a_kill_cut_short_is_made_again(tmp_path: Path) -> None:
    before = run(tmp_path, function("fair"))
    content = (tmp_path / "grades").read_bytes()
    (tmp_path / "grades").write_bytes(content[:-10])
    again = run(tmp_path, function("fair"))
    assert [grades for _, grades in again.grades] == [grades for _, grades in before.grades]
    assert (tmp_path / "grades").read_bytes() == content


def test_a_function_that_fails_is_a_mistake_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ZeroDivisionError: no such thing"):
        run(tmp_path, function("broken"))


def test_with_few_real_rows_no_grader_can_show_that_it_is_good(tmp_path: Path) -> None:
    assert not record_of(run(tmp_path, function("fair"), real=1)).has_vote


def test_grounding_finds_swapped_facts_and_other_documents(tmp_path: Path) -> None:
    record = record_of(run(tmp_path, config(kind="grounding")))
    assert record.has_vote
    assert record.found["swapped"].value > 0.9
    assert record.found["other"].value > 0.9
    assert record.kept_good is not None
    assert record.kept_good.value == 1.0
