"""What the guard does about damage: how alarms escalate, what they are attributed to, and what it remembers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from experiments.streams import JITTER, noise
from trainer.base.records import GradientAlignment, SourceLoss
from trainer.control.guard.config import GuardConfig, detector_settings
from trainer.control.guard.detector import empty_state, update
from trainer.control.guard.guard import judge
from trainer.control.guard.state import GuardState

CONFIG = GuardConfig()
SHARES = {"real": 400_000, "written": 300_000, "bad": 300_000}
NUM_DOCUMENTS = 40


def judged(observe, shifts, config=CONFIG, source_value=None, shares=SHARES, state=None, **more):
    """State and verdicts after evaluations whose held-out loss is raised by ``shifts``; ``more`` of the observation by
    evaluation number.
    """
    state, verdicts = state or GuardState(), []
    first = state.monitor.steps[-1] // 10 if state.monitor.steps else 0
    for number, shift in enumerate(shifts, start=first):
        observation = observe(10 * (number + 1), shares, loss=shift, source_value=source_value, steps=100_000)
        observation = replace(observation, **{name: value(number) for name, value in more.items()})
        state, verdict = judge(config, state, observation)
        verdicts.append(verdict)
    return state, verdicts


def rise(healthy_evaluations=60, raised=40, by=6.0):
    losses = JITTER * noise("white", np.random.default_rng(25), (healthy_evaluations + raised,))
    losses[healthy_evaluations:] += by * JITTER
    return losses


def alarms(verdicts):
    """The verdicts on alarms."""
    return [verdict for verdict in verdicts if "alarm_count" in verdict.evidence]


def test_judging_one_evaluation_at_a_time_is_what_the_calibration_measures(observe):
    losses = rise()
    settings = detector_settings(CONFIG)
    state, detector = GuardState(), empty_state(settings, 1)
    for number, loss in enumerate(losses):
        observation = observe(number, SHARES, loss=loss, steps=1000)
        detector, score = update(settings, detector, np.array([observation.evaluation.nats_per_token]))
        state, verdict = judge(CONFIG, state, observation)
        if "z" in verdict.evidence:
            assert verdict.evidence["z"] == score.z[0]
            assert verdict.evidence["jitter_sd"] == score.jitter[0]
        if "alarm_count" in verdict.evidence:
            return
    pytest.fail("a rise of six sigma was not detected")


def test_the_guard_is_silent_until_it_has_seen_enough(observe):
    losses = [0.0, 0.001, 0.0, 0.001, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0]
    _, verdicts = judged(observe, losses)
    assert {verdict.action for verdict in verdicts} == {"ok"}
    assert "of the 10 evaluations it needs" in verdicts[-1].reason


def test_what_the_recipe_does_not_allow_is_not_done(observe):
    config = GuardConfig(max_rollbacks=0, stop=False)
    _, verdicts = judged(observe, rise(), config)
    assert {verdict.action for verdict in verdicts} == {"ok", "warn"}
    assert len(alarms(verdicts)) > 1
    _, verdicts = judged(
        observe, rise(), GuardConfig(cut=False), source_value={"real": 0.9, "written": 0.9, "bad": -0.5}
    )
    assert "cut" not in {verdict.action for verdict in verdicts}
    _, verdicts = judged(observe, rise(), GuardConfig(enabled=False))
    assert {verdict.action for verdict in verdicts} == {"ok"}


@pytest.mark.parametrize(
    "source_value",
    [
        {"real": -0.5, "written": 0.9, "bad": 0.9},  # real data are never cut
        {"real": 0.1, "written": 0.1, "bad": 0.1},  # none is worse than the others
        {"real": 0.9, "written": 0.9, "bad": 0.4},  # of little value, but some
        {"bad": -0.5},  # nothing to compare with
        {},
    ],
)
def test_without_evidence_beyond_its_error_no_source_is_cut(observe, source_value):
    _, verdicts = judged(observe, rise(), source_value=source_value)
    assert any("attributed to no source" in verdict.reason for verdict in verdicts)
    assert "cut" not in {verdict.action for verdict in verdicts}


def test_an_evaluation_that_is_not_finite_or_too_small_changes_nothing(observe):
    state, _ = judged(observe, rise(20, 0))
    good = observe(300, SHARES).evaluation
    broken = replace(good, loss_sum_nats=np.where(np.arange(40) == 3, np.nan, good.loss_sum_nats))
    few = replace(good, loss_sum_nats=good.loss_sum_nats[:9], tokens=good.tokens[:9], num_bytes=good.num_bytes[:9])
    empty = replace(good, tokens=np.where(np.arange(40) == 3, 0, good.tokens))
    for evaluation, why in ((broken, "not finite"), (few, "the guard needs 30"), (empty, "no tokens")):
        after, verdict = judge(CONFIG, state, observe(300, SHARES, evaluation=evaluation))
        assert after.monitor == state.monitor
        assert verdict.action == "ok"
        assert why in verdict.reason


def through_json(state):
    return GuardState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))


def test_the_state_survives_json_exactly(observe):
    losses = rise(40, 20, by=4.0)
    plain, stored, verdicts_plain, verdicts_stored = GuardState(), GuardState(), [], []
    source_value = {"real": 0.9, "written": 0.8, "bad": -0.1}
    for number, loss in enumerate(losses):
        observation = observe(number, SHARES, loss=loss, source_value=source_value, rng=np.random.default_rng(number))
        plain, first = judge(CONFIG, plain, observation)
        stored, second = judge(CONFIG, through_json(stored), observation)
        json.dumps(first.evidence, allow_nan=False)
        verdicts_plain.append(first)
        verdicts_stored.append(second)
    assert verdicts_plain == verdicts_stored
    assert plain == stored


def test_without_an_attribution_it_warns_then_rolls_back_then_stops(observe):
    state, verdicts = judged(observe, rise())
    assert [verdict.action for verdict in alarms(verdicts)][:2] == ["warn", "rollback"]
    assert verdicts[59].action == "ok"
    rollback = next(verdict for verdict in verdicts if verdict.action == "rollback")
    assert rollback.source is None
    assert 500 < rollback.evidence["last_healthy_step"] <= 600  # the rise began after step 600
    assert "stop" in [verdict.action for verdict in judged(observe, rise(0, 60), state=state)[1]]


def test_nothing_is_attributed_to_the_only_source_and_the_run_stops(observe):
    """It cannot be removed: the guard would warn forever."""
    alone, state, verdicts = {"real": 0, "written": 0, "bad": 1_000_000}, GuardState(), []
    rng = np.random.default_rng(9)
    for number, loss in enumerate(rise(raised=100)):
        observation = observe(number, alone, loss=loss)
        own = {"bad": 3.0 + 0.01 * rng.normal() + (1.0 if number >= 60 else 0.0)}  # its loss leaves its course
        observation = replace(observation, evaluation=replace(observation.evaluation, source_nats_per_token=own))
        state, verdict = judge(CONFIG, state, observation)
        verdicts.append(verdict)
    assert {verdict.source for verdict in verdicts} == {None}
    assert [verdict.action for verdict in alarms(verdicts)][:3] == ["warn", "rollback", "stop"]


def test_a_source_to_which_the_damage_is_attributed_is_cut(observe):
    _, verdicts = judged(observe, rise(), source_value={"real": 0.9, "written": 0.9, "bad": -0.5})
    first = alarms(verdicts)[0]
    assert (first.action, first.source) == ("cut", "bad")
    assert "attributed to bad: a token of it is worth -0.50" in first.reason
    assert first.evidence["sources"]["bad"]["source_value"] == pytest.approx(-0.5)


def test_a_source_whose_gradient_points_away_from_held_out_text_is_cut(observe):
    def evidence(number):
        away = {"written": 0.4, "bad": -0.4 if number >= 60 else 0.3}
        alignments = {
            name: GradientAlignment(inner_product=value, standard_error=0.1, variance=1.0, num_samples=32)
            for name, value in away.items()
        }
        return {"gradient_alignment": alignments}

    first = alarms(judged(observe, rise(), evidence=evidence)[1])[0]
    assert (first.action, first.source) == ("cut", "bad")
    assert "points away from held-out text" in first.reason


def poisoned_losses(source):
    """Training losses of which that on ``source`` jumps with the damage."""
    values = np.random.default_rng(40).normal(3.0, 0.02, (200, 3))

    def losses(number):
        jump = {source: 0.5 if number >= 60 else 0.0}
        return {
            name: SourceLoss(loss_sum_nats=1000 * (value + jump.get(name, 0.0)), tokens=1000)
            for name, value in zip(SHARES, values[number], strict=True)
        }

    return losses


def test_a_sign_is_not_a_finding_but_a_rollback_quarantines_the_suspected_source(observe):
    _, verdicts = judged(observe, rise(), losses=poisoned_losses("bad"))
    first, second = alarms(verdicts)[:2]
    assert first.action == "warn"
    assert (second.action, second.source) == ("rollback", "bad")
    assert "bad is suspected: its loss rose against that on held-out text" in second.reason


def test_a_source_that_just_joined_is_suspected_before_one_that_gained(observe):
    before = {"real": 500_000, "written": 500_000, "bad": 0}
    state, _ = judged(observe, rise(60, 0), shares=before)
    after = {"real": 340_000, "written": 560_000, "bad": 100_000}
    _, verdicts = judged(observe, rise(0, 40), shares=after, state=state)
    rollback = next(verdict for verdict in verdicts if verdict.action == "rollback")
    assert rollback.source == "bad"
    assert rollback.evidence["sources"]["written"]["signs"] == [
        "its share was raised from 0.500 to 0.560 shortly before"
    ]


def test_of_two_sources_with_equal_signs_neither_is_suspected(observe):
    raised = {"real": 200_000, "written": 400_000, "bad": 400_000}
    state, _ = judged(observe, rise(60, 0))
    _, verdicts = judged(observe, rise(0, 40), shares=raised, state=state)
    assert next(verdict for verdict in verdicts if verdict.action == "rollback").source is None


def test_where_no_rollback_is_left_the_suspected_source_is_cut(observe):
    config = GuardConfig(max_rollbacks=0)
    first, second = alarms(judged(observe, rise(), config, losses=poisoned_losses("bad"))[1])[:2]
    assert (first.action, second.action, second.source) == ("warn", "cut", "bad")


def test_what_is_not_lost_is_not_rolled_back(observe):
    """Held-out loss stands, synthetic loss falls away from it: that costs nothing that a rollback would restore."""
    noises = np.random.default_rng(41).normal(0, 0.01, (200, 2))

    def losses(number):
        fall = 0.1 if number >= 60 else 0.0
        figures = zip(("written", "bad"), noises[number], strict=True)
        return {name: SourceLoss(loss_sum_nats=1000 * (3.0 - fall + noise), tokens=1000) for name, noise in figures}

    _, verdicts = judged(observe, rise(100, 0), losses=losses)
    assert alarms(verdicts)[0].reason.startswith("Held-out loss stands, and synthetic loss falls away from it")
    assert "rollback" not in {verdict.action for verdict in verdicts}
    assert "stop" not in {verdict.action for verdict in verdicts}


def with_documents(observe, number, rows, slices=("all",), slice_of=None):
    """An observation with the losses of its documents raised by ``rows`` [D] nats per token."""
    observation = observe(10 * number + 10, SHARES, steps=100_000)
    evaluation = replace(
        observation.evaluation,
        loss_sum_nats=observation.evaluation.loss_sum_nats + rows * observation.evaluation.tokens,
        slices=slices,
    )
    return replace(observation, evaluation=evaluation if slice_of is None else replace(evaluation, slice_of=slice_of))


def test_damage_to_the_documents_of_highest_loss_alone_is_detected_in_the_tail(observe):
    rng, state, verdicts = np.random.default_rng(42), GuardState(), []
    observation = observe(1, SHARES)
    worst = np.argsort(-observation.evaluation.loss_sum_nats / observation.evaluation.tokens)[:4]
    for number in range(70):
        rows = JITTER * rng.standard_normal() + rng.normal(0, 0.01, NUM_DOCUMENTS)
        if number >= 50:
            rows[worst] += 0.05
            rows -= (
                0.05 * observation.evaluation.tokens[worst].sum() / observation.evaluation.tokens.sum()
            )  # the mean stays
        state, verdict = judge(CONFIG, state, with_documents(observe, number, rows))
        verdicts.append(verdict)
    assert sorted(state.monitor.tail) == sorted(worst.tolist())
    first = alarms(verdicts)[0]
    assert verdicts.index(first) >= 50
    assert first.reason.startswith("The tail loss (worst 10 %")


def test_a_slice_that_is_damaged_alone_is_named(observe):
    rng, state, verdicts = np.random.default_rng(43), GuardState(), []
    slice_of = np.arange(NUM_DOCUMENTS) % 4
    for number in range(80):
        rows = JITTER * rng.standard_normal() + rng.normal(0, 0.01, NUM_DOCUMENTS)
        if number >= 50:
            rows = rows + 0.03 * (slice_of == 2) - 0.01 * (slice_of != 2)
        observation = with_documents(observe, number, rows, ("law", "art", "sport", "food"), slice_of)
        state, verdict = judge(CONFIG, state, observation)
        verdicts.append(verdict)
    first = alarms(verdicts)[0]
    assert verdicts.index(first) >= 50
    assert first.evidence["risen_slices"] == ["sport"]
    bound = first.evidence["slice_alarm_at"]  # of one alone
    highest = [verdict.evidence["slices"]["sport"] for verdict in verdicts[: verdicts.index(first) + 1]]
    assert highest[-1] >= bound > max(highest[:-1])
    assert first.reason.startswith("Held-out loss of slice sport has risen")


def test_what_is_missing_is_not_judged_and_reported(observe):
    observation = observe(10, SHARES)
    observation = replace(observation, horizon=replace(observation.horizon, rates=()))
    _, verdict = judge(CONFIG, GuardState(), observation)
    assert verdict.evidence["not_judged"] == {
        "tail": "its documents are being chosen",
        "gap": "no loss on synthetic text was measured",
        "progress": "the learning rates ahead are not known",
    }


def test_after_an_alarm_synthetic_shares_stay_frozen_for_a_while(observe):
    _, verdicts = judged(observe, rise(60, 20))
    alarm = next(i for i, verdict in enumerate(verdicts) if "alarm_count" in verdict.evidence)
    following = verdicts[alarm + 1 :]
    again = next(i for i, verdict in enumerate(following) if "alarm_count" in verdict.evidence)
    assert {verdict.action for verdict in following[:again]} == {"warn"}
    calm = judged(observe, rise(60, 0)[: CONFIG.advanced.freeze_evaluations + 1], state=GuardState(freeze_left=4))[1]
    assert [verdict.evidence["num_evaluations"] for verdict in calm] == list(range(5))


def test_damage_does_not_become_normal_while_the_shares_are_frozen(observe):
    _, verdicts = judged(observe, rise(60, 9, by=8.0))
    assert alarms(verdicts)
    assert verdicts[-1].evidence["expected_nats_per_token"] < observe(0, SHARES).evaluation.nats_per_token + JITTER


def test_old_alarms_are_forgotten(observe):
    calm = rise(CONFIG.advanced.memory_evaluations + 60, 0)
    state, _ = judged(observe, calm, state=GuardState(alarm_count=2))
    assert state.alarm_count == 0


def test_after_a_rollback_the_discarded_evaluations_are_forgotten(observe):
    state, _ = judged(observe, rise(60, 3))
    back = replace(observe(1000, SHARES), progress=0.0055)
    after, _ = judge(CONFIG, state, back)
    assert after.monitor.steps == (*range(10, 550, 10), 1000)
    assert [len(row) for row in after.monitor.detectors["mean"].values] == [55]


def test_other_held_out_documents_start_a_new_comparison(observe):
    state, _ = judged(observe, rise(20, 0))
    good = observe(300, SHARES).evaluation
    fewer = replace(good, loss_sum_nats=good.loss_sum_nats[:35], tokens=good.tokens[:35], num_bytes=good.num_bytes[:35])
    after, verdict = judge(CONFIG, state, observe(300, SHARES, evaluation=replace(fewer, slice_of=good.slice_of[:35])))
    assert after.monitor.steps == (300,)
    assert "evaluations it needs" in verdict.reason


def test_a_constant_loss_is_healthy(observe):
    _, verdicts = judged(observe, [0.0] * 40)
    assert {verdict.action for verdict in verdicts} == {"ok"}


def test_the_state_does_not_grow_with_documents_times_evaluations(observe):
    state, _ = judged(observe, rise(145, 0))
    before = len(json.dumps(state.to_json()))
    after = len(json.dumps(judged(observe, rise(15, 0), state=state)[0].to_json()))
    assert after < 1.02 * before < 60_000


def test_settings_that_contradict_each_other_are_refused():
    for wrong in ({"warn_at": 4000}, {"advanced": {"min_evaluations": 200}}):
        with pytest.raises(ValidationError, match="must"):
            GuardConfig(**wrong)


def test_a_segment_that_joins_with_another_loss_is_not_a_collapse(observe):
    """Held-out loss stands; the loss on a synthetic source falls by 0.3 nats when it is measured on other samples."""
    losses = JITTER * noise("white", np.random.default_rng(3), (90,))
    for changes, alarmed in ((True, False), (False, True)):
        state, actions = GuardState(), []
        for number, loss in enumerate(losses):
            joined = number >= 40
            evaluation = replace(
                observe(number, SHARES, loss=loss).evaluation, source_nats_per_token={"bad": 3.7 if joined else 4.0}
            )
            observation = observe(10 * number, SHARES, evaluation=evaluation, steps=100_000)
            observation = replace(observation, live={"bad": (0, 1) if joined and changes else (0,)})
            state, verdict = judge(CONFIG, state, observation)
            actions.append(verdict.action)
        assert (set(actions) > {"ok"}) == alarmed, actions
