import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Proposal
from trainer.control import ControlConfig, decide, initial_state, restored_state, source_value_from
from trainer.control.policies import NoState
from trainer.control.policies.protocol import no_needs, unexplained

KINDS = {"real": "real", "written": "synthetic", "bad": "synthetic"}
SHARES = {"real": 400_000, "written": 300_000, "bad": 300_000}
FEEDBACK = ControlConfig(policy={"kind": "feedback", "warm_up": 0.0})
SCHEDULE = ControlConfig(
    policy={"kind": "schedule", "points": [{"at": 1, "shares": {"real": 0.1, "written": 0.5, "bad": 0.4}}]}
)
POISON = {"real": 0.9, "written": 0.8, "bad": -0.5}


def through_json(config, state):
    return restored_state(config, json.loads(json.dumps(state.to_json(), allow_nan=False)))


def steered(observe, config, losses, source_value=None, shares=SHARES):
    """The decisions after evaluations whose held-out loss is shifted by ``losses``; the state goes through JSON."""
    state, decisions = initial_state(config, shares, KINDS), []
    for number, loss in enumerate(losses):
        observation = observe(10 * number + 10, shares, source_value=source_value, loss=loss, steps=10 * len(losses))
        state, decision = decide(config, through_json(config, state), observation)
        json.dumps(decision.evidence, allow_nan=False)
        shares = dict(decision.shares)
        decisions.append(decision)
    return decisions


def losses(healthy, raised, by=0.02):
    values = 0.003 * np.random.default_rng(31).standard_normal(healthy + raised)
    values[healthy:] += by
    return values.tolist()


def test_the_default_keeps_the_shares_and_needs_no_source_values(observe):
    assert source_value_from(ControlConfig()) is None
    decisions = steered(observe, ControlConfig(), losses(20, 0))
    assert {decision.action for decision in decisions} == {"keep"}
    assert all(decision.shares == SHARES for decision in decisions)
    assert [decision.from_step for decision in decisions] == [10 * n + 11 for n in range(20)]


def test_source_values_are_measured_when_policy_or_guard_need_them():
    assert source_value_from(FEEDBACK) == FEEDBACK.policy.warm_up
    assert source_value_from(ControlConfig(guard={"measure_source_value": True})) == 0
    assert source_value_from(ControlConfig(guard={"measure_source_value": True, "enabled": False})) is None
    assert source_value_from(SCHEDULE) is None


def test_a_move_says_why_with_figures(observe):
    move = next(d for d in steered(observe, FEEDBACK, losses(9, 0), POISON) if d.action == "move")
    assert move.shares["bad"] < SHARES["bad"]
    assert "bad from 0.300 to 0.010 (a token of it is worth -0.50 ± " in move.reason
    figures = move.evidence["policy"]["sources"]["bad"]
    assert {
        "source_value",
        "source_value_standard_error",
        "advantage",
        "advantage_standard_error",
        "reference",
        "num_evaluations",
    } <= set(figures)
    assert move.evidence["policy"]["z"] == 3.0
    assert move.evidence["shares_before"] == SHARES


def test_a_warning_vetoes_a_move_that_raises_a_synthetic_source(observe):
    decisions = steered(observe, SCHEDULE, losses(40, 12))
    warned = [i for i, decision in enumerate(decisions) if decision.action == "warn"]
    assert warned
    for i in warned:
        assert decisions[i].shares == decisions[i - 1].shares
        assert "may not gain share now" in decisions[i].reason
    assert decisions[10].action == "move"


def test_a_warning_allows_a_move_towards_real_data(observe):
    towards_real = ControlConfig(
        policy={"kind": "schedule", "points": [{"at": 1.0, "shares": {"real": 1.0, "written": 0.0, "bad": 0.0}}]}
    )
    decisions = steered(observe, towards_real, losses(40, 6))
    warned = [i for i, decision in enumerate(decisions) if decision.action == "warn"]
    assert warned
    assert all(decisions[i].shares["real"] > decisions[i - 1].shares["real"] for i in warned)


def test_a_cut_source_has_no_share_from_the_next_step_on_and_the_kinds_keep_theirs(observe):
    config = ControlConfig(policy=SCHEDULE.policy, guard={"measure_source_value": True})
    decisions = steered(observe, config, losses(40, 20), POISON)
    at = next(i for i, decision in enumerate(decisions) if decision.action == "cut")
    before, after = decisions[at - 1].shares, decisions[at].shares
    assert after["bad"] == 0
    assert after["real"] == before["real"]
    assert after["written"] == before["written"] + before["bad"]
    assert all(decision.shares["bad"] == 0 for decision in decisions[at:])
    assert all(sum(decision.shares.values()) == SHARE_ONE for decision in decisions)


def test_rollback_and_stop_leave_the_shares_alone(observe):
    decisions = steered(observe, ControlConfig(), losses(30, 60, by=0.05))
    assert {"warn", "rollback"} <= {decision.action for decision in decisions}
    assert all(decision.shares == SHARES for decision in decisions)


@pytest.mark.parametrize("config", [FEEDBACK, SCHEDULE, ControlConfig()])
def test_an_evaluation_that_is_not_finite_keeps_shares_and_state(observe, config):
    state = initial_state(config, SHARES, KINDS)
    observation = observe(200, SHARES, source_value=POISON, loss=float("nan"))
    after, decision = decide(config, state, observation)
    assert after == state
    assert (decision.action, decision.shares) == ("keep", SHARES)
    assert "not finite" in decision.reason


values = st.floats(-1.0, 1.5)
rows = st.lists(st.tuples(values, values, values, st.floats(-0.05, 0.05)), min_size=12, max_size=25)


@settings(max_examples=30)
@given(rows, st.sampled_from([FEEDBACK, SCHEDULE]))
def test_any_history_gives_shares_that_sum_to_one_and_the_same_decisions_after_json(observe, history, config):
    outcomes = []
    for is_saved in (False, True):
        state, shares, decisions = initial_state(config, SHARES, KINDS), SHARES, []
        for number, (*source_value, loss) in enumerate(history):
            observation = observe(
                number, shares, source_value=dict(zip(KINDS, source_value, strict=True)), loss=loss, steps=30
            )
            state, decision = decide(config, through_json(config, state) if is_saved else state, observation)
            shares = dict(decision.shares)
            assert sum(shares.values()) == SHARE_ONE
            assert min(shares.values()) >= 0
            decisions.append(decision)
        outcomes.append(decisions)
    assert outcomes[0] == outcomes[1]


def test_steering_leaves_its_inputs_as_they_were(observe):
    state = initial_state(FEEDBACK, SHARES, KINDS)
    before = json.dumps(state.to_json())
    decide(FEEDBACK, state, observe(200, SHARES, source_value=POISON))
    assert json.dumps(state.to_json()) == before


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        ControlConfig(policy={"kind": "feedback", "flor": 0.1})


def test_a_schedule_moves_however_few_documents_are_evaluated(observe):
    whole = observe(200, SHARES).evaluation
    few = replace(
        whole, **{name: getattr(whole, name)[:9] for name in ("loss_sum_nats", "tokens", "num_bytes", "slice_of")}
    )
    state = initial_state(SCHEDULE, SHARES, KINDS)
    _, decision = decide(SCHEDULE, state, observe(200, SHARES, evaluation=few))
    assert decision.action == "move"
    assert decision.shares["real"] < SHARES["real"]


def test_a_rollback_takes_the_suspected_source_out_for_good(observe):
    """``bad`` joins with the damage: a sign only, but training continues without it after the rollback."""
    before, after = {"real": 500_000, "written": 500_000, "bad": 0}, SHARES
    state, shares, actions = initial_state(ControlConfig(), before, KINDS), before, []
    for number, loss in enumerate(losses(40, 40)):
        shares = after if number == 40 else shares
        state, decision = decide(ControlConfig(), state, observe(10 * number + 10, shares, loss=loss, steps=1000))
        shares = dict(decision.shares)
        actions.append(decision.action)
        if decision.action == "rollback":
            break
    assert actions[-1] == "rollback"
    assert "bad is suspected: it joined" in decision.reason
    assert shares == {"real": 400_000, "written": 600_000, "bad": 0}
    _, following = decide(ControlConfig(), state, observe(2000, shares, steps=1000))
    assert following.shares["bad"] == 0


class CarelessConfig(Config):
    kind: str


class Careless:
    """A policy from outside that proposes whatever it is told to."""

    kind, Config, State, proposed = "careless", CarelessConfig, NoState, None

    begin = staticmethod(lambda config, shares, kinds: NoState())
    needs, explain = staticmethod(no_needs), staticmethod(unexplained)

    @classmethod
    def propose(cls, config, state, observation):
        return state, Proposal(shares=cls.proposed, reason="As told.", evidence={})


@pytest.mark.parametrize(
    "shares",
    [
        {"real": 400_000, "written": 300_000, "bad": 299_999},
        {"real": 0.4, "written": 0.3, "bad": 0.3},
        {"real": 700_000, "written": 300_000},
        {"real": 400_000, "written": 300_000, "bad": 200_000, "worse": 100_000},
        {"real": 1_300_000, "written": -300_000, "bad": 0},
    ],
)
def test_a_policy_from_outside_that_proposes_no_shares_is_named(observe, monkeypatch, shares):
    monkeypatch.setattr(Careless, "proposed", shares)
    config = ControlConfig(policy={"kind": f"{__name__}:Careless"})
    with pytest.raises(UserError, match="Careless' does not propose a share for each source"):
        decide(config, initial_state(config, SHARES, KINDS), observe(10, SHARES))
