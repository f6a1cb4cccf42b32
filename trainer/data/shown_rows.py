"""Generated rows to be looked at, each beside the real document that it has most in common with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

NUM_SHOWN = 4  # rows of a round
LONGEST = 600  # characters of a text
MOST_DOCUMENTS = 20_000  # real ones that are looked through


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row, and the real document ``nearest`` (source:id) that has the greatest part of its words and pairs of words:
    ``overlap``, 0 to 1. ``made_from`` is the document that its prompt was made of.
    """

    id: str
    text: str
    made_from: str
    nearest: str
    nearest_text: str
    overlap: float

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**record)


def beside_nearest(
    rows: Sequence[Mapping[str, Any]], real: Mapping[str, str], most: int = NUM_SHOWN
) -> tuple[ShownRow, ...]:
    """``most`` of the rows, spread over all, beside their nearest of the ``real`` texts (by source:id)."""
    chosen = [rows[number * len(rows) // most] for number in range(most)] if len(rows) > most else list(rows)
    pieces = [_pieces(row["text"]) for row in chosen]
    best: list[tuple[float, str]] = [(0.0, "")] * len(chosen)
    for name in list(real)[:MOST_DOCUMENTS]:
        of_real = _pieces(real[name])
        for number, of_row in enumerate(pieces):
            overlap = len(of_row & of_real) / len(of_row) if of_row else 0.0
            best[number] = max(best[number], (overlap, name))
    return tuple(
        ShownRow(
            id=row["id"],
            text=_cut(row["text"]),
            made_from=f"{row['source']}:{row['source_id']}",
            nearest=name,
            nearest_text=_cut(real.get(name, "")),
            overlap=overlap,
        )
        for row, (overlap, name) in zip(chosen, best, strict=True)
    )


def _pieces(text: str) -> set[str]:
    words = text.lower().split()
    return {*words, *map(" ".join, pairwise(words))}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
