"""Ctrl-C, a terminal that goes away, SIGTERM: the first saves, the second ends at once, always with an outcome."""

import signal
from pathlib import Path

import pytest

from tests.together.launches import Place, by_step, lines, outcome, reached, wait_until

INT, HUP, TERM = signal.SIGINT, signal.SIGHUP, signal.SIGTERM
LONG_STEPS = ("mixture.global_batch=300", "training.micro_batch=1", "checkpoint.every_steps=1000")


@pytest.mark.parametrize("number", [INT, HUP])
def test_the_first_signal_saves_and_the_run_resumes_as_if_it_had_not_been_stopped(
    place: Place, alone: Path, number: int
) -> None:
    run = place.folder / f"stopped-{number}"
    live = place.fit(run)
    assert wait_until(live, reached(run, 7)), live.wait().output
    live.send(number)
    ended = live.wait()
    assert (ended.code, outcome(run)["exit_code"], outcome(run)["state"]) == (75, 75, "interrupted")
    assert "Traceback" not in ended.output
    assert "run the same command again to resume" in outcome(run)["reason"]
    assert "run the same command again to resume" in " ".join(ended.output.split())
    assert (run / "checkpoints" / f"step-{outcome(run)['step']:08d}").is_dir()
    assert lines(run)[-1]["kind"] == "finish"
    assert place.fit(run).wait().code == 0
    assert by_step(run, "loss") == by_step(alone, "loss")


@pytest.mark.parametrize(("first", "second"), [(INT, INT), (TERM, INT), (HUP, TERM)])
def test_a_second_signal_ends_the_run_at_once_with_an_outcome(place: Place, first: int, second: int) -> None:
    run = place.folder / f"ended-{first}-{second}"
    live = place.fit(run, *LONG_STEPS)
    assert wait_until(live, reached(run, 1)), live.wait().output
    live.send(first)
    assert wait_until(live, lambda: "Again to end immediately" in live.log.read_text()), live.wait().output
    live.send(second)
    ended = live.wait()
    assert ended.code == 128 + second
    assert "Traceback" not in ended.output
    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("interrupted", 128 + second)
    assert "run the same command again to resume" in " ".join(ended.output.split())
    assert not list((run / "checkpoints").glob("step-*")), "it saved: the second signal has not ended it"


def test_ctrl_c_to_the_launcher_saves_on_all_ranks(place: Place) -> None:
    run = place.folder / "launcher-stopped"
    live = place.launch(run, processes=2)
    assert wait_until(live, reached(run, 7)), live.wait().output
    live.send(INT)
    live.wait()
    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("interrupted", 75)
    assert (run / "checkpoints" / f"step-{outcome(run)['step']:08d}").is_dir()
