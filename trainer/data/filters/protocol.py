"""What a filter is."""

from collections.abc import Mapping
from typing import Any, Protocol


class Filter(Protocol):
    """Says why a document is dropped. Called once for each training document of a segment, in reading order."""

    def __call__(self, text: str, columns: Mapping[str, Any], /) -> str | None:
        """The reason to drop the document with this text, in few words; None to keep it. ``columns`` are its row's.

        Rows are counted by reason, so a reason names the rule, not the document.
        """
        ...


class FilterFactory(Protocol):
    """Makes a filter from its configuration, anew for every pass over a segment."""

    def __call__(self, config: Any, /) -> Filter:
        """A filter that has seen no document yet."""
        ...
