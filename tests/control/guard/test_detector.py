"""What the sequential test promises, measured on many simulated streams together."""

import math

import numpy as np
import pytest

from experiments.streams import JITTER, NEVER, damaged, delays, first_alarms, healthy, noise
from trainer.control.guard.config import GuardConfig
from trainer.control.guard.detector import (
    CLIP,
    MAX_HELD_BACK,
    DetectorSettings,
    discoveries,
    empty_state,
    start_weight,
    update,
)

CONFIG = GuardConfig()
SETTINGS = DetectorSettings(history_evaluations=100, min_evaluations=10, margin=0.15, suspicion=math.log(5))


def scored(rows, settings=SETTINGS, **options):
    """The state after ``rows`` [S, R], and the scores of each evaluation."""
    state, scores = empty_state(settings, len(rows)), []
    for values in rows.T:
        state, score = update(settings, state, values, **options)
        scores.append(score)
    return state, scores


def within_one_percent(alarmed, num):
    return alarmed <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / num)


@pytest.mark.parametrize("kind", ["white", "t5", "ar"])
def test_at_most_one_healthy_run_in_a_hundred_is_alarmed_within_200_evaluations(kind):
    num = 200 if kind == "ar" else 80
    alarmed = first_alarms(healthy(kind, np.random.default_rng(21), num), CONFIG) < NEVER
    assert within_one_percent(alarmed.mean(), num)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(
    "fall",
    [lambda area, rate: -0.15 * (1 - rate), lambda area, rate: 0.6 * area**-0.4 - 0.1 * (1 - rate)],
    ids=["only the rate", "power law and rate"],
)
def test_a_falling_learning_rate_raises_no_alarm(schedule, fall):
    streams = healthy("white", np.random.default_rng(22), 60, schedule=schedule, fall=fall)
    assert within_one_percent((first_alarms(streams, CONFIG, parts=("global",)) < NEVER).mean(), 60)


@pytest.mark.parametrize(
    ("kind", "what", "median", "most"),
    [("white", "step", 6, 12), ("ar", "step", 8, 16), ("white", "tail", 6, 12), ("ar", "tail", 8, 16)],
)
def test_a_lasting_rise_of_three_sigma_is_detected_in_a_few_evaluations(kind, what, median, most):
    streams = damaged(healthy(kind, np.random.default_rng(23), 200, 130), what, 100)
    first = first_alarms(streams, CONFIG, parts=("global",))
    delay = delays(first, 100)
    assert len(delay) >= 0.97 * 200
    assert np.median(delay) <= median
    assert np.quantile(delay, 0.9) <= most


def test_synthetic_loss_that_falls_while_real_loss_stands_is_detected():
    streams = healthy("white", np.random.default_rng(24), 100, 140)
    delay = delays(first_alarms(damaged(streams, "gap", 100), CONFIG, parts=("global",)), 100)
    assert np.median(delay) <= 12


def test_a_gap_that_opens_while_real_loss_still_falls_raises_no_alarm():
    streams = healthy("white", np.random.default_rng(24), 100, 140, fall=lambda area, rate: -0.5 * area)
    first = first_alarms(damaged(streams, "gap", 100), CONFIG, parts=("global",))
    assert (first < NEVER).mean() <= 0.03


def test_a_slice_that_rises_alone_is_detected_by_the_slices_only():
    streams = damaged(healthy("white", np.random.default_rng(25), 80, 140), "slice", 100)
    assert np.median(delays(first_alarms(streams, CONFIG, parts=("slices",)), 100)) <= 16
    assert (first_alarms(streams, CONFIG, parts=("global",)) < NEVER).mean() <= 0.03


def test_the_paired_test_without_jitter_alarms_on_nearly_every_healthy_run():
    streams = healthy("white", np.random.default_rng(21), 200).mean
    error = 0.06 / math.sqrt(2000)  # of a mean over 2,000 documents
    z = (streams[:, 10:] - streams[:, :10].mean(axis=1, keepdims=True)) / error
    assert (z > 3).any(axis=1).mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["white", "t5", "ar"])
def test_at_most_one_healthy_run_in_a_hundred_is_alarmed_of_two_thousand(kind):
    alarmed = first_alarms(healthy(kind, np.random.default_rng(34), 2000), CONFIG) < NEVER
    assert within_one_percent(alarmed.mean(), 2000)


@pytest.mark.parametrize(("kind", "correlation"), [("white", 0.0), ("ar", 0.5)])
def test_jitter_and_correlation_are_estimated_within_the_run(kind, correlation):
    rows = JITTER * noise(kind, np.random.default_rng(26), (200, 101)) - 0.001 * np.arange(101)
    score = scored(rows)[1][-1]
    assert np.median(score.jitter) == pytest.approx(JITTER, rel=0.08)
    assert abs(np.median(score.correlation) - correlation) < 0.27  # half way to what is assumed before it is known


def test_figures_of_a_healthy_stream_are_standard_normal_and_uncorrelated():
    settings = DetectorSettings(history_evaluations=100, min_evaluations=10, margin=0.0, suspicion=1e9)
    _, scores = scored(JITTER * noise("ar", np.random.default_rng(27), (300, 120)), settings)
    z = np.array([score.z for score in scores[60:]])
    assert z.std() == pytest.approx(0.97, abs=0.06)  # clipped at 2.5
    assert -0.4 < z.mean() < 0.0  # below 0 by the error of what is expected
    assert abs(np.mean(z[1:] * z[:-1])) < 0.1


def test_a_single_outlier_however_large_raises_no_alarm():
    rows = JITTER * noise("white", np.random.default_rng(28), (50, 60))
    rows[:, 50] += 1000 * JITTER
    _, scores = scored(rows)
    assert max(score.z.max() for score in scores) <= CLIP
    assert max(score.log_evidence.max() for score in scores[50:]) < math.log(4 * CONFIG.alarm_at)


def test_suspicious_evaluations_join_the_past_only_when_the_suspicion_is_over():
    rows = JITTER * noise("white", np.random.default_rng(29), (1, 70))
    rows[:, 60:] += 6 * JITTER
    state, scores = scored(rows)
    assert state.held_back[0] >= 8
    assert scores[-1].expected[0] == pytest.approx(rows[0, :60].mean(), abs=JITTER)
    calm = rows.copy()
    calm[:, 60:] -= 6 * JITTER
    assert scored(calm)[0].held_back[0] == 0


def test_evaluations_are_held_back_for_a_limited_time():
    rows = JITTER * noise("white", np.random.default_rng(30), (1, 60 + 3 * MAX_HELD_BACK))
    rows[:, 60:] += 6 * JITTER
    assert scored(rows)[0].held_back[0] <= MAX_HELD_BACK


def test_a_missing_evaluation_leaves_the_evidence_as_it_was():
    rows = JITTER * noise("white", np.random.default_rng(31), (1, 40))
    state, _ = scored(rows)
    after, missing = update(SETTINGS, state, np.array([np.nan]))
    assert after.log_evidence.tolist() == state.log_evidence.tolist()
    assert not missing.ready[0]
    following = update(SETTINGS, after, np.array([100 * JITTER]))[1]
    assert following.ready[0]
    assert following.z[0] == CLIP


def test_nothing_is_detected_at_a_rate_outside_what_the_past_spans():
    rate = np.ones(SETTINGS.kept_evaluations + 1)
    rate[-1] = 0.5
    trend = np.column_stack([np.ones_like(rate), rate])
    state, _ = scored(JITTER * noise("white", np.random.default_rng(32), (1, 60)))
    _, score = update(SETTINGS, state, np.array([50 * JITTER]), trends=[trend])
    assert score.ready[0]
    assert score.z[0] < 0.1


def test_the_weights_of_all_starts_of_an_e_process_sum_to_one():
    weights = [start_weight(number) for number in range(1, 200_000)]
    assert 0.99 < sum(weights) < 1.0


def test_an_e_process_of_healthy_evaluations_has_a_mean_of_at_most_one():
    settings = DetectorSettings(history_evaluations=100, min_evaluations=10, margin=0.0, suspicion=1e9)
    rows, state, means = noise("white", np.random.default_rng(33), (1500, 50)), empty_state(settings, 1500), []
    for number, values in enumerate(rows.T):
        state, score = update(settings, state, values, weight=start_weight(number + 1))
        means.append(np.exp(score.log_evidence).mean())
    assert max(means[20:]) < 1.0


@pytest.mark.parametrize(
    ("evidence", "risen"),
    [
        ([400, 1, 1, 1], [True, False, False, False]),  # 4 / (1 x 0.01)
        ([399, 1, 1, 1], [False, False, False, False]),
        ([201, 1, 205, 1], [True, False, True, False]),  # 4 / (2 x 0.01)
        ([101, 101, 101, 101], [True, True, True, True]),
        ([101, 101, 101, 99], [False, False, False, False]),
    ],
)
def test_e_bh_rejects_as_many_as_their_number_allows(evidence, risen):
    assert discoveries(np.log([evidence]), 0.01).tolist() == [risen]
