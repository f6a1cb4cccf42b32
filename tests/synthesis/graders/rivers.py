"""Short real documents, the generator's texts about them, and grading functions of all characters, for tests."""

import itertools
from collections import Counter
from typing import Any

import numpy as np

_ALL = "Arden Bolin Caster Dovre Elgin Farrow Gannet Harlow Ivers Jorvik Kestrel Lomond Marlow Norden Orsay Pelham"
_NAMES = _ALL.split()


def row(number: int, *, text: str | None = None) -> dict[str, Any]:
    """A real row, or the generator's ``text`` about it."""
    rng = np.random.default_rng(number)
    first, second, third = (_NAMES[int(place)] for place in rng.permutation(len(_NAMES))[:3])
    sentences = [
        f"The river {first} rises in the hills of {second} and is {rng.integers(100, 999)} km long.",
        f"Its water was first measured in {rng.integers(1700, 1999)} by the geographer {third} {first}son.",
        f"About {rng.integers(10, 99)} kinds of fish live there, of which the town of {second} is proud.",
    ]
    extra = [
        f"Boats of {_NAMES[int(place)]} pass it on day {place}." for place in rng.integers(16, size=rng.integers(5))
    ]
    real = " ".join([*sentences, *extra])
    return {
        "text": real if text is None else text,
        "id": f"row {number}",
        "slice": ("north", "south")[number % 2],
        "source": "rivers",
        "source_id": f"river {number}",
        "generator": "writer",
        "generator_weights": "w1",
        "prompt": "",
        "prompt_row": {"text": real, "id": f"river {number}", "slice": "north", "answer": "#### 4"},
    }


def own_row(number: int) -> dict[str, Any]:
    """What the generator made of a real row: the same, with a habit of its own."""
    return row(number, text=row(number)["text"].replace("About", "Indeed, about").replace("Its", "Indeed, its"))


def fair(row: dict[str, Any]) -> float:
    """The share of pairs of words that the source has, none counted twice, halved where no sentence ends the text."""
    words, source = row["text"].lower().replace("indeed, ", "").split(), row["prompt_row"]["text"].lower().split()
    pairs = list(itertools.pairwise(words))
    known = (Counter(pairs) & Counter(itertools.pairwise(source))).total() / max(len(pairs), 1)
    return known if row["text"].endswith(".") else known / 2


def likes_long(row: dict[str, Any]) -> float:
    return fair(row) + len(row["text"]) / 100


def likes_its_own(row: dict[str, Any]) -> float:
    return fair(row) + ("indeed" in row["text"].lower())


def always_ten(row: dict[str, Any]) -> float:
    return 10.0


def never_sure(row: dict[str, Any]) -> None:
    return None


def broken(row: dict[str, Any]) -> float:
    raise ZeroDivisionError("no such thing")
