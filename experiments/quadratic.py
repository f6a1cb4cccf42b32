"""E8 and E9: SGD on a quadratic from two sources: real (right, noisy) and synthetic (plentiful, off center).

theta <- theta - eta_t (theta - batch mean); a part pi_t of the batch is synthetic: mean Delta instead of 0, variance
sigma_s^2 < sigma_r^2 in each of d dimensions. With c_t = eta_t prod_{s>t} (1 - eta_s) the final excess loss is

    1/2 Delta^2 (sum c_t pi_t)^2 + 1/2 (d/B) sum c_t^2 (pi_t sigma_s^2 + (1 - pi_t) sigma_r^2)
    + 1/2 (prod (1 - eta))^2 |theta_0|^2

exactly (batches hold exact counts; binomial draws would add pi (1 - pi) Delta^2 to the variance). E8 has real data
without end: at a constant rate the best share is eta d (sigma_r^2 - sigma_s^2) / (2 B (2 - eta) Delta^2). E9 has a
budget of real samples, none drawn twice: the best placement is a quadratic program, solved here through its dual in one
variable. The published figures are met (tests/experiments/test_quadratic.py), with two remarks: the optimum at a tenth
of real data is 0.0468, the top-c_t placement itself; and a rule that looks one step ahead, however exact its gradients,
comes to nearly twice the best synthetic share, because noise decays twice as fast as the mean.
"""

# T steps, d dimensions

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize_scalar

from experiments.evaluations import evaluation
from experiments.probes import probe_counts, probe_times
from trainer.base.records import SHARE_ONE, FloatArray, Forgetting, GradientAlignment, Horizon, Observation, SourceValue
from trainer.evaluate.evidence.forgetting import LASTING_STEPS, SETTLING_STEPS, forgetting_rate
from trainer.evaluate.evidence.source_value import TRIAL_STEPS

KINDS = {"real": "real", "synthetic": "synthetic"}
NUM_TRIAL_STEPS, TRIAL_SAMPLES = 8, 4
ALIGNED_SAMPLES, ALIGNED_HELD_OUT = 256, 1024


def cosine(num_steps: int, high: float, low: float) -> FloatArray:
    """Learning rates [T]."""
    rates: FloatArray = low + (high - low) * (1 + np.cos(np.pi * np.arange(num_steps) / num_steps)) / 2
    return rates


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """The problem: rates [T], batch B, dimensions d, |Delta|^2, variances, and the budget of real samples (None: no
    end)."""

    rates: FloatArray
    batch: int = 16
    dimensions: int = 100
    distance_squared: float = 0.25
    real_variance: float = 1.0
    synthetic_variance: float = 0.1
    start_squared: float = 4.0
    real_samples: int | None = None

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.rates)

    def kernel(self) -> FloatArray:
        """c_t."""
        after = np.concatenate([np.cumprod((1 - self.rates)[::-1])[::-1][1:], [1.0]])
        return self.rates * after

    def excess(self, synthetic_T: FloatArray) -> float:
        """Expected final excess loss of a path of synthetic shares [T]."""
        c = self.kernel()
        bias = self.distance_squared * float(c @ synthetic_T) ** 2
        variance = synthetic_T * self.synthetic_variance + (1 - synthetic_T) * self.real_variance
        start = float(np.prod(1 - self.rates)) ** 2 * self.start_squared
        return 0.5 * (bias + self.dimensions / self.batch * float(c**2 @ variance) + start)

    def best_static(self) -> float:
        """Least excess of a constant share within the budget."""
        least = 0.0 if self.real_samples is None else 1 - self.real_samples / (self.num_steps * self.batch)
        grid = np.linspace(least, 1, 2001)
        return min(self.excess(np.full(self.num_steps, share)) for share in grid)

    def optimum(self) -> float:
        """Least excess of any path within the budget (the value of the QP).

        1/2 x^2 = max_m (m x - m^2/2) makes it linear in the shares for each m: those with the least cost m Delta c_t -
        k c_t^2 are synthetic, at least as many as the budget forces. Convex, so the maximum over m is the optimum.
        """
        c, delta = self.kernel(), np.sqrt(self.distance_squared)
        saved = 0.5 * self.dimensions / self.batch * (self.real_variance - self.synthetic_variance)
        budget = np.inf if self.real_samples is None else self.real_samples / self.batch
        forced = max(0.0, self.num_steps - budget)

        def lower_bound(m: float) -> float:
            cost = np.sort(m * delta * c - saved * c**2)
            wanted = np.clip(forced - np.arange(len(cost)), 0, 1)
            taken = np.maximum(wanted, cost < 0)
            return float(cost @ taken) - m**2 / 2

        minimum = minimize_scalar(
            lambda m: -lower_bound(m), bounds=(0, delta), options={"xatol": 1e-9}, method="bounded"
        )
        return -float(minimum.fun) + self.excess(np.zeros(self.num_steps))


@dataclass(kw_only=True)
class QuadraticWorld:
    """A run of it. Evaluations every so many steps on ``held_out`` documents, whose own mean is a little off;
    alignments and trial steps cost what they would cost and err as they would.
    """

    problem: Quadratic
    seed: int
    real_share: float
    every_steps: int = 10
    held_out: int = 100_000
    position: int = 0
    path: list[float] = field(default_factory=list)  # synthetic share by step, as drawn
    used: int = 0  # real samples

    def __post_init__(self) -> None:
        self.kinds, self.shares = KINDS, _shares(self.real_share)
        self._rng = np.random.default_rng(self.seed)
        d = self.problem.dimensions
        self._far = np.full(d, np.sqrt(self.problem.distance_squared / d))
        self._theta = self._normal(self.problem.start_squared / d)
        self._held_out_mean = self._normal(self.problem.real_variance / self.held_out)
        self._wanted = 0.0

    def _normal(self, variance: float, rng: np.random.Generator | None = None) -> FloatArray:
        return np.sqrt(variance) * (rng or self._rng).standard_normal(self.problem.dimensions)

    @property
    def is_done(self) -> bool:
        """All steps made."""
        return self.position >= self.problem.num_steps

    @property
    def excess(self) -> float:
        """Expected final excess of the shares that were drawn."""
        return self.problem.excess(np.array(self.path))

    def train(self, shares: Mapping[str, int]) -> None:
        """Up to the next evaluation; real samples end with the budget, and synthetic ones take their place."""
        problem, steps = self.problem, min(self.every_steps, self.problem.num_steps - self.position)
        self._wanted += shares["real"] / SHARE_ONE * steps * problem.batch
        most = np.inf if problem.real_samples is None else problem.real_samples
        drawn = int(min(round(self._wanted), most)) - self.used
        self.used += drawn
        synthetic = 1 - drawn / (steps * problem.batch)
        self.path += [synthetic] * steps
        rates = problem.rates[self.position : self.position + steps]
        self.position += steps
        self._theta = self._after(self._theta, rates, synthetic, problem.batch)

    def _after(
        self,
        theta: FloatArray,
        rates: FloatArray,
        synthetic: float,
        batch: int,
        rng: np.random.Generator | None = None,
    ) -> FloatArray:
        """theta after steps of these rates: the sum of Gaussian steps, drawn together, from ``rng`` or the run's."""
        problem = self.problem
        after = np.concatenate([np.cumprod((1 - rates)[::-1])[::-1][1:], [1.0]])
        variance = synthetic * problem.synthetic_variance + (1 - synthetic) * problem.real_variance
        weights = rates * after
        moved = float(np.prod(1 - rates)) * theta + weights.sum() * synthetic * self._far
        return moved + self._normal(float((weights**2).sum()) * variance / batch, rng)

    def _loss(self, theta: FloatArray, mean: FloatArray) -> float:
        return 0.5 * float(((theta - mean) ** 2).sum())

    def observation(self, shares: Mapping[str, int]) -> Observation:
        """What a run would know here."""
        problem, progress = self.problem, self.position / self.problem.num_steps
        parts = np.linspace(0, problem.num_steps, 101)[:-1] + problem.num_steps / 200
        unique = problem.real_samples or problem.num_steps * problem.batch
        return Observation(
            step=self.position,
            progress=progress,
            horizon=Horizon(
                probes_until=1.0,
                num_steps=problem.num_steps,
                global_batch=problem.batch,
                rates=problem.rates[parts.astype(int)].tolist(),
                num_samples={"real": unique, "synthetic": problem.num_steps * problem.batch},
                max_epochs={"real": 1.0},  # a sample is drawn once
            ),
            evaluation=evaluation(self.position, self._loss(self._theta, self._held_out_mean)),
            losses={},
            evidence={
                "gradient_alignment": self._alignment(),
                "source_value": self._source_values(),
                "forgetting": self._forgetting(),
            },
            shares=dict(shares),
            kinds=self.kinds,
            epochs={"real": self.used / unique, "synthetic": 0.5},
        )

    def _sources(self) -> Mapping[str, tuple[FloatArray, float]]:
        problem = self.problem
        return {
            "real": (np.zeros(problem.dimensions), problem.real_variance),
            "synthetic": (self._far, problem.synthetic_variance),
        }

    def _alignment(self) -> Mapping[str, GradientAlignment]:
        """Inner products of gradients on a few samples, with the errors that such samples make."""
        problem, alignments = self.problem, {}
        held_out = self._theta - self._normal(problem.real_variance / ALIGNED_HELD_OUT)
        for name, (center, variance) in self._sources().items():
            gradient = self._theta - center - self._normal(variance / ALIGNED_SAMPLES)
            error = (gradient @ gradient) * problem.real_variance / ALIGNED_HELD_OUT
            error += (held_out @ held_out) * variance / ALIGNED_SAMPLES
            alignments[name] = GradientAlignment(
                inner_product=float(held_out @ gradient),
                standard_error=float(np.sqrt(error)),
                variance=problem.dimensions * variance,
                num_samples=ALIGNED_SAMPLES,
            )
        return alignments

    def _source_values(self) -> Mapping[str, SourceValue]:
        """Trial steps on one source alone at a smaller batch and rate, then undone; gains on held-out samples."""
        problem = self.problem
        scale = np.sqrt(TRIAL_SAMPLES / problem.batch)
        rate = problem.rates[min(self.position, problem.num_steps - 1)]
        rates = np.full(NUM_TRIAL_STEPS, rate * scale)
        mean = self._normal(problem.real_variance / ALIGNED_HELD_OUT)
        gains, errors = {}, {}
        for name, synthetic in (("", 0.0), ("real", 0.0), ("synthetic", 1.0)):
            theta = self._after(self._theta, rates, synthetic, TRIAL_SAMPLES)
            gains[name] = self._loss(self._theta, mean) - self._loss(theta, mean)
            # paired over documents, times the scatter of draws that the run allows for
            errors[name] = 2.5 * float(np.linalg.norm(theta - self._theta)) / np.sqrt(ALIGNED_HELD_OUT)
        if gains[""] <= 3 * errors[""] / 2.5:
            return {}
        return {
            name: SourceValue(
                value=gains[name] / gains[""],
                standard_error=errors[name] / gains[""],
                num_samples=NUM_TRIAL_STEPS * TRIAL_SAMPLES,
                fresh_gain=gains[""] / (NUM_TRIAL_STEPS * scale),
            )
            for name in ("real", "synthetic")
        }

    def _forgetting(self) -> Mapping[str, Forgetting]:
        """A probe as a run makes it: two copies continue on the same samples, evaluated on the same held-out ones.

        Its draws are its own, so that what is drawn otherwise is the same with and without it.
        """
        problem, position = self.problem, self.position
        times = probe_times(num_steps=problem.num_steps, every_steps=self.every_steps)
        if not times.due(position, position):
            return {}
        counts = probe_counts(times, num_steps=problem.num_steps, batch=problem.batch)
        size, rng = counts.samples_per_step, np.random.default_rng([self.seed, position])
        rate_scale = np.sqrt(size / problem.batch)
        rate = problem.rates[position] * rate_scale
        rows = rng.standard_normal((counts.held_out_samples, problem.dimensions)) * np.sqrt(problem.real_variance)
        nats = []
        for synthetic in (0.0, 1.0):
            theta = self._after(self._theta, np.full(TRIAL_STEPS, rate), synthetic, size, rng)
            common = np.random.default_rng([self.seed, position, 1])
            for steps in (SETTLING_STEPS, LASTING_STEPS):
                theta = self._after(theta, np.full(steps, rate), 0.5, size, common)
                nats.append(0.5 * ((theta - rows) ** 2).sum(axis=1))
        one_each = np.ones(len(rows), dtype=np.int64)
        forgetting = forgetting_rate(
            nats[2] - nats[0], nats[3] - nats[1], one_each, counts=counts, rate_scale=rate_scale
        )
        return {} if forgetting is None else {"synthetic": forgetting}


def _shares(real: float) -> dict[str, int]:
    thousandths = round(real * 1000)
    return {"real": thousandths * 1000, "synthetic": SHARE_ONE - thousandths * 1000}


def greedy_excess(problem: Quadratic) -> float:
    """Real data first, as any rule that looks at the next evaluation alone would use them."""
    real_steps = (problem.real_samples or 0) / problem.batch
    synthetic = np.clip(np.arange(problem.num_steps) + 1 - real_steps, 0, 1)
    return problem.excess(synthetic)


def late_excess(problem: Quadratic) -> float:
    """Real data last."""
    real_steps = (problem.real_samples or 0) / problem.batch
    synthetic = np.clip(problem.num_steps - np.arange(problem.num_steps) - real_steps, 0, 1)
    return problem.excess(synthetic)


def falls(path: Sequence[float]) -> bool:
    """Whether the second half of a path lies below the first."""
    half = len(path) // 2
    return float(np.mean(path[half:])) < float(np.mean(path[:half]))
