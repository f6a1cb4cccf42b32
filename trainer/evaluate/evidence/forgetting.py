"""How fast the model forgets: how much of what a few steps taught is left after further steps.

Two copies of the model, one after a few steps on fresh real text and one after as many on a synthetic source, continue
on the same samples of all sources. What sets them apart is what the steps taught, and how much of it is left is the
kernel that says when scarce data do most (``trainer.control.priced.spending_curve``). Held-out rows show it: each has
its own difference of losses between the copies, and the slope of the later differences on the earlier ones, both less
their mean, is what is left. The further steps are the same for both, so their noise cancels: on a quadratic of
curvature h the slope is (1 - h eta)^steps without any error (experiments), where the mean difference falls twice as
fast, with the gradient, and drowns in noise.

The first evaluation comes after ``SETTLING_STEPS`` of the further ones, because Adam's momentum continues to carry
out what the steps taught for ten steps or more. What it still adds later makes forgetting look slower, never faster.
"""

# N rows, B rows of a batch

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from trainer.base.hashing import derived_rng
from trainer.base.records import FloatArray, Forgetting, IntArray
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import (
    FORGETTING_STREAM,
    EvalSamples,
    HeldOutText,
    SegmentRows,
    row_targets,
)
from trainer.evaluate.evidence.measurement import FORGETTING, MeasuredRun
from trainer.evaluate.evidence.source_value import (
    DRAW_SCATTER,
    FORWARD_COST,
    LEAST_READ,
    LEAST_ROWS,
    MOST_READ,
    MOST_ROWS,
    PART_OF_FORGETTING,
    TRIAL_STEPS,
    SourceValueCounts,
    held_out_nats,
    held_out_samples,
    rows_of,
    trial_step,
)
from trainer.evaluate.ports import SourceValuePort
from trainer.evaluate.samples import drawn, live_segments
from trainer.evaluate.schedule import Times, times

SETTLING_STEPS, LASTING_STEPS = 16, 16  # common to both copies, before the first evaluation and from it to the second
COMMON_STEPS = SETTLING_STEPS + LASTING_STEPS
PROBES = 4  # in a run, about: they are made at evaluations
JACKKNIFE_GROUPS = 10  # of rows
LEAST_ERROR = 0.01  # of what is left: it is not wholly an exponential


def forgetting_times(
    config: SourceValueConfig, needed_from: float | None, *, num_steps: int, every_steps: int
) -> Times | None:
    """About ``PROBES`` times between ``needed_from`` and ``config.until``, at evaluations (``every_steps``)."""
    if needed_from is None:
        return None
    apart = (config.until - needed_from) * num_steps / (PROBES - 1)
    every = max(1, math.floor(apart / every_steps)) * every_steps
    return times(config.enabled, needed_from, until=config.until, num_steps=num_steps, every_steps=every)


def cost_tokens(counts: SourceValueCounts, *, sequence_length: int) -> float:
    """Trained-token equivalents of one probe: the steps of two copies, which are evaluated twice."""
    stepped = 2 * (TRIAL_STEPS + COMMON_STEPS) * counts.samples_per_step
    return (stepped + 4 * counts.held_out_samples * FORWARD_COST) * sequence_length


def forgetting_sized(config: SourceValueConfig, *, sequence_length: int, interval_tokens: int) -> SourceValueCounts:
    """Counts that cost at most ``PART_OF_FORGETTING`` of the budget of the ``interval_tokens`` trained between two
    probes: two thirds for steps, one third for evaluations; not below the fewest samples of a source value.
    """
    budget = PART_OF_FORGETTING * config.max_compute_share * interval_tokens / sequence_length
    rows = math.floor(budget * 2 / 3 / (2 * (TRIAL_STEPS + COMMON_STEPS)))
    read = math.floor(budget / 3 / (4 * FORWARD_COST))
    return SourceValueCounts(
        samples_per_step=config.samples_per_step or min(max(rows, LEAST_ROWS), MOST_ROWS),
        held_out_samples=config.held_out_samples or min(max(read, LEAST_READ), MOST_READ),
    )


def planned(run: MeasuredRun) -> tuple[Times, SourceValueCounts] | None:
    """When forgetting is probed and on how many samples; None where it is not needed."""
    config = run.evaluation.source_value
    when = forgetting_times(
        config, run.needed_from.get(FORGETTING), num_steps=run.num_steps, every_steps=run.evaluation.every_steps
    )
    if when is None:
        return None
    counts = forgetting_sized(config, sequence_length=run.sequence_length, interval_tokens=run.interval_tokens(when))
    return when, counts


@dataclass(frozen=True, kw_only=True)
class TokenForgetting:
    """The forgetting probe on token samples; a call is one probe. ``taught``: the sources whose steps are compared with
    those on fresh text, one of them at a time.
    """

    text: HeldOutText
    sources: Mapping[str, Sequence[SegmentRows]]
    taught: Sequence[str]
    counts: SourceValueCounts
    times: Times

    @classmethod
    def plan(
        cls,
        config: SourceValueConfig,
        run: MeasuredRun,
        *,
        text: HeldOutText,
        sources: Mapping[str, Sequence[SegmentRows]],
    ) -> Self | None:
        """The measurement that the run needs, if any."""
        if (sizes := planned(run)) is None:
            return None
        held_out_samples(text, sizes[1], step=0)  # too little text is an error now, not at the first probe
        taught = [name for name, kind in run.kinds.items() if kind == "synthetic"]
        return cls(text=text, sources=sources, taught=taught, counts=sizes[1], times=sizes[0])

    @property
    def cost_tokens(self) -> float:
        """Trained-token equivalents of one probe."""
        return cost_tokens(self.counts, sequence_length=self.text.sequence_length)

    def __call__(
        self, port: SourceValuePort, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, Forgetting]:
        """How fast what one of ``sources``, given with their live segments, taught is forgotten; every rank gets the
        same. Weights and optimizer are bit for bit as before. Empty where none is drawn of those that could be compared
        with fresh text.
        """
        rng = derived_rng(self.text.seed, FORGETTING_STREAM, step)
        live = live_segments(self.sources, sources)
        live = {name: parts for name, parts in live.items() if any(part.num_samples for part in parts)}
        probed = [name for name in live if name in self.taught]
        if not probed:
            return {}
        name = probed[int(rng.integers(len(probed)))]
        fresh, evaluated = held_out_samples(self.text, self.counts, step=step)
        taught = fresh, rows_of(name, live[name], self.counts, step=step, seed=self.text.seed)
        common = self._common(live, rng)
        border = SETTLING_STEPS * self.counts.samples_per_step
        parts = (common.take(np.arange(border)), common.take(np.arange(border, len(common.num_valid))))
        rate_scale = math.sqrt(min(1.0, self.counts.samples_per_step / global_batch))
        dropout = int(rng.integers(2**61))
        nats = []
        with port.trial(rate_scale=rate_scale) as back:
            for rows in taught:
                back()
                trial_step(rows, self.counts, port, seed=dropout)
                for number, part in enumerate(parts, start=1):
                    trial_step(part, self.counts, port, seed=dropout + number * COMMON_STEPS)
                    nats.append(held_out_nats(evaluated, port, batch_rows=self.text.batch_rows))
        earlier, later = nats[2] - nats[0], nats[3] - nats[1]
        rate = forgetting_rate(earlier, later, row_targets(evaluated), counts=self.counts, rate_scale=rate_scale)
        return {} if rate is None else {name: rate}

    def _common(self, live: Mapping[str, Sequence[SegmentRows]], rng: np.random.Generator) -> EvalSamples:
        """The rows of the common steps, from all sources in equal parts, in random order."""
        num_samples = COMMON_STEPS * self.counts.samples_per_step
        by_source = [drawn(parts, -(-num_samples // len(live)), rng) for parts in live.values()]
        ids, valid = (
            np.concatenate([getattr(samples, key) for samples in by_source]) for key in ("token_ids", "num_valid")
        )
        return EvalSamples(token_ids=ids, num_valid=valid).take(np.resize(rng.permutation(len(valid)), num_samples))


def forgetting_rate(
    earlier_N: FloatArray, later_N: FloatArray, targets_N: IntArray, *, counts: SourceValueCounts, rate_scale: float
) -> Forgetting | None:
    """Forgetting from the differences [N] in nats between the copies on the same rows; None where nothing sets them
    apart.

    The standard error is that of the slope over groups of rows left out, times ``DRAW_SCATTER`` for the samples that
    happened to be drawn. Where no more is left than this error, at least this much is gone.
    """
    groups = np.arange(len(targets_N)) % JACKKNIFE_GROUPS
    slope = _slope(earlier_N, later_N, targets_N)
    without = [
        _slope(earlier_N[groups != group], later_N[groups != group], targets_N[groups != group])
        for group in range(JACKKNIFE_GROUPS)
    ]
    error = DRAW_SCATTER * math.sqrt((JACKKNIFE_GROUPS - 1) * float(np.var(without)))
    kept_part = max(slope, error)
    if not 0 < kept_part < math.inf or math.isnan(error):
        return None
    a_step = kept_part ** (1 / LASTING_STEPS)
    return Forgetting(
        value=(1 - a_step) / rate_scale,
        standard_error=a_step * math.hypot(error / kept_part, LEAST_ERROR) / LASTING_STEPS / rate_scale,
        num_samples=(TRIAL_STEPS + COMMON_STEPS) * counts.samples_per_step,
    )


def _slope(earlier_N: FloatArray, later_N: FloatArray, targets_N: IntArray) -> float:
    """Of the later on the earlier differences, both less their mean per token; NaN where there are none."""
    earlier, later = (nats - nats.sum() / targets_N.sum() * targets_N for nats in (earlier_N, later_N))
    size = float(earlier @ earlier)
    return float(earlier @ later) / size if size > 0 else math.nan
