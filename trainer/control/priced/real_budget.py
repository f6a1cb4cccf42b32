"""What the real data can pay for: the tokens that are left of a budget, and the share that just spends them.

The budget is so many epochs of each real source: told, or those after which a repeat is worth no more than what would
be drawn instead. What the rest of the run should draw of it, and when, follows from the learning rates ahead
(``trainer.control.priced.spending_curve``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import floor, fsum, inf, isfinite
from typing import Any

import numpy as np

from trainer.base.records import SHARE_ONE, SHARE_STEP, FloatArray, Kind, Observation
from trainer.control.priced.estimates import Estimate, renewed
from trainer.control.priced.repeats import epochs_until, repeat_value, unique_value
from trainer.control.priced.spending_curve import LEAST_WEIGHT, Ahead, kernel, spend
from trainer.mixture.shares import FUZZ

# At four epochs placing real data last neither helped nor hurt in trials on text (1.2 M parameters, 700 real samples:
# 4.31 nats both ways), at eleven it hurt (4.48 against 4.29): mixing regularises what is repeated.
MOST_CONCENTRATED_EPOCHS = 4.0
LEAST_SOURCE_VALUE = 0.05  # of a synthetic token, as far as evidence goes: it never buys real data more than 47 epochs


def least_capped(kinds: Mapping[str, Kind], max_epochs: Mapping[str, float]) -> float:
    """Epochs that the caps allow the real source that they hold back least; infinity where one has no cap."""
    return max((max_epochs.get(name, inf) for name, kind in kinds.items() if kind == "real"), default=inf)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Of real sources together: samples ``used``, repeats included, of ``unique`` ones."""

    used: float
    unique: int

    @property
    def epochs(self) -> float:
        """Of a sample, on average."""
        return self.used / max(self.unique, 1)


def spent(observation: Observation, names: Iterable[str]) -> Spent:
    """What was drawn of the real sources among ``names``, as far as they can still be drawn."""
    real = [name for name in names if observation.kinds[name] == "real"]
    return Spent(
        used=fsum(observation.epochs.get(name, 0.0) * observation.horizon.num_samples.get(name, 0) for name in real),
        unique=sum(observation.horizon.num_samples.get(name, 0) for name in real),
    )


def coming_samples(observation: Observation, rest: Ahead, *, span: float) -> float:
    """Samples of any kind up to the next reading, after a ``span`` of progress as long as the one before."""
    return _coming_steps(observation, rest, span) * observation.horizon.global_batch


def _coming_steps(observation: Observation, rest: Ahead, span: float) -> float:
    return min(max(span * observation.horizon.num_steps, 1.0), rest.total_steps)


def within_caps(ceilings: Mapping[str, float], observation: Observation, coming: float) -> dict[str, float]:
    """``ceilings`` under which no source draws more of the ``coming`` samples than its cap on epochs leaves, in
    thousandths rounded down."""
    step, lowered = SHARE_STEP / SHARE_ONE, dict(ceilings)
    for name, cap in observation.horizon.max_epochs.items():
        left = max(0.0, cap - observation.epochs.get(name, 0.0)) * observation.horizon.num_samples.get(name, 0)
        if coming > 0:
            lowered[name] = min(lowered[name], floor(left / coming / step + FUZZ) * step)
    return lowered


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the real data can pay for, in samples. ``share`` is the real share planned for the coming span, None where
    nothing limits it; ``marginal`` the kernel at which a token is just spent over that of now. ``is_timed``: when real
    data are drawn is the plan's to say, and value says how much of them; else value says what they get now. ``waits``:
    they are held back until it is known how fast the model forgets."""

    samples: float  # that may be drawn in all
    used: float
    unique: int
    left_of_run: float  # samples of any kind
    share: float | None = None
    marginal: float = 0.0
    concentration: float = 0.0
    is_timed: bool = False
    waits: bool = False

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
            "waits": self.waits,
        }


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a plan goes by: most ``real_epochs`` of a source, the ``curvature`` of the kernel (None: not known) and how
    far the plan may follow it (``concentration``). Up to progress ``waits_until`` the curvature may still become known:
    until then nothing is spent that can be spent later.
    """

    real_epochs: float
    concentration: float
    curvature: float | None
    waits_until: float


def synthetic_less_real(
    gaps: Mapping[str, Estimate], shares: Mapping[str, float], kinds: Mapping[str, Kind], *, unit: float
) -> Estimate | None:
    """The worth of a synthetic token less that of a real one, in fresh real tokens of ``unit``; None where it is not
    known.

    A gap to the others' mean times 1 - share is one to the mean of all, of which kinds can be put together. Each gap
    has the others' errors in it too, so that at worst they add up; of two sources they do.
    """
    of_kind = {kind: fsum(shares[name] for name in gaps if kinds[name] == kind) for kind in ("real", "synthetic")}
    if not of_kind["real"] or not of_kind["synthetic"]:
        return None
    parts = {name: shares[name] * (1 - shares[name]) / of_kind[kinds[name]] / unit for name in gaps}
    signs = {name: 1 if kinds[name] == "synthetic" else -1 for name in gaps}
    return Estimate(
        value=fsum(signs[name] * parts[name] * gap.value for name, gap in gaps.items()),
        standard_error=fsum(parts[name] * gap.standard_error for name, gap in gaps.items()),
    )


def worthwhile_epochs(held_for: Estimate, behind: Estimate | None, epochs: float) -> float:
    """Epochs of real data after which a repeat is worth no more than a synthetic token, ``held_for`` so many fresh real
    ones until it is measured.

    ``behind``: the worth of a synthetic token less that of a real one, in fresh real tokens, measured after ``epochs``
    of real data, when a real one was worth ``repeat_value``; None before it is known. A synthetic token that is worth
    less buys real data more epochs, by the mean of what it was held for and what was measured, each as far as it is
    sure, or by what was measured alone where the two plainly differ (``renewed``). That it is worth more never takes
    epochs away: the fewer of them the plan has, the better synthetic text compares, which in a trial on text starved
    real data at once.
    """
    if behind is None:
        return epochs_until(held_for.value)
    measured = Estimate(value=repeat_value(epochs) + behind.value, standard_error=behind.standard_error)
    source_value = renewed(held_for, measured).value
    return epochs_until(min(max(source_value, LEAST_SOURCE_VALUE), held_for.value))


def budgeted(
    observation: Observation, rest: Ahead, terms: Terms, *, wanted: float, span: float, floors: Mapping[str, float]
) -> Budget:
    """The budget as it stands, and the curve that just spends it over the ``rest`` of the run.

    ``wanted``: the real share that value asks for. Where the plan follows the kernel that is a share of the whole run,
    whenever it is drawn, for real data held back would else never be caught up with. ``span``: of progress, from this
    reading to the next; ``floors``: least shares.
    """
    # one that has come to its cap is drawn no more, but was paid for
    real = [name for name in observation.shares if floors.get(name, 0.0) > 0 and observation.kinds[name] == "real"]
    written = [
        name for name, share in observation.shares.items() if share > 0 and observation.kinds[name] == "synthetic"
    ]
    paid = spent(observation, real)
    unique, used = paid.unique, paid.used
    left = rest.total_steps * observation.horizon.global_batch
    most = {name: min(terms.real_epochs, observation.horizon.max_epochs.get(name, float("inf"))) for name in real}
    samples = fsum(epochs * observation.horizon.num_samples.get(name, 0) for name, epochs in most.items())
    budget = Budget(samples=samples if unique else float("inf"), used=used, unique=unique, left_of_run=left)
    least = fsum(floors[name] for name in real)
    ceiling = 1 - fsum(floors[name] for name in written)
    followed = concentrated(budget.epochs, terms.concentration) if budget.samples < ceiling * (left + used) else 0.0
    waits = terms.curvature is None and followed > 0 and observation.progress < terms.waits_until
    followed = 0.0 if terms.curvature is None else followed
    is_timed = waits or followed > 0
    if not real or not written or left <= 0 or (not is_timed and budget.samples - used >= left * ceiling):
        return budget
    planned, weights = budget.planned, kernel(rest, terms.curvature or 0.0)
    if is_timed:
        planned = max(
            0.0, min(planned, wanted * observation.horizon.num_steps * observation.horizon.global_batch - used)
        )
    if waits:
        weights = _deferred(rest, (terms.waits_until - observation.progress) * observation.horizon.num_steps)
    curve = spend(
        rest,
        weights,
        planned / observation.horizon.global_batch,
        concentration=1.0 if waits else followed,
        floor=least,
        ceiling=ceiling,
    )
    coming = _coming_steps(observation, rest, span)
    ends = np.concatenate([[0.0], np.cumsum(rest.steps)])
    drawn = np.concatenate([[0.0], np.cumsum(rest.steps * curve.shares)])
    share = float(np.interp(coming, ends, drawn)) / coming
    now = float(weights[0] / weights.max())  # 0 where what is learnt now is forgotten long before the end
    marginal = curve.marginal / now if now > 0 and not waits else float("inf")
    return replace(budget, share=share, marginal=marginal, concentration=followed, is_timed=is_timed, waits=waits)


def _deferred(rest: Ahead, steps: float) -> FloatArray:
    """Weights [P] by which nothing is spent on the next so many steps that can be spent after them."""
    return np.where(np.cumsum(rest.steps) - rest.steps < steps, LEAST_WEIGHT, 1.0)


def concentrated(epochs: float, concentration: float) -> float:
    """How far the plan may follow the kernel where real data come to so many epochs by the end of the run.

    Wholly up to one epoch, not at all from four on: what is repeated must not be bunched.
    """
    return concentration * max(0.0, 1 - max(0.0, epochs - 1) / (MOST_CONCENTRATED_EPOCHS - 1))
