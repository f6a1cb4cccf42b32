"""How fast the model forgets: how much of what a few steps taught is left after further steps.

Two copies of the model, one after a few steps on fresh real text and one after as many on a synthetic source, go on on
the same samples of all sources. What sets them apart is what the steps taught, and how much of it is left is the kernel
that says when scarce data do most (``trainer.control.priced.spending_curve``). Held-out rows show it: each has its own
difference of losses between the copies, and the slope of the later differences on the earlier ones, both less their
mean, is what is left. The further steps are the same for both, so their noise cancels: on a quadratic of curvature h
the slope is (1 - h eta)^steps without any error (experiments), where the mean difference falls twice as fast, with the
gradient, and drowns in noise.

The first reading comes after ``SETTLING_STEPS`` of the further ones, because Adam's momentum goes on to carry out what
the steps taught for ten steps or more. What it still adds later makes the fading look slower, never faster.
"""

# N rows, B rows of a batch

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray, Forgetting, IntArray
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import Part, Samples, Segment, derived_rng, reduced_nats, row_targets
from trainer.evaluate.evidence.source_value import (
    DRAW_SCATTER,
    FORWARD_COST,
    LEAST_READ,
    LEAST_ROWS,
    MOST_READ,
    MOST_ROWS,
    TRIAL_STEPS,
    SourceValueCounts,
    held_out_samples,
    rows_of,
    trial_step,
)
from trainer.evaluate.ports import SourceValuePort
from trainer.evaluate.samples import drawn, live_segments
from trainer.evaluate.schedule import Times, times

SETTLING_STEPS, LASTING_STEPS = 16, 16  # common to both copies, before the first reading and from it to the second
COMMON_STEPS = SETTLING_STEPS + LASTING_STEPS
PROBES = 4  # in a run, about: they are made at readings
PART_OF_EVIDENCE = 1 / 3  # of what may be spent on evidence, where both are measured
JACKKNIFE_GROUPS = 10  # of rows
LEAST_ERROR = 0.01  # of what is left: it is not wholly an exponential


def forgetting_times(
    config: SourceValueConfig, needed_from: float | None, *, num_steps: int, every_steps: int
) -> Times | None:
    """About ``PROBES`` times between ``needed_from`` and ``config.until``, at readings, which come ``every_steps``."""
    if needed_from is None:
        return None
    apart = (config.until - needed_from) * num_steps / (PROBES - 1)
    every = max(1, math.floor(apart / every_steps)) * every_steps
    return times(config.enabled, needed_from, until=config.until, num_steps=num_steps, every_steps=every)


def cost_tokens(counts: SourceValueCounts, *, sequence_length: int) -> float:
    """Trained-token equivalents of one probe: the steps of two copies, which are read twice."""
    stepped = 2 * (TRIAL_STEPS + COMMON_STEPS) * counts.samples_per_step
    return (stepped + 4 * counts.held_out_samples * FORWARD_COST) * sequence_length


def forgetting_sized(config: SourceValueConfig, *, sequence_length: int, interval_tokens: int) -> SourceValueCounts:
    """Counts that cost at most ``PART_OF_EVIDENCE`` of what may be spent of the ``interval_tokens`` trained between two
    probes: two thirds on steps, one third on reading; not below what can tell anything, as for the worth.
    """
    budget = PART_OF_EVIDENCE * config.max_compute_share * interval_tokens / sequence_length
    rows = math.floor(budget * 2 / 3 / (2 * (TRIAL_STEPS + COMMON_STEPS)))
    read = math.floor(budget / 3 / (4 * FORWARD_COST))
    return SourceValueCounts(
        samples_per_step=config.samples_per_step or min(max(rows, LEAST_ROWS), MOST_ROWS),
        held_out_samples=config.held_out_samples or min(max(read, LEAST_READ), MOST_READ),
    )


@dataclass(frozen=True, kw_only=True)
class TokenForgetting:
    """All that stays the same from one probe on token samples to the next; a call is one probe. ``taught``: the sources
    whose steps are held against those on fresh text, one of them at a time.
    """

    part: Part
    sources: Mapping[str, Sequence[Segment]]
    taught: Sequence[str]
    counts: SourceValueCounts
    seed: int
    sequence_length: int
    end_of_document: int
    batch_rows: int

    def __call__(
        self, port: SourceValuePort, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, Forgetting]:
        """How fast goes what one of ``sources``, given with their live segments, taught; every rank gets the same.
        Weights and optimizer are bit for bit as before. Empty where none is drawn of those that could be held against
        fresh text.
        """
        rng = derived_rng(self.seed, "forgetting", step)
        live = live_segments(self.sources, sources)
        live = {name: parts for name, parts in live.items() if any(part.num_samples for part in parts)}
        probed = [name for name in live if name in self.taught]
        if not probed:
            return {}
        name = probed[int(rng.integers(len(probed)))]
        fresh, read = held_out_samples(
            self.part,
            self.counts,
            step=step,
            seed=self.seed,
            sequence_length=self.sequence_length,
            end_of_document=self.end_of_document,
        )
        taught = fresh, rows_of(name, live[name], self.counts, step=step, seed=self.seed)
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
                    nats.append(reduced_nats({"": read}, port, batch_rows=self.batch_rows)[""])
        earlier, later = nats[2] - nats[0], nats[3] - nats[1]
        found = faded(earlier, later, row_targets(read), counts=self.counts, rate_scale=rate_scale)
        return {} if found is None else {name: found}

    def _common(self, live: Mapping[str, Sequence[Segment]], rng: np.random.Generator) -> Samples:
        """The rows of the common steps, from all sources in equal parts, in random order."""
        wanted = COMMON_STEPS * self.counts.samples_per_step
        each = [drawn(parts, -(-wanted // len(live)), rng) for parts in live.values()]
        ids, valid = (np.concatenate([getattr(one, key) for one in each]) for key in ("token_ids", "num_valid"))
        return Samples(token_ids=ids, num_valid=valid).take(np.resize(rng.permutation(len(valid)), wanted))


def faded(
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
        _slope(earlier_N[groups != one], later_N[groups != one], targets_N[groups != one])
        for one in range(JACKKNIFE_GROUPS)
    ]
    error = DRAW_SCATTER * math.sqrt((JACKKNIFE_GROUPS - 1) * float(np.var(without)))
    left = max(slope, error)
    if not 0 < left < math.inf or math.isnan(error):
        return None
    a_step = left ** (1 / LASTING_STEPS)
    return Forgetting(
        value=(1 - a_step) / rate_scale,
        standard_error=a_step * math.hypot(error / left, LEAST_ERROR) / LASTING_STEPS / rate_scale,
        num_samples=(TRIAL_STEPS + COMMON_STEPS) * counts.samples_per_step,
    )


def _slope(earlier_N: FloatArray, later_N: FloatArray, targets_N: IntArray) -> float:
    """Of the later on the earlier differences, both less their mean per token; NaN where there are none."""
    earlier, later = (nats - nats.sum() / targets_N.sum() * targets_N for nats in (earlier_N, later_N))
    size = float(earlier @ earlier)
    return float(earlier @ later) / size if size > 0 else math.nan
