"""E3: linear regression on labels that the regression before has written.

A design X of T rows and d standard normal columns, the same in all rounds, true weights theta_0, noise of variance
sigma^2. Round n is fitted to y_n = X theta_(n-1) + noise: with delta_n = (X'X)^-1 X' noise_n, whose mean square over X
is sigma^2 d / (T - d - 1) (inverse Wishart), the error after n rounds is

    replace (fit to y_n alone):      theta_n = theta_(n-1) + delta_n      error n sigma^2 d / (T - d - 1)
    accumulate (fit to y_1 ... y_n): theta_n = theta_(n-1) + delta_n / n  error sum_(i <= n) 1/i^2 of that, <= pi^2/6

The second line: the normal equations of n copies of X give n theta_n = sum_(i <= n) (theta_(i-1) + delta_i), and their
difference for n and n - 1 is the step. Derived so (the source, arXiv 2404.01413, states it) and confirmed by simulation
with fitted regressions. It holds for one design; with a new one in each round the accumulated error is a little less.
"""

# C draws of the whole, T rows, d columns, N rounds

import numpy as np

from trainer.base.records import FloatArray


def errors(
    *, num_draws: int, num_rows: int, num_columns: int, num_rounds: int, accumulate: bool, seed: int
) -> FloatArray:
    """Mean over draws of |theta_n - theta_0|^2 [N], each round a least-squares fit, with noise of variance 1."""
    rng = np.random.default_rng(seed)
    design_CTd = rng.standard_normal((num_draws, num_rows, num_columns))
    gram_Cdd = design_CTd.transpose(0, 2, 1) @ design_CTd
    theta_Cd = np.zeros((num_draws, num_columns))
    moments_Cd = np.zeros((num_draws, num_columns))  # X'y, of all rounds when they accumulate
    errors_of_rounds = np.empty(num_rounds)
    for n in range(num_rounds):
        label_CT = (design_CTd @ theta_Cd[:, :, None])[:, :, 0] + rng.standard_normal((num_draws, num_rows))
        new_Cd = (design_CTd.transpose(0, 2, 1) @ label_CT[:, :, None])[:, :, 0]
        moments_Cd = moments_Cd + new_Cd if accumulate else new_Cd
        copies = n + 1 if accumulate else 1
        theta_Cd = np.linalg.solve(copies * gram_Cdd, moments_Cd[:, :, None])[:, :, 0]
        errors_of_rounds[n] = (theta_Cd**2).sum(axis=1).mean()
    return errors_of_rounds


def expected_errors(*, num_rows: int, num_columns: int, num_rounds: int, accumulate: bool) -> FloatArray:
    """The closed form of ``errors`` [N]."""
    rounds = np.arange(1, num_rounds + 1, dtype=np.float64)
    factor = np.cumsum(1 / rounds**2) if accumulate else rounds
    expected: FloatArray = num_columns / (num_rows - num_columns - 1) * factor
    return expected
