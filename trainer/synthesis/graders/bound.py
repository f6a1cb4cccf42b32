"""What a verifier can and cannot do, from how often it keeps right and wrong rows.

Rows are wrong with probability p; the verifier keeps a right one with probability phi, a wrong one with psi. Of those
kept a part q = p psi / (p psi + (1 - p) phi) is wrong. A learner that goes by the majority is taught the truth while
q < 1/2:

    p < p* = 1 / (1 + psi / phi)                                                (Feng et al. 2024, arXiv:2406.07515)

p itself follows from the kept share kappa = (1 - p) phi + p psi of the round (Rogan and Gladen 1978):

    p = (phi - kappa) / (phi - psi)

In many dimensions nothing breaks at p*: what is learned falls smoothly (Firdoussi et al. 2024, arXiv:2410.08942). The
direction that n rows teach a linear classifier by the mean of label times input is (1 - 2 q) times the true one, plus
noise of variance 1/n in each dimension, so accuracy depends on n (1 - 2 q)^2 alone: the number of clean rows that n
such rows are worth. The expected gain is in these, per row that the generator wrote (below 0 rows teach the opposite):

    gain = kappa s(1 - 2 q) - s(1 - 2 p),   s(x) = x |x|

All this assumes that the generator's faults are found as often as those of the labeled rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from trainer.base.hashing import derived_rng
from trainer.base.records import FloatArray
from trainer.synthesis.graders.record import Estimate, VerifierRecord

DRAWS = 4000


def breaking_error(kept_right: FloatArray, kept_wrong: FloatArray) -> FloatArray:
    """p*: the share of wrong rows from which what is kept teaches the wrong thing; 1/2 where nothing is kept."""
    total = kept_right + kept_wrong
    return np.divide(kept_right, total, out=np.full_like(total, 0.5), where=total > 0)


def wrong_share(kept_right: FloatArray, kept_wrong: FloatArray, kept_share: FloatArray) -> FloatArray:
    """p, from how many rows are kept; 0 where phi = psi, which tells nothing of it."""
    power = kept_right - kept_wrong
    estimate = np.divide(kept_right - kept_share, power, out=np.zeros_like(power), where=np.abs(power) > 1e-9)
    return np.clip(estimate, 0.0, 1.0)


def worth(wrong: FloatArray) -> FloatArray:
    """How many clean rows a row is worth, of rows a share of which is wrong; below 0 they teach the opposite."""
    return (1 - 2 * wrong) * np.abs(1 - 2 * wrong)


def share(hits: int, of: int, name: str) -> tuple[Estimate, FloatArray]:
    """A share with Jeffreys' interval, and draws of its posterior. ``name`` seeds the draws."""
    draws = derived_rng(0, "share", name, hits, of).beta(hits + 0.5, of - hits + 0.5, size=DRAWS)
    return estimate(hits / of if of else 0.5, draws), draws


def estimate(value: float, draws: FloatArray) -> Estimate:
    """A value with the middle 95 % of its draws; they hold the value."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value=value, low=min(value, float(low)), high=max(value, float(high)))


def verifier(right: Sequence[bool], wrong: Sequence[bool], kept: int, rows: int) -> VerifierRecord:
    """The bound and the gain from labeled rows kept or not, and ``kept`` of a round's ``rows``."""
    phi, phi_draws = share(sum(right), len(right), "right")
    psi, psi_draws = share(sum(wrong), len(wrong), "wrong")
    kappa, kappa_draws = share(kept, rows, "kept")
    values = _derived(*(np.array([each.value]) for each in (phi, psi, kappa)))
    draws = _derived(phi_draws, psi_draws, kappa_draws)
    estimates = {name: estimate(float(values[name][0]), draws[name]) for name in values}
    return VerifierRecord(kept_right=phi, kept_wrong=psi, kept_share=kappa.value, rows=rows, **estimates)


def _derived(phi: FloatArray, psi: FloatArray, kappa: FloatArray) -> Mapping[str, FloatArray]:
    before = wrong_share(phi, psi, kappa)
    kept = before * psi + (1 - before) * phi
    after = np.divide(before * psi, kept, out=before.copy(), where=kept > 0)
    return {
        "breaking_error": breaking_error(phi, psi),
        "wrong_before": before,
        "wrong_after": after,
        "gain": kept * worth(after) - worth(before),
    }
