"""Writes a source's token stream as samples of T tokens, in one pass and constant memory.

Documents follow each other, each closed by the end-of-document token, and the stream is cut every T tokens: no token
is lost, none doubled, and only the source's last sample holds padding.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.documents import Document
from trainer.data.growing import GrowingArray
from trainer.data.store import PreparedSegment


class SegmentWriter:
    """Packs documents into the samples of one segment."""

    def __init__(
        self,
        folder: Path,
        sequence_length: int,
        end_of_document: int,
        dtype: np.dtype[Any],
        *,
        begin_tokens: int = 0,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder, self._length, self._end = folder, sequence_length, end_of_document
        self._begin_tokens = begin_tokens
        self._tokens = GrowingArray(folder / "tokens.npy", dtype, (sequence_length,))
        self._token_offsets = GrowingArray(folder / "token_offsets.npy", np.dtype(np.int64))
        self._line_offsets = GrowingArray(folder / "line_offsets.npy", np.dtype(np.int64))
        for offsets in (self._token_offsets, self._line_offsets):
            offsets.append(np.zeros(1))
        self._lines = (folder / "documents.jsonl").open("wb")
        self._dtype, self._digest = dtype, hashlib.sha256()
        self._num_documents = self._num_bytes = self._num_tokens = self._largest_id = 0
        self._slice_tokens: Counter[str] = Counter()

    def append(self, documents: Sequence[Document], ids: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Appends documents whose ids, each document's begin and end included, are concatenated in ``ids``."""
        self._tokens.append(ids)
        self._digest.update(ids.tobytes())
        self._digest.update(lengths.tobytes())
        self._token_offsets.append(self._num_tokens + np.cumsum(lengths))
        line_ends = []
        for document, length in zip(documents, lengths.tolist(), strict=True):
            self._lines.write(_describe(document))
            line_ends.append(self._lines.tell())
            self._slice_tokens[document.slice] += length
            self._num_bytes += document.num_bytes
        self._line_offsets.append(np.array(line_ends, dtype=np.int64))
        self._num_documents += len(documents)
        self._num_tokens += len(ids)
        self._largest_id = max(self._largest_id, int(ids.max(initial=0)))

    def close(self) -> PreparedSegment:
        """Pads the last sample and returns the segment."""
        padding = -self._num_tokens % self._length
        self._tokens.append(np.full(padding, self._end, dtype=self._dtype))
        num_samples = self._tokens.close()
        self._token_offsets.close()
        self._line_offsets.close()
        self._lines.close()
        return PreparedSegment(
            folder=self._folder,
            num_samples=num_samples,
            sequence_length=self._length,
            fingerprint=self._digest.hexdigest(),
            num_documents=self._num_documents,
            num_bytes=self._num_bytes,
            num_tokens=self._num_tokens,
            largest_id=self._largest_id,
            slice_tokens=dict(sorted(self._slice_tokens.items())),
            begin_tokens=self._begin_tokens,
        )


def _describe(document: Document) -> bytes:
    described = {
        "id": document.id,
        "slice": document.slice,
        "file": document.file,
        "line": document.line,
        **document.provenance,
    }
    return json.dumps(described, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


def write_part(folder: Path, documents: Sequence[Document], ids: NDArray[Any], lengths: NDArray[np.int64]) -> None:
    """Writes one held-out part: token ids, each document's begin included, and the columns that go with them."""
    folder.mkdir(parents=True)
    slices = sorted({document.slice for document in documents})
    place = {name: number for number, name in enumerate(slices)}
    np.save(folder / "tokens.npy", ids)
    np.save(folder / "offsets.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    np.save(folder / "num_bytes.npy", np.array([document.num_bytes for document in documents], dtype=np.int64))
    np.save(folder / "slice_of.npy", np.array([place[document.slice] for document in documents], dtype=np.int64))
    names = {"slices": slices, "ids": [document.id for document in documents]}
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
