"""What a token of a source is worth now, in fresh real tokens: how much its gradient lowers the loss of held-out text.

Training on source k with a small rate changes the held-out loss by -<g_k, P g_H> (P: Adam's preconditioner, g_H: the
held-out gradient). That is the derivative of k's own loss along d = P g_H, so no gradient of the source is needed: the
weights are moved to theta + e d and theta - e d, and losses are read there. Divided by the same difference for other
held-out documents a fresh real token is 1, a repeated one less, junk 0, poison below 0. Alignment of gradients, the
usual way (Differentiable Data Selection, 1911.10088; DoGE, 2310.15393), takes a backward pass per sample if it is to
have an error; here samples cost two forwards, are independent, and the error is that of a mean.

Study (1.05 M parameters, 400 steps of 32 x 128 tokens, readings at a tenth of the compute of 40 steps): fresh real
samples read 1.0 within the stated error; word-shuffled text is as good as written text while word counts are learned
(to step 120), stands 3 to 7 errors below it at step 240 and 8 to 9 at step 400, where it is worth -0.8. Around step 40,
where the loss falls fastest, values swing by more than their errors: what one batch overshoots, the next one gains.
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
    batch_tensors,
    derived_rng,
    fixed_batches,
    gather_samples,
    my_batches,
    ratio_standard_error,
    reduced_nats,
    row_targets,
)
from trainer.model.optimizer import Shard
from trainer.records import Config, FloatArray, IntArray, UserError, Worth

if TYPE_CHECKING:
    from torch import Tensor

FORWARD_COST = 1 / 3  # of a trained token
# Predicted change of the held-out loss per token at each of the two points. From 0.0005 to 0.05 values move by less
# than a standard error; under bf16 autocast 0.0005 drowns in rounding (error doubled), 0.02 reads as in fp32.
HELD_OUT_CHANGE_NATS = 0.02
GRADIENT_PART, HELD_OUT_PART = 3.0, 1.5  # samples per sample of a source
LEAST_SAMPLES, MOST_SAMPLES = 4.0, 256.0  # of each source
FEWEST_HELD_OUT_SAMPLES = 4
LEAST_SIGNIFICANCE = 3.0  # the normaliser must be this many standard errors above 0, or the worth is not defined


class WorthConfig(Config):
    """How much is spent on evidence about the sources."""

    enabled: Literal["auto", "on", "off"] = Field(default="auto", description="auto: when the policy asks for it")
    gradient_samples: int | None = Field(
        default=None, ge=2, description="held-out samples whose gradient gives the direction; null: by budget"
    )
    held_out_samples: int | None = Field(
        default=None, ge=4, description="other held-out samples that define a worth of 1; null: by budget"
    )
    samples_per_source: int | None = Field(
        default=None, ge=4, description="training samples read of each source; null: by budget"
    )
    max_compute_share: float = Field(
        default=0.10, gt=0, le=1, description="most compute, as a part of the training between two readings"
    )


@dataclass(frozen=True, kw_only=True)
class WorthCounts:
    """Samples of T tokens in one reading of the worth."""

    gradient_samples: int
    held_out_samples: int
    samples_per_source: int

    def cost_tokens(self, *, num_sources: int, sequence_length: int) -> float:
        """At most so many trained-token equivalents: forward and backward 1 a token, two forwards 2/3."""
        forwards = 2 * (self.held_out_samples + num_sources * self.samples_per_source)
        return (self.gradient_samples + forwards * FORWARD_COST) * sequence_length


class WorthPort(ForwardPort, Protocol):
    """What evidence needs of an engine beyond forwards. It is called between steps, when all gradients are cleared."""

    @property
    def shard_copies(self) -> int:
        """Ranks that hold the same shard: the number of ranks under DDP, 1 under FSDP2, 1 for a single process."""
        ...

    def held_out_gradient(self, batches: Sequence[tuple["Tensor", "Tensor"]], *, target_tokens: int) -> None:
        """Leaves in the gradients d/dtheta of (nats of the batches of ALL ranks) / ``target_tokens``, not clipped.

        Batches are this rank's ``(ids [B, T], num_valid [B])``; ranks have equally many (padded with ``num_valid`` 0).
        In evaluation mode, so that no random number is drawn.
        """
        ...

    def shards(self) -> Iterable[Shard]:
        """Every trained parameter, always in the same order, after ``held_out_gradient``."""
        ...

    def clear_gradients(self) -> None:
        """As they are between two steps."""
        ...


@dataclass(frozen=True, kw_only=True)
class WorthReading:
    """Evidence of one step. ``worth`` is empty when held-out documents themselves did not gain significantly.

    The standard error of a Worth leaves out what is common to all sources; ``normaliser_relative_error`` is that part,
    relative to the value.
    """

    step: int
    worth: Mapping[str, Worth]
    held_out_change_nats: float  # measured, per token, from theta + e d to theta - e d
    normaliser_relative_error: float | None  # None when nothing changed
    scale: float  # e
    source_nats_per_token: Mapping[str, float]  # mean of the two points: the loss at theta but for O(e^2)


def sized(config: WorthConfig, *, num_sources: int, sequence_length: int, interval_tokens: int) -> WorthCounts:
    """Counts that cost ``max_compute_share`` of ``interval_tokens`` (trained between two readings); stated counts stay.

    In proportions 3 : 1.5 : 1 (gradient, held-out, each source): a sample of each of K sources costs 4 + 2K/3 trained
    samples. With 32 gradient samples instead of 48 the values spread up to twice their standard error, which knows of
    the samples but not of the direction. At least 12, 6 and 4 whatever the budget, and at most 64 times that.
    """
    per_unit = GRADIENT_PART + 2 * FORWARD_COST * (HELD_OUT_PART + num_sources)
    unit = config.max_compute_share * interval_tokens / sequence_length / per_unit
    unit = min(max(unit, LEAST_SAMPLES), MOST_SAMPLES)
    return WorthCounts(
        gradient_samples=config.gradient_samples or math.floor(GRADIENT_PART * unit),
        held_out_samples=config.held_out_samples or math.floor(HELD_OUT_PART * unit),
        samples_per_source=config.samples_per_source or math.floor(unit),
    )


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
    """The worth of each source after ``step``. Every rank calls it and gets the same reading.

    Weights, optimizer and random state are bit for bit as before; gradients are cleared.
    """
    gradient_rows, other_rows = _held_out_samples(
        part, counts, step=step, seed=seed, sequence_length=sequence_length, end_of_document=end_of_document
    )
    rows: dict[str, Rows] = {"": other_rows}
    for name, segments in sources.items():
        if any(segment.num_samples for segment in segments):
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
    """Worth from nats of each row at theta + e d and theta - e d; key "" is the held-out normaliser."""
    change = {name: above[name] - below[name] for name in above}
    mean = {name: float(change[name].sum() / targets[name].sum()) for name in above}
    error = {name: ratio_standard_error(change[name], targets[name]) for name in above}
    significant = mean[""] > LEAST_SIGNIFICANCE * error[""]
    names = [name for name in above if name]
    worth = {
        name: Worth(value=mean[name] / mean[""], standard_error=error[name] / mean[""], num_samples=len(change[name]))
        for name in names
        if significant and math.isfinite(error[name])
    }
    return WorthReading(
        step=step,
        worth=worth,
        held_out_change_nats=mean[""],
        normaliser_relative_error=error[""] / abs(mean[""]) if mean[""] else None,
        scale=scale,
        source_nats_per_token={
            name: float((above[name] + below[name]).sum() / 2 / targets[name].sum()) for name in names
        },
    )


def held_out_rows(part: Part, counts: WorthCounts, *, sequence_length: int) -> tuple[int, int]:
    """Samples (gradient, held-out) that the part can fill, in proportion; UserError when it is too small."""
    tokens = int(_packed_lengths(part, np.flatnonzero(np.diff(part.offsets) > 0), sequence_length).sum())
    wanted = counts.gradient_samples + counts.held_out_samples
    scale = min(1.0, (tokens // sequence_length - 2) / wanted)  # 2: each set may end inside a document
    rows = math.floor(counts.gradient_samples * scale), math.floor(counts.held_out_samples * scale)
    if min(rows) < FEWEST_HELD_OUT_SAMPLES:
        raise UserError(
            "the steer part is too small for evidence on sources",
            got=f"{tokens} tokens",
            remedy=f"Hold out more documents, shorten data.sequence_length ({sequence_length}) or use policy constant",
        )
    return rows


def _packed_lengths(part: Part, documents: IntArray, sequence_length: int) -> IntArray:
    """Tokens that each document fills: at most T of its own, and the end-of-document token."""
    lengths: IntArray = np.minimum(part.offsets[documents + 1] - part.offsets[documents], sequence_length) + 1
    return lengths


def _held_out_samples(
    part: Part, counts: WorthCounts, *, step: int, seed: int, sequence_length: int, end_of_document: int
) -> tuple[Samples, Samples]:
    """Two disjoint sets of documents, packed as training packs them, drawn anew at every reading.

    Packed, because a token at the head of a document gains more than one inside a sample: with windows that begin with
    a document fresh real samples read 0.6 to 0.9 instead of 1. Fewer samples where the part is too small for both.
    """
    rows = held_out_rows(part, counts, sequence_length=sequence_length)
    rng = derived_rng(seed, "worth", "held-out", step)
    documents = rng.permutation(np.flatnonzero(np.diff(part.offsets) > 0))
    ends = np.cumsum(_packed_lengths(part, documents, sequence_length))
    border = int(np.searchsorted(ends, rows[0] * sequence_length)) + 1
    return (
        _packed(part, documents[:border], rows[0], rng, sequence_length, end_of_document),
        _packed(part, documents[border:], rows[1], rng, sequence_length, end_of_document),
    )


def _packed(
    part: Part, documents: IntArray, num_rows: int, rng: np.random.Generator, sequence_length: int, end_of_document: int
) -> Samples:
    """Rows of T tokens, documents one after the other; of a longer document T tokens from a random place."""
    pieces: list[IntArray] = []
    missing = num_rows * sequence_length
    for document in documents:
        begin, end = int(part.offsets[document]), int(part.offsets[document + 1])
        start = begin + int(rng.integers(max(end - begin - sequence_length, 0) + 1))
        piece = np.append(part.tokens[start : min(end, start + sequence_length)].astype(np.int64), end_of_document)
        pieces.append(piece[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    assert not missing, "documents were counted to fill the rows"
    rows = np.concatenate(pieces).reshape(num_rows, sequence_length)
    return Samples(token_ids=rows, num_valid=np.full(num_rows, sequence_length, dtype=np.int64))


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
    """The weights on the line theta + s e d; d takes the gradient's place, so it costs one copy of the weights."""

    def __init__(self, shards: Sequence[Shard], port: WorthPort) -> None:
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

    def to(self, side: int) -> None:
        for shard, kept in zip(self._shards, self._kept, strict=True):
            assert shard.gradient is not None
            shard.weight.detach().copy_(kept.add(shard.gradient, alpha=side * self.scale))

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
    """The step that Adam would make for this gradient alone: g / (sqrt(b v + (1 - b) g^2) + eps).

    The gradient's own square bounds it by 1 / sqrt(1 - b); without it the rows of tokens that have not been seen for
    long (v decayed to nothing) can take over the whole direction. Before the first step it is the gradient itself.
    """
    if shard.exp_avg_sq is None or shard.optimizer_steps < 1:
        return gradient
    corrected = shard.exp_avg_sq / (1 - shard.beta2**shard.optimizer_steps)
    second_moment: Tensor = shard.beta2 * corrected + (1 - shard.beta2) * gradient**2
    return gradient / (second_moment.sqrt() + shard.epsilon)
