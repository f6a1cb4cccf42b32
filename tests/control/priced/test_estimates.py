"""Dithered shares, gaps and steps: what priced is made of."""

import math

import numpy as np
import pytest

from trainer.control.priced.dither import dithered, effects, sign
from trainer.control.priced.estimates import Estimate, advantages, combine_or_reset, inverse_variance_mean
from trainer.control.priced.trust_region import StepSizes, divergence, step
from trainer.mixture.shares import within

FRESH = StepSizes()


def test_waves_are_balanced_and_unlike_each_other_and_their_own_past():
    waves = np.array([[sign(index, source) for index in range(256)] for source in range(1, 6)])
    assert np.abs(waves.mean(axis=1)).max() <= 1 / 8
    for shift in range(4):
        for wave in range(5):
            for other in range(5):
                if wave != other or shift:
                    assert abs((waves[wave, shift:] * waves[other, : 256 - shift]).mean()) <= 1 / 4
    assert {sign(index, 0) for index in range(9)} == {0}


def test_dithered_shares_sum_to_what_they_did():
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    for index in range(8):
        moved = dithered(shares, index, amplitude=0.2, order=list(shares))
        assert sum(moved.values()) == pytest.approx(1.0)
        assert all(abs(math.log(moved[name] / shares[name])) <= 0.4 for name in shares)


def worlds(values, rng, *, keeps=0.9, noise=0.02, count=60):
    """Losses that fall, forget a tenth of what was learnt per span, and are read with noise."""
    base, level, losses, waves = np.array([0.4, 0.35, 0.25]), 1.0, [], []
    start = int(rng.integers(1000))
    for index in range(count):
        shares = dithered(dict(zip("abc", base, strict=True)), start + index, amplitude=0.2, order="abc")
        waves.append(np.array(list(shares.values())) - base)
        level = keeps * level - 0.5 * float(np.array(list(shares.values())) @ values)
        losses.append(level + noise * rng.standard_normal() + 20 / (10 + index))
    return np.array(losses), np.array(waves), np.full(count, 0.5)


@pytest.mark.parametrize("keeps", [0.0, 0.6, 0.95])
def test_effects_of_dithered_shares_are_found_within_their_errors(keeps):
    rng, values = np.random.default_rng(3), np.array([0.2, 1.0, -0.5])
    z = []
    for _ in range(150):
        estimate = effects(*worlds(values, rng, keeps=keeps))
        error = np.sqrt(np.diag(estimate.covariance))[1:]
        z.append((estimate.values[1:] - (values[1:] - values[0])) / error)
    z = np.array(z)
    assert np.abs(np.median(z, axis=0)).max() < 0.6
    assert (np.abs(z) < 2.5).mean() > 0.9


def test_without_waves_or_with_few_evaluations_nothing_is_estimated():
    losses, waves, rates = worlds(np.zeros(3), np.random.default_rng(1))
    assert effects(losses, np.zeros_like(waves), rates) is None
    assert effects(losses[:8], waves[:8], rates[:8]) is None


def test_an_advantage_is_over_the_mean_of_the_others_by_their_shares():
    estimate = advantages(np.array([1.0, 0.5, -1.0]), np.diag([0.01, 0.04, 0.0]), np.array([0.5, 0.25, 0.25]))
    assert estimate[0].value == pytest.approx(1.0 - (0.5 - 1.0) / 2)
    assert estimate[0].standard_error == pytest.approx(math.sqrt(0.01 + 0.04 / 4))


def test_estimates_are_pooled_by_inverse_variance_and_doubted_where_they_disagree():
    agreeing = inverse_variance_mean(
        {"a": Estimate(value=1.0, standard_error=0.1), "b": Estimate(value=1.1, standard_error=0.2)}
    )
    assert agreeing.value == pytest.approx((100 * 1.0 + 25 * 1.1) / 125)
    assert agreeing.standard_error == pytest.approx(1 / math.sqrt(125))
    torn = inverse_variance_mean(
        {"a": Estimate(value=1.0, standard_error=0.1), "b": Estimate(value=-1.0, standard_error=0.1)}
    )
    assert torn.value == pytest.approx(0.0)
    assert torn.standard_error > 0.9


def test_an_earlier_estimate_is_dropped_when_a_source_is_no_longer_what_it_was():
    before = Estimate(value=0.0, standard_error=0.02)
    assert combine_or_reset(before, Estimate(value=0.03, standard_error=0.02)).value == pytest.approx(0.015)
    assert combine_or_reset(before, Estimate(value=-1.0, standard_error=0.1)).value == -1.0


def stepped(gap, error, shares=None, sizes=FRESH):
    shares = shares or {"a": 0.5, "b": 0.5}
    advantages = {"a": Estimate(value=gap, standard_error=error), "b": Estimate(value=-gap, standard_error=error)}
    return step(shares, advantages, sizes, z=1.5, trust=0.02)


def test_evidence_within_its_error_moves_nothing():
    assert stepped(1.0, 0.7).shares == {"a": 0.5, "b": 0.5}


def test_a_step_stays_in_the_trust_region_that_its_evidence_sizes():
    for significance in (1.6, 3.0, 8.0):
        outcome = stepped(1.0, 1 / significance)
        assert outcome.radius == pytest.approx(0.02 * (significance / 1.5) ** 2)
        assert divergence(outcome.shares, {"a": 0.5, "b": 0.5}) <= outcome.radius * (1 + 1e-6)
        assert outcome.shares["a"] > 0.5
    assert stepped(-1.0, 1e-3).shares["a"] < 0.02  # plainly worthless: gone in one decision


def test_a_source_whose_advantage_turns_goes_half_as_far_next_time():
    first = stepped(1.0, 1e-3)
    second = stepped(-1.0, 1e-3, first.shares, first.sizes)
    assert second.sizes.reach == {name: reach / 2 for name, reach in first.sizes.reach.items()}


def test_steps_shrink_with_the_advantage():
    first = stepped(1.0, 1e-4)
    near = stepped(0.05, 1e-4, {"a": 0.5, "b": 0.5}, first.sizes)
    assert 0 < near.shares["a"] - 0.5 < 0.06


@pytest.mark.parametrize("total", [1.0, 0.7, 0.2])
def test_shares_stay_within_floors_and_ceilings_and_in_proportion_between(total):
    weights, floors = {"a": 0.6, "b": 0.3, "c": 0.001, "gone": 0.0}, {"a": 0.0, "b": 0.05, "c": 0.05, "gone": 0.0}
    ceilings = {"a": 0.5, "b": 1.0, "c": 1.0, "gone": 1.0}
    bounded = within(weights, floors, ceilings, total=total)
    assert sum(bounded.values()) == pytest.approx(total)
    assert bounded["c"] >= 0.05 - 1e-12
    assert bounded["a"] <= 0.5 + 1e-12
    assert bounded["gone"] == 0
    if total == 0.7:
        assert bounded["a"] / bounded["b"] == pytest.approx(2.0)
