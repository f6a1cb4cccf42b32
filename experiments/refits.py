"""E4 to E7: a mean is fitted anew at each evaluation, to weighted averages of what the sources gave.

theta = sum_k w_k xbar_k, w the shares; the risk is |theta|^2, as the truth lies at 0 and samples scatter by 1 in each
of d dimensions. Per dimension, n real samples, m synthetic ones:

* E4, fresh real and synthetic from the model before: n risk / d -> f(w) = [w^2 + k (1-w)^2] / [w (2-w)], k = n/m, least
  at w* with w*^2 + k w* - k = 0, where f(w*) = w*. The rule that makes the next generation best (a steady-state Kalman
  gain) has the same fixed point, so a controller that looks one generation ahead is not misled here.
* E5, the same real samples forever: n risk / d = 1 + k (1-w)^2 / (1 - (1-w)^2), least at w = 1.
* E6, finite sets off center by delta_k: risk = w'(diag(d/m_k) + Delta Delta')w, a quadratic program on the simplex.
  What is said of the expected risk holds for a draw up to 1/sqrt(d).
* E7, n1 real samples and as many synthetic ones as give the share p in the pool: risk = d (1-p)/n1 + p^2 c^2, least
  at p* = d / (2 n1 c^2). The alignment of gradients on the pool is blind to the variance that more samples take away
  (its zero is p = 0), so source value is measured by trial steps: refitted with some more of a source, and undone.

All checked by simulation (tests/experiments/test_refits.py).
"""

# K sources, d dimensions

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

from experiments.evaluations import evaluation
from trainer.base.records import SHARE_ONE, FloatArray, GradientAlignment, Horizon, Kind, Observation, SourceValue

TRIAL_SHARE = 0.05  # moved by trial steps


def kept_weight(k: float) -> float:
    """E4's w*."""
    return (np.sqrt(k * k + 4 * k) - k) / 2


def fresh_risk(w: float, k: float) -> float:
    """E4's n risk / d in the long run."""
    return (w * w + k * (1 - w) ** 2) / (w * (2 - w))


def fixed_risk(w: float, k: float) -> float:
    """E5's n risk / d in the long run."""
    return 1 + k * (1 - w) ** 2 / (1 - (1 - w) ** 2)


def pooled_risk(p: float, *, real: int, dimensions: int, offset_squared: float) -> float:
    """E7's risk at synthetic share p."""
    return dimensions * (1 - p) / real + p * p * offset_squared


def best_pooled_share(*, real: int, dimensions: int, offset_squared: float) -> float:
    """E7's p*."""
    return min(1.0, dimensions / (2 * real * offset_squared))


def weighted_risk(weights_K: FloatArray, variances_K: FloatArray, offsets_Kd: FloatArray) -> float:
    """E6's expected risk; ``variances_K`` d/m_k."""
    return float(variances_K @ weights_K**2 + ((weights_K @ offsets_Kd) ** 2).sum())


def best_weights(variances_K: FloatArray, offsets_Kd: FloatArray) -> FloatArray:
    """E6's optimum on the simplex."""
    gram = np.diag(variances_K) + offsets_Kd @ offsets_Kd.T
    num = len(variances_K)
    solution = minimize(
        lambda w: w @ gram @ w / gram.max(),
        np.full(num, 1 / num),
        jac=lambda w: 2 * gram @ w / gram.max(),
        bounds=[(0, 1)] * num,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(num)},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    weights: FloatArray = solution.x
    return weights


@dataclass(kw_only=True)
class RefitWorld(ABC):
    """What the four have in common. ``held_out`` documents measure risk and gradients; None: without noise."""

    kinds: Mapping[str, Kind]
    shares: Mapping[str, int]
    unique: Mapping[str, int]
    dimensions: int
    evaluations: int
    seed: int
    held_out: int | None
    position: int = 0
    path: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._held_out_mean = np.zeros(self.dimensions)
        if self.held_out is not None:
            self._held_out_mean = self._normal(1 / self.held_out)
        self._means: dict[str, FloatArray] = {}
        self._theta = np.zeros(self.dimensions)

    def _normal(self, variance: float) -> FloatArray:
        return np.sqrt(variance) * self._rng.standard_normal(self.dimensions)

    @abstractmethod
    def _drawn(self, weights: Mapping[str, float]) -> dict[str, FloatArray]:
        """Mean of the samples of each source that the fit at this evaluation is made on."""

    @property
    def is_done(self) -> bool:
        """All evaluations made."""
        return self.position >= self.evaluations

    def train(self, shares: Mapping[str, int]) -> None:
        """One fit."""
        weights = {name: share / SHARE_ONE for name, share in shares.items()}
        self._means = self._drawn(weights)
        self._theta = self._fitted(self._means, weights)
        self.path.append(weights)
        self.position += 1

    def _fitted(self, means: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
        total = sum(weights.values())
        return sum((weight / total * means[name] for name, weight in weights.items()), np.zeros(self.dimensions))

    def late(self, name: str) -> float:
        """Mean share of a source over the last third of the run."""
        return float(np.mean([weights[name] for weights in self.path[-self.evaluations // 3 :]]))

    def _loss(self, theta: FloatArray) -> float:
        return 0.5 * float(((theta - self._held_out_mean) ** 2).sum())

    def observation(self, shares: Mapping[str, int]) -> Observation:
        """What a run would know here."""
        drawn = {name: sum(weights[name] for weights in self.path) for name in shares}
        batch = max(self.unique.values())
        return Observation(
            step=self.position,
            progress=self.position / self.evaluations,
            horizon=Horizon(num_steps=self.evaluations, global_batch=batch, rates=[1.0], num_samples=self.unique),
            evaluation=evaluation(self.position, self._loss(self._theta)),
            losses={},
            evidence={"gradient_alignment": self._alignment(), "source_value": self._source_values(shares)},
            shares=dict(shares),
            kinds=self.kinds,
            epochs={name: drawn[name] * batch / self.unique[name] for name in shares},
        )

    def _alignment(self) -> Mapping[str, GradientAlignment]:
        """Inner products of gradients; their errors from the scatter over dimensions, which are alike."""
        alignments = {}
        for name, mean in self._means.items():
            products = (self._theta - self._held_out_mean) * (self._theta - mean)
            alignments[name] = GradientAlignment(
                inner_product=float(products.sum()),
                standard_error=float(products.std() * np.sqrt(self.dimensions)),
                variance=float(self.dimensions),
                num_samples=self.unique[name],
            )
        return alignments

    def _source_values(self, shares: Mapping[str, int]) -> Mapping[str, SourceValue]:
        return {}


class FreshWorld(RefitWorld):
    """E4: n fresh real samples and m of the model before, at each generation."""

    def __init__(
        self, *, real: int, k: float, dimensions: int, evaluations: int, seed: int, held_out: int | None
    ) -> None:
        many = 1000 * real * evaluations
        super().__init__(
            kinds={"real": "real", "synthetic": "synthetic"},
            shares={"real": 500_000, "synthetic": 500_000},
            unique={"real": many, "synthetic": many},
            dimensions=dimensions,
            evaluations=evaluations,
            seed=seed,
            held_out=held_out,
        )
        self.real, self.synthetic = real, real / k

    def _drawn(self, weights: Mapping[str, float]) -> dict[str, FloatArray]:
        return {"real": self._normal(1 / self.real), "synthetic": self._theta + self._normal(1 / self.synthetic)}


class FixedWorld(FreshWorld):
    """E5: the same n real samples at each generation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._real_mean: FloatArray | None = None

    def _drawn(self, weights: Mapping[str, float]) -> dict[str, FloatArray]:
        if self._real_mean is None:
            self._real_mean = self._normal(1 / self.real)
            self._theta = self._real_mean
        return {"real": self._real_mean, "synthetic": self._theta + self._normal(1 / self.synthetic)}


class OffsetWorld(RefitWorld):
    """E6: ``sizes`` samples of each source, off center by |delta|^2 = ``offsets_squared``; the first is real."""

    def __init__(
        self,
        *,
        sizes: Mapping[str, int],
        offsets_squared: Mapping[str, float],
        common: float = 0.0,
        dimensions: int,
        evaluations: int,
        seed: int,
        held_out: int | None,
    ) -> None:
        names = list(sizes)
        start = SHARE_ONE // len(names) // 1000 * 1000
        shares = dict.fromkeys(names, start)
        shares[names[0]] += SHARE_ONE - sum(shares.values())
        super().__init__(
            kinds={name: "synthetic" if name in offsets_squared else "real" for name in names},
            shares=shares,
            unique=dict(sizes),
            dimensions=dimensions,
            evaluations=evaluations,
            seed=seed,
            held_out=held_out,
        )
        shared = self._normal(1 / dimensions)
        self.offsets = {
            name: np.sqrt(offsets_squared.get(name, 0.0))
            * (np.sqrt(common) * shared + np.sqrt(1 - common) * self._normal(1 / dimensions))
            for name in names
        }
        self._fixed = {name: self.offsets[name] + self._normal(1 / sizes[name]) for name in names}

    @property
    def variances(self) -> FloatArray:
        """d/m_k."""
        return np.array([self.dimensions / size for size in self.unique.values()])

    @property
    def offset_rows(self) -> FloatArray:
        """Delta."""
        return np.array(list(self.offsets.values()))

    def _drawn(self, weights: Mapping[str, float]) -> dict[str, FloatArray]:
        return self._fixed


class PooledWorld(RefitWorld):
    """E7: n1 real samples, and a pool of fresh synthetic ones as large as their share requires."""

    def __init__(
        self, *, real: int, offset_squared: float, dimensions: int, evaluations: int, seed: int, held_out: int | None
    ) -> None:
        super().__init__(
            kinds={"real": "real", "synthetic": "synthetic"},
            shares={"real": 500_000, "synthetic": 500_000},
            unique={"real": real, "synthetic": 1000 * real * evaluations},
            dimensions=dimensions,
            evaluations=evaluations,
            seed=seed,
            held_out=held_out,
        )
        self.real = real
        self._offset = np.full(dimensions, np.sqrt(offset_squared / dimensions))
        self._real_mean = self._normal(1 / real)

    def _pool(self, weights: Mapping[str, float]) -> float:
        return self.real * weights["synthetic"] / weights["real"]

    def _drawn(self, weights: Mapping[str, float]) -> dict[str, FloatArray]:
        return {"real": self._real_mean, "synthetic": self._offset + self._normal(1 / max(self._pool(weights), 1e-9))}

    def _alignment(self) -> Mapping[str, GradientAlignment]:
        return {}

    def _source_values(self, shares: Mapping[str, int]) -> Mapping[str, SourceValue]:
        """Refits with 5 % of the pool more of a source: new synthetic samples, the same real ones again (fewer
        synthetic ones alongside), or, for the unit, new real ones. Measured on other held-out documents each time."""
        now = {name: share / SHARE_ONE for name, share in shares.items()}
        size, mean = self._pool(now), self._means["synthetic"]
        held_out = self._normal(1 / self.held_out) if self.held_out else np.zeros(self.dimensions)
        more, less = ({"real": now["real"] * (1 - e), "synthetic": 1 - now["real"] * (1 - e)} for e in (0.05, 0.0))
        fewer = {"synthetic": now["synthetic"] * 0.95, "real": 1 - now["synthetic"] * 0.95}
        added = self._pool(more) - self._pool(less)
        grown = (size * mean + added * (self._offset + self._normal(1 / added))) / (size + added)
        kept = self._pool(fewer)
        shrunk = mean + self._normal(1 / kept - 1 / size)  # a part of a sample scatters around the whole
        fresh = self._normal(1 / (0.05 * (self.real + size)))
        thetas = {
            "": 0.95 * self._theta + 0.05 * fresh,
            "real": self._fitted({"real": self._real_mean, "synthetic": shrunk}, fewer),
            "synthetic": self._fitted({"real": self._real_mean, "synthetic": grown}, more),
        }
        gains = {
            name: 0.5 * ((self._theta - held_out) ** 2 - (theta - held_out) ** 2) for name, theta in thetas.items()
        }
        errors = {name: float(gain.std() * np.sqrt(self.dimensions)) for name, gain in gains.items()}
        unit = float(gains[""].sum())
        if unit <= 3 * errors[""]:
            return {}
        return {
            name: SourceValue(
                value=float(gains[name].sum()) / unit,
                standard_error=errors[name] / unit,
                num_samples=int(0.05 * (self.real + size)),
                fresh_gain=unit / TRIAL_SHARE,
            )
            for name in ("real", "synthetic")
        }
