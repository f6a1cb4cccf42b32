"""Stitches the texts that were made of one document into longer documents.

Published: rephrasings of a document beside the real text are worth 1.48 times the data at 32 of them, and 1.80 times
stitched into one long document (arXiv:2603.18534, "megadocs"). A stitched row names its parts, and the document they
were made of, as its parents; the parts are kept in the pool beside it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from trainer.synthesis.licenses import together
from trainer.synthesis.rows import Row

SEPARATOR = "\n\n"
_SUMMED = ("prompt_tokens", "completion_tokens", "seconds")


def stitched(rows: Sequence[Row], most: int) -> tuple[list[Row], list[Row]]:
    """The rows with those made of one document in one way joined, ``most`` in one row at most, and the parts of the
    joined ones. Texts made in different ways stay apart: a source may take only some of the ways.
    """
    by_document: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_document.setdefault((row["source"], row["source_id"], row["slice"], row["prompt_name"]), []).append(row)
    whole: list[Row] = []
    parts: list[Row] = []
    for own in by_document.values():
        for start in range(0, len(own), most):
            joined = own[start : start + most]
            if len(joined) == 1:
                whole += joined
            else:
                whole.append(_one(joined))
                parts += joined
    return whole, parts


def _one(rows: Sequence[Row]) -> dict[str, Any]:
    """One row of several: texts in their order, counts summed, scores at their least, what all have passed."""
    first, ids = rows[0], [row["id"] for row in rows]
    name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:32]
    parents = dict.fromkeys(parent for row in rows for parent in (*row["parents"], row["id"]))
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    return {
        **first,
        "text": SEPARATOR.join(row["text"] for row in rows),
        "id": f"{first['generation']}-{name}",
        "turns": [turn for row in rows for turn in row["turns"]],
        "answer": None,
        "parents": list(parents),
        **{column: sum(row[column] for row in rows) for column in _SUMMED},
        "cost": sum(costs) if costs else None,
        "tokens_counted": "told" if all(row["tokens_counted"] == "told" for row in rows) else "estimated",
        "scores": _least(rows),
        "filters": [name for name in first["filters"] if all(name in row["filters"] for row in rows)],
        "license": together(row["license"] for row in rows),
    }


def _least(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for row in rows:
        for name, score in row["scores"].items():
            scores[name] = min(score, scores.get(name, score))
    return scores
