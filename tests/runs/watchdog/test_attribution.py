"""Which rank a stall is attributed to, from signs that are written down here."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.runs.watchdog.attribution import (
    DIED,
    LOST_S,
    PATIENCE,
    PATIENT_PHASES,
    SILENT_S,
    ObservedRank,
    SignHistory,
    breaking_rank,
    dead_rank,
    patience_s,
    stalling_rank,
)
from trainer.runs.watchdog.signs import LEFT, ProcessState, Sign

IN_A_COLLECTIVE = ("trainer/engines/engine.py:9 train_step", "torch/distributed/distributed_c10d.py:1 all_reduce")
IN_THE_DATA = ("trainer/data/loader.py:7 next",)


def sign(rank: int, *, count: int = 1, step: int = 5, beats: int = 2, **more: Any) -> Sign:
    fields = {"host": "a", "space": "s", "pid": 100 + rank, "born": "1", "phase": "training", "stack": IN_A_COLLECTIVE}
    return Sign(rank=rank, count=count, step=step, beats=beats, **{**fields, **more})


def observed(rank: int, *, silent_s: float = 0.0, process: ProcessState = "running", **more: Any) -> ObservedRank:
    return ObservedRank(sign=sign(rank, **more), silent_s=silent_s, process=process)


def test_a_rank_whose_process_is_gone_is_dead_whatever_its_phase() -> None:
    for phase in ("training", *PATIENT_PHASES):
        attribution = dead_rank([observed(1), observed(2, process="gone", phase=phase)])
        assert attribution is not None
        assert (attribution.sign.rank, attribution.reason, attribution.can_report) == (2, DIED, False)


@pytest.mark.parametrize("phase", LEFT)
def test_a_rank_that_has_left_by_itself_is_not_dead(phase: str) -> None:
    assert dead_rank([observed(1, process="gone", phase=phase)]) is None
    assert dead_rank([observed(1, process="hidden", silent_s=10 * LOST_S, phase=phase)]) is None


def test_a_silent_rank_on_another_host_is_lost_after_a_while_and_not_before() -> None:
    assert dead_rank([observed(1, process="hidden", silent_s=LOST_S - 1)]) is None
    attribution = dead_rank([observed(1, process="hidden", silent_s=LOST_S)])
    assert attribution is not None
    assert "host may be gone" in attribution.reason


def test_silence_is_not_death_while_saving_or_while_proc_shows_the_process() -> None:
    for phase in PATIENT_PHASES:
        assert dead_rank([observed(1, process="hidden", silent_s=10 * LOST_S, phase=phase)]) is None
    assert dead_rank([observed(1, process="running", silent_s=10 * LOST_S)]) is None


def test_a_stopped_rank_stalls_before_a_silent_one_and_a_silent_one_before_one_that_is_behind() -> None:
    behind = observed(1, step=4)
    silent = observed(2, silent_s=SILENT_S)
    stopped = observed(3, process="stopped", silent_s=SILENT_S)
    attributions = [
        stalling_rank(sign(0), others, idle_s=9)
        for others in ([behind, silent, stopped], [behind, silent], [behind, observed(2)])
    ]
    assert [attribution.sign.rank for attribution in attributions] == [3, 2, 1]
    assert [attribution.can_report for attribution in attributions] == [False, False, True]
    reasons = (
        "is stopped by a signal in step 5",
        "gives no heartbeat in step 5",
        "made no progress for 9 s in step 4",
    )
    for attribution, reason in zip(attributions, reasons, strict=True):
        assert attribution.reason.startswith(reason)


def test_among_ranks_that_came_equally_far_the_one_outside_of_a_collective_stalls() -> None:
    attribution = stalling_rank(sign(0), [observed(1), observed(2, stack=IN_THE_DATA)], idle_s=9)
    assert attribution.sign.rank == 2
    assert stalling_rank(sign(0, stack=IN_THE_DATA), [observed(1)], idle_s=9).sign.rank == 0


def test_a_rank_that_has_left_does_not_stall() -> None:
    attribution = stalling_rank(sign(0), [observed(1, step=1, phase="ended", silent_s=99)], idle_s=9)
    assert attribution.sign.rank == 0


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.booleans()), max_size=6), st.integers(1, 3))
def test_no_rank_ahead_of_another_stalls_where_all_live(others: list[tuple[int, int, bool]], own_step: int) -> None:
    ranks = [
        observed(number + 1, step=step, beats=beats, stack=IN_A_COLLECTIVE if waits else IN_THE_DATA)
        for number, (step, beats, waits) in enumerate(others)
    ]
    own = sign(0, step=own_step)
    stalling = stalling_rank(own, ranks, idle_s=9).sign
    assert stalling.place == min(each.place for each in [own, *(rank.sign for rank in ranks)])


def test_a_broken_collective_is_laid_to_the_rank_that_is_gone() -> None:
    attribution = breaking_rank([observed(1), observed(2, process="gone")], {}, waited_s=0)
    assert attribution is not None
    assert (attribution.sign.rank, attribution.reason) == (2, DIED)


def test_a_broken_collective_is_laid_to_a_rank_without_a_new_sign_once_there_would_have_been_one() -> None:
    before = {1: sign(1, count=7), 2: sign(2, count=7)}
    others = [observed(1, count=9), observed(2, count=7)]
    assert breaking_rank(others, before, waited_s=SILENT_S) is None
    attribution = breaking_rank(others, before, waited_s=SILENT_S + 0.1)
    assert attribution is not None
    assert attribution.sign.rank == 2
    left = [observed(1, count=9), observed(2, count=7, phase="failed")]
    assert breaking_rank(left, {**before, 2: left[1].sign}, waited_s=9) is None


def test_the_history_counts_silence_from_the_last_new_sign() -> None:
    history = SignHistory().after({1: sign(1, count=1), 2: sign(2, count=1)}, 2.0)
    history = history.after({1: sign(1, count=2), 2: sign(2, count=1)}, 5.0)
    assert (history.silent_s(1, 6.0), history.silent_s(2, 6.0)) == (1.0, 4.0)
    history = history.after({2: sign(2, count=1)}, 8.0)  # rank 1 is just being written
    assert history.signs[1].count == 2


def test_patience_is_longer_in_phases_that_take_long_and_until_the_second_step() -> None:
    assert patience_s(10, phase="training", steps_begun=3) == 10
    assert patience_s(10, phase="training", steps_begun=2) == 10 * PATIENCE
    assert {patience_s(10, phase=phase, steps_begun=9) for phase in PATIENT_PHASES} == {10 * PATIENCE}
