"""The learning rate after a resume under another schedule: what is a jump, and what is done about it."""

import json

import pytest

from trainer.model.config import TrainingConfig
from trainer.training.rate_jump import jump_at, rate_at, rates_of
from trainer.training.run import RunState


def training(steps: int, choice: str = "accept", **schedule: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "steps": steps,
            "micro_batch": 1,
            "learning_rate": 1.0,
            "rate_jump": choice,
            "schedule": {"kind": "cosine", **schedule},
        }
    )


@pytest.mark.parametrize("schedule", [{"kind": "cosine"}, {"kind": "wsd"}, {"kind": "cosine", "warmup_steps": 5}])
def test_a_finished_run_that_trains_longer_jumps(schedule: dict[str, object]) -> None:
    jump = jump_at(training(50, **schedule), training(100, **schedule), change=None, position=50)
    assert jump is not None
    assert jump.factor > 5
    assert (jump.after, jump.change.how) == (jump.by_schedule, "accept")


@pytest.mark.parametrize("position", [0, 1, 5, 12, 50])
def test_a_resume_under_the_same_schedule_never_jumps_not_even_in_its_warm_up(position: int) -> None:
    same = training(51, kind="cosine", warmup_steps=10)
    assert jump_at(same, same, change=None, position=position) is None


def test_a_constant_schedule_and_an_early_extension_of_another_do_not_jump() -> None:
    assert jump_at(training(50, kind="constant"), training(90, kind="constant"), change=None, position=50) is None
    assert jump_at(training(1_000), training(1_100), change=None, position=100) is None


def test_a_shorter_schedule_whose_rate_falls_at_once_is_told_too() -> None:
    jump = jump_at(training(100), training(60), change=None, position=50)
    assert jump is not None
    assert jump.factor < 0.2


def test_a_held_rate_never_rises_again_and_falls_with_the_schedule() -> None:
    held = training(100, "hold")
    jump = jump_at(training(50), held, change=None, position=40)
    assert jump is not None
    rates = [rate_at(held, jump.change, position) for position in range(40, 100)]
    assert rates[0] == jump.before == jump.after
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == held.rate(99)
    assert max(rates_of(held, jump.change)) == jump.before


def test_a_rewarmed_rate_rises_step_by_step_to_the_schedule() -> None:
    rewarmed = training(100, "rewarm", kind="cosine", warmup_steps=4)
    jump = jump_at(training(50, kind="cosine", warmup_steps=4), rewarmed, change=None, position=50)
    assert jump is not None
    rates = [rate_at(rewarmed, jump.change, position) for position in range(50, 60)]
    assert jump.before < rates[0] < rates[1] < rates[2] < rates[3] < rates[4] == rewarmed.rate(54)
    assert rates[4:] == [rewarmed.rate(position) for position in range(54, 60)]


def test_a_choice_lasts_through_further_resumes_and_giving_it_up_is_a_jump_again() -> None:
    held = training(100, "hold")
    first = jump_at(training(50), held, change=None, position=50)
    assert first is not None
    change = RunState.from_json(json.loads(json.dumps(RunState(rate_change=first.change).to_json()))).rate_change
    assert change == first.change
    assert jump_at(held, held, change=change, position=60) is None
    again = jump_at(held, training(100), change=change, position=60)
    assert again is not None
    assert again.before == first.before


@pytest.mark.parametrize("choice", ["hold", "rewarm"])
def test_a_jump_that_was_accepted_can_be_taken_back_some_steps_later(choice: str) -> None:
    accepted = jump_at(training(50), training(100), change=None, position=50)
    assert accepted is not None
    change = RunState.from_json(json.loads(json.dumps(RunState(rate_change=accepted.change).to_json()))).rate_change
    assert jump_at(training(100), training(100), change=change, position=60) is None, "it is told once"
    assert rates_of(training(100), change) == training(100).rates()
    again = jump_at(training(100), training(100, choice), change=change, position=60)
    assert again is not None
    assert again.before == training(100).rate(59), "the rate of the last step, as the journal has it"
    assert again.change.from_rate == accepted.before
    assert again.after < 2 * training(100).rate(60) / 3
    if choice == "hold":
        assert again.after == accepted.before
