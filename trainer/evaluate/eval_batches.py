"""Documents and samples as rows of fixed batches that any number of ranks can share out.

A batch of rows never depends on the number of processes, only who computes it does: batch b belongs to rank b mod R,
every rank fills zeros elsewhere, and one sum of a float64 vector joins them. Adding zeros is exact, so an evaluation is
the same bits on 1 rank and on 1,000. Rows are sorted by length before they are batched: on Wikipedia introductions (27
to 459 tokens, windows of 128, batches of 32) padding falls from 29 % of the tokens to 3 %.
"""

# N rows, T tokens of a row, D documents, B rows of a batch, W width of a batch, V vocabulary

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.base.heartbeat import beat
from trainer.base.records import FloatArray, IntArray
from trainer.evaluate.ports import ForwardPort, Ranks
from trainer.model.loss import target_tokens, token_losses

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HELD_OUT_ROWS = ""  # key of the held-out rows among those of the sources, which all have names
# Names of random streams. They are part of what is drawn: another name is another sample of documents, and no stored
# result could be measured again. Nobody sees them.
VALIDATION_STREAM, SOURCE_VALUE_STREAM, FORGETTING_STREAM = "steer", "worth", "fading"
WIDTH_STEP = 8  # widths are multiples of 8: what tensor cores like, and few different shapes


class Part(Protocol):
    """A part of the held-out documents: tokens of all, one after the other, and where each begins."""

    @property
    def tokens(self) -> NDArray[Any]:
        """Token ids of all documents, one after the other."""
        ...

    @property
    def offsets(self) -> IntArray:
        """int64 [D+1]: document i is ``tokens[offsets[i] : offsets[i + 1]]``."""
        ...

    @property
    def num_bytes(self) -> IntArray:
        """UTF-8 bytes of each document, int64 [D]."""
        ...

    @property
    def slice_of(self) -> IntArray:
        """Index into ``slices`` of each document, int64 [D]."""
        ...

    @property
    def slices(self) -> Sequence[str]:
        """Names of the slices."""
        ...

    @property
    def ids(self) -> Sequence[str]:
        """Name of each document [D]."""
        ...


class SegmentRows(Protocol):
    """Prepared samples of a source."""

    @property
    def num_samples(self) -> int:
        """How many there are."""
        ...

    def gather(self, samples: IntArray) -> NDArray[np.integer[Any]]:
        """Token ids of the samples [n, T], of any integer type."""
        ...

    def valid_tokens(self, samples: IntArray) -> IntArray:
        """Tokens of each that are not padding, int64 [n]."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeldOutText:
    """A held-out part, and how text of it is cut, drawn and evaluated: the same at every evaluation and measurement."""

    part: Part
    seed: int  # from which draws of documents are derived
    sequence_length: int
    end_of_document: int
    batch_rows: int  # of one forward on one process
    begins: bool = False  # whether each document of the part has its begin-of-document id before its text


class EvalRows(Protocol):
    """Rows to be measured: ``num_valid`` [N] tokens of each, the first of which is context only."""

    @property
    def num_valid(self) -> IntArray:
        """Tokens of each row that are not padding, int64 [N]."""
        ...

    def ids(self, rows: IntArray) -> IntArray:
        """int64 [n, T]; what follows ``num_valid`` is padding."""
        ...


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Documents cut into windows of at most T tokens.

    A document x_1 .. x_n is read as s = (begin, x_1, .., x_n), where begin is the begin-of-document id that stands in
    the part (``lead`` 0), or else end_of_document (``lead`` 1). Window k holds s[k(T-1) .. k(T-1) + T - 1]: it
    starts with the last token of the window before, so that each of the n tokens is predicted exactly once, and none
    without context.
    """

    part: Part
    documents: IntArray  # [N] document of each window
    starts: IntArray  # [N] index in s of its first token
    num_valid: IntArray  # [N]
    sequence_length: int
    end_of_document: int
    lead: int = 1

    def ids(self, rows: IntArray) -> IntArray:
        """int64 [n, T]: a vectorized gather; padding is ``end_of_document``."""
        within = self.starts[rows][:, None] + np.arange(self.sequence_length)
        begin, end = self.part.offsets[self.documents[rows]], self.part.offsets[self.documents[rows] + 1]
        place = begin[:, None] + within - self.lead
        is_token = (within >= self.lead) & (place < end[:, None])
        tokens = np.asarray(self.part.tokens[np.where(is_token, place, begin[:, None])], dtype=np.int64)
        return np.where(is_token, tokens, self.end_of_document)


@dataclass(frozen=True, kw_only=True)
class EvalSamples:
    """Samples that are already gathered: ``token_ids`` int64 [N, T]."""

    token_ids: IntArray
    num_valid: IntArray

    def ids(self, rows: IntArray) -> IntArray:
        """int64 [n, T]."""
        return self.token_ids[rows]

    def take(self, rows: IntArray) -> "EvalSamples":
        """These rows alone, in this order."""
        return EvalSamples(token_ids=self.token_ids[rows], num_valid=self.num_valid[rows])


def cut_windows(
    part: Part, documents: IntArray, *, sequence_length: int, end_of_document: int, begins: bool = False
) -> Windows:
    """The windows of the documents (indices into ``part``), in document order; a document without tokens has none.
    ``begins``: each has its begin-of-document id in the part.
    """
    if sequence_length < 2:
        raise ValueError(f"a window predicts nothing with fewer than 2 tokens, got {sequence_length}")
    lengths = (part.offsets[documents + 1] - part.offsets[documents]).astype(np.int64) - int(begins)
    counts = -(-lengths // (sequence_length - 1))
    which = np.repeat(np.arange(len(documents)), counts)
    starts = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * (sequence_length - 1)
    num_valid = np.minimum(lengths[which] + 1 - starts, sequence_length)
    return Windows(
        part=part,
        documents=np.asarray(documents, dtype=np.int64)[which],
        starts=starts,
        num_valid=num_valid,
        sequence_length=sequence_length,
        end_of_document=end_of_document,
        lead=0 if begins else 1,
    )


def gather_samples(segments: Sequence[SegmentRows], samples: IntArray) -> EvalSamples:
    """Samples by their number, counted through the segments of a source one after the other."""
    ends = np.cumsum([segment.num_samples for segment in segments])
    of = np.searchsorted(ends, samples, side="right")
    ids, valid = [], []
    for index, segment in enumerate(segments):
        inside = samples[of == index] - (ends[index] - segment.num_samples)
        if len(inside):
            ids.append(segment.gather(inside).astype(np.int64))
            valid.append(segment.valid_tokens(inside))
    return EvalSamples(token_ids=np.concatenate(ids), num_valid=np.concatenate(valid))


def fixed_batches(num_valid: IntArray, batch_rows: int) -> list[IntArray]:
    """Row numbers of each batch, longest rows first (the peak of memory comes first); the same for every number of
    ranks.
    """
    order = np.argsort(-num_valid, kind="stable")
    return [order[start : start + batch_rows] for start in range(0, len(order), batch_rows)]


def batch_tensors(rows: EvalRows, batch: IntArray, device: "torch.device") -> "tuple[Tensor, Tensor]":
    """``(ids [B, W], num_valid [B])``, int64 on the device; W is the longest row, rounded up to 8 where T allows."""
    import torch

    valid = rows.num_valid[batch]
    ids = rows.ids(batch)
    width = min(-(-int(valid.max()) // WIDTH_STEP) * WIDTH_STEP, ids.shape[1])
    return torch.from_numpy(np.ascontiguousarray(ids[:, :width])).to(device), torch.from_numpy(valid).to(device)


def my_batches(batches: Sequence[IntArray], port: Ranks) -> list[tuple[IntArray, bool]]:
    """This rank's turns: every rank gets the same number, so that a sharded model never waits; False marks a repeat
    that must not count.
    """
    turns = -(-len(batches) // port.world_size)
    places = [turn * port.world_size + port.rank for turn in range(turns)]
    return [(batches[place % len(batches)], place < len(batches)) for place in places]


def local_nats(rows: EvalRows, port: ForwardPort, *, batch_rows: int) -> FloatArray:
    """Nats of each row, float64 [N]; 0 where another rank computes it. Sum over ranks with ``port.reduce``."""
    import torch

    nats = np.zeros(len(rows.num_valid))
    if not len(nats):
        return nats
    mine, sums = [], []
    for batch, counts in my_batches(fixed_batches(rows.num_valid, batch_rows), port):
        ids_BW, valid_B = batch_tensors(rows, batch, port.device)
        beat()
        with torch.no_grad():
            losses = token_losses(port.eval_logits(ids_BW), ids_BW, valid_B)
        if counts:
            mine.append(batch)
            sums.append(losses.sum(1, dtype=torch.float64))
    if mine:
        nats[np.concatenate(mine)] = torch.cat(sums).cpu().numpy()  # the only wait for the device
    return nats


def reduced_nats(parts: Mapping[str, EvalRows], port: ForwardPort, *, batch_rows: int) -> dict[str, FloatArray]:
    """Nats of each row of each part, summed over ranks with one reduce; all ranks call it together."""
    local = [local_nats(rows, port, batch_rows=batch_rows) for rows in parts.values()]
    joined = port.reduce(np.concatenate(local))
    ends = np.cumsum([len(array) for array in local])
    return dict(zip(parts, np.split(joined, ends[:-1]), strict=True))


def row_targets(rows: EvalRows) -> IntArray:
    """Predicted tokens of each row, int64 [N]."""
    return target_tokens(rows.num_valid)


def ratio_standard_error(values: FloatArray, weights: FloatArray | IntArray) -> float:
    """Standard error of sum(values) / sum(weights) over independent units (documents, samples): Cochran, Sampling
    Techniques, 2.11.

    Infinite for fewer than two units: one unit says nothing of its spread.
    """
    if len(values) < 2:
        return float("inf")
    residuals = values - values.sum() / weights.sum() * weights
    return float(np.sqrt(len(values) / (len(values) - 1) * (residuals**2).sum()) / weights.sum())
