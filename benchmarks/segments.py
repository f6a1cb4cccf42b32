"""Prepared segments of random tokens, written by the code that writes real ones."""

from pathlib import Path

import numpy as np

from trainer.data.documents import Document
from trainer.data.packing import SegmentWriter
from trainer.data.store import PreparedSegment
from trainer.mixture.ledger import BatchSize, Fact, Segment, Shares

VOCABULARY = 32_000
_PIECE_TOKENS = 1 << 20


def write_segment(
    folder: Path, *, num_samples: int, sequence_length: int, seed: int, vocabulary: int = VOCABULARY
) -> PreparedSegment:
    """A segment of ``num_samples`` full samples, uint16 on disk."""
    random = np.random.default_rng(seed)
    writer = SegmentWriter(folder, sequence_length, 0, np.dtype(np.uint16))
    left = num_samples * sequence_length
    while left:
        count = min(left, _PIECE_TOKENS)
        document = Document(text="", num_bytes=count, id=str(left), slice="all", file="none", line=1, part="train")
        writer.append([document], random.integers(1, vocabulary, count, dtype=np.uint16), np.array([count]))
        left -= count
    return writer.close()


def starting_facts(num_samples: dict[str, int], shares: dict[str, float], global_batch: int) -> list[Fact]:
    """The facts a run begins with: the first source is real, the others are synthetic."""
    real = next(iter(num_samples))
    segments: list[Fact] = [
        Segment(step=1, source=name, kind="real" if name == real else "synthetic", segment=0, num_samples=count)
        for name, count in num_samples.items()
    ]
    millionths = {name: round(share * 1e6) for name, share in shares.items()}
    return [*segments, BatchSize(step=1, global_batch=global_batch), Shares(step=1, shares=millionths)]
