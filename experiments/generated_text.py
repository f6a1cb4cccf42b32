"""How diverse texts are, and how much of the rare words of real text they have."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice

RAREST = 0.2  # of the running words: what the tail of real text is


def distinct(texts: Iterable[str], *, num_words: int, num_grams: int) -> float:
    """Different n-grams of words, as a part of the first ``num_grams`` (Li 2016, arXiv:1510.03055, distinct-n); 0 where
    there is none. Of two texts it compares only as many n-grams of both, for it falls with their number.
    """
    split = (text.split() for text in texts)
    grams = (gram for words in split for gram in zip(*(words[i:] for i in range(num_words)), strict=False))
    first = list(islice(grams, num_grams))
    return len(set(first)) / len(first) if first else 0.0


def rare_words(texts: Iterable[str]) -> set[str]:
    """The words of the tail: of those that occur more than once (one that occurs once can be expected nowhere else),
    the least frequent ones, with all of one frequency, that make up a fifth of the running words.
    """
    counts = Counter(word for text in texts for word in text.split())
    repeated = sorted((count, word) for word, count in counts.items() if count > 1)
    left = RAREST * sum(count for count, _ in repeated)
    most = 0
    for count, _ in repeated:
        most, left = count, left - count
        if left <= 0:
            break
    return {word for count, word in repeated if count <= most}


def words_covered(texts: Iterable[str], words: set[str], *, num_words: int) -> float:
    """Part of ``words`` that occur in the first ``num_words`` running words; 0 where there are none to cover."""
    running = islice((word for text in texts for word in text.split()), num_words)
    return len(words & set(running)) / len(words) if words else 0.0
