"""E12: a Gaussian that samples from itself with too little spread, and the real share that keeps its spread.

Each generation is fitted to a mixture, a part rho real (variance 1), the rest samples of the generation before made
sharper (variance lambda < 1 times its own, as by a low temperature). Means being equal, variances mix:

    s' = rho + (1 - rho) lambda s,   s -> rho / (1 - (1 - rho) lambda),   rho(v) = v (1 - lambda) / (1 - v lambda)

where rho(v) is the share that keeps the variance v: 0.79 for v = 0.95 at lambda = 0.8, so a little sharpening costs
much real data. For infinitely many samples; a fit to M of them also has the sampling noise of E1. Derived so and
confirmed by simulation. The excess of a run is that of its loss on real data, KL = (1/s - 1 + ln s) / 2, for samples
without end; real data is best spent in the last generation, which alone counts.
"""

# N samples; parameters are (mean, variance)

from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray


def limiting_variance(real: float, sharpness: float) -> float:
    """s after many generations."""
    return real / (1 - (1 - real) * sharpness)


def share_that_keeps(variance: float, sharpness: float) -> float:
    """The real share under which the variance stays."""
    return variance * (1 - sharpness) / (1 - variance * sharpness)


def variance_after(real_N: FloatArray, sharpness: float) -> float:
    """s after generations with these real shares, from 1 on."""
    variance = 1.0
    for real in real_N:
        variance = real + (1 - real) * sharpness * variance
    return float(variance)


@dataclass(frozen=True)
class Sharpened:
    """The family of Gaussians that generate with ``sharpness`` times their variance; parameters (mean, variance)."""

    sharpness: float = 0.8

    @property
    def truth(self) -> FloatArray:
        return np.array([0.0, 1.0])

    def drawn(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> FloatArray:
        return parameters[0] + np.sqrt(parameters[1]) * rng.standard_normal(num_samples)

    def generated(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> FloatArray:
        return self.drawn(parameters * [1.0, self.sharpness], num_samples, rng)

    def fitted(self, samples: FloatArray) -> FloatArray:
        return np.array([samples.mean(), samples.var()])

    def towards(self, parameters: FloatArray, others: FloatArray, part: float) -> FloatArray:
        """By first and second moments."""
        first = (1 - part) * parameters[0] + part * others[0]
        second = (1 - part) * (parameters[1] + parameters[0] ** 2) + part * (others[1] + others[0] ** 2)
        return np.array([first, second - first**2])

    def nats(self, parameters: FloatArray, samples: FloatArray) -> FloatArray:
        mean, variance = parameters
        return ((samples - mean) ** 2 / variance + np.log(2 * np.pi * variance)) / 2

    def gradients(self, parameters: FloatArray, samples: FloatArray) -> FloatArray:
        """By mean / root of the variance and log variance, in which the Fisher information is (1, 1/2)."""
        mean, variance = parameters
        z_N = (samples - mean) / np.sqrt(variance)
        return np.stack([-z_N, (1 - z_N**2) / 2], axis=1)

    def expected_excess(self, real_N: FloatArray, num_samples: int) -> float:
        """KL from real data, for infinitely many samples."""
        variance = variance_after(real_N, self.sharpness)
        return float((1 / variance - 1 + np.log(variance)) / 2)
