"""What a token of a source is worth now, in fresh real tokens: how much a few steps on it help on held-out text.

The run rehearses: from the weights and the optimizer as they stand it makes a few steps on one source alone, reads
held-out samples, and goes back, bit for bit. Divided by what the same steps on other held-out samples gain, a fresh
real token is 1, a repeated one less, junk 0, poison below 0. The samples that are read are the same for all, so what
they have in common cancels.

Why steps and not the alignment of gradients (Differentiable Data Selection, 1911.10088; DoGE, 2310.15393), which costs
less: alignment sees the next step only. In the pilot (1.05 M parameters, 400 steps of 32 x 128 tokens) word-shuffled
text, which costs 0.17 nats at a quarter share, half of that within 100 steps, aligns like real text until step 120,
because all sources agree on word counts; eight steps at step 80 gain 0.03 nats on it and 0.09 on real text.

What it does not remove is the run's own momentum: it goes on for a few steps whatever they are made on, so a source
without any gradient reads above 0 (0.67 in a toy run of 30 steps). That moves all sources alike; compare them.
"""

# N rows, B rows of a batch, T tokens

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from trainer.base.errors import UserError
from trainer.base.heartbeat import beat
from trainer.base.records import FloatArray, IntArray, SourceValue
from trainer.evaluate.config import SourceValueConfig
from trainer.evaluate.eval_batches import (
    Part,
    Samples,
    Segment,
    derived_rng,
    ratio_standard_error,
    reduced_nats,
    row_targets,
)
from trainer.evaluate.ports import SourceValuePort
from trainer.evaluate.samples import dealt, drawn, live_segments, packed, shuffled_documents

if TYPE_CHECKING:
    pass

FORWARD_COST = 1 / 3  # of a trained token
# Of one rehearsal. Four steps separate shuffled from real text by a factor of 2 at step 80 of the pilot, eight by 3.
TRIAL_STEPS = 8
LEAST_ROWS, MOST_ROWS = 2, 64  # samples of one rehearsed step
LEAST_READ, MOST_READ = 16, 512  # held-out samples that are read after each rehearsal
# Ten repetitions with other draws (quickstart, steps 80 and 94, 56 samples rehearsed, 71 read): gains scattered by
# 0.006 nats, the error over the rows read was 0.0024.
DRAW_SCATTER = 2.5
LEAST_SIGNIFICANCE = 3.0  # standard errors by which fresh text must gain, or the worth is not defined


@dataclass(frozen=True, kw_only=True)
class SourceValueCounts:
    """Samples of T tokens in one measurement: of a rehearsed step, and read after each rehearsal."""

    samples_per_step: int
    held_out_samples: int

    def cost_tokens(self, *, num_sources: int, sequence_length: int) -> float:
        """Trained-token equivalents: a rehearsal for each source and for fresh text, a forward costs a third."""
        trial_steps = (num_sources + 1) * TRIAL_STEPS * self.samples_per_step
        read = (num_sources + 2) * self.held_out_samples * FORWARD_COST
        return (trial_steps + read) * sequence_length


@dataclass(frozen=True, kw_only=True)
class TokenSourceValue:
    """All that stays the same from one measurement on token samples to the next; a call is one measurement."""

    part: Part
    sources: Mapping[str, Sequence[Segment]]
    counts: SourceValueCounts
    seed: int
    sequence_length: int
    end_of_document: int
    batch_rows: int

    def __call__(
        self, port: "SourceValuePort", *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, SourceValue]:
        """The worth of each of ``sources``, given with their live segments, after ``step``; see
        ``read_source_value``.
        """
        return read_source_value(
            self.part,
            live_segments(self.sources, sources),
            self.counts,
            port,
            step=step,
            seed=self.seed,
            sequence_length=self.sequence_length,
            end_of_document=self.end_of_document,
            batch_rows=self.batch_rows,
            global_batch=global_batch,
        ).source_value


@dataclass(frozen=True, kw_only=True)
class SourceValueEvaluation:
    """Evidence of one step. ``source_value`` is empty when fresh held-out text did not gain significantly."""

    step: int
    source_value: Mapping[str, SourceValue]
    fresh_gain_nats: float  # per token, of the rehearsal on fresh text
    fresh_gain_standard_error: float


def sized(
    config: SourceValueConfig, *, num_sources: int, sequence_length: int, interval_tokens: int
) -> SourceValueCounts:
    """Counts that cost at most ``max_compute_share`` of the ``interval_tokens`` trained between two measurements.

    Two thirds go to the rehearsed steps, one third to reading. Stated counts stay; below ``LEAST_ROWS`` and
    ``LEAST_READ`` samples nothing can be told, whatever the budget.
    """
    budget = config.max_compute_share * interval_tokens / sequence_length
    rows = math.floor(budget * 2 / 3 / ((num_sources + 1) * TRIAL_STEPS))
    read = math.floor(budget / 3 / ((num_sources + 2) * FORWARD_COST))
    return SourceValueCounts(
        samples_per_step=config.samples_per_step or min(max(rows, LEAST_ROWS), MOST_ROWS),
        held_out_samples=config.held_out_samples or min(max(read, LEAST_READ), MOST_READ),
    )


def read_source_value(  # noqa: PLR0913 - everything is handed in
    part: Part,
    sources: Mapping[str, Sequence[Segment]],
    counts: SourceValueCounts,
    port: SourceValuePort,
    *,
    step: int,
    seed: int,
    sequence_length: int,
    end_of_document: int,
    batch_rows: int,
    global_batch: int,
) -> SourceValueEvaluation:
    """The worth of each source after ``step``. Every rank calls it and gets the same reading.

    Weights and optimizer are bit for bit as before; gradients are cleared. A rehearsed batch is smaller than the run's,
    so its learning rate goes down by the square root of their ratio: at the full rate the noise of five samples undoes
    what they teach, and fresh text itself gains nothing.
    """
    rate_scale = math.sqrt(min(1.0, counts.samples_per_step / global_batch))
    fresh, read = held_out_samples(
        part, counts, step=step, seed=seed, sequence_length=sequence_length, end_of_document=end_of_document
    )
    practice = {"": fresh}
    for name, segments in sources.items():
        if any(segment.num_samples for segment in segments):
            practice[name] = rows_of(name, segments, counts, step=step, seed=seed)
    nats = {"before": reduced_nats({"": read}, port, batch_rows=batch_rows)[""]}
    with port.trial(rate_scale=rate_scale) as back:
        for name, rows in practice.items():
            back()
            trial_step(rows, counts, port, seed=int(derived_rng(seed, "source_value", "dropout", step).integers(2**62)))
            nats[name] = reduced_nats({"": read}, port, batch_rows=batch_rows)[""]
    before = nats.pop("before")
    gains = {name: before - after for name, after in nats.items()}
    return judged(gains, row_targets(read), step=step, counts=counts, rate_scale=rate_scale)


def judged(
    gains: Mapping[str, FloatArray], targets: IntArray, *, step: int, counts: SourceValueCounts, rate_scale: float
) -> SourceValueEvaluation:
    """SourceValue from the gains [N] in nats of the same held-out rows after each rehearsal; key "" is fresh text.

    The standard error is for comparing sources: of the gain of a source less the mean gain of all on the same rows
    (what they have in common, the division by the fresh gain above all, moves every worth alike), times
    ``DRAW_SCATTER`` for the samples that happened to be drawn.
    """
    fresh, common = gains[""], np.mean(list(gains.values()), axis=0)
    mean, error = float(fresh.sum() / targets.sum()), ratio_standard_error(fresh, targets)
    source_value = {}
    if mean > LEAST_SIGNIFICANCE * error:
        for name, gain in gains.items():
            if name:
                source_value[name] = SourceValue(
                    value=float(gain.sum() / fresh.sum()),
                    standard_error=DRAW_SCATTER * ratio_standard_error(gain - common, targets) / mean,
                    num_samples=TRIAL_STEPS * counts.samples_per_step,
                    fresh_gain=mean / (TRIAL_STEPS * rate_scale),
                )
    return SourceValueEvaluation(
        step=step, source_value=source_value, fresh_gain_nats=mean, fresh_gain_standard_error=error
    )


def held_out_samples(
    part: Part, counts: SourceValueCounts, *, step: int, seed: int, sequence_length: int, end_of_document: int
) -> tuple[Samples, Samples]:
    """Two disjoint sets of documents, packed as training packs them, drawn anew each time: to rehearse on, to read.

    Packed, because a token at the head of a document gains more than one inside a sample. ``UserError`` when the part
    cannot fill them: call it once before the run.
    """
    wanted = TRIAL_STEPS * counts.samples_per_step, counts.held_out_samples
    rng = derived_rng(seed, "source_value", "held-out", step)
    documents, ends = shuffled_documents(part, rng, sequence_length=sequence_length)
    border = int(np.searchsorted(ends, wanted[0] * sequence_length)) + 1
    needed = (sum(wanted) + 2) * sequence_length  # 2: each set may end inside a document, whatever the order
    if not len(ends) or int(ends[-1]) < needed:
        raise UserError(
            "the validation part is too small for evidence on sources",
            got=f"{int(ends[-1]) if len(ends) else 0} tokens, {needed} are needed",
            remedy="Hold out more documents, lower evaluation.source_value.max_compute_share, or use policy constant",
        )
    pack = partial(packed, part, rng=rng, sequence_length=sequence_length, end_of_document=end_of_document)
    return pack(documents[:border], wanted[0]), pack(documents[border:], wanted[1])


def rows_of(name: str, segments: Sequence[Segment], counts: SourceValueCounts, *, step: int, seed: int) -> Samples:
    """As many samples of a source as a rehearsal takes, those trained on included; a small source repeats itself."""
    wanted = TRIAL_STEPS * counts.samples_per_step
    found = drawn(segments, wanted, derived_rng(seed, "source_value", name, step))
    return found.take(np.resize(np.arange(len(found.num_valid)), wanted))


def trial_step(rows: Samples, counts: SourceValueCounts, port: SourceValuePort, *, seed: int) -> None:
    """Steps on these rows, in order."""
    size = counts.samples_per_step
    for number in range(len(rows.num_valid) // size):
        ids_BT, num_valid_B, target_tokens = dealt(rows.take(np.arange(number * size, (number + 1) * size)), port)
        beat()
        port.trial_step(
            ids_BT.to(port.device), num_valid_B.to(port.device), target_tokens=target_tokens, seed=seed + number
        )
