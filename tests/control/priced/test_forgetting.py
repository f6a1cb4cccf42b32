"""What is known of forgetting: configured before measured, pooled by precision, and used only where it is sure."""

import json
from dataclasses import replace

import pytest

from trainer.base.records import SHARE_ONE, Forgetting
from trainer.control import ControlConfig, decide, forgetting_from, initial_state, restored_state
from trainer.control.priced.config import AdvancedConfig
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.forgetting import LONGEST_WAIT, SURE_Z, curvature, measured_curvature, with_probe
from trainer.control.priced.real_budget import MOST_CONCENTRATED_EPOCHS

KINDS = {"real": "real", "made": "synthetic"}
SHARES = {"real": 200_000, "made": 800_000}
RATE = 1e-3
ADVANCED = set(AdvancedConfig.model_fields)


def forgetting(curvature, error):
    """Of a model of this curvature at the present rate."""
    return {"made": Forgetting(value=curvature * RATE, standard_error=error * RATE, num_samples=80)}


def config(**settings):
    advanced = {"dither": 0.01, **{name: settings.pop(name) for name in ADVANCED & settings.keys()}}
    policy = {"kind": "priced", "real_epochs": 1.0, **settings, "advanced": advanced}
    return ControlConfig(policy=policy, guard={"enabled": False})


def followed(observe, control, probes, *, evaluations=20, unique=1280, hope=1.0, veto_at=None, caps=None):
    """Decisions at evaluations of a run of 400 steps of 32 samples; ``probes``: rates by its number,
    ``hope``: progress of the last one there can be. At evaluation ``veto_at`` others keep the shares as they are."""
    state, shares, decisions, used = initial_state(control, SHARES, KINDS), dict(SHARES), [], 0.0
    for number in range(1, evaluations):
        used += shares["real"] / SHARE_ONE * 32 * 400 / evaluations
        observation = observe(
            number * 400 // evaluations, shares, kinds=KINDS, rate=RATE, num_samples={"real": unique, "made": 12_800}
        )
        horizon = replace(observation.horizon, probes_until=hope, max_epochs=caps or {})
        observation = replace(
            observation,
            horizon=horizon,
            evidence={"forgetting": probes.get(number, {})},
            epochs={"real": used / unique, "made": 0.5},
        )
        state, decision = decide(
            control, restored_state(control, json.loads(json.dumps(state.to_json(), allow_nan=False))), observation
        )
        json.dumps(decision.evidence, allow_nan=False)
        decisions.append(decision)
        shares = shares if number == veto_at else dict(decision.shares)
    return decisions


def test_probes_are_pooled_by_precision_over_the_rate_of_their_time(observe):
    observation = observe(10, SHARES, kinds=KINDS, rate=RATE)
    probes = with_probe(
        with_probe((), replace(observation, evidence={"forgetting": forgetting(10.0, 1.0)})),
        replace(observation, evidence={"forgetting": forgetting(12.0, 2.0)}),
    )
    assert measured_curvature(probes).value == pytest.approx((10.0 + 12.0 / 4) / 1.25)
    assert measured_curvature(probes).standard_error == pytest.approx(1.25**-0.5)
    apart = with_probe(probes[:1], replace(observation, evidence={"forgetting": forgetting(30.0, 1.0)}))
    assert measured_curvature(apart).standard_error > 9.0  # they disagree, and so it is not sure


@pytest.mark.parametrize("bad", [(float("nan"), 1.0), (10.0, float("inf")), (10.0, 0.0)])
def test_a_probe_that_is_not_finite_or_has_no_error_is_left_out(observe, bad):
    assert (
        with_probe((), replace(observe(10, SHARES, kinds=KINDS, rate=RATE), evidence={"forgetting": forgetting(*bad)}))
        == ()
    )


def test_without_learning_rates_a_probe_says_nothing(observe):
    observation = observe(10, SHARES, kinds=KINDS)
    assert (
        with_probe(
            (),
            replace(
                observation,
                horizon=replace(observation.horizon, rates=[]),
                evidence={"forgetting": forgetting(10.0, 1.0)},
            ),
        )
        == ()
    )


def test_what_is_configured_stands_and_what_is_measured_counts_only_where_it_is_sure():
    sure = [Estimate(value=10.0, standard_error=10.0 / (SURE_Z + 0.1))]
    unsure = [Estimate(value=10.0, standard_error=10.0 / (SURE_Z - 0.1))]
    assert curvature(None, []) is None
    assert curvature(None, sure) == 10.0
    assert curvature(None, unsure) is None
    assert curvature(None, [Estimate(value=-10.0, standard_error=0.1)]) is None
    assert curvature(2.0, sure) == 2.0


def test_it_is_measured_only_where_the_plan_could_follow_it():
    assert forgetting_from(config(), float("inf")) == config().policy.warm_up
    assert forgetting_from(config(curvature=1.0), float("inf")) is None
    assert forgetting_from(config(concentration=0.0), float("inf")) is None
    assert forgetting_from(config(real_epochs=12.0), float("inf")) is None
    assert forgetting_from(config(real_epochs=12.0), MOST_CONCENTRATED_EPOCHS - 1) == config().policy.warm_up
    assert forgetting_from(ControlConfig(), 1.0) is None


def test_a_model_that_surely_forgets_gets_its_scarce_real_data_late(observe):
    decisions = followed(observe, config(), {4: forgetting(30.0, 1.0)})
    shares = [decision.shares["real"] / SHARE_ONE for decision in decisions]
    assert max(shares[:10]) < 0.01
    assert sum(shares[-3:]) > 0.9 * sum(shares)
    evidence = decisions[5].evidence["policy"]["forgetting"]
    assert evidence["curvature"] == pytest.approx(30.0)
    assert (evidence["num_probes"], evidence["is_configured"]) == (1, False)


@pytest.mark.parametrize("probes", [{}, {4: forgetting(3.0, 2.0)}, {4: forgetting(-5.0, 1.0)}])
def test_a_model_that_does_not_surely_forget_gets_them_evenly_after_the_wait(observe, probes):
    shares = [decision.shares["real"] / SHARE_ONE for decision in followed(observe, config(), probes)]
    waited = 4 if probes else int((config().policy.warm_up + LONGEST_WAIT) * 20)
    assert max(shares[: waited - 1]) < 0.01
    level = 0.1 * 400 / (400 * (1 - (waited + 0.5) / 20))
    assert shares[waited:-1] == pytest.approx([level] * len(shares[waited:-1]), rel=0.25)


def test_real_data_that_could_fill_the_run_do_not_wait(observe):
    for unique, settings in ((200_000, {}), (1280, {"real_epochs": 12.0}), (1280, {"curvature": 1e-9})):
        first = followed(observe, config(**settings), {}, unique=unique)[0]
        assert first.shares["real"] >= 90_000


def drawn(decisions, evaluations=20, unique=1280):
    """Samples of real data over the run, in epochs."""
    return sum(decision.shares["real"] for decision in decisions) / SHARE_ONE * 32 * 400 / evaluations / unique


@pytest.mark.parametrize("veto_at", [3, 8])
def test_a_veto_does_not_starve_real_data_that_were_held_back(observe, veto_at):
    """While they wait and once they are timed."""
    whole = drawn(followed(observe, config(), {4: forgetting(30.0, 1.0)}))
    assert drawn(followed(observe, config(), {4: forgetting(30.0, 1.0)}, veto_at=veto_at)) == pytest.approx(
        whole, rel=0.05
    )


def test_nothing_waits_for_a_probe_that_nobody_makes(observe):
    shares = [decision.shares["real"] for decision in followed(observe, config(), {}, hope=None)]
    assert min(shares) > 50_000


def test_no_span_may_draw_more_of_a_capped_source_than_is_left(observe):
    for evaluations in range(16, 24):  # whatever sign the last wave has
        decisions = followed(observe, config(dither=0.3), {}, evaluations=evaluations, hope=None, caps={"real": 0.5})
        for decision in decisions:
            used = decision.evidence["policy"]["budget"]["used_samples"]
            assert used + decision.shares["real"] / SHARE_ONE * 32 * 400 / evaluations <= 640 + 1e-6
        assert drawn(decisions, evaluations=evaluations) > 0.35
