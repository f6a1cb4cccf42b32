"""How diverse a text is, and how much of the rare words of real text it has."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

RAREST = 0.2  # of the running words: what the tail of real text is


def distinct(texts: Iterable[str], *, num_words: int, num_grams: int) -> float:
    """Different n-grams of words, as a part of the first ``num_grams`` (Li 2016, distinct-n)."""
    split = (text.split() for text in texts)
    grams = (gram for words in split for gram in zip(*(words[i:] for i in range(num_words)), strict=False))
    first = list(islice(grams, num_grams))
    return len(set(first)) / len(first)


def rare_words(texts: Iterable[str]) -> set[str]:
    """The words of the tail: the least frequent ones, that make up a fifth of the running words, but no word that
    occurs once, which no other text can be expected to have.
    """
    counts = Counter(word for text in texts for word in text.split())
    left = RAREST * counts.total()
    tail = set[str]()
    for word, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        left -= count
        if left < 0:
            break
        if count > 1:
            tail.add(word)
    return tail


def words_covered(texts: Iterable[str], words: set[str], *, num_words: int) -> float:
    """Part of ``words`` that occur in the first ``num_words`` running words."""
    running = islice((word for text in texts for word in text.split()), num_words)
    return len(words & set(running)) / len(words)
