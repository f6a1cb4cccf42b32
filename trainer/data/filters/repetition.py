"""Drops documents that repeat themselves: lines, paragraphs, and sequences of words.

After Gopher (Rae et al. 2021, arXiv:2112.11446, section A.1.1): the share of duplicate lines and paragraphs and of the
characters in them; the share of characters in the most frequent sequence of 2 to 4 words; the share of characters in
sequences of 5 to 10 words that occur more than once, where overlapping sequences count once.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.filters.config import RepetitionConfig
from trainer.data.filters.protocol import Filter

_PARAGRAPHS = re.compile(r"\n\s*\n")


def repetition(config: RepetitionConfig) -> Filter:
    """By the shares that ``config`` allows."""

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        return _repeated_pieces(text, config) or _repeated_words(text, config)

    return reason


def _repeated_pieces(text: str, config: RepetitionConfig) -> str | None:
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    paragraphs = [paragraph for paragraph in map(str.strip, _PARAGRAPHS.split(text)) if paragraph]
    for name, pieces, most_pieces, most_characters in (
        ("lines", lines, config.max_duplicate_line_share, config.max_duplicate_line_character_share),
        (
            "paragraphs",
            paragraphs,
            config.max_duplicate_paragraph_share,
            config.max_duplicate_paragraph_character_share,
        ),
    ):
        share, character_share = duplicate_shares(pieces)
        if share > most_pieces:
            return f"more than {most_pieces:g} of the {name} are duplicates"
        if character_share > most_characters:
            return f"more than {most_characters:g} of the characters are in duplicate {name}"
    return None


def _repeated_words(text: str, config: RepetitionConfig) -> str | None:
    words = text.split()
    for length, most in config.max_top_ngram_share.items():
        if top_ngram_share(words, length) > most:
            return f"more than {most:g} of the characters are in one sequence of {length} words"
    for length, most in config.max_duplicate_ngram_share.items():
        if duplicate_ngram_share(words, length) > most:
            return f"more than {most:g} of the characters are in repeated sequences of {length} words"
    return None


def duplicate_shares(pieces: Sequence[str]) -> tuple[float, float]:
    """The share of pieces that occurred before, and of the characters in them."""
    repeated = len(pieces) - len(set(pieces))
    if not repeated:
        return 0.0, 0.0
    characters = sum(map(len, pieces))
    return repeated / len(pieces), (characters - sum(map(len, set(pieces)))) / characters


def top_ngram_share(words: Sequence[str], length: int) -> float:
    """The share of the words' characters in the sequence of ``length`` words that covers most of them, among those that
    occur more than once; overlapping occurrences count as often as they occur, at most 1.
    """
    counts = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    most = max((count * sum(map(len, ngram)) for ngram, count in counts.items() if count > 1), default=0)
    return min(1.0, most / max(1, sum(map(len, words))))


def duplicate_ngram_share(words: Sequence[str], length: int) -> float:
    """The share of the words' characters that stand in a sequence of ``length`` words that occurred before; each word
    counts once.
    """
    first: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for place, ngram in enumerate(zip(*(words[start:] for start in range(length)), strict=False)):
        if ngram in first:
            repeated.update(range(place, place + length))
        first.add(ngram)
    return sum(len(words[place]) for place in repeated) / max(1, sum(map(len, words)))
