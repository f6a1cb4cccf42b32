"""Each simulator against its closed form, with the tolerances it was accepted under."""

import numpy as np
import pytest

from experiments import gaussian, regression, sharpened, tokens, verifier

M, GENERATIONS, CHAINS = 50, 40, 20_000


@pytest.fixture(scope="module")
def replaced():
    return gaussian.replaced(num_chains=CHAINS, num_samples=M, num_generations=GENERATIONS, seed=1)


def test_e1_variance_falls_by_an_mth_per_generation(replaced):
    _, variance_CN = replaced
    assert variance_CN[:, -1].mean() == pytest.approx(gaussian.replaced_variance(M, GENERATIONS), rel=0.04)


def test_e1_log_variance_falls_by_two_mths_per_generation(replaced):
    _, variance_CN = replaced
    expected = gaussian.replaced_log_variance(M, GENERATIONS)
    assert np.log(variance_CN[:, -1]).mean() == pytest.approx(expected, rel=0.017)
    assert expected == pytest.approx(-2 * GENERATIONS / M, rel=0.03)


def test_e1_what_the_variance_loses_the_mean_wanders(replaced):
    mean_CN, variance_CN = replaced
    assert (mean_CN[:, -1] ** 2).mean() + variance_CN[:, -1].mean() == pytest.approx(1.0, rel=0.03)


def test_e1_the_unbiased_variance_keeps_its_mean_and_collapses_all_the_same():
    _, variance_CN = gaussian.replaced(
        num_chains=CHAINS, num_samples=M, num_generations=GENERATIONS, seed=2, unbiased=True
    )
    assert variance_CN[:, -1].mean() == pytest.approx(1.0, abs=0.045)  # 3 standard errors
    assert np.median(variance_CN[:, -1]) < 0.6


def test_e2_accumulated_data_stops_the_fall():
    mean_CN, variance_CN = gaussian.accumulated(num_chains=CHAINS, num_samples=M, num_generations=GENERATIONS, seed=3)
    expected = gaussian.accumulated_variance(M, GENERATIONS)
    assert variance_CN[:, -1].mean() == pytest.approx(expected, rel=0.006)
    x = np.pi / np.sqrt(M)
    assert expected == pytest.approx(np.sin(x) / x, rel=0.001)
    assert (mean_CN[:, -1] ** 2).mean() == pytest.approx(1 - expected, rel=0.05)


@pytest.mark.parametrize(("accumulate", "growth"), [(False, 6.0), (True, 1.4914)])
def test_e3_error_grows_with_the_rounds_or_with_the_sum_of_inverse_squares(accumulate, growth):
    sizes = {"num_rows": 111, "num_columns": 10, "num_rounds": 6, "accumulate": accumulate}
    errors = regression.errors(num_draws=3_000, seed=4, **sizes)
    assert errors == pytest.approx(regression.expected_errors(**sizes), rel=0.03)
    assert errors[-1] / (10 / 100) == pytest.approx(growth, rel=0.03)


ZIPF = tokens.zipf(50)


@pytest.mark.parametrize("real", [0.0, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("exact", [False, True])
def test_e10_diversity_falls_to_what_the_real_share_holds(real, exact):
    sizes = {"truth_V": ZIPF, "num_samples": 100, "num_generations": 200, "exact": exact}
    diversity = tokens.diversity(real, num_chains=300, seed=5, **sizes)
    expected = tokens.expected_diversity(real, **sizes)
    for n in (1, 10, 50, 200):
        assert diversity[n] == pytest.approx(expected[n], abs=0.02 if real == 0 and n == 200 else 0.01)


def test_e10_closed_forms_agree_with_the_figures_published_with_them():
    assert 1 - (ZIPF**2).sum() == pytest.approx(0.9197, abs=5e-5)
    for real, limit in ((0.05, 0.833), (0.1, 0.873), (0.5, 0.907)):
        sizes = {"truth_V": ZIPF, "num_samples": 100}
        assert tokens.expected_diversity(real, num_generations=400, **sizes)[-1] == pytest.approx(limit, abs=0.001)
        assert 0.9197 - tokens.limiting_excess(real, **sizes) == pytest.approx(limit, abs=0.001)
    dead = tokens.expected_diversity(0.0, truth_V=ZIPF, num_samples=100, num_generations=50)
    assert dead[-1] == pytest.approx(0.9197 * 0.99**50, abs=1e-4)


def test_e10_exact_counts_leave_less_noise_than_draws_from_the_mixture():
    sizes = {"truth_V": ZIPF, "num_samples": 10, "num_generations": 60}
    pooled, exact = (
        tokens.diversity(0.3, num_chains=3_000, seed=6, exact=exact, **sizes)[-30:].mean() for exact in (False, True)
    )
    assert exact - pooled == pytest.approx(
        np.diff([tokens.expected_diversity(0.3, exact=exact, **sizes)[-1] for exact in (False, True)])[0], rel=0.25
    )


@pytest.mark.parametrize(("sharpness", "real"), [(0.8, 0.5), (0.8, 0.19 / 0.24), (0.5, 0.1)])
def test_e12_a_real_share_holds_the_variance_where_the_formula_says(sharpness, real):
    family, rng = sharpened.Sharpened(sharpness), np.random.default_rng(7)
    num_samples, parameters, variances = 20_000, np.array([0.0, 1.0]), []
    for generation in range(120):
        num_real = round(real * num_samples)
        mixture = [
            family.drawn(family.truth, num_real, rng),
            family.generated(parameters, num_samples - num_real, rng),
        ]
        parameters = family.fitted(np.concatenate(mixture))
        variances += [parameters[1]] if generation >= 60 else []
    expected = sharpened.limiting_variance(real, sharpness)
    assert np.mean(variances) == pytest.approx(expected, rel=0.01)
    assert sharpened.share_that_keeps(expected, sharpness) == pytest.approx(real)
    assert sharpened.variance_after(np.full(120, real), sharpness) == pytest.approx(expected)


def test_e12_a_little_sharpening_costs_much_real_data():
    assert sharpened.share_that_keeps(0.95, 0.8) == pytest.approx(0.79, abs=0.005)


@pytest.mark.parametrize(("kept_right", "kept_wrong"), [(1.0, 1.0), (0.9, 0.3), (0.8, 0.2)])
def test_e13_filtered_labels_teach_exactly_below_the_breaking_error(kept_right, kept_wrong):
    at = verifier.breaking_error(kept_right, kept_wrong)
    rates = {"kept_right": kept_right, "kept_wrong": kept_wrong, "num_samples": 40_000, "seed": 8}
    assert verifier.accuracy(at - 0.05, **rates) > 0.8  # of 0.841
    assert verifier.accuracy(at + 0.05, **rates) < 0.2
    assert at == pytest.approx(kept_right / (kept_right + kept_wrong))


def test_e13_a_biased_verifier_puts_its_own_center_in_place_of_the_truth():
    sizes = {"center": 2.0, "width": 6.0, "num_rounds": 12}
    mean, variance = verifier.verified_rounds(num_samples=200_000, seed=9, **sizes)
    expected_mean, expected_variance = verifier.expected_after_rounds(**sizes)
    assert mean == pytest.approx(expected_mean, abs=0.02)
    assert variance == pytest.approx(expected_variance, rel=0.03)
    assert expected_mean == pytest.approx(2 * 12 / 18)
