"""Filters: what keeps or drops training documents, with a reason that is counted.

A filter from outside is ``package.module:Name``, or an entry point of the group ``hybrid_trainer.filters``. It is
called with its configuration and gives a ``Filter``: a function of a document's text and its row's columns that
returns the reason to drop it, or None. Its attribute ``Config`` is a ``trainer.base.config.Config`` with a field
``kind: str``; where that has ``columns``, those columns are read too, and where it has ``only``, only sources of that
kind are filtered. The configuration is part of what decides whether data is prepared again; the code is not, so give
``Config`` a field such as ``version`` and raise it when the rule changes.

Held-out documents are never filtered by ``data.filters`` or by the filters of the source that they are taken from:
what is measured must not depend on what is trained on. Only a held-out data set of its own can have ``filters``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, cast

from trainer.base.errors import DataError, UserError
from trainer.base.seams import OpenUnion, Seam
from trainer.data.filters import rules
from trainer.data.filters.config import (
    DatatroveConfig,
    ExactDuplicateConfig,
    LanguageConfig,
    LengthConfig,
    NearDuplicateConfig,
    PatternConfig,
    PersonalDataConfig,
    RepetitionConfig,
    ScoreConfig,
)
from trainer.data.filters.datatrove_filter import datatrove_filter
from trainer.data.filters.duplicates import exact_duplicate
from trainer.data.filters.language import language
from trainer.data.filters.near_duplicates import near_duplicate
from trainer.data.filters.personal_data import personal_data
from trainer.data.filters.protocol import Filter, FilterFactory
from trainer.data.filters.repetition import repetition

__all__ = ["FILTERS", "Filter", "FilterChain", "FilterConfig", "FilterFactory"]

FILTERS: Seam[FilterFactory] = Seam(
    "filters",
    {
        "length": rules.length,
        "repetition": repetition,
        "regex": rules.regex,
        "score": rules.score,
        "exact_duplicate": exact_duplicate,
        "near_duplicate": near_duplicate,
        "language": language,
        "personal_data": personal_data,
        "datatrove": datatrove_filter,
    },
    requires=("__call__",),
    calls={"": ("config",)},
    methods={"__call__": ("text", "columns")},
)
FilterConfig = Annotated[
    LengthConfig
    | RepetitionConfig
    | PatternConfig
    | ScoreConfig
    | ExactDuplicateConfig
    | NearDuplicateConfig
    | LanguageConfig
    | PersonalDataConfig
    | DatatroveConfig,
    OpenUnion(FILTERS),
]
Note = Callable[[str, str], None]  # called with a filter's name and its reason


class FilterChain:
    """The filters of a segment, in the recipe's order, for one pass over it; the first to drop a document decides."""

    def __init__(self, configs: Iterable[Any]) -> None:
        self._filters = [
            (name_of(config), _made(config), getattr(config, "action", "drop") == "count") for config in configs
        ]

    def dropped_by(self, text: str, columns: Mapping[str, Any], note: Note | None = None) -> tuple[str, str] | None:
        """Name of the filter that drops the document, and its reason; None where all keep it. ``note`` is called for
        what a filter only counts.
        """
        for kind, document_filter, only_counts in self._filters:
            try:
                reason = document_filter(text, columns)
            except Exception as error:  # whatever a filter of the user's does
                problem = f"the filter {kind!r} failed: {type(error).__name__}: {error}"
                raise DataError(problem, got=text[:60], remedy="See the cause above") from error
            if reason is None:
                continue
            if not isinstance(reason, str):
                raise DataError(
                    f"the filter {kind!r} must give None or a reason",
                    got=reason,
                    remedy="Return None to keep a document, and a text that says why it is dropped",
                )
            if not only_counts:
                return kind, reason
            if note is not None:
                note(kind, reason)
        return None


def name_of(config: Any) -> str:
    """What a filter is counted under: its kind, and which one of a package it is."""
    return f"{config.kind} {config.name}" if isinstance(config, DatatroveConfig) else str(config.kind)


def _made(config: Any) -> Filter:
    """The filter of this configuration; ``DataError`` where that cannot be made, or is not a function."""
    try:
        document_filter: Any = FILTERS.resolve(config.kind)(config)
    except UserError:
        raise
    except Exception as error:  # whatever a filter of the user's does
        what = f"the filter {config.kind!r} cannot be made of its settings: {type(error).__name__}: {error}"
        raise DataError(what, remedy="It is called with its configuration, and gives a function") from error
    if not callable(document_filter):
        remedy = "Give it a __call__(text, columns) that returns None or the reason to drop the document"
        raise DataError(
            f"the filter {config.kind!r} is not a function of a document", got=document_filter, remedy=remedy
        )
    return cast(Filter, document_filter)
