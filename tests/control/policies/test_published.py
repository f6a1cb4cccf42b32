"""The published policies against their formulas, worked out by hand here, and what all policies have in common."""

import json
from math import exp, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, SHARE_STEP, GradientAlignment
from trainer.control.bounds import Bounds, kept_within
from trainer.control.policies import POLICIES, PolicyConfig, anneal
from trainer.control.policies.published.ado import preferences
from trainer.control.policies.published.power_law import PowerLaw, fit

KINDS = {"real": "real", "good": "synthetic", "bad": "synthetic"}
START = {"real": 500_000, "good": 300_000, "bad": 200_000}
LOSSES = {"real": 4.0, "good": 3.0, "bad": 3.5}


def config_of(kind, **settings):
    return TypeAdapter(PolicyConfig).validate_python({"kind": kind, **settings})


def proposals(config, observations, shares=START, kinds=KINDS):
    """What the policy proposes, each observation made with the shares that came of the one before."""
    policy = POLICIES.resolve(config.kind)
    state, out = policy.begin(config, shares, kinds), []
    for observed in observations:
        state = policy.State.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))  # as a checkpoint does
        state, proposal = policy.propose(config, state, observed(shares))
        shares = dict(proposal.shares)
        out.append(proposal)
    return out


def weights_of(proposal):
    return {name: figures["weight"] for name, figures in proposal.evidence["sources"].items()}


def aligned(inner_product, variance=0.0):
    return GradientAlignment(inner_product=inner_product, standard_error=0.1, variance=variance, num_samples=8)


# each rule by hand


def test_proportional_shares_go_by_samples_and_an_exponent_of_0_makes_them_equal(observe):
    sizes = {"real": 100, "good": 300, "bad": 600}
    (plain,) = proposals(config_of("proportional"), [lambda s: observe(20, s, num_samples=sizes)])
    assert plain.shares == {"real": 100_000, "good": 300_000, "bad": 600_000}
    (equal,) = proposals(config_of("proportional", exponent=0), [lambda s: observe(20, s, num_samples=sizes)])
    assert equal.shares == {"real": 334_000, "good": 333_000, "bad": 333_000}
    (root,) = proposals(config_of("proportional", exponent=0.5), [lambda s: observe(20, s, num_samples=sizes)])
    assert root.shares["bad"] / root.shares["real"] == pytest.approx(sqrt(6), abs=0.02)


def test_odm_as_released_is_linear_in_the_smoothed_exponential_of_the_loss(observe):
    second = {"real": 3.8, "good": 3.1, "bad": 3.5}
    first, then = proposals(
        config_of("odm"),
        [lambda s: observe(100, s, source_losses=LOSSES), lambda s: observe(200, s, source_losses=second)],
    )
    for proposal, means, step in (
        (first, {k: 0.1 * exp(loss) for k, loss in LOSSES.items()}, 100),
        (then, {k: 0.9 * 0.1 * exp(LOSSES[k]) + 0.1 * exp(second[k]) for k in LOSSES}, 200),
    ):
        explored = sqrt(log(3) / (3 * step))
        expected = {k: (1 - 3 * explored) * mean / sum(means.values()) + explored for k, mean in means.items()}
        assert weights_of(proposal) == pytest.approx(expected, rel=1e-12)
        assert proposal.shares == {k: pytest.approx(1e6 * share, abs=1_000) for k, share in expected.items()}


def test_odm_by_exp3_adds_importance_weighted_losses_and_scales_them_by_the_exploration_before(observe):
    first, then = proposals(
        config_of("odm", rule="exp3"),
        [lambda s: observe(100, s, source_losses=LOSSES), lambda s: observe(200, s, source_losses=LOSSES)],
    )
    reward = {k: loss / 10 / (START[k] / 1e6) for k, loss in LOSSES.items()}  # 0.8, 1.0, 1.75
    for proposal, before, step in ((first, 1 / 3, 100), (then, sqrt(log(3) / 300), 200)):
        explored = sqrt(log(3) / (3 * step))
        raised = {k: exp(before * value) for k, value in reward.items()}
        expected = {k: (1 - 3 * explored) * value / sum(raised.values()) + explored for k, value in raised.items()}
        assert weights_of(proposal) == pytest.approx(expected, rel=1e-12)
        reward = {k: reward[k] + LOSSES[k] / 10 / (proposal.shares[k] / 1e6) for k in reward}


def test_the_rule_of_fms_multiplies_by_the_exponential_of_loss_over_share(observe):
    weights = {k: share / 1e6 for k, share in START.items()}
    shares = START
    for proposal in proposals(config_of("fms_odm"), [lambda s: observe(100, s, source_losses=LOSSES)] * 3):
        weights = {k: w * exp(0.3 * (LOSSES[k] / (shares[k] / 1e6)) / 3) for k, w in weights.items()}
        expected = {k: 0.9 * w / sum(weights.values()) + 0.1 / 3 for k, w in weights.items()}
        assert weights_of(proposal) == pytest.approx(expected, rel=1e-12)
        shares = proposal.shares


def test_the_rule_of_fms_does_not_overflow_in_a_long_run(observe):
    *_, last = proposals(config_of("fms_odm"), [lambda s: observe(100, s, source_losses=LOSSES)] * 1_500)
    assert sum(last.shares.values()) == SHARE_ONE


def test_doremi_raises_by_the_exponential_of_the_excess_even_below_the_target(observe):
    targets = {"real": 3.0, "good": 3.2, "bad": 3.4}
    (first,) = proposals(config_of("doremi", targets=targets), [lambda s: observe(100, s, source_losses=LOSSES)])
    raised = {"real": 0.5 * exp(1.0), "good": 0.3 * exp(-0.2), "bad": 0.2 * exp(0.1)}
    expected = {k: (1 - 1e-4) * value / sum(raised.values()) + 1e-4 / 3 for k, value in raised.items()}
    assert weights_of(first) == pytest.approx(expected, rel=1e-12)


def test_doremi_fits_its_targets_to_the_curve_of_each_source_and_waits_until_then(observe):
    laws = {k: PowerLaw(floor=loss, scale=0.5, exponent=0.5) for k, loss in LOSSES.items()}
    observations = [
        lambda s, step=step: observe(step, s, source_losses={k: law(step / 400) for k, law in laws.items()})
        for step in range(20, 240, 20)
    ]
    outcome = proposals(config_of("doremi", fit_until=0.5), observations)
    assert all(proposal.shares == START for proposal in outcome[:9])
    for name, figures in outcome[-1].evidence["sources"].items():
        assert figures["target"] == pytest.approx(LOSSES[name] + 0.5, abs=0.02)


def test_ado_prefers_by_prior_recent_use_and_slope_of_the_fitted_curve():
    laws = {
        "real": PowerLaw(floor=2.0, scale=8.0, exponent=0.5),
        "good": PowerLaw(floor=3.0, scale=1.0, exponent=0.01),  # raised to 0.05
    }
    # At n = 16: real (4 - 2) * 0.5 = 1, good 16^-0.01 * 0.05; over n both, which cancels.
    real = 0.25 * sqrt(0.2 * 0.8) * 1.0
    good = 0.75 * sqrt(0.9 * 0.1) * 0.05 * 16**-0.01
    outcome = preferences({"real": 0.25, "good": 0.75}, {"real": 0.2, "good": 0.9}, laws, 16.0)
    assert outcome == pytest.approx({"real": real / (real + good), "good": good / (real + good)})
    flat = {"real": laws["real"], "good": PowerLaw(floor=3.0, scale=1e-9, exponent=0.5)}
    assert preferences({"real": 0.5, "good": 0.5}, {"real": 0.5, "good": 0.5}, flat, 16.0)["good"] == pytest.approx(
        0.01 / 1.01, rel=1e-3
    )


def test_ado_leans_on_the_average_and_finds_the_source_that_still_falls(observe):
    falling = {"real": (1.0, 0.6), "good": (1.0, 0.05), "bad": (1.0, 0.05)}  # above a floor of 2, and the exponent
    observations = [
        lambda s, step=step: observe(
            step,
            s,
            source_losses={k: 2 + above * (step / 20) ** -fall for k, (above, fall) in falling.items()},
            num_samples={"real": 1_000, "good": 1_000, "bad": 1_000},
        )
        for step in range(20, 400, 20)
    ]
    fitted = proposals(config_of("ado"), observations)
    assert all(proposal.shares == START for proposal in fitted[:4])
    figures = fitted[-1].evidence["sources"]
    assert figures["real"]["exponent"] == pytest.approx(0.6, abs=0.1)
    average = dict.fromkeys(falling, 1 / 3)  # the prior stands for the steps before the first fit
    for step, proposal in zip(range(20, 400, 20), fitted, strict=True):
        for name, figures in proposal.evidence.get("sources", {}).items():
            assert figures["weight"] == pytest.approx(0.9 * average[name] + 0.1 * figures["preference"])
            average[name] = ((step - 20) * average[name] + 20 * figures["preference"]) / step
    assert average["real"] > 0.4


def test_a_fit_finds_the_law_it_was_made_from_through_noise_and_outliers():
    rng, law = np.random.default_rng(5), PowerLaw(floor=2.5, scale=30.0, exponent=0.35)
    amounts = np.arange(1, 61) * 4096.0
    losses = np.array([law(n) for n in amounts]) * np.exp(0.001 * rng.standard_normal(60))
    losses[40:48] *= 1.3  # of squares, these would be the fit
    fitted = fit(amounts, losses)
    assert fitted(4 * amounts[-1]) == pytest.approx(law(4 * amounts[-1]), rel=0.005)
    assert fitted.slope(amounts[-1]) == pytest.approx(law.slope(amounts[-1]), rel=0.1)
    assert fit(amounts[:4], losses[:4]) is None


def test_aioli_normalizes_the_gains_and_leans_by_no_more_than_its_step(observe):
    source_values = [{"real": 1.0, "good": 0.5, "bad": -0.5}, {"real": 0.6, "good": 0.6, "bad": 0.3}]
    first, then = proposals(
        config_of("aioli"),
        [
            lambda s, source_value=source_value: observe(100, s, source_value=source_value)
            for source_value in source_values
        ],
    )
    gains = {"real": 1.5 / 2.5, "good": 1.0 / 2.5, "bad": 0.0}  # shifted by the negative one, then over their sum
    later = {"real": 0.6 / 1.5, "good": 0.6 / 1.5, "bad": 0.3 / 1.5}
    smoothed = {k: 0.9 * later[k] + 0.1 * gains[k] for k in gains}
    for proposal, expected in ((first, gains), (then, smoothed)):
        raised = {k: START[k] * exp(0.2 * gain) for k, gain in expected.items()}
        total = sum(raised.values())
        assert weights_of(proposal) == pytest.approx({k: value / total for k, value in raised.items()})


def test_aioli_without_smoothing_adds_up(observe):
    source_value = {"real": 1.0, "good": 0.5, "bad": -0.5}
    *_, last = proposals(config_of("aioli", ema=None), [lambda s: observe(100, s, source_value=source_value)] * 30)
    raised = {k: START[k] * exp(30 * 0.2 * gain) for k, gain in {"real": 0.6, "good": 0.4, "bad": 0.0}.items()}
    assert last.shares["real"] / 1e6 == pytest.approx(raised["real"] / sum(raised.values()), abs=0.01)


def test_pike_weighs_alignment_against_the_variance_of_a_batch(observe):
    alignment = {"real": aligned(2.0, 640.0), "good": aligned(1.0, 64.0), "bad": aligned(-1.0, 64.0)}
    (first,) = proposals(
        config_of("pike", zeta_1=0.2, zeta_2=0.02), [lambda s: observe(100, s, gradient_alignment=alignment)]
    )
    # zeta_2 / zeta_1 * variance / (2 * 32): 1, 0.1, 0.1; over S = 0.5 * 3 + 0.3 * 1.1 + 0.2 * 1.1
    size = 1.5 + 0.33 + 0.22
    raised = {"real": 0.5 * exp(0.2 * 1.0 / size), "good": 0.3 * exp(0.2 * 0.9 / size)}
    raised["bad"] = 0.2 * exp(0.2 * -1.1 / size)
    total = sum(raised.values())
    assert weights_of(first) == pytest.approx({k: value / total for k, value in raised.items()})


def test_the_variance_weighs_as_much_as_the_learning_rate_when_no_weight_is_given(observe):
    noisy = {"real": aligned(1.0, 6_400.0), "good": aligned(1.0, 0.0), "bad": aligned(1.0, 0.0)}
    config = config_of("pike", zeta_1=1.0)
    high, low = (
        proposals(config, [lambda s, rate=rate: observe(100, s, gradient_alignment=noisy, rate=rate)])[0]
        for rate in (1e-2, 1e-5)
    )
    assert high.evidence["zeta_2"] == pytest.approx(1e-2)
    assert high.shares["real"] < low.shares["real"] <= START["real"]


@pytest.mark.parametrize(
    ("shape", "step", "real"),
    [("linear", 100, 0.5), ("linear", 250, 0.6), ("linear", 400, 0.9), ("cosine", 250, 0.55857), ("cosine", 300, 0.7)],
)
def test_an_anneal_follows_its_curve_and_keeps_proportions_within_a_kind(observe, shape, step, real):
    config = config_of("anneal", real_share=0.9, start=0.5, shape=shape)
    (proposal,) = proposals(config, [lambda s: observe(step, s)])
    assert proposal.shares["real"] == pytest.approx(1e6 * real, abs=500)
    assert proposal.shares["good"] / proposal.shares["bad"] == pytest.approx(1.5, abs=0.03)


def test_an_anneal_to_what_is_not_there_is_refused():
    with pytest.raises(UserError, match="no real source has a share to grow from"):
        anneal.begin(config_of("anneal"), {"real": 0, "good": SHARE_ONE}, {**KINDS})
    with pytest.raises(ValidationError, match="must lie before end"):
        config_of("anneal", start=0.5, end=0.5)


# what all have in common

SETTINGS = {
    "anneal": {"start": 0.2},
    "proportional": {"exponent": 0.7},
    "doremi": {"targets": LOSSES},
    "aioli": {"ema": None, "eta": 1.0},
    "pike": {"zeta_1": 1.0},
}
ALL = {kind: SETTINGS.get(kind, {}) for kind in POLICIES.builtin if kind != "schedule"}  # which has its own tests
BOUNDED = [kind for kind, settings in ALL.items() if isinstance(config_of(kind, **settings), Bounds)]
numbers = st.floats(-3.0, 12.0)
histories = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=9)


def observations_of(observe, history):
    """The same numbers as losses, source values and alignments; every fourth evaluation lacks those of the last one."""
    for number, row in enumerate(history):
        values = dict(zip(START, row, strict=True))
        if number % 4 == 3:
            del values["bad"]
        yield lambda shares, step=40 * (number + 1), values=values: observe(
            step,
            shares,
            kinds=KINDS,
            steps=400,
            source_value=values,
            source_losses={k: max(0.01, value + 4) for k, value in values.items() if shares[k] > 0},
            gradient_alignment={k: aligned(value, 10.0) for k, value in values.items()},
            num_samples={"real": 100, "good": 5_000, "bad": 700},
        )


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=15, deadline=None)
@given(history=histories)
def test_shares_are_exact_and_explained_in_plain_numbers_whatever_is_measured(observe, kind, history):
    config = config_of(kind, **ALL[kind])
    once = proposals(config, observations_of(observe, history))
    for proposal in once:
        assert sum(proposal.shares.values()) == SHARE_ONE
        assert list(proposal.shares) == list(START)
        assert all(share % SHARE_STEP == 0 for share in proposal.shares.values())
        assert proposal.reason
        json.dumps(proposal.evidence, allow_nan=False)
    assert once == proposals(config, observations_of(observe, history))


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=10, deadline=None)
@given(history=histories)
def test_a_source_at_zero_stays_at_zero_under_every_policy(observe, kind, history):
    shares = {"real": 600_000, "good": 0, "bad": 400_000}
    for proposal in proposals(config_of(kind, **ALL[kind]), observations_of(observe, history), shares):
        assert proposal.shares["good"] == 0


@pytest.mark.parametrize("kind", BOUNDED)
@settings(max_examples=15, deadline=None)
@given(history=histories)
def test_floors_and_ceilings_by_name_bind_under_every_policy(observe, kind, history):
    config = config_of(kind, **ALL[kind], floors={"bad": 0.0615}, ceilings={"real": 0.6})
    for proposal in proposals(config, observations_of(observe, history)):
        assert proposal.shares["bad"] >= 61_500
        assert proposal.shares["real"] <= 600_000


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if POLICIES.resolve(kind).needs(config_of(kind, **ALL[kind]), inf).losses]
)
def test_a_policy_that_follows_losses_keeps_going_when_a_source_has_none(observe, kind):
    some = [lambda s: observe(100, s, source_losses={"real": 4.0}), lambda s: observe(200, s, source_losses={})]
    for proposal in proposals(config_of(kind, **ALL[kind]), some):
        assert sum(proposal.shares.values()) == SHARE_ONE


@settings(max_examples=60)
@given(
    st.lists(st.just(0.0) | st.floats(1e-3, 1e6), min_size=2, max_size=8).filter(lambda values: sum(values) > 0),
    st.just(0.0) | st.floats(1e-6, 0.1),
    st.floats(0.5, 1.0),
)
def test_shares_kept_within_bounds_are_in_proportion_between_them(values, floor, ceiling):
    weights = {f"s{i}": value for i, value in enumerate(values)}
    bounds = Bounds(floors={"s0": floor}, ceilings={"s1": ceiling})
    shares = kept_within(bounds, weights, dict.fromkeys(weights, SHARE_ONE))
    assert sum(shares.values()) == SHARE_ONE
    assert shares["s0"] >= floor * SHARE_ONE - 1
    assert shares["s1"] <= ceiling * SHARE_ONE + 1
    between = [name for name in weights if name not in ("s0", "s1")]
    total, left = sum(weights[name] for name in between), sum(shares[name] for name in between)
    for name in between:
        if total > 0:  # a thousandth for each source is what rounding may move
            assert shares[name] == pytest.approx(left * weights[name] / total, abs=1_000 * len(weights))


def test_ceilings_that_leave_no_room_give_way():
    bounds = Bounds(ceilings={"a": 0.3, "b": 0.2})
    assert kept_within(bounds, {"a": 1.0, "b": 1.0}, {"a": 1, "b": 1, "c": 0}) == {"a": 600_000, "b": 400_000, "c": 0}
