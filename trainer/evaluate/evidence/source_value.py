"""Source value: how much a few trial steps on a source help on held-out text, per token, in fresh real tokens.

From the weights and the optimizer as they are, a few trial steps are made on one source alone, held-out samples are
evaluated, and the steps are undone, bit for bit. Divided by what the same steps on other held-out samples gain, a fresh
real token is 1, a repeated one less, junk 0, poison below 0. The evaluated samples are the same for all, so what
they have in common cancels.

Why steps and not the alignment of gradients (Differentiable Data Selection, 1911.10088; DoGE, 2310.15393), which costs
less: alignment sees the next step only. In the pilot (1.05 M parameters, 400 steps of 32 x 128 tokens) word-shuffled
text, which costs 0.17 nats at a quarter share, half of that within 100 steps, aligns like real text until step 120,
because all sources agree on word counts; eight steps at step 80 gain 0.03 nats on it and 0.09 on real text.

What it does not remove is the run's own momentum: it continues for a few steps whatever they are made on, so a source
without any gradient is estimated above 0 (0.67 in a toy run of 30 steps). That moves all sources alike; compare them.
"""

# N rows, B rows of a batch, T tokens

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from trainer.base.errors import UserError
from trainer.base.hashing import derived_rng
from trainer.base.heartbeat import beat
from trainer.base.records import FloatArray, IntArray, SourceValue
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import (
    HELD_OUT_ROWS,
    SOURCE_VALUE_STREAM,
    EvalSamples,
    HeldOutText,
    SegmentRows,
    ratio_standard_error,
    reduced_nats,
    row_targets,
)
from trainer.evaluate.evidence.measurement import FORGETTING, SOURCE_VALUE, MeasuredRun
from trainer.evaluate.ports import SourceValuePort
from trainer.evaluate.samples import drawn, live_segments, packed, partitioned, shuffled_documents
from trainer.evaluate.schedule import Times, times

FRESH_TEXT = ""  # key of fresh held-out text among the sources, which all have names
PART_OF_FORGETTING = 1 / 3  # of the budget, for the forgetting probes where both are measured
FORWARD_COST = 1 / 3  # of a trained token
# On one source. Four trial steps separate shuffled from real text by a factor of 2 at step 80 of the pilot, eight by 3.
TRIAL_STEPS = 8
LEAST_ROWS, MOST_ROWS = 2, 64  # samples of one trial step
LEAST_READ, MOST_READ = 16, 512  # held-out samples that are evaluated after the trial steps on a source
# Ten repetitions with other draws (quickstart, steps 80 and 94, 56 samples trained on, 71 evaluated): gains scattered
# by 0.006 nats, the error over the evaluated rows was 0.0024.
DRAW_SCATTER = 2.5
LEAST_SIGNIFICANCE = 3.0  # standard errors by which fresh text must gain, or source value is not defined


@dataclass(frozen=True, kw_only=True)
class SourceValueCounts:
    """Samples of T tokens in one measurement: of a trial step, and evaluated after the trial steps on each source."""

    samples_per_step: int
    held_out_samples: int

    def cost_tokens(self, *, num_sources: int, sequence_length: int) -> float:
        """Trained-token equivalents: trial steps on each source and on fresh text, a forward costs a third."""
        trial_steps = (num_sources + 1) * TRIAL_STEPS * self.samples_per_step
        read = (num_sources + 2) * self.held_out_samples * FORWARD_COST
        return (trial_steps + read) * sequence_length

    def held_out_tokens(self, sequence_length: int) -> int:
        """Tokens that the validation part must hold, of each document ``sequence_length`` + 1 at most."""
        spare = 2  # each of the two sets may end inside a document, whatever the order
        return (TRIAL_STEPS * self.samples_per_step + self.held_out_samples + spare) * sequence_length


def planned(run: MeasuredRun) -> tuple[Times, SourceValueCounts] | None:
    """When source values are measured and on how many samples; None where they are not needed.

    The budget of the whole run is divided among the few measurements that can still change something; a part of it goes
    to the forgetting probes where they are needed too.
    """
    config = run.evaluation.source_value
    when = times(
        config.enabled,
        run.needed_from.get(SOURCE_VALUE),
        until=config.until,
        num_steps=run.num_steps,
        every_steps=config.every_evaluations * run.evaluation.every_steps,
    )
    if when is None:
        return None
    own_part = 1 - PART_OF_FORGETTING if FORGETTING in run.needed_from else 1.0
    counts = sized(
        config.model_copy(update={"max_compute_share": own_part * config.max_compute_share}),
        num_sources=run.num_sources,
        sequence_length=run.sequence_length,
        interval_tokens=run.interval_tokens(when),
    )
    return when, counts


@dataclass(frozen=True, kw_only=True)
class TokenSourceValue:
    """The measurement of source values on token samples; a call is one measurement."""

    text: HeldOutText
    sources: Mapping[str, Sequence[SegmentRows]]
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
        held_out_samples(text, sizes[1], step=0)  # too little text is an error now, not at the first measurement
        return cls(text=text, sources=sources, counts=sizes[1], times=sizes[0])

    @property
    def cost_tokens(self) -> float:
        """Trained-token equivalents of one measurement."""
        return self.counts.cost_tokens(num_sources=len(self.sources), sequence_length=self.text.sequence_length)

    def __call__(
        self, port: "SourceValuePort", *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, SourceValue]:
        """The value of each of ``sources``, given with their live segments, after ``step``; see
        ``measure_source_value``.
        """
        live = live_segments(self.sources, sources)
        return measure_source_value(
            self.text, live, self.counts, port, step=step, global_batch=global_batch
        ).source_value


@dataclass(frozen=True, kw_only=True)
class SourceValueEstimates:
    """Estimates after one step. ``source_value`` is empty when fresh held-out text did not gain significantly."""

    step: int
    source_value: Mapping[str, SourceValue]
    fresh_gain_nats: float  # per token, of the trial steps on fresh text
    fresh_gain_standard_error: float


def sized(
    config: SourceValueConfig, *, num_sources: int, sequence_length: int, interval_tokens: int
) -> SourceValueCounts:
    """Counts that cost at most ``max_compute_share`` of the ``interval_tokens`` trained between two measurements.

    Two thirds go to the trial steps, one third to evaluations. Stated counts stay; below ``LEAST_ROWS`` and
    ``LEAST_READ`` samples nothing can be measured, whatever the budget.
    """
    budget = config.max_compute_share * interval_tokens / sequence_length
    rows = math.floor(budget * 2 / 3 / ((num_sources + 1) * TRIAL_STEPS))
    read = math.floor(budget / 3 / ((num_sources + 2) * FORWARD_COST))
    return SourceValueCounts(
        samples_per_step=config.samples_per_step or min(max(rows, LEAST_ROWS), MOST_ROWS),
        held_out_samples=config.held_out_samples or min(max(read, LEAST_READ), MOST_READ),
    )


def measure_source_value(
    text: HeldOutText,
    sources: Mapping[str, Sequence[SegmentRows]],
    counts: SourceValueCounts,
    port: SourceValuePort,
    *,
    step: int,
    global_batch: int,
) -> SourceValueEstimates:
    """The value of each source after ``step``. Every rank calls it and gets the same.

    Weights and optimizer are bit for bit as before; gradients are cleared. A batch of the trial steps is smaller than
    the run's, so its learning rate is lowered by the square root of their ratio: at the full rate the noise of five
    samples undoes what they teach, and fresh text itself gains nothing.
    """
    rate_scale = math.sqrt(min(1.0, counts.samples_per_step / global_batch))
    fresh, evaluated = held_out_samples(text, counts, step=step)
    trained_on = {FRESH_TEXT: fresh}
    for name, segments in sources.items():
        if any(segment.num_samples for segment in segments):
            trained_on[name] = rows_of(name, segments, counts, step=step, seed=text.seed)
    seed = int(derived_rng(text.seed, SOURCE_VALUE_STREAM, "dropout", step).integers(2**62))
    before = held_out_nats(evaluated, port, batch_rows=text.batch_rows)
    gains: dict[str, FloatArray] = {}
    with port.trial(rate_scale=rate_scale) as back:
        for name, rows in trained_on.items():
            back()
            trial_step(rows, counts, port, seed=seed)
            gains[name] = before - held_out_nats(evaluated, port, batch_rows=text.batch_rows)
    return estimated(gains, row_targets(evaluated), step=step, counts=counts, rate_scale=rate_scale)


def held_out_nats(rows: EvalSamples, port: SourceValuePort, *, batch_rows: int) -> FloatArray:
    """Loss of each held-out row, in nats [N]; all ranks call it together."""
    return reduced_nats({HELD_OUT_ROWS: rows}, port, batch_rows=batch_rows)[HELD_OUT_ROWS]


def estimated(
    gains: Mapping[str, FloatArray], targets: IntArray, *, step: int, counts: SourceValueCounts, rate_scale: float
) -> SourceValueEstimates:
    """Source values from the gains [N] in nats of the same held-out rows after the trial steps on each source, and on
    fresh text (key ``FRESH_TEXT``).

    The standard error is for comparing sources: of the gain of a source less the mean gain of all on the same rows
    (what they have in common, the division by the fresh gain above all, moves every value alike), times
    ``DRAW_SCATTER`` for the samples that happened to be drawn.
    """
    fresh, common = gains[FRESH_TEXT], np.mean(list(gains.values()), axis=0)
    mean, error = float(fresh.sum() / targets.sum()), ratio_standard_error(fresh, targets)
    source_value = {}
    if mean > LEAST_SIGNIFICANCE * error:
        for name, gain in gains.items():
            if name != FRESH_TEXT:
                source_value[name] = SourceValue(
                    value=float(gain.sum() / fresh.sum()),
                    standard_error=DRAW_SCATTER * ratio_standard_error(gain - common, targets) / mean,
                    num_samples=TRIAL_STEPS * counts.samples_per_step,
                    fresh_gain=mean / (TRIAL_STEPS * rate_scale),
                )
    return SourceValueEstimates(
        step=step, source_value=source_value, fresh_gain_nats=mean, fresh_gain_standard_error=error
    )


def held_out_samples(text: HeldOutText, counts: SourceValueCounts, *, step: int) -> tuple[EvalSamples, EvalSamples]:
    """Two disjoint sets of documents, drawn again each time: for trial steps, and to be evaluated.

    Packed as training packs them, because a token at the head of a document gains more than one inside a sample.
    ``UserError`` when the part cannot fill them: call it once before the run.
    """
    wanted = TRIAL_STEPS * counts.samples_per_step, counts.held_out_samples
    sequence_length = text.sequence_length
    rng = derived_rng(text.seed, SOURCE_VALUE_STREAM, "held-out", step)
    documents, ends = shuffled_documents(text, rng)
    border = int(np.searchsorted(ends, wanted[0] * sequence_length)) + 1
    needed = counts.held_out_tokens(sequence_length)
    if not len(ends) or int(ends[-1]) < needed:
        raise _too_small(len(ends), int(ends[-1]) if len(ends) else 0, needed, sequence_length)
    return packed(text, documents[:border], wanted[0], rng), packed(text, documents[border:], wanted[1], rng)


def _too_small(num_documents: int, num_tokens: int, needed: int, sequence_length: int) -> UserError:
    fewest = SourceValueCounts(samples_per_step=LEAST_ROWS, held_out_samples=LEAST_READ)
    ways = ["hold out more documents", "use policy constant"]
    if num_tokens >= fewest.held_out_tokens(sequence_length):
        spare = 2 * sequence_length
        part = math.floor(100 * (num_tokens - spare) / (needed - spare)) / 100
        ways.insert(1, f"multiply evaluation.source_value.max_compute_share by {part:g}")
    remedy = ", ".join(ways[:-1]) + f", or {ways[-1]}"
    return UserError(
        "the validation part is too small to measure source values",
        got=f"{num_documents} documents with {num_tokens} tokens, at most {sequence_length + 1} counted of each; "
        f"{needed} are needed",
        remedy=remedy[0].upper() + remedy[1:],
    )


def rows_of(
    name: str, segments: Sequence[SegmentRows], counts: SourceValueCounts, *, step: int, seed: int
) -> EvalSamples:
    """As many samples of a source as its trial steps take, those trained on included; a small source repeats itself."""
    wanted = TRIAL_STEPS * counts.samples_per_step
    samples = drawn(segments, wanted, derived_rng(seed, SOURCE_VALUE_STREAM, name, step))
    return samples.take(np.resize(np.arange(len(samples.num_valid)), wanted))


def trial_step(rows: EvalSamples, counts: SourceValueCounts, port: SourceValuePort, *, seed: int) -> None:
    """Trial steps on these rows, in order."""
    size = counts.samples_per_step
    for number in range(len(rows.num_valid) // size):
        ids_BT, num_valid_B, target_tokens = partitioned(rows.take(np.arange(number * size, (number + 1) * size)), port)
        beat()
        port.trial_step(
            ids_BT.to(port.device), num_valid_B.to(port.device), target_tokens=target_tokens, seed=seed + number
        )
