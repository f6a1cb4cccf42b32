import json
import math
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from trainer.control import guard
from trainer.control.detector import LOG_EMPTY, RATES, Track, jitter_sd, look
from trainer.control.guard import GuardConfig, judge, settings_of

CONFIG = GuardConfig()
JITTER = 0.003  # nats per token, between checkpoints
PAIR_VARIANCE = 0.06**2 / 2000  # of a mean over 2,000 documents
SHARES = {"real": 400_000, "written": 300_000, "bad": 300_000}


# calibration: the detector's own code on many streams at once


def empty_track(settings, num_streams):
    """A track of each stream that has seen nothing."""
    return Track(
        means=np.full((num_streams, settings.history_readings), np.nan),
        log_evidence=np.full((num_streams, len(RATES)), LOG_EMPTY),
    )


def noise(rng, num_streams, num_readings, correlation=0.0):
    fresh = rng.standard_normal((num_streams, num_readings))
    series = fresh.copy()
    for t in range(1, num_readings):
        series[:, t] = correlation * series[:, t - 1] + math.sqrt(1 - correlation**2) * fresh[:, t]
    return JITTER * series


def healthy(name, rng, num_streams, num_readings=200):
    t = np.arange(num_readings)
    white = noise(rng, num_streams, num_readings)
    rate = 0.5 * (1 + np.cos(np.pi * t / num_readings))  # cosine: loss and jitter fall together
    return {
        "plateau": lambda: white,
        "student t5": lambda: JITTER * rng.standard_t(5, white.shape) / math.sqrt(5 / 3),
        "AR(1) 0.5": lambda: noise(rng, num_streams, num_readings, 0.5),
        "learning rate decay": lambda: -0.15 * (1 - rate) + white * (0.1 + rate),
        "falling loss": lambda: 2.0 * (1 + t) ** -0.4 + white,
        "falling loss, AR(1) 0.5": lambda: 2.0 * (1 + t) ** -0.4 + noise(rng, num_streams, num_readings, 0.5),
    }[name]()


def first_alarms(streams, config=CONFIG):
    """Index of each stream's first alarm, -1 where there is none."""
    settings = settings_of(config)
    track = empty_track(settings, len(streams))
    first = np.full(len(streams), -1)
    for t, means in enumerate(streams.T):
        track, found = look(settings, track, means, np.full(len(streams), PAIR_VARIANCE))
        first = np.where((first < 0) & (found.log_evidence >= math.log(config.alarm_every)), t, first)
    return first


@pytest.mark.parametrize(
    "name",
    ["plateau", "student t5", "AR(1) 0.5", "learning rate decay", "falling loss", "falling loss, AR(1) 0.5"],
)
def test_at_most_one_healthy_run_in_a_hundred_is_alarmed_within_200_readings(name):
    num = 800
    alarmed = (first_alarms(healthy(name, np.random.default_rng(21), num)) >= 0).mean()
    assert alarmed <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / num)


@pytest.mark.parametrize(("correlation", "median", "most"), [(0.0, 8, 16), (0.5, 10, 24)])
def test_a_lasting_rise_of_three_sigma_is_found_in_a_few_readings(correlation, median, most):
    streams = noise(np.random.default_rng(22), 400, 160, correlation)
    streams[:, 100:] += 3 * JITTER
    first = first_alarms(streams)
    delays = np.where(first < 0, 999, first - 100 + 1)[(first < 0) | (first >= 100)]
    assert np.median(delays) <= median
    assert np.quantile(delays, 0.9) <= most


def test_the_paired_test_without_jitter_alarms_on_nearly_every_healthy_run():
    streams = healthy("plateau", np.random.default_rng(21), 800)
    z = (streams[:, 10:] - streams[:, :10].mean(axis=1, keepdims=True)) / math.sqrt(PAIR_VARIANCE)
    assert (z > 1.645).any(axis=1).mean() > 0.95
    assert (z > 3).any(axis=1).mean() > 0.95


@pytest.mark.parametrize(("correlation", "low", "high"), [(0.0, 0.95, 1.5), (0.5, 0.95, 1.6)])
def test_the_jitter_is_estimated_within_the_run_and_not_too_small(correlation, low, high):
    estimates = jitter_sd(noise(np.random.default_rng(23), 200, 100, correlation)) / JITTER
    assert low < np.median(estimates) < high


def test_a_straight_fall_of_the_loss_is_no_jitter():
    rows = noise(np.random.default_rng(24), 50, 100)
    assert np.allclose(jitter_sd(rows - 0.01 * np.arange(100)), jitter_sd(rows))


# judging single readings


def judged(observe, losses, config=CONFIG, worth=None, shares=SHARES, state=None):
    """State and verdicts after readings whose held-out loss is shifted by ``losses``."""
    state, verdicts = state or guard.begin(), []
    for number, loss in enumerate(losses):
        seen = observe(10 * (number + 1), shares, loss=loss, worth=worth, steps=100_000)
        state, verdict = judge(config, state, seen)
        verdicts.append(verdict)
    return state, verdicts


def rise(healthy_readings=60, raised=40, by=6.0):
    losses = noise(np.random.default_rng(25), 1, healthy_readings + raised)[0]
    losses[healthy_readings:] += by * JITTER
    return losses


def test_judging_reading_by_reading_is_what_the_calibration_measures(observe):
    losses = rise()
    settings, track = settings_of(CONFIG), empty_track(settings_of(CONFIG), 1)
    state = guard.begin()
    for number, loss in enumerate(losses):
        seen = observe(number, SHARES, loss=loss)
        track, found = look(settings, track, np.array([seen.reading.nats_per_token]), np.zeros(1))
        state, verdict = judge(CONFIG, state, seen)
        if "z" in verdict.evidence:
            assert verdict.evidence["z"] == pytest.approx(found.z[0], abs=1e-6)
            assert verdict.evidence["evidence"] == pytest.approx(math.exp(found.log_evidence[0]), rel=1e-4)
        if found.log_evidence[0] >= math.log(CONFIG.alarm_every):
            assert "has risen" in verdict.reason
            return
    pytest.fail("a rise of six sigma was not found")


def test_the_guard_is_silent_until_it_has_seen_enough(observe):
    losses = [0.0, 0.001, 0.0, 0.001, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    _, verdicts = judged(observe, losses)
    assert {verdict.action for verdict in verdicts} == {"ok"}
    assert "of the 10 readings it needs" in verdicts[-1].reason


def test_without_a_source_to_blame_it_warns_then_rolls_back_then_stops(observe):
    state, verdicts = judged(observe, rise())
    actions = [verdict.action for verdict in verdicts if "has risen" in verdict.reason]
    assert actions[:2] == ["warn", "rollback"]
    assert verdicts[59].action == "ok"
    rollback = next(verdict for verdict in verdicts if verdict.action == "rollback")
    assert 400 < rollback.evidence["anchor_step"] <= 600  # the rise began after step 600
    again = rise()
    _, verdicts = judged(observe, again, state=state)
    assert "stop" in [verdict.action for verdict in verdicts]


def test_what_the_recipe_does_not_allow_is_not_done(observe):
    config = GuardConfig(max_rollbacks=0, stop=False)
    _, verdicts = judged(observe, rise(), config)
    assert {verdict.action for verdict in verdicts} == {"ok", "warn"}
    assert len([verdict for verdict in verdicts if "has risen" in verdict.reason]) > 1
    _, verdicts = judged(observe, rise(), GuardConfig(cut=False), worth={"real": 0.9, "written": 0.9, "bad": -0.5})
    assert "cut" not in {verdict.action for verdict in verdicts}
    _, verdicts = judged(observe, rise(), GuardConfig(enabled=False))
    assert {verdict.action for verdict in verdicts} == {"ok"}


def test_the_source_that_the_evidence_blames_is_cut(observe):
    _, verdicts = judged(observe, rise(), worth={"real": 0.9, "written": 0.9, "bad": -0.5})
    first = next(verdict for verdict in verdicts if "has risen" in verdict.reason)
    assert (first.action, first.source) == ("cut", "bad")
    assert "bad is to blame" in first.reason
    assert first.evidence["sources"]["bad"]["worth"] == pytest.approx(-0.5)


@pytest.mark.parametrize(
    "worth",
    [
        {"real": -0.5, "written": 0.9, "bad": 0.9},  # real data are never cut
        {"real": 0.1, "written": 0.1, "bad": 0.1},  # none is worse than the others
        {"real": 0.9, "written": 0.9, "bad": 0.4},  # worth little, but not nothing
        {"bad": -0.5},  # nothing to compare with
        {},
    ],
)
def test_without_evidence_beyond_its_error_nobody_is_cut(observe, worth):
    _, verdicts = judged(observe, rise(), worth=worth)
    assert any("no source is to blame" in verdict.reason for verdict in verdicts)
    assert "cut" not in {verdict.action for verdict in verdicts}


def test_after_an_alarm_synthetic_shares_stay_frozen_for_a_while(observe):
    losses = rise(60, 12)
    _, verdicts = judged(observe, losses)
    alarm = next(i for i, verdict in enumerate(verdicts) if "has risen" in verdict.reason)
    assert [verdict.action for verdict in verdicts[alarm : alarm + 2]] == ["warn", "warn"]


def test_old_alarms_are_forgotten(observe):
    calm = noise(np.random.default_rng(26), 1, CONFIG.memory_readings + 60)[0]
    alarmed = {**guard.begin(), "strikes": 2, "quiet": 0}
    state, _ = judged(observe, calm, state=alarmed)
    assert state["strikes"] == 0


def test_readings_under_suspicion_do_not_become_the_anchor(observe):
    state, verdicts = judged(observe, rise(60, 6, by=10.0), GuardConfig(alarm_every=1e12))
    means = np.array(state["means"])
    healthy_level = observe(0, SHARES).reading.nats_per_token
    assert verdicts[-1].action == "warn"
    assert (means > healthy_level + 5 * JITTER).sum() <= 3


def test_a_reading_that_is_not_finite_or_too_small_changes_nothing(observe):
    state, _ = judged(observe, rise(20, 0))
    good = observe(300, SHARES).reading
    broken = replace(good, nats=np.where(np.arange(40) == 3, np.nan, good.nats))
    few = replace(good, nats=good.nats[:9], tokens=good.tokens[:9], num_bytes=good.num_bytes[:9])
    empty = replace(good, tokens=np.where(np.arange(40) == 3, 0, good.tokens))
    for reading, why in ((broken, "not finite"), (few, "the guard needs 30"), (empty, "no tokens")):
        after, verdict = judge(CONFIG, state, observe(300, SHARES, reading=reading))
        assert after == state
        assert verdict.action == "ok"
        assert why in verdict.reason


def test_other_held_out_documents_start_a_new_comparison(observe):
    state, _ = judged(observe, rise(20, 0))
    good = observe(300, SHARES).reading
    fewer = replace(good, nats=good.nats[:35], tokens=good.tokens[:35], num_bytes=good.num_bytes[:35])
    after, verdict = judge(CONFIG, state, observe(300, SHARES, reading=fewer))
    assert len(after["documents"]) == 35
    assert len(after["means"]) == 1
    assert "readings it needs" in verdict.reason


def test_a_constant_loss_is_in_order(observe):
    _, verdicts = judged(observe, [0.0] * 40)
    assert {verdict.action for verdict in verdicts} == {"ok"}


def test_the_state_survives_json_exactly(observe):
    losses = rise(40, 20, by=4.0)
    plain, stored, seen_plain, seen_stored = guard.begin(), guard.begin(), [], []
    worth = {"real": 0.9, "written": 0.8, "bad": -0.1}
    for number, loss in enumerate(losses):
        seen = observe(number, SHARES, loss=loss, worth=worth, rng=np.random.default_rng(number))
        plain, first = judge(CONFIG, plain, seen)
        stored, second = judge(CONFIG, json.loads(json.dumps(stored, allow_nan=False)), seen)
        json.dumps(first.evidence, allow_nan=False)
        seen_plain.append(first)
        seen_stored.append(second)
    assert seen_plain == seen_stored
    assert plain == stored


def test_settings_that_contradict_each_other_are_refused():
    for wrong in ({"warn_every": 3000}, {"history_readings": 20}, {"min_readings": 200}):
        with pytest.raises(ValidationError, match="must"):
            GuardConfig(**wrong)
