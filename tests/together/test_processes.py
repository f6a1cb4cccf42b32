"""The same recipe on one, two, three and four processes: the same samples, the same decisions, the same losses."""

import json
from pathlib import Path

import pytest

from tests.together.conftest import launched
from tests.together.launches import PRICED, Place, by_step, decisions, lines, predicted

STEPS = list(range(1, 51))


def decided(run: Path) -> list[tuple[int, str, dict[str, int], str]]:
    return [(line["step"], line["action"], line["shares"], line["reason"]) for line in decisions(run)]


def assert_same_run(run: Path, alone: Path, world_size: int) -> None:
    assert lines(run, "start")[0]["world_size"] == world_size
    assert by_step(run, "batch_hash") == by_step(alone, "batch_hash")
    assert by_step(run, "counts") == by_step(alone, "counts")
    assert decided(run) == decided(alone)
    losses, expected = by_step(run, "loss"), by_step(alone, "loss")
    assert list(losses) == STEPS
    assert max(abs(losses[step] / expected[step] - 1) for step in STEPS) < 1e-4
    for mine, other in zip(lines(run, "evaluation"), lines(alone, "evaluation"), strict=True):
        assert mine["step"] == other["step"]
        assert mine["nats_per_token"] == pytest.approx(other["nats_per_token"], rel=1e-4)


def test_a_run_changes_its_shares_at_least_twice_and_ends_with_one_source_cut(alone: Path) -> None:
    shares = [tuple(line.values()) for line in by_step(alone, "shares").values()]
    assert len(set(shares)) > 2
    assert by_step(alone, "shares")[50]["bad"] == 0
    assert by_step(alone, "counts")[50]["bad"] == 0
    assert by_step(alone, "loss")[50] < 0.9 * by_step(alone, "loss")[1]  # it does learn


def test_batch_hash_is_what_ledger_and_store_predict(alone: Path) -> None:
    assert {step: int(batch_hash) for step, batch_hash in by_step(alone, "batch_hash").items()} == predicted(alone)


def test_two_processes_train_on_the_same_samples_to_the_same_losses(pair: Path, alone: Path) -> None:
    assert_same_run(pair, alone, 2)
    assert {step: int(batch_hash) for step, batch_hash in by_step(pair, "batch_hash").items()} == predicted(pair)


def test_three_processes_train_on_the_same_samples_to_the_same_losses(trio: Path, alone: Path) -> None:
    assert_same_run(trio, alone, 3)


@pytest.mark.slow
def test_priced_measures_and_decides_alike_on_one_two_and_three_processes(place: Place) -> None:
    alone = place.folder / "priced-alone"
    assert (ended := place.fit(alone, *PRICED).wait()).code == 0, ended.output
    decisions_alone = [(step, action, shares) for step, action, shares, _ in decided(alone)]
    assert sum(action == "move" for _, action, _ in decisions_alone) > 2
    assert any(line.get("forgetting") for line in lines(alone, "evaluation"))
    assert any(line.get("gradient_alignment") for line in lines(alone, "evaluation"))
    for processes in (2, 3):
        run = launched(place, processes, *PRICED)
        assert [(step, action, shares) for step, action, shares, _ in decided(run)] == decisions_alone
        assert by_step(run, "batch_hash") == by_step(alone, "batch_hash")


@pytest.mark.slow
def test_four_processes_train_on_the_same_samples_to_the_same_losses(place: Place, alone: Path) -> None:
    assert_same_run(launched(place, 4), alone, 4)


def test_audit_prints_the_journalled_and_the_predicted_batch_hash_and_which_rank_had_what(
    place: Place, pair: Path
) -> None:
    ended = place.command("audit", str(pair), "--step", "37", "--json").wait()
    audited = json.loads(ended.output)
    assert audited["batch_hash"] == audited["predicted_batch_hash"] == int(by_step(pair, "batch_hash")[37])
    assert {slot["rank"] for slot in audited["slots"]} == {0, 1}
    assert [slot["slot"] for slot in audited["slots"]] == list(range(36 * 12, 37 * 12))


@pytest.mark.slow
def test_more_ranks_than_samples_in_a_batch_train_to_the_same_losses(place: Place) -> None:
    few = ["mixture.global_batch=2", "training.micro_batch=2", "training.steps=12"]
    trio, alone = launched(place, 3, *few), place.folder / "few-alone"
    assert place.fit(alone, *few).wait().code == 0
    assert by_step(trio, "batch_hash") == by_step(alone, "batch_hash")
    for step, loss in by_step(alone, "loss").items():
        assert by_step(trio, "loss")[step] == pytest.approx(loss, rel=1e-4)
