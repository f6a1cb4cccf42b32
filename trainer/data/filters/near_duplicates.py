"""Drops documents that are nearly the same as an earlier one, by MinHash (Broder 1997) of their word n-grams.

The sketches and their buckets are the package `rensa`'s (Rust). 128 hashes in 32 bands of 4: a pair of similarity 0.8
shares a band with probability 1 - (1 - 0.8^4)^32 > 0.9999 and is then judged by the estimate, whose standard error is
sqrt(s (1 - s) / 128) <= 0.044. Memory: about 2 kB a document kept.
"""

from collections.abc import Mapping
from typing import Any

from trainer.data.filters.config import NearDuplicateConfig
from trainer.data.filters.extra import required
from trainer.data.filters.protocol import Filter

NUM_HASHES, NUM_BANDS, SEED = 128, 32, 42


class NearDuplicates:
    """Texts seen so far, by sketches. A text shorter than an n-gram is compared by all its words."""

    def __init__(self, threshold: float, ngram_words: int = 3) -> None:
        rensa = required("rensa", "near_duplicate")
        self._sketch, self._ngram_words, self._count = rensa.RMinHash, ngram_words, 0
        self._seen = rensa.RMinHashDeduplicator(threshold, NUM_HASHES, True, NUM_BANDS, SEED)

    def _sketch_of(self, text: str) -> Any:
        words = text.lower().split()
        n = min(self._ngram_words, len(words))
        sketch = self._sketch(NUM_HASHES, SEED)
        sketch.update([" ".join(words[i : i + n]) for i in range(len(words) - n + 1)])
        return sketch

    def add(self, text: str) -> bool:
        """Remembers a text; False, and it is not remembered, where one like it was there."""
        self._count += 1
        return bool(self._seen.add(str(self._count), self._sketch_of(text)))

    def has(self, text: str) -> bool:
        """Whether one like this text was added."""
        return bool(self._seen.get_duplicates(self._sketch_of(text)))


def near_duplicate(config: NearDuplicateConfig) -> Filter:
    """Keeps the first of documents that are nearly the same."""
    seen = NearDuplicates(config.threshold, config.ngram_words)

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        return None if seen.add(text) else f"at least {config.threshold:g} like an earlier document"

    return reason
