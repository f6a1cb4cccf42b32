import json
from dataclasses import replace

import pytest
from pydantic import ValidationError

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, SHARE_STEP, GradientAlignment, SourceValue
from trainer.control import ControlConfig, decide, initial_state, restored_state
from trainer.control.policies import PricedConfig
from trainer.control.priced import policy as priced
from trainer.control.priced.config import AdvancedConfig

KINDS = {"real": "real", "written": "synthetic", "bad": "synthetic"}
SHARES = {"real": 400_000, "written": 300_000, "bad": 300_000}
VALUES = {"real": 0.9, "written": 0.7, "bad": -2.0}


ADVANCED = set(AdvancedConfig.model_fields)


def control(**settings):
    """``priced`` with these settings, those of the rule under ``advanced``, and the guard off."""
    advanced = {name: settings.pop(name) for name in ADVANCED & settings.keys()}
    policy = {"kind": "priced", "warm_up": 0.0, **settings, "advanced": advanced}
    return ControlConfig(policy=policy, guard={"enabled": False})


def followed(observe, config, source_values, shares=SHARES, kinds=KINDS, unique=1000, caps=None, epochs=()):
    """The decisions after evaluations with these source values, of ``unique`` samples of each source drawn for so
    many ``epochs`` (one where not given); the state goes through JSON each time."""
    state, decisions = initial_state(config, shares, kinds), []
    for number, source_value in enumerate(source_values):
        observation = observe(
            10 * number + 10,
            shares,
            source_value=source_value,
            kinds=kinds,
            loss=-0.01 * number,
            steps=20 * len(source_values),
        )
        horizon = replace(observation.horizon, num_samples=dict.fromkeys(shares, unique), max_epochs=caps or {})
        observation = replace(observation, horizon=horizon)
        if epochs:
            observation = replace(observation, epochs=dict.fromkeys(shares, epochs[number]))
        state, decision = decide(
            config, restored_state(config, json.loads(json.dumps(state.to_json(), allow_nan=False))), observation
        )
        json.dumps(decision.evidence, allow_nan=False)
        shares = dict(decision.shares)
        decisions.append(decision)
    return decisions


def test_a_harmful_source_falls_to_its_floor_and_a_useful_one_stays(observe):
    last = followed(observe, control(dither=0.01), [VALUES] * 20)[-1].shares
    assert last["bad"] <= 10_000
    assert last["real"] > last["written"] > 100_000


def test_a_source_that_is_better_only_than_the_worst_does_not_gain_by_its_fall(observe):
    kinds = {**KINDS, "dull": "synthetic"}
    start = dict.fromkeys(kinds, 250_000)
    source_value = {"real": 0.95, "written": 0.9, "bad": -8.0, "dull": 0.3}
    first = followed(observe, control(dither=0.01), [source_value], start, kinds, 10_000_000)[0].shares
    assert first["bad"] < 50_000
    assert first["dull"] < first["written"]
    assert first["dull"] <= 250_000


@pytest.fixture
def real_share(observe):
    """Real share after 40 evaluations that say a real token is worth 0.9, a written one 0.7."""
    kinds, start = {"real": "real", "written": "synthetic"}, {"real": 500_000, "written": 500_000}

    def share_after(mixing, unique):
        config, source_values = (
            control(mixing=mixing, dither=0.01, real_epochs=1e9),
            [{"real": 0.9, "written": 0.7}] * 40,
        )
        return followed(observe, config, source_values, start, kinds, unique)[-1].shares["real"] / SHARE_ONE

    return share_after


def test_the_better_of_two_useful_sources_takes_all_only_where_mixing_and_repeats_are_worth_nothing(real_share):
    plenty = 10_000_000
    assert real_share(0.0, plenty) > 0.95
    assert 0.6 < real_share(0.2, plenty) < 0.74  # odds of e^(0.2/0.2) = 0.73, less what the evidence leaves open
    assert 0.5 < real_share(0.0, 1000) < 0.9  # more of it would be drawn ten times over and more


@pytest.mark.parametrize("amplitude", [0.1, 0.5])
def test_floors_and_ceilings_bind_whatever_the_evidence_and_the_waves(observe, amplitude):
    config = control(dither=amplitude, floors={"bad": 0.05}, ceilings={"real": 0.45}, real_floor=0.3, real_epochs=1e9)
    for source_value in (VALUES, {"real": -2.0, "written": 0.7, "bad": 0.9}):
        for decision in followed(observe, config, [source_value] * 20):
            assert decision.shares["bad"] >= 50_000
            assert 300_000 <= decision.shares["real"] <= 450_000
            assert decision.shares["written"] >= 10_000
            assert all(share % SHARE_STEP == 0 for share in decision.shares.values())


def test_before_the_warm_up_nothing_moves_and_nothing_is_asked_for(observe):
    config = control(warm_up=0.5)
    assert priced.needs(config.policy).source_value_from == 0.5
    assert priced.needs(config.policy).gradient_alignment_from is None
    decisions = followed(observe, config, [VALUES] * 10)
    assert all(decision.shares == SHARES for decision in decisions[:9])


def test_evidence_within_its_error_moves_no_more_than_the_waves(observe):
    doubtful = {name: SourceValue(value=value, standard_error=5.0, num_samples=9) for name, value in VALUES.items()}
    last = followed(observe, control(estimators=["source_value"]), [doubtful] * 3)[-1]
    assert last.shares == SHARES
    assert last.evidence["policy"]["limits"] == []


def test_a_budget_limits_real_data_and_gives_them_a_price(observe):
    config = control(real_epochs=1.5, dither=0.05)  # observations say that 1.0 are used of the 1,000 samples
    last = followed(observe, config, [VALUES] * 20)[-1]
    evidence = last.evidence["policy"]
    assert "real-data budget" in evidence["limits"]
    assert evidence["price"] > 0
    left = 200 * 32  # samples of the other half of the run
    assert evidence["budget"]["planned_share"] == pytest.approx(500 / left, rel=0.01)
    assert last.shares["real"] == pytest.approx(SHARE_ONE * 500 / left, abs=0.1 * SHARE_ONE * 500 / left + SHARE_STEP)
    assert "The real-data budget allows a share of" in last.reason
    free = followed(observe, control(dither=0.05), [VALUES] * 20)[-1].evidence["policy"]
    assert "real-data budget" not in free["limits"]
    assert free["price"] == 0.0


def test_a_cap_on_epochs_is_a_budget_that_need_not_be_configured(observe):
    evidence = [
        followed(observe, control(real_epochs=epochs, dither=0.05), [VALUES] * 20, caps=caps)[-1]
        for epochs, caps in ((1.5, {}), (12.0, {"real": 1.5}))
    ]
    assert evidence[0] == evidence[1]


def test_a_run_so_long_that_what_is_learnt_now_is_forgotten_has_a_price_all_the_same(observe):
    config, shares = control(curvature=5_000.0, real_epochs=0.01), dict(SHARES)
    state = initial_state(config, shares, KINDS)
    for step in (10, 20, 30):
        observation = observe(step, shares, source_value=VALUES, kinds=KINDS, steps=400_000)
        observation = replace(
            observation, horizon=replace(observation.horizon, num_samples=dict.fromkeys(shares, 10_000_000))
        )
        state, decision = decide(config, state, observation)
        shares = dict(decision.shares)
    assert decision.evidence["policy"]["price"] >= 0


def test_evidence_that_is_not_finite_is_left_out(observe):
    config = control(estimators=["alignment", "dither", "source_value"])
    state = initial_state(config, SHARES, KINDS)
    bad = {
        name: GradientAlignment(inner_product=0.0, standard_error=0.0, variance=float("nan"), num_samples=8)
        for name in KINDS
    }
    none = {name: SourceValue(value=0.0, standard_error=0.0, num_samples=8) for name in KINDS}
    evidence, shares = {"source_value": none, "gradient_alignment": bad}, dict(SHARES)
    for step in range(10, 130, 10):
        observation = observe(step, shares, source_value=none, kinds=KINDS, loss=-0.001 * step)
        observation = replace(observation, evidence=evidence)
        state, decision = decide(
            config, restored_state(config, json.loads(json.dumps(state.to_json(), allow_nan=False))), observation
        )
        shares = dict(decision.shares)
    assert sum(shares.values()) == SHARE_ONE


def test_a_decision_says_each_estimate_and_what_limited_it(observe):
    evidence = followed(observe, control(), [VALUES] * 20)[-1].evidence["policy"]
    assert {
        "unit",
        "prior_values",
        "disagreements",
        "real_advantage",
        "sources",
        "price",
        "budget",
        "forgetting",
        "limits",
        "threshold",
        "trust_region",
    } == set(evidence)
    bad = evidence["sources"]["bad"]
    assert bad["value"] < -bad["standard_error"] < 0
    assert {"value", "standard_error"} == set(bad["estimators"]["source_value"])
    assert "floor of bad" in evidence["limits"]
    assert evidence["threshold"] == AdvancedConfig().z


def test_dithered_shares_and_trial_steps_are_pooled_in_one_unit_where_it_is_known(observe):
    source_value = {
        name: SourceValue(value=value, standard_error=0.08, num_samples=64, fresh_gain=0.002)
        for name, value in VALUES.items()
    }
    evidence = followed(observe, control(), [source_value] * 20)[-1].evidence["policy"]
    assert set(evidence["sources"]["written"]["estimators"]) == {"dither", "source_value"}
    rates = observe(10, SHARES, kinds=KINDS).horizon.rates
    assert evidence["unit"] == pytest.approx(0.002 / rates[-1])
    alone = followed(observe, control(), [VALUES] * 20)[-1].evidence["policy"]
    assert set(alone["sources"]["written"]["estimators"]) == {"source_value"}
    assert alone["unit"] == 1.0  # then a fresh real token is what is counted in


def test_what_others_decided_is_where_the_policy_continues(observe):
    config = control(dither=0.05, real_epochs=1e9)
    state = initial_state(config, SHARES, KINDS)
    state, _ = decide(config, state, observe(10, SHARES, source_value=VALUES, kinds=KINDS))
    cut = {"real": 600_000, "written": 400_000, "bad": 0}
    for step in (20, 30, 40):
        source_value = {name: VALUES[name] for name in ("real", "written")}
        state, decision = decide(config, state, observe(step, cut, source_value=source_value, kinds=KINDS))
        assert decision.shares["bad"] == 0
        cut = dict(decision.shares)
    assert abs(cut["real"] - 600_000) < 150_000


def test_after_a_rollback_old_losses_are_not_compared_with_new_ones(observe):
    config = control()
    state = initial_state(config, SHARES, KINDS)
    state, decision = decide(config, state, observe(100, SHARES, kinds=KINDS))
    state, _ = decide(config, state, observe(60, decision.shares, kinds=KINDS))
    assert len(state.policy.spans) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"estimators": ["source_value", "source_value"]},
        {"estimators": []},
        {"advanced": {"dither": 0.0}},
        {"estimators": ["guess"]},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValidationError):
        PricedConfig(kind="priced", **settings)


def test_bounds_on_unknown_sources_are_refused():
    config = PricedConfig(kind="priced", floors={"reel": 0.1})
    with pytest.raises(UserError, match="unknown source"):
        priced.begin(config, SHARES, KINDS)


@pytest.mark.parametrize(
    ("written", "error", "least", "most"),
    [
        (0.7, 0.08, 7.1, 7.2),  # as it is held to be
        (-1.0, 0.08, 15, 17.5),  # no more than a repeat is worth something
        (-1.0, 5.0, 7.1, 7.5),  # nobody knows
        (0.98, 0.01, 7.1, 7.2),  # better: real data are not starved for it
    ],
)
def test_real_data_are_repeated_until_a_synthetic_token_is_worth_as_much(observe, written, error, least, most):
    """Evaluations say that one epoch is used of the 1,000 real samples: a real token is worth a fresh one."""
    kinds, start = {"real": "real", "written": "synthetic"}, {"real": 0.5, "written": 0.5}
    start = {name: int(share * SHARE_ONE) for name, share in start.items()}
    source_value = {
        "real": SourceValue(value=1.0, standard_error=error, num_samples=64, fresh_gain=0.002),
        "written": SourceValue(value=written, standard_error=error, num_samples=64, fresh_gain=0.002),
    }
    last = followed(
        observe, control(estimators=["source_value"], dither=0.01), [source_value] * 20, start, kinds, 1000
    )[-1]
    budget = last.evidence["policy"]["budget"]
    assert least < budget["samples"] / 1000 < most


def test_what_is_not_measured_again_stays_as_it_was_whatever_is_drawn_since(observe):
    source_values, epochs = [{**VALUES, "bad": 0.0}] * 4 + [{}] * 8, [1.0] * 4 + [3.0] * 8
    decisions = followed(observe, control(), source_values, epochs=epochs)
    measured, last = (decisions[number].evidence["policy"] for number in (3, -1))
    assert "dither" in last["sources"]["bad"]["estimators"], "something else was measured since"
    for name in VALUES:
        assert (
            last["sources"][name]["estimators"]["source_value"]
            == measured["sources"][name]["estimators"]["source_value"]
        )


def test_a_synthetic_token_is_worth_no_less_for_what_real_tokens_lose_by_repeats(observe):
    source_values, epochs = [{"real": 0.9, "written": 0.4, "bad": 0.3}] * 4 + [{}] * 8, [1.0] * 4 + [6.0] * 8
    decisions = followed(observe, control(estimators=["source_value"]), source_values, epochs=epochs)
    samples = [decision.evidence["policy"]["budget"]["samples"] for decision in decisions]
    assert samples[3] > 8000, "worth less than its prior"
    assert samples[4:] == [samples[3]] * 8


def test_a_configured_budget_is_kept_whatever_a_synthetic_token_is_worth(observe):
    evidence = followed(observe, control(real_epochs=3.0), [VALUES] * 20)[-1].evidence["policy"]["budget"]
    assert evidence["samples"] == 3000


def test_the_better_a_synthetic_token_is_assumed_to_be_the_fewer_epochs_real_data_get(observe):
    samples = [
        followed(observe, control(prior_synthetic_value=source_value), [{}])[0].evidence["policy"]["budget"]["samples"]
        for source_value in (0.5, 0.9)
    ]
    assert samples == pytest.approx([11_594, 2_621], rel=1e-3)


def test_what_is_drawn_instead_of_scarce_real_data_is_useful_and_not_what_lies_at_its_floor(observe):
    last = followed(observe, control(real_epochs=1.5, dither=0.01), [VALUES] * 20)[-1]
    assert "real-data budget" in last.evidence["policy"]["limits"]
    assert last.shares["bad"] <= 11_000
    assert last.shares["written"] > 0.85 * SHARE_ONE


def test_before_it_is_known_a_synthetic_token_has_its_prior_value_and_then_its_measured_one(observe):
    kinds, start = {"real": "real", "written": "synthetic"}, {"real": 500_000, "written": 500_000}

    def real_share(written, error, **settings):
        source_value = {
            name: SourceValue(value=value, standard_error=error, num_samples=64, fresh_gain=0.002)
            for name, value in (("real", 1.0), ("written", written))
        }
        config = control(estimators=["source_value"], dither=0.01, **settings)
        return followed(observe, config, [source_value] * 30, start, kinds, 10_000_000)[-1].shares["real"]

    assert 600_000 < real_share(1.0, 2.0, prior_synthetic_value=0.4) < 960_000
    assert abs(real_share(1.0, 2.0, prior_synthetic_value=0.95) - 500_000) < 20_000
    assert abs(real_share(1.0, 0.01, prior_synthetic_value=0.4) - 500_000) < 20_000
    assert (
        real_share(1.0, 2.0, prior_synthetic_value=0.4, real_epochs=1e9) == 500_000
    )  # who says so knows what repeats do


def test_a_source_that_is_left_alone_is_compared_with_nobody(observe):
    config, start, kinds = control(), {"real": 500_000, "written": 500_000}, {"real": "real", "written": "synthetic"}
    source_value = {
        name: SourceValue(value=value, standard_error=0.08, num_samples=64, fresh_gain=0.002)
        for name, value in (("real", 0.9), ("written", -2.0))
    }
    state = initial_state(config, start, kinds)
    state, _ = decide(config, state, observe(10, start, source_value=source_value, kinds=kinds))
    alone = {"real": SHARE_ONE, "written": 0}
    for step in (20, 30):
        state, decision = decide(
            config, state, observe(step, alone, source_value={"real": source_value["real"]}, kinds=kinds)
        )
        json.dumps(state.to_json(), allow_nan=False)
        assert decision.shares == alone
