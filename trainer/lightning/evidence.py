"""Evaluations and source values for samples of any kind, from the user's own losses.

The rules are those of text: an evaluation is the loss of each held-out sample, a source value what a few trial steps on
a source gain on held-out samples, against the same steps on other held-out ones
(``trainer.evaluate.evidence.source_value``). A sample counts as one token.
"""

# N samples, B samples of a batch, D held-out samples that are read

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainer.base.errors import UserError
from trainer.base.hashing import derived_rng
from trainer.base.records import Evaluation, FloatArray, IntArray, SourceValue
from trainer.evaluate.eval_batches import fixed_batches, my_batches
from trainer.evaluate.evidence.source_value import FRESH_TEXT, TRIAL_STEPS, SourceValueCounts, estimated
from trainer.evaluate.schedule import Times
from trainer.lightning.datamodule import Samples, Source
from trainer.lightning.devices import TrainerDevices

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, kw_only=True)
class SampleEvaluator:
    """Every one of ``samples`` at each evaluation, ``batch`` at a time; ``slice_of[D]`` names the slice of each."""

    samples: Samples
    collate: Collate
    batch: int
    slice_of: Sequence[str] | None = None

    @property
    def documents(self) -> IntArray:
        """Numbers of the samples."""
        return np.arange(len(self.samples), dtype=np.int64)

    def evaluate(self, port: TrainerDevices, *, step: int, live: Mapping[str, Sequence[int]]) -> Evaluation:
        """One evaluation, of no source; every rank calls it and gets the same one, bit for bit."""
        names = tuple(sorted(set(self.slice_of))) if self.slice_of is not None else ("all",)
        ones = np.ones(len(self.samples), dtype=np.int64)
        return Evaluation(
            step=step,
            loss_sum_nats=sample_losses(self.samples, self.documents, port, collate=self.collate, batch=self.batch),
            tokens=ones,
            num_bytes=ones,
            slice_of=ones * 0 if self.slice_of is None else np.array([names.index(name) for name in self.slice_of]),
            slices=names,
        )


def sample_losses(
    samples: Samples, numbers: IntArray, port: TrainerDevices, *, collate: Collate, batch: int
) -> FloatArray:
    """Losses [N] of the samples with these numbers, shared out over the ranks; all ranks call it together."""
    losses = np.zeros(len(numbers))
    with port.evaluating():
        for places, counts in my_batches(fixed_batches(np.ones(len(numbers), dtype=np.int64), batch), port):
            losses_B = port.losses(collate([samples[int(number)] for number in numbers[places]]))
            if counts:
                losses[places] = losses_B.double().cpu().numpy()
    return port.reduce(losses)


@dataclass(frozen=True, kw_only=True)
class SampleSourceValue:
    """The measurement of source values on a user's own samples; a call is one measurement."""

    held_out: Samples
    sources: Mapping[str, Source]
    counts: SourceValueCounts
    times: Times
    collate: Collate
    batch: int
    seed: int

    def __post_init__(self) -> None:
        needed = TRIAL_STEPS * self.counts.samples_per_step + self.counts.held_out_samples
        if len(self.held_out) < needed:
            raise UserError(
                "there are too few held-out samples for evidence on sources",
                got=f"{len(self.held_out)} samples, {needed} are needed",
                remedy="Hold out more, lower source_value.samples_per_step or source_value.held_out_samples, "
                "or use another policy",
            )

    @property
    def cost_tokens(self) -> float:
        """Cost of one measurement, in samples trained: a sample counts as a token."""
        return self.counts.cost_tokens(num_sources=len(self.sources), sequence_length=1)

    def __call__(
        self, port: TrainerDevices, *, step: int, sources: Mapping[str, Sequence[int]], global_batch: int
    ) -> Mapping[str, SourceValue]:
        """The value of each of ``sources`` (each is one segment) after ``step``; every rank gets the same."""
        size = TRIAL_STEPS * self.counts.samples_per_step
        drawn = derived_rng(self.seed, "source_value", "held-out", step).permutation(len(self.held_out))
        trained_on: dict[str, tuple[Samples, IntArray]] = {FRESH_TEXT: (self.held_out, drawn[:size])}
        for name in sources:
            samples = self.sources[name].samples
            order = derived_rng(self.seed, "source_value", name, step).permutation(len(samples))
            trained_on[name] = samples, np.resize(order, size)
        evaluated = np.sort(drawn[size : size + self.counts.held_out_samples])
        before = self._losses(port, evaluated)
        after: dict[str, FloatArray] = {}
        scale = math.sqrt(min(1.0, self.counts.samples_per_step / global_batch))
        with port.trial(rate_scale=scale) as back:
            for name, (samples, numbers) in trained_on.items():
                back()
                self._make_trial_steps(port, samples, numbers, step)
                after[name] = self._losses(port, evaluated)
        gains = {name: before - nats for name, nats in after.items()}
        one_each = np.ones(len(evaluated), dtype=np.int64)
        return estimated(gains, one_each, step=step, counts=self.counts, rate_scale=scale).source_value

    def _losses(self, port: TrainerDevices, numbers: IntArray) -> FloatArray:
        return sample_losses(self.held_out, numbers, port, collate=self.collate, batch=self.batch)

    def _make_trial_steps(self, port: TrainerDevices, samples: Samples, numbers: IntArray, step: int) -> None:
        """The trial steps on one source; every rank gets equally many samples, padded with one that weighs nothing."""
        torch.manual_seed(int(derived_rng(self.seed, "source_value", "dropout", step).integers(2**62)))
        for rows in numbers.reshape(TRIAL_STEPS, -1):
            mine = rows[port.rank :: port.world_size]
            padded = np.resize(np.append(mine, rows[:1]), -(-len(rows) // port.world_size))
            weights = np.where(np.arange(len(padded)) < len(mine), 1 / len(rows), 0.0)
            port.trial_step(self.collate([samples[int(number)] for number in padded]), weights)
