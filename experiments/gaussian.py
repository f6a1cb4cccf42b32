"""E1 and E2: a Gaussian that is fitted to its own samples, generation after generation.

E1, replace: generation n is the maximum-likelihood fit to M samples of generation n - 1 alone. The sample variance of M
draws has mean (1 - 1/M) times the variance, and the mean moves by an M-th of it, so that

    E var_n = (1 - 1/M)^n        E (mean_n)^2 = 1 - (1 - 1/M)^n        E ln var_n = n [psi((M - 1) / 2) + ln(2 / M)]

the last from M var / var_before ~ chi-square with M - 1 degrees of freedom. With the unbiased variance E var_n = 1 for
ever and E (mean_n)^2 = n / M, and still every chain goes to 0: E ln var_n falls all the same. Look at logarithms.

E2, accumulate: generation n is fitted to all n batches of M so far, the n-th drawn from generation n - 1. Of the pooled
variance (n - 1)/n comes from before, (1 - 1/M)/n from within the new batch, (n - 1)/(n^2 M) from between the two:

    E var_n = prod_(j <= n) (1 - 1/(M j^2)) -> sin(x)/x with x = pi/sqrt(M)        E (mean_n)^2 = 1 - E var_n

All derived so and confirmed by simulation (tests/experiments/test_environments.py). Variances are in units of the real
one, and means in units of its root.
"""

# C chains, N generations (column 0 is the real distribution), M samples of a generation

import numpy as np
from scipy.special import digamma

from trainer.base.records import FloatArray


def replaced(
    *, num_chains: int, num_samples: int, num_generations: int, seed: int, unbiased: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Means and variances [C, N + 1] of E1, from samples."""
    rng = np.random.default_rng(seed)
    mean_CN, variance_CN = np.zeros((2, num_chains, num_generations + 1))
    variance_CN[:, 0] = 1
    for n in range(num_generations):
        sample_CM = rng.standard_normal((num_chains, num_samples))
        sample_CM = mean_CN[:, [n]] + np.sqrt(variance_CN[:, [n]]) * sample_CM
        mean_CN[:, n + 1] = sample_CM.mean(axis=1)
        variance_CN[:, n + 1] = sample_CM.var(axis=1, ddof=int(unbiased))
    return mean_CN, variance_CN


def accumulated(*, num_chains: int, num_samples: int, num_generations: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Means and variances [C, N + 1] of E2, from samples; only the sums of the pool are kept."""
    rng = np.random.default_rng(seed)
    mean_CN, variance_CN = np.zeros((2, num_chains, num_generations + 1))
    variance_CN[:, 0] = 1
    sum_C, square_C = np.zeros((2, num_chains))
    for n in range(num_generations):
        sample_CM = rng.standard_normal((num_chains, num_samples))
        sample_CM = mean_CN[:, [n]] + np.sqrt(variance_CN[:, [n]]) * sample_CM
        sum_C += sample_CM.sum(axis=1)
        square_C += (sample_CM**2).sum(axis=1)
        pooled = (n + 1) * num_samples
        mean_CN[:, n + 1] = sum_C / pooled
        variance_CN[:, n + 1] = square_C / pooled - mean_CN[:, n + 1] ** 2
    return mean_CN, variance_CN


def replaced_variance(num_samples: int, generations: FloatArray) -> FloatArray:
    """E var_n of E1."""
    return (1 - 1 / num_samples) ** np.asarray(generations, dtype=np.float64)


def replaced_log_variance(num_samples: int, generations: FloatArray) -> FloatArray:
    """E ln var_n of E1."""
    return np.asarray(generations) * (digamma((num_samples - 1) / 2) + np.log(2 / num_samples))


def accumulated_variance(num_samples: int, generations: FloatArray) -> FloatArray:
    """E var_n of E2."""
    last = int(np.max(generations))
    factors = np.concatenate([[1.0], 1 - 1 / (num_samples * np.arange(1, last + 1, dtype=np.float64) ** 2)])
    return np.cumprod(factors)[np.asarray(generations, dtype=np.int64)]
