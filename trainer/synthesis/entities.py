"""Names in a text, and groups of them to write about: for texts on how entities relate (EntiGraph, Yang et al. 2024,
arXiv:2409.07431). The published method asks the model for the entities; this takes the capitalized names of the text
itself, which costs no call, adds none that the text does not have, and finds none in languages without capitals.
"""

import re
from collections import Counter
from itertools import combinations

import numpy as np

_NAME = re.compile(r"\b[A-Z][\w'-]+(?:\s+(?:of|the|de|von|van)\s+[A-Z][\w'-]+|\s+[A-Z][\w'-]+)*")
_LEADING = re.compile(r"^(?:In|At|On|By|From|For|With|After|Before|During|Since|Under)\s+")
_SENTENCE_START = re.compile(r"(?:^|[.!?]\s+|\n)\s*([A-Z][\w'-]+)")
_MOST_NAMES = 12  # of a text, the most frequent first: 66 pairs, 220 triples
_NO_NAMES = "its main subjects"


def names_in(text: str) -> list[str]:
    """The most frequent names, the earliest of equally frequent ones first. A single word that stands only where a
    sentence begins is no name.
    """
    counts = Counter(_LEADING.sub("", match.group()) for match in _NAME.finditer(text))
    starts = Counter(_SENTENCE_START.findall(text))
    names = [(count, name) for name, count in counts.items() if " " in name or count > starts[name]]
    return [name for _, name in sorted(names, key=lambda item: -item[0])][:_MOST_NAMES]


def group_of(text: str, size: int, generator: np.random.Generator) -> str:
    """One of the groups of ``size`` names of the text, in words; its main subjects where it has too few names."""
    groups = list(combinations(names_in(text), size))
    if not groups:
        return _NO_NAMES
    *most, last = groups[int(generator.integers(len(groups)))]
    return f"{', '.join(most)} and {last}"
