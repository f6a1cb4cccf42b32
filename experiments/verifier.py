"""E13: labels that a verifier has filtered, and what it takes for them to teach.

A label is wrong with probability p; the verifier keeps a right one with probability phi and a wrong one with psi,
whatever the example. Of those kept a part p psi / (p psi + (1 - p) phi) is wrong, and a learner that goes by the
majority ends up right, given enough of them, if that is below one half:

    p < p* = 1 / (1 + psi / phi)

The source (arXiv 2406.07515, from notes) has this for linear classifiers; derived so, and the fall of the accuracy of a
fitted linear classifier from above to below chance at p* confirmed by simulation. A verifier need not be good, only
better than the labels are bad: phi / psi > p / (1 - p).

Verified is not safe, though (arXiv 2510.16657): a verifier that keeps x with probability exp(-(x - c)^2 / (2 w)) puts
its own center c in place of the truth. After n rounds of fitting a Gaussian to what it keeps of the generation before,

    1 / var_n = 1 / var_0 + n / w        mean_n = var_n (mean_0 / var_0 + n c / w)  ->  c

by the product of two Gaussians, exactly for infinitely many samples.
"""

# N samples, d dimensions

import numpy as np


def breaking_error(kept_right: float, kept_wrong: float) -> float:
    """p*: the rate of wrong labels from which filtered labels teach the wrong thing."""
    return 1 / (1 + kept_wrong / kept_right)


def accuracy(
    wrong: float, *, kept_right: float, kept_wrong: float, num_samples: int, seed: int, dimensions: int = 20
) -> float:
    """Of the classifier sign(<w, x>), with w the mean of label times x over what is kept, against the true labels.

    x ~ N(y m, I) with |m| = 1, so that the best possible is Phi(1) = 0.841.
    """
    rng = np.random.default_rng(seed)
    center_d = np.full(dimensions, dimensions**-0.5)
    truth_N = rng.choice([-1.0, 1.0], num_samples)
    sample_Nd = truth_N[:, None] * center_d + rng.standard_normal((num_samples, dimensions))
    is_wrong_N = rng.random(num_samples) < wrong
    is_kept_N = rng.random(num_samples) < np.where(is_wrong_N, kept_wrong, kept_right)
    label_N = np.where(is_wrong_N, -truth_N, truth_N)
    weight_d = (label_N[is_kept_N, None] * sample_Nd[is_kept_N]).mean(axis=0)
    test_truth_N = rng.choice([-1.0, 1.0], num_samples)
    test_Nd = test_truth_N[:, None] * center_d + rng.standard_normal((num_samples, dimensions))
    return float((np.sign(test_Nd @ weight_d) == test_truth_N).mean())


def verified_rounds(
    *, center: float, width: float, num_rounds: int, num_samples: int, seed: int
) -> tuple[float, float]:
    """Mean and variance after rounds of fitting what such a verifier keeps, from the standard normal."""
    rng = np.random.default_rng(seed)
    mean, variance = 0.0, 1.0
    for _ in range(num_rounds):
        sample_N = mean + np.sqrt(variance) * rng.standard_normal(num_samples)
        kept_N = sample_N[rng.random(num_samples) < np.exp(-((sample_N - center) ** 2) / (2 * width))]
        mean, variance = float(kept_N.mean()), float(kept_N.var())
    return mean, variance


def expected_after_rounds(*, center: float, width: float, num_rounds: int) -> tuple[float, float]:
    """The closed form of ``verified_rounds``, for infinitely many samples."""
    variance = 1 / (1 + num_rounds / width)
    return variance * num_rounds * center / width, variance
