"""What a token of a source is worth now, relative to a fresh real token: how well its gradient lowers the loss of held-
out documents.

Training on source k with a small rate changes the held-out loss by -<g_k, P g_H> (P: Adam's preconditioner, g_H: held-
out gradient). That is the derivative of k's own loss along d = P g_H, so no gradient of the source is needed: the
weights are moved to theta + e d and theta - e d and losses are read there. Divided by the same difference for other
held-out documents, a fresh real token is 1, a repeated one less, junk 0, poison below 0. Alignment of gradients, the
usual way, costs a backward pass per source and gives no error; here samples are independent, so the error is that of a
mean. See Wang et al., Differentiable Data Selection (1911.10088), and Fan et al., DoGE (2310.15393), for the rule.
"""

# N rows, B rows of a batch, T tokens

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from pydantic import Field

from trainer.evaluate.windows import (
    ForwardPort,
    Part,
    Rows,
    Samples,
    Segment,
    Windows,
    batch_tensors,
    cut_windows,
    derived_rng,
    fixed_batches,
    gather_samples,
    my_batches,
    ratio_standard_error,
    reduced_nats,
    row_targets,
)
from trainer.records import Config, FloatArray, IntArray, Worth

if TYPE_CHECKING:
    from torch import Tensor

FORWARD_COST = 1 / 3  # of a trained token
HELD_OUT_CHANGE_NATS = 0.02  # predicted change of the held-out loss per token at each of the two points
LEAST_SIGNIFICANCE = 3.0  # the normaliser must be this many standard errors above 0, or the worth is not defined


class WorthConfig(Config):
    """How much is spent on evidence about the sources."""

    enabled: Literal["auto", "on", "off"] = Field(default="auto", description="auto: when the policy asks for it")
    gradient_documents: int | None = Field(
        default=None, ge=2, description="held-out documents whose gradient gives the direction; null: by budget"
    )
    normaliser_documents: int | None = Field(
        default=None, ge=4, description="other held-out documents that define a worth of 1; null: by budget"
    )
    samples_per_source: int | None = Field(
        default=None, ge=4, description="training samples read of each source; null: by budget"
    )
    max_compute_share: float = Field(
        default=0.10, gt=0, le=1, description="most compute, as a part of the training between two readings"
    )


@dataclass(frozen=True, kw_only=True)
class WorthCounts:
    """Documents and samples of one reading of the worth."""

    gradient_documents: int
    normaliser_documents: int
    samples_per_source: int

    def cost_tokens(self, *, num_sources: int, sequence_length: int) -> float:
        """At most so many trained-token equivalents: forward and backward 1 a token, two forwards 2/3."""
        forwards = 2 * (self.normaliser_documents + num_sources * self.samples_per_source)
        return (self.gradient_documents + forwards * FORWARD_COST) * sequence_length


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What this rank holds of one parameter: local tensors of one shape (under FSDP2 the local part), moved in place."""

    weight: "Tensor"
    gradient: "Tensor | None"  # None: the parameter took no part
    exp_avg_sq: "Tensor | None"  # None: the optimizer has not stepped
    optimizer_steps: int
    beta2: float
    epsilon: float


class WorthPort(ForwardPort, Protocol):
    """What evidence needs of an engine beyond forwards. It is called between steps, when all gradients are cleared."""

    @property
    def shard_copies(self) -> int:
        """Ranks that hold the same shard: the number of ranks under DDP, 1 under FSDP2, 1 for a single process."""
        ...

    def held_out_gradient(self, batches: Sequence[tuple["Tensor", "Tensor"]], *, target_tokens: int) -> None:
        """Leaves in the gradients: d/dtheta of (nats of the batches of ALL ranks) / ``target_tokens``, synchronised,
        not clipped.

        Batches are this rank's ``(ids [B, T], num_valid [B])``; ranks have equally many (padded with ``num_valid`` 0).
        In evaluation mode, so that no random number is drawn.
        """
        ...

    def shards(self) -> Iterable[Shard]: ...

    def clear_gradients(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WorthReading:
    """Evidence of one step. ``worth`` is empty when held-out documents themselves did not gain significantly.

    The standard error of a Worth leaves out what is common to all sources; ``normaliser_relative_error`` is that part,
    relative to the value.
    """

    step: int
    worth: Mapping[str, Worth]
    held_out_change_nats: float  # measured, per token, from theta + e d to theta - e d
    normaliser_relative_error: float
    scale: float  # e
    source_nats_per_token: Mapping[str, float]  # mean of the two points: the loss at theta but for O(e^2)


def sized(
    config: WorthConfig, *, num_sources: int, sequence_length: int, interval_tokens: int, num_documents: int
) -> WorthCounts:
    """Counts that cost at most ``max_compute_share`` of ``interval_tokens``; those that the configuration states are
    taken as they are.

    The proportions 3 : 2 : 1 (gradient documents, normaliser documents, samples of each source) gave the best
    separation per token in the study on Wikipedia introductions; the fewest are 12, 8 and 4 whatever the budget, the
    most are 64 times as many.
    """
    budget = config.max_compute_share * interval_tokens / sequence_length
    unit = (budget / (3 + 2 * (2 + num_sources) * FORWARD_COST)) if budget > 0 else 0.0
    unit = min(max(unit, 4.0), 256.0)
    counts = WorthCounts(
        gradient_documents=config.gradient_documents or math.floor(3 * unit),
        normaliser_documents=config.normaliser_documents or math.floor(2 * unit),
        samples_per_source=config.samples_per_source or math.floor(unit),
    )
    return counts


def read_worth(  # noqa: PLR0913 - everything is handed in
    part: Part,
    sources: Mapping[str, Sequence[Segment]],
    counts: WorthCounts,
    port: WorthPort,
    *,
    step: int,
    seed: int,
    sequence_length: int,
    end_of_document: int,
    batch_rows: int,
) -> WorthReading:
    """The worth of each source after ``step``; weights, optimizer and random state are bit for bit as before, gradients
    are cleared.

    Every rank calls it and gets the same reading.
    """
    gradient_rows, normaliser_rows = _held_out_rows(
        part, counts, step=step, seed=seed, sequence_length=sequence_length, end_of_document=end_of_document
    )
    rows: dict[str, Rows] = {"": normaliser_rows}
    for name, segments in sources.items():
        rows[name] = _draw_samples(name, segments, counts.samples_per_source, step=step, seed=seed)
    _gradient(gradient_rows, port, batch_rows)
    with _moved(port) as move:
        move.to(+1)
        above = reduced_nats(rows, port, batch_rows=batch_rows)
        move.to(-1)
        below = reduced_nats(rows, port, batch_rows=batch_rows)
    return judged(
        above, below, {name: row_targets(part_rows) for name, part_rows in rows.items()}, step=step, scale=move.scale
    )


def judged(
    above: Mapping[str, FloatArray],
    below: Mapping[str, FloatArray],
    targets: Mapping[str, IntArray],
    *,
    step: int,
    scale: float,
) -> WorthReading:
    """Worth from nats of each row at theta + e d and theta - e d; key "" is the held-out normaliser. Pure arithmetic."""
    change = {name: above[name] - below[name] for name in above}
    mean = {name: float(change[name].sum() / targets[name].sum()) for name in above}
    error = {name: ratio_standard_error(change[name], targets[name]) for name in above}
    significant = mean[""] > LEAST_SIGNIFICANCE * error[""]
    names = [name for name in above if name]
    worth = {
        name: Worth(value=mean[name] / mean[""], standard_error=error[name] / mean[""], num_samples=len(change[name]))
        for name in names
        if significant
    }
    return WorthReading(
        step=step,
        worth=worth,
        held_out_change_nats=mean[""],
        normaliser_relative_error=error[""] / abs(mean[""]) if mean[""] else math.inf,
        scale=scale,
        source_nats_per_token={
            name: float((above[name] + below[name]).sum() / 2 / targets[name].sum()) for name in names
        },
    )


def _held_out_rows(
    part: Part, counts: WorthCounts, *, step: int, seed: int, sequence_length: int, end_of_document: int
) -> tuple[Windows, Windows]:
    """One window each of two disjoint sets of documents, drawn anew at every reading, so that errors of the draw
    average out over readings.
    """
    rng = derived_rng(seed, "worth", "held-out", step)
    documents = np.flatnonzero(np.diff(part.offsets) > 0).astype(np.int64)
    wanted = counts.gradient_documents + counts.normaliser_documents
    chosen = rng.permutation(documents)[:wanted]
    border = max(1, round(len(chosen) * counts.gradient_documents / wanted))
    halves = []
    for some in (chosen[:border], chosen[border:]):
        windows = cut_windows(part, np.sort(some), sequence_length=sequence_length, end_of_document=end_of_document)
        first = np.flatnonzero(np.diff(windows.documents, prepend=-1))
        per_document = np.diff(first, append=len(windows.documents))
        halves.append(windows.select(first + rng.integers(per_document)))
    return halves[0], halves[1]


def _draw_samples(name: str, segments: Sequence[Segment], count: int, *, step: int, seed: int) -> Samples:
    total = sum(segment.num_samples for segment in segments)
    picks = derived_rng(seed, "worth", name, step).choice(total, size=min(count, total), replace=False)
    return gather_samples(segments, np.sort(picks).astype(np.int64))


def _gradient(rows: Rows, port: WorthPort, batch_rows: int) -> None:
    batches = []
    for batch, counts in my_batches(fixed_batches(rows.num_valid, batch_rows), port):
        ids_BW, valid_B = batch_tensors(rows, batch, port.device)
        batches.append((ids_BW, valid_B if counts else valid_B * 0))
    port.held_out_gradient(batches, target_tokens=int(row_targets(rows).sum()))


class _Move:
    """The weights on the line theta + s e d; d takes the place of the gradient, so that one copy of the weights is all
    the extra memory.
    """

    def __init__(self, shards: Sequence[Shard], port: WorthPort) -> None:
        import torch

        self._shards = [shard for shard in shards if shard.gradient is not None]
        self._kept = [shard.weight.detach().clone() for shard in self._shards]
        slope = 0.0
        for shard in self._shards:
            gradient = shard.gradient
            assert gradient is not None
            direction = _direction(shard, gradient)
            slope += float((gradient.double() * direction.double()).sum())
            gradient.copy_(direction)
        total = float(port.reduce(np.array([slope]))[0]) / port.shard_copies
        self.scale = HELD_OUT_CHANGE_NATS / total if total > 0 and math.isfinite(total) else 0.0
        self._add = torch.add

    def to(self, side: int) -> None:
        for shard, kept in zip(self._shards, self._kept, strict=True):
            assert shard.gradient is not None
            shard.weight.detach().copy_(self._add(kept, shard.gradient, alpha=side * self.scale))

    def back(self) -> None:
        for shard, kept in zip(self._shards, self._kept, strict=True):
            shard.weight.detach().copy_(kept)


@contextmanager
def _moved(port: WorthPort) -> Iterator[_Move]:
    import torch

    with torch.no_grad():
        move = _Move(list(port.shards()), port)
        try:
            yield move
        finally:
            move.back()
            port.clear_gradients()


def _direction(shard: Shard, gradient: "Tensor") -> "Tensor":
    """The step that Adam would make for this gradient alone: g / (sqrt(b v + (1 - b) g^2) + eps), bounded by 1 / sqrt(1
    - b).

    Without the gradient's own square the bound is missing, and the rows of rare tokens (v decayed to nothing) take over
    the whole direction.
    """
    if shard.exp_avg_sq is None or shard.optimizer_steps < 1:
        return gradient / (gradient.norm() + shard.epsilon)
    corrected = shard.exp_avg_sq / (1 - shard.beta2**shard.optimizer_steps)
    return gradient / ((shard.beta2 * corrected + (1 - shard.beta2) * gradient**2).sqrt() + shard.epsilon)
