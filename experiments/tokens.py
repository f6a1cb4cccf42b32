"""E10: tokens under Wright-Fisher drift, with a share of real data in each generation.

V tokens with true probabilities p; generation n + 1 is the empirical distribution of M draws, a part pi from p and the
rest from generation n. With F = E sum q^2, F_0 = sum p^2 and E q = p at all times (so E sum p q = F_0), for draws from
the mixture pi p + (1 - pi) q

    F' = 1/M + (1 - 1/M) [(1 - (1 - pi)^2) F_0 + (1 - pi)^2 F]

so the diversity H = 1 - F falls as H_0 (1 - 1/M)^n at pi = 0 and else to a limit, F_inf - F_0 = (H_0 / M) / (1 - (1 -
1/M) (1 - pi)^2). Mixtures here hold exact counts instead (pi M real draws and no other number), which takes the
variance between the sources out: F' less pi (1 - pi) (F - F_0) / M. In terms of R = F - F_0 = E |q - p|^2,

    R' = H_0 / M + (1 - pi) (1 - pi - 1/M) R

which is the excess of the Brier score on real data, and what counts as the excess of a run. Real data is best spent in
the last generation alone, where R = H_0 / M is all that is left: of whole samples, no other share goes below that.
Derived so and confirmed by simulation.
"""

# C chains, V tokens, N generations, M draws of a generation

from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray, IntArray

SMOOTHING = 0.01  # of the model, with equal probabilities: a token it has lost has a loss that is finite


def zipf(num_tokens: int) -> FloatArray:
    """Probabilities [V] in proportion to 1 / rank."""
    weights = 1 / np.arange(1, num_tokens + 1)
    return weights / weights.sum()


def diversity(
    real: float,
    *,
    truth_V: FloatArray,
    num_samples: int,
    num_generations: int,
    num_chains: int,
    seed: int,
    exact: bool = False,
) -> FloatArray:
    """Mean H over chains [N + 1] of generations with this real share; ``exact``: with exact counts of real draws."""
    rng = np.random.default_rng(seed)
    model_CV = np.tile(truth_V, (num_chains, 1))
    diversities = [1 - (truth_V**2).sum()]
    num_real = round(real * num_samples)
    for _ in range(num_generations):
        if exact:
            count_CV = rng.multinomial(num_real, truth_V, size=num_chains)
            count_CV = count_CV + rng.multinomial(num_samples - num_real, model_CV)
        else:
            count_CV = rng.multinomial(num_samples, real * truth_V + (1 - real) * model_CV)
        model_CV = count_CV / num_samples
        diversities.append(1 - float((model_CV**2).sum(axis=1).mean()))
    return np.array(diversities)


def expected_diversity(
    real: float, *, truth_V: FloatArray, num_samples: int, num_generations: int, exact: bool = False
) -> FloatArray:
    """The closed form of ``diversity`` [N + 1]."""
    least = float((truth_V**2).sum())
    concentration, diversities = least, [1 - least]
    for _ in range(num_generations):
        mixed = (1 - (1 - real) ** 2) * least + (1 - real) ** 2 * concentration
        between = real * (1 - real) * (concentration - least) / num_samples if exact else 0.0
        concentration = 1 / num_samples + (1 - 1 / num_samples) * mixed - between
        diversities.append(1 - concentration)
    return np.array(diversities)


def limiting_excess(real: float, *, truth_V: FloatArray, num_samples: int) -> float:
    """R in the limit of many generations, of draws from the mixture."""
    return (1 - float((truth_V**2).sum())) / num_samples / (1 - (1 - 1 / num_samples) * (1 - real) ** 2)


@dataclass(frozen=True)
class Tokens:
    """The family of distributions over V tokens; parameters are the probabilities, samples are token numbers."""

    truth: FloatArray

    def drawn(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> IntArray:
        return rng.choice(len(parameters), size=num_samples, p=parameters)

    def generated(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> IntArray:
        return self.drawn(parameters, num_samples, rng)

    def fitted(self, samples: IntArray) -> FloatArray:
        return np.bincount(samples, minlength=len(self.truth)) / len(samples)

    def towards(self, parameters: FloatArray, others: FloatArray, part: float) -> FloatArray:
        return (1 - part) * parameters + part * others

    def nats(self, parameters: FloatArray, samples: IntArray) -> FloatArray:
        return -np.log((1 - SMOOTHING) * parameters + SMOOTHING / len(parameters))[samples]

    def gradients(self, parameters: FloatArray, samples: IntArray) -> FloatArray:
        """By the logits of the smoothed model: its probabilities less the token."""
        smoothed_V = (1 - SMOOTHING) * parameters + SMOOTHING / len(parameters)
        return smoothed_V - np.eye(len(parameters))[samples]

    def expected_excess(self, real_N: FloatArray, num_samples: int) -> float:
        """R after generations with these real shares, from the truth on."""
        excess, noise = 0.0, (1 - float((self.truth**2).sum())) / num_samples
        for real in real_N:
            excess = noise + (1 - real) * (1 - real - 1 / num_samples) * excess
        return float(excess)
