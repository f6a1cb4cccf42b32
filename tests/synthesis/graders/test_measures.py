"""The statistics of a grader against closed forms and simulation."""

import numpy as np
import pytest

from experiments.verifier import accuracy
from trainer.synthesis.graders.bound import breaking_error, verifier, worth, wrong_share
from trainer.synthesis.graders.measures import (
    agreement,
    calibration,
    mean_beyond_half,
    partial_rank_correlation,
    preference,
)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_a_grader_that_is_always_sure_of_good_is_wrong_by_a_half() -> None:
    error, brier, bins = calibration(np.ones(40), np.repeat([1.0, 0.0], [30, 10]))
    assert error.value == pytest.approx(0.5)
    assert brier == pytest.approx(0.5)
    assert [(each.belief, each.good, each.rows) for each in bins] == [(1.0, 0.75, 40)]


def test_beliefs_that_come_true_are_calibrated() -> None:
    belief = np.repeat([0.05, 0.95], 1000)
    truth = np.concatenate([np.repeat([1.0, 0.0], [50, 950]), np.repeat([1.0, 0.0], [950, 50])])
    assert calibration(belief, truth)[0].value < 0.01


def test_agreement_is_balanced_and_its_interval_holds_it() -> None:
    found = agreement([True] * 9 + [False], [True] * 20 + [False] * 80)
    assert found.balanced_accuracy.value == pytest.approx((0.9 + 0.8) / 2)
    assert found.balanced_accuracy.low < 0.85 < found.balanced_accuracy.high


def test_length_counts_only_among_rows_of_one_kind() -> None:
    length, stratum = np.arange(60.0), np.repeat([0, 1], 30)
    rng = np.random.default_rng(1)
    only_between = partial_rank_correlation(stratum + 0.01 * rng.standard_normal(60), length, stratum)
    inside = partial_rank_correlation(length % 30, length, stratum)
    assert only_between is not None
    assert inside is not None
    assert only_between.low < 0 < only_between.high
    assert inside.value == pytest.approx(1.0, abs=0.01)
    assert partial_rank_correlation(array(1, 2, 3), array(1, 2, 3), np.zeros(3, int)) is None


def test_preference_is_how_much_more_often_than_half_a_score_wins() -> None:
    same = preference([np.arange(10.0)], [np.arange(10.0)], "a")
    better = preference([np.arange(10.0) + 100], [np.arange(10.0)], "a")
    assert same is not None
    assert better is not None
    assert same.value == 0.0
    assert (better.value, better.low, better.high) == (0.5, 0.5, 0.5)
    assert preference([array(1, 2)], [array(1, 2)], "a") is None


def test_the_position_that_is_always_chosen_is_beyond_half_by_a_half() -> None:
    biased = mean_beyond_half(np.ones(20))
    assert biased is not None
    assert biased.value == 0.5
    assert mean_beyond_half(np.ones(3)) is None


def test_the_breaking_error_is_that_of_the_source() -> None:
    assert breaking_error(array(0.9), array(0.3)) == pytest.approx(1 / (1 + 0.3 / 0.9))
    assert breaking_error(array(0.0), array(0.0)) == 0.5


def test_the_share_of_wrong_rows_follows_from_the_kept_share() -> None:
    kept = 0.3 * 0.2 + 0.7 * 0.9
    assert wrong_share(array(0.9), array(0.2), array(kept)) == pytest.approx(0.3)
    assert wrong_share(array(0.5), array(0.5), array(0.5)) == 0.0


def test_a_noisy_row_is_worth_the_square_of_what_is_left_of_its_labels() -> None:
    """A linear classifier from n rows, a share of them wrong, is as accurate as one from n (1 - 2 q)^2 clean ones."""
    wrong, rows = 0.25, 400
    noisy = [accuracy(wrong, kept_right=1, kept_wrong=1, num_samples=rows, seed=seed) for seed in range(60)]
    clean = int(rows * worth(array(wrong))[0])
    as_good = [accuracy(0.0, kept_right=1, kept_wrong=1, num_samples=clean, seed=seed) for seed in range(60)]
    assert clean == 100
    assert np.mean(noisy) == pytest.approx(np.mean(as_good), abs=0.01)
    assert np.mean(noisy) < 0.835, "it falls smoothly: a limit would be no test"


def test_the_intervals_of_the_wrong_share_hold_it() -> None:
    rng, hits, draws = np.random.default_rng(5), 0, 200
    for _ in range(draws):
        right, bad = (rng.random(60) < 0.95).tolist(), (rng.random(120) < 0.2).tolist()
        kept = int((rng.random(1000) < 0.3 * 0.2 + 0.7 * 0.95).sum())
        before = verifier(right, bad, kept, 1000).wrong_before
        hits += before.low <= 0.3 <= before.high
    assert hits / draws >= 0.92


def test_a_verifier_that_is_worse_than_chance_is_worth_less_than_none() -> None:
    record = verifier([True] * 20 + [False] * 40, [True] * 100, 700, 1000)
    assert record.breaking_error.value == pytest.approx(0.25)
    assert record.gain.value < 0
