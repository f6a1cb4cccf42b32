"""Samples that measurements are made on: drawn from held-out documents or from a source, partitioned over the ranks."""

# N rows, T tokens, B rows of this rank

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer.base.records import IntArray
from trainer.evaluate.eval_batches import EvalSamples, HeldOutText, SegmentRows, gather_samples, row_targets
from trainer.evaluate.ports import Ranks

if TYPE_CHECKING:
    from torch import Tensor


def shuffled_documents(text: HeldOutText, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The documents that have tokens, in random order, and how many tokens they fill up to and with each."""
    part, sequence_length = text.part, text.sequence_length
    documents = rng.permutation(np.flatnonzero(np.diff(part.offsets) > 0))
    lengths = np.minimum(part.offsets[documents + 1] - part.offsets[documents], sequence_length) + 1
    return documents, np.cumsum(lengths)


def packed(text: HeldOutText, documents: IntArray, num_rows: int, rng: np.random.Generator) -> EvalSamples:
    """Rows of T tokens, documents one after the other; of a longer document T tokens from a random place.

    Packed as training packs them, because a token at the head of a document gains more than one inside a sample.
    """
    part, sequence_length = text.part, text.sequence_length
    pieces: list[IntArray] = []
    missing = num_rows * sequence_length
    for document in documents:
        begin, end = int(part.offsets[document]), int(part.offsets[document + 1])
        start = begin + int(rng.integers(max(end - begin - sequence_length, 0) + 1))
        piece = np.append(part.tokens[start : min(end, start + sequence_length)].astype(np.int64), text.end_of_document)
        pieces.append(piece[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    assert not missing, "documents were counted to fill the rows"
    rows = np.concatenate(pieces).reshape(num_rows, sequence_length)
    return EvalSamples(token_ids=rows, num_valid=np.full(num_rows, sequence_length, dtype=np.int64))


def drawn(segments: Sequence[SegmentRows], num_samples: int, rng: np.random.Generator) -> EvalSamples:
    """So many different samples of a source, or all it has, in random order; those trained on are among them."""
    total = sum(segment.num_samples for segment in segments)
    picks = rng.permutation(total) if total <= num_samples else rng.choice(total, size=num_samples, replace=False)
    samples = gather_samples(segments, np.sort(picks))
    return samples.take(np.argsort(np.argsort(picks, kind="stable"), kind="stable"))


def live_segments(
    sources: Mapping[str, Sequence[SegmentRows]], live: Mapping[str, Sequence[int]]
) -> dict[str, list[SegmentRows]]:
    """The segments of the sources in ``live``, which names them by their numbers."""
    return {name: [sources[name][number] for number in numbers] for name, numbers in live.items()}


def partitioned(rows: EvalSamples, ranks: Ranks) -> tuple["Tensor", "Tensor", int]:
    """This rank's rows [B, T] with their valid tokens [B], on the CPU, and the predicted tokens of all ranks' rows.

    Every rank gets equally many, padded with rows that weigh nothing.
    """
    import torch

    mine = rows.take(np.arange(len(rows.num_valid))[ranks.rank :: ranks.world_size])
    width = -(-len(rows.num_valid) // ranks.world_size)
    ids = np.resize(rows.token_ids[:1], (width, rows.token_ids.shape[1])).copy()
    valid = np.zeros(width, dtype=np.int64)
    ids[: len(mine.num_valid)], valid[: len(mine.num_valid)] = mine.token_ids, mine.num_valid
    return torch.from_numpy(ids), torch.from_numpy(valid), max(1, int(row_targets(rows).sum()))
