"""Decides which generated rows join the pool: the first rule that drops a row gives the reason, and all are counted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.data.decontamination import HeldOutIndex
from trainer.data.documents import BATCH_DOCUMENTS, defect_of
from trainer.data.filters import FilterChain
from trainer.data.filters.duplicates import words_hash

_NOT_WRITTEN = {
    "too_long": "prompt and max_new_tokens do not fit into the model's context",
    "refused": "the server refused the request",
}
KEPT_PER_REASON = 20  # dropped rows that are kept to be looked at, for each reason


class RowFilter:
    """The rules of one shard of a round, in order: no text, cut off, a text that the pool has, held out, filters."""

    def __init__(
        self, filters: Iterable[Any], *, keep_cut_off: bool, pool_texts: Iterable[str], held_out: HeldOutIndex
    ) -> None:
        self._chain = FilterChain(filters)
        self._keep_cut_off, self._held_out = keep_cut_off, held_out
        self._hashes = {words_hash(text) for text in pool_texts}
        self.counts: dict[str, int] = {}
        self.rejected: list[Mapping[str, Any]] = []

    def passing(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The rows that join the pool."""
        passed: list[Mapping[str, Any]] = []
        for start in range(0, len(rows), BATCH_DOCUMENTS):  # the index takes no batch of any size
            batch = rows[start : start + BATCH_DOCUMENTS]
            held_out = {match.document for match in self._held_out.match([row["text"] for row in batch]).copies}
            passed += [row for number, row in enumerate(batch) if self._joins(row, is_held_out=number in held_out)]
        return passed

    def _joins(self, row: Mapping[str, Any], *, is_held_out: bool) -> bool:
        dropped = self._dropped_by(row, is_held_out=is_held_out)
        if dropped is None:
            return True
        kind, reason = dropped
        name = f"{kind}: {reason}"
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] <= KEPT_PER_REASON:
            self.rejected.append({**row, "dropped_by": kind, "reason": reason})
        return False

    def _dropped_by(self, row: Mapping[str, Any], *, is_held_out: bool) -> tuple[str, str] | None:
        text = row["text"]
        if reason := _NOT_WRITTEN.get(row["finish_reason"]):
            return "generator", reason
        if not text.strip():
            return "generator", "empty text"
        if defect := defect_of(text):  # what preparation would not take
            return "generator", defect
        if row["finish_reason"] == "length" and not self._keep_cut_off:
            return "generator", "cut off at max_new_tokens"
        if is_held_out:
            return "contamination", "the words of a held-out document"
        words = words_hash(text)
        if words in self._hashes:
            return "duplicate", "same words as an earlier row of the pool"
        dropped = self._chain.dropped_by(text, row)
        if dropped is None:
            self._hashes.add(words)
        return dropped
