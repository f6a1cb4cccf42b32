"""What the real data can pay for: the tokens that are left of a budget, and the share that just spends them.

The budget is so many epochs of each real source; what the rest of the run should draw of it, and when, follows from
the learning rates ahead (``trainer.control.pacing``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, isfinite
from typing import Any

import numpy as np

from trainer.control.budget import repeat_value, unique_value
from trainer.control.pacing import Ahead, kernel, spend
from trainer.records import Observation

# At four epochs placing real data last neither helped nor hurt in trials on text (1.2 M parameters, 700 real samples:
# 4.31 nats both ways), at eleven it hurt (4.48 against 4.29): mixing regularises what is repeated.
MOST_CONCENTRATED_EPOCHS = 4.0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the real data can pay for, in samples. ``share`` is the real share planned for the coming span, None where
    nothing limits it; ``marginal`` the kernel at which a token is just spent over that of now."""

    samples: float  # that may be drawn in all
    used: float
    unique: int
    left_of_run: float  # samples of any kind
    share: float | None = None
    marginal: float = 0.0
    concentration: float = 0.0

    @property
    def epochs(self) -> float:
        """Of the real data at the end of the run, as planned."""
        return min(self.samples, self.used + self.left_of_run) / self.unique if self.unique else 0.0

    @property
    def planned(self) -> float:
        """Real samples that the rest of the run is to draw at most."""
        return max(0.0, min(self.samples - self.used, self.left_of_run))

    def as_evidence(self) -> dict[str, Any]:
        """Samples and epochs of real data: used, planned, and what repeats and new samples are worth."""
        bounded = isfinite(self.samples)
        return {
            "samples": self.samples if bounded else None,
            "used_samples": self.used,
            "planned_samples": self.planned,
            "planned_share": self.share,
            "used_epochs": self.used / self.unique if self.unique else None,
            "planned_epochs": self.epochs if bounded else None,
            "value_of_repeat": repeat_value(self.epochs),
            "value_of_new_sample": unique_value(self.epochs),
            "concentration": self.concentration,
        }


def budgeted(
    seen: Observation,
    rest: Ahead,
    *,
    span: float,
    floors: Mapping[str, float],
    real_epochs: float,
    concentration: float,
    curvature: float | None,
) -> Budget:
    """The budget of ``real_epochs`` as it stands, and the curve that just spends it over the ``rest`` of the run.

    ``span``: of progress, from this reading to the next; ``floors``: least shares; ``curvature``: of the kernel, None
    where it is not known; ``concentration``: how far the plan may follow it.
    """
    real = [name for name, share in seen.shares.items() if share > 0 and seen.kinds[name] == "real"]
    written = [name for name, share in seen.shares.items() if share > 0 and seen.kinds[name] == "synthetic"]
    unique = sum(seen.outlook.num_samples.get(name, 0) for name in real)
    used = fsum(seen.epochs.get(name, 0.0) * seen.outlook.num_samples.get(name, 0) for name in real)
    left = rest.total_steps * seen.outlook.global_batch
    most = {name: min(real_epochs, seen.outlook.max_epochs.get(name, float("inf"))) for name in real}
    samples = fsum(epochs * seen.outlook.num_samples.get(name, 0) for name, epochs in most.items())
    budget = Budget(samples=samples if unique else float("inf"), used=used, unique=unique, left_of_run=left)
    least = fsum(floors[name] for name in real)
    ceiling = 1 - fsum(floors[name] for name in written)
    if not real or not written or left <= 0 or budget.samples - used >= left * ceiling:
        return budget
    weights = kernel(rest, curvature or 0.0)
    followed = concentrated(budget.epochs, concentration=concentration, curvature=curvature)
    steps_left = budget.planned / seen.outlook.global_batch
    curve = spend(rest, weights, steps_left, concentration=followed, floor=least, ceiling=ceiling)
    coming = min(max(span * seen.outlook.num_steps, 1.0), rest.total_steps)
    ends = np.concatenate([[0.0], np.cumsum(rest.steps)])
    spent = np.concatenate([[0.0], np.cumsum(rest.steps * curve.shares)])
    share = float(np.interp(coming, ends, spent)) / coming
    now = float(weights[0] / weights.max())  # 0 where what is learnt now is forgotten long before the end
    marginal = curve.marginal / now if now > 0 else float("inf")
    return replace(budget, share=share, marginal=marginal, concentration=followed)


def concentrated(epochs: float, *, concentration: float, curvature: float | None) -> float:
    """How far the plan follows the kernel where real data come to so many epochs by the end of the run.

    Wholly up to one epoch, not at all from four on, and not where the curvature is unknown: what is repeated must not
    be bunched, and where it would do most is then not known.
    """
    if curvature is None:
        return 0.0
    return concentration * max(0.0, 1 - max(0.0, epochs - 1) / (MOST_CONCENTRATED_EPOCHS - 1))
