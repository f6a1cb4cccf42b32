"""What prepared data say of a source's value decides the first shares, and is held against what the run measures."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from trainer.base.records import SHARE_ONE, Observation, SourceValue
from trainer.control import ControlConfig
from trainer.control.controller import decide, initial_state, restored_state
from trainer.control.priced.prior import water_filled
from trainer.control.priced.repeats import epochs_until, net_repeat_value, repeat_value

KINDS = {"real": "real", "good": "synthetic", "bad": "synthetic"}
EQUAL = {"real": 333_334, "good": 333_333, "bad": 333_333}


def control(**policy: object) -> ControlConfig:
    """Priced, without a guard."""
    return ControlConfig.model_validate({"policy": {"kind": "priced", **policy}, "guard": {"enabled": False}})


def with_priors(observation: Observation, values: Mapping[str, float], epochs: float = 0.0) -> Observation:
    """The observation of a run whose data say so of the sources, each ± 0.1."""
    priors = {name: SourceValue(value=value, standard_error=0.1, num_samples=0) for name, value in values.items()}
    horizon = replace(observation.horizon, prior_values=priors)
    return replace(observation, horizon=horizon, epochs=dict.fromkeys(observation.shares, epochs))


def test_filled_shares_make_one_more_token_of_every_drawn_source_worth_the_same() -> None:
    values, unique = {"real": 1.0, "good": 0.6, "bad": 0.1}, {"real": 50.0, "good": 500.0, "bad": 500.0}
    shares = water_filled(values, unique, 1200.0, max_epochs={})
    epochs = {name: shares[name] * 1200 / unique[name] for name in shares}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["bad"] == 0
    marginal = [values[name] * net_repeat_value(epochs[name], 1200 / unique[name]) for name in ("real", "good")]
    assert marginal[0] == pytest.approx(marginal[1], rel=1e-3)
    # a source that is not worth a repeat of the others yet is drawn for what they leave, and caps hold
    assert water_filled(values, unique, 550.0, max_epochs={})["good"] == pytest.approx(
        1 - 50 * epochs_until(0.6, 550 / 50) / 550, abs=0.01
    )
    capped = water_filled(values, unique, 1200.0, max_epochs={"real": 2.0})
    assert capped["real"] * 1200 == pytest.approx(100, rel=0.01)


def test_the_first_decision_puts_the_shares_where_the_priors_ask_for_them(observe) -> None:
    state = initial_state(control(), EQUAL, KINDS)
    sizes = {"real": 600, "good": 6_000, "bad": 6_000}
    observation = observe(10, EQUAL, kinds=KINDS, num_samples=sizes)
    _, decision = decide(control(), state, with_priors(observation, {"good": 0.6, "bad": 0.1}))
    assert decision.shares["bad"] == 10_000  # its floor
    expected = water_filled({"real": 1, "good": 0.6}, {"real": 600, "good": 6_000}, 390 * 32, max_epochs={})
    assert decision.shares["real"] / SHARE_ONE == pytest.approx(expected["real"], abs=0.02)
    assert "Shares follow the prior values of good, bad" in decision.reason
    assert decision.evidence["policy"]["prior_values"]["good"] == {"value": 0.6, "standard_error": 0.1, "by_text": True}


def test_without_useful_synthetic_text_a_short_run_is_real_but_for_the_floor(observe) -> None:
    half = {"real": 500_000, "bad": 500_000}
    kinds = {"real": KINDS["real"], "bad": KINDS["bad"]}
    observation = observe(10, half, kinds=kinds, num_samples={"real": 1_200, "bad": 6_000})
    _, decision = decide(control(), initial_state(control(), half, kinds), with_priors(observation, {"bad": 0.4}))
    assert decision.shares == {"real": 990_000, "bad": 10_000}


def test_a_value_that_the_recipe_gives_counts_for_more_than_what_the_text_says(observe) -> None:
    settings = control(prior_synthetic_value=0.5)
    observation = with_priors(observe(10, EQUAL, kinds=KINDS), {"good": 0.9, "bad": 0.1})
    _, decision = decide(settings, initial_state(settings, EQUAL, KINDS), observation)
    assert decision.shares == pytest.approx(EQUAL, abs=1_000)
    assert decision.evidence["policy"]["prior_values"]["good"]["value"] == 0.5


def test_that_training_says_something_else_than_the_text_is_told_where_both_are_sure(observe) -> None:
    shares, state, reasons = {"real": 500_000, "good": 500_000}, None, []
    kinds = {"real": KINDS["real"], "good": KINDS["good"]}
    state = initial_state(control(estimators=["source_value"]), shares, kinds)
    measured = {
        "real": SourceValue(value=repeat_value(1.0), standard_error=0.05, num_samples=64, fresh_gain=0.01),
        "good": SourceValue(value=0.1, standard_error=0.05, num_samples=64, fresh_gain=0.01),
    }
    for step in range(100, 220, 20):
        observation = observe(step, shares, kinds=kinds, source_value=measured, num_samples=dict.fromkeys(kinds, 10**6))
        state, decision = decide(control(estimators=["source_value"]), state, with_priors(observation, {"good": 0.8}))
        state = restored_state(control(estimators=["source_value"]), state.to_json())
        shares = dict(decision.shares)
        reasons.append(decision.reason)
    assert "n-grams said 0.80 of a fresh real token for good, training says 0.1" in reasons[-1]
    assert "text that is fluent in pieces only" in reasons[-1]
    assert set(decision.evidence["policy"]["disagreements"]) == {"good"}
    agreeing = with_priors(observation, {"good": 0.15})
    _, decision = decide(control(estimators=["source_value"]), state, agreeing)
    assert decision.evidence["policy"]["disagreements"] == {}
