"""Makes bad rows of good ones, each with one fault of a known kind, the same for the same seed.

``shuffled``: the words in another order. ``swapped``: every number changed, names replaced by those of another text.
``truncated``: breaks off inside a sentence. ``repeated``: one sentence over and over. ``other``: a text about
something else.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.base.hashing import derived_rng
from trainer.synthesis.graders.config import Fault
from trainer.synthesis.graders.facts import facts_of

_DIGITS = re.compile(r"\d+")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_MOST_NAMES = 8


def planted(fault: Fault, text: str, others: Sequence[str], *, seed: int, key: str) -> str | None:
    """The text with the fault; None where it cannot have it (no number and no name to swap, too short).

    ``others`` are texts on other matters, without ``text``; ``key`` names the row.
    """
    generator = derived_rng(seed, "planted", fault, key)
    bad = _PLANT[fault](text, others, generator)
    return bad if bad is not None and bad.strip() and bad.split() != text.split() else None


def _shuffled(text: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    words = text.split()
    return " ".join(words[place] for place in generator.permutation(len(words))) if len(words) >= 8 else None


def _truncated(text: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    words = text.split(" ")
    if len(words) < 8:
        return None
    keep = int(len(words) * generator.uniform(0.3, 0.7))
    while keep > 2 and words[keep - 1][-1:] in ".!?:\n":  # inside a sentence
        keep -= 1
    return " ".join(words[:keep])


def _repeated(text: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text) if len(sentence.split()) >= 3]
    if not sentences:
        return None
    sentence = sentences[int(generator.integers(len(sentences)))]
    return " ".join([sentence] * max(3, round(len(text) / (len(sentence) + 1))))


def _other(text: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    return others[int(generator.integers(len(others)))] if others else None


def _swapped(text: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    names = sorted(facts_of(text).names, key=len, reverse=True)[:_MOST_NAMES]
    donors = _donated(others, generator, len(names))
    swaps = {name: donor for name, donor in zip(names, donors, strict=False) if donor.lower() not in text.lower()}
    swapped = text
    if swaps:
        pattern = "|".join(rf"\b{re.escape(name)}\b" for name in swaps)  # the longest first
        swapped = re.sub(pattern, lambda match: swaps[match[0]], text)
    return _DIGITS.sub(lambda match: _other_number(match[0], generator), swapped)


def _donated(others: Sequence[str], generator: np.random.Generator, number: int) -> list[str]:
    """Names of other texts."""
    donors: list[str] = []
    for place in generator.permutation(len(others))[:20]:
        donors += sorted(facts_of(others[place]).names - set(donors))
        if len(donors) >= number:
            break
    return donors


def _other_number(digits: str, generator: np.random.Generator) -> str:
    """A number of as many digits, none of which is in its old place."""
    first = 1 if len(digits) > 1 or digits != "0" else 0
    new = [str((int(digit) + int(generator.integers(1, 9))) % 10) for digit in digits]
    if first and new[0] == "0":
        new[0] = "1" if digits[0] != "1" else "2"
    return "".join(new)


_PLANT: Mapping[Fault, Callable[[str, Sequence[str], np.random.Generator], str | None]] = {
    "shuffled": _shuffled, "swapped": _swapped, "truncated": _truncated, "repeated": _repeated, "other": _other,
}  # fmt: skip
