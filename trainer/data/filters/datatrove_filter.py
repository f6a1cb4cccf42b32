"""Filters of the package `datatrove`: the rules of Gopher, C4 and FineWeb as their users know them, by name.

The decision is datatrove's own code. Most of the time goes into splitting a document into words, which datatrove keeps
for the filters that see the same document next.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from trainer.base.errors import DataError, UserError
from trainer.data.filters.config import DatatroveConfig
from trainer.data.filters.extra import required
from trainer.data.filters.protocol import Filter

_NOT_OURS = ("exclusion_writer", "batch_size")  # of a pipeline of datatrove's


def datatrove_filter(config: DatatroveConfig) -> Filter:
    """The filter that ``config`` names. Its reasons are counted as they are; a filter that gives none drops for
    "dropped".
    """
    document = required("datatrove.data", "datatrove").Document
    made = _made(config)

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        row = document(text=text, id="", metadata={name: columns.get(name) for name in config.metadata})
        verdict = made.filter(row)
        keeps, why = verdict if isinstance(verdict, tuple) else (verdict, None)
        if not keeps:
            return why or "dropped"
        return _edited(config) if row.text != text else None

    return reason


def _edited(config: DatatroveConfig) -> str | None:
    if config.edited is None:
        raise DataError(
            f"{config.name} would keep a document in part, but a filter here keeps it whole or drops it",
            remedy="Write `edited: keep` (documents stay as they are) or `edited: drop` next to its name",
        )
    return "would be kept in part only" if config.edited == "drop" else None


def _made(config: DatatroveConfig) -> Any:
    filters = required("datatrove.pipeline.filters", "datatrove")
    base = required("datatrove.pipeline.filters.base_filter", "datatrove").BaseFilter
    names = sorted(name for name, part in vars(filters).items() if isinstance(part, type) and issubclass(part, base))
    if config.name not in names:
        near = get_close_matches(config.name, names, n=1, cutoff=0.5)
        remedy = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names)}"
        raise UserError("datatrove has no filter of this name", got=config.name, remedy=remedy)
    factory = getattr(filters, config.name)
    known = [name for name in signature(factory.__init__).parameters if name not in ("self", *_NOT_OURS)]
    for name in config.arguments:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'none'}"
            raise UserError(f"{config.name} of datatrove takes no such argument", got=name, remedy=remedy)
    return factory(**config.arguments)
