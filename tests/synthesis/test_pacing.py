"""When calls may begin: rules, for any order of answers and failures."""

import math

from hypothesis import given
from hypothesis import strategies as st

from trainer.synthesis.generators.pacing import LONGEST_PAUSE_S, Breaker, RetryBudget, SharedTime, Window


@given(st.integers(1, 500), st.lists(st.booleans()))
def test_calls_in_flight_stay_between_one_and_the_most_allowed(most: int, answers: list[bool]) -> None:
    window = Window(most)
    for now_s, is_answered in enumerate(answers):
        window.answered() if is_answered else window.refused(began_s=now_s, now_s=now_s)
        assert 1 <= window.size <= most


def test_many_refusals_of_calls_that_began_together_halve_the_window_once() -> None:
    window = Window(64)
    for _ in range(56):
        window.answered()
    for now_s in (10.0, 10.1, 10.2):
        window.refused(began_s=9.0, now_s=now_s)
    assert window.size == 32
    window.refused(began_s=10.5, now_s=11.0)
    assert window.size == 16
    for _ in range(16):
        window.answered()
    assert 16.9 < window.size <= 17


def test_an_open_breaker_lets_one_probe_through_after_pauses_that_double_up_to_a_minute() -> None:
    breaker, now_s, waits = Breaker(opens_after=3, pause_s=1.0), 0.0, []
    for _ in range(3):
        assert breaker.wait_s(now_s) == 0
        breaker.failed(breaker.begin(), now_s)
    for _ in range(8):
        waits.append(breaker.wait_s(now_s))
        now_s += waits[-1]
        assert breaker.begin() == "probe"
        assert breaker.wait_s(now_s) == math.inf
        breaker.failed("probe", now_s)
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    now_s += breaker.wait_s(now_s)
    breaker.answered(breaker.begin())
    assert breaker.wait_s(now_s) == 0
    assert breaker.begin() == "call"


@given(st.floats(0, 2), st.lists(st.booleans(), max_size=300))
def test_retries_are_at_most_their_share_of_the_answers_and_a_few(share: float, answers: list[bool]) -> None:
    budget, answered, taken = RetryBudget(share), 0, 0
    for is_answered in answers:
        if is_answered:
            budget.answered()
            answered += 1
        else:
            taken += budget.take()
        assert taken <= 21 + share * answered


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), min_size=1, max_size=20))
def test_the_parts_of_calls_add_up_to_the_time_in_which_there_was_one(spans: list[tuple[float, float]]) -> None:
    shared, marks, total_s, busy_s = SharedTime(), {}, 0.0, 0.0
    begins = [(begin_s, 0, number) for number, (begin_s, _) in enumerate(spans)]
    events = sorted(begins + [(begin_s + spans[number][1], 1, number) for begin_s, _, number in begins])
    last_s = events[0][0]
    for now_s, is_end, number in events:
        busy_s += now_s - last_s if marks else 0.0
        last_s = now_s
        if is_end:
            total_s += shared.end(marks.pop(number), now_s)
        else:
            marks[number] = shared.begin(now_s)
    assert math.isclose(total_s, busy_s, abs_tol=1e-6)
