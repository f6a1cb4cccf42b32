"""Writes malformed rows aside, counts them by source and reason, and says when there are too many.

Dropping rows without a word hides a broken export; stopping at the first one wastes a night. So each is written down
with its place, and preparation stops when a source has more than a stated share of them, but never for ten or fewer
(unless the share is 0).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.base.errors import DataError
from trainer.data.readers import Malformed

TOLERATED_ROWS = 10
_ABOUT_TEXT = {"missing or null text", "text is not a string", "empty text"}  # may be those of another column


class Quarantine:
    """The malformed rows of one preparation, in ``file`` (JSONL: source, file, line, reason)."""

    def __init__(self, file: Path, max_share: float) -> None:
        self.file, self.max_share = file, max_share
        self._reasons: dict[str, Counter[str]] = {}
        self._rows: dict[str, int] = {}
        self._stream = file.open("w", encoding="utf-8")

    def knows(self, source: str) -> bool:
        """Whether the source was read to its end once: its malformed rows are then written down already."""
        return source in self._rows

    def add(self, source: str, row: Malformed) -> None:
        """Writes one malformed row down."""
        self._reasons.setdefault(source, Counter())[row.reason] += 1
        self._stream.write(
            json.dumps({"source": source, "file": row.file, "line": row.line, "reason": row.reason}) + "\n"
        )

    def close_source(self, source: str, num_rows: int, columns: Sequence[str] = ()) -> None:
        """Ends the first pass over a source of ``num_rows`` rows, good and bad, that have these ``columns``. Raises
        UserError above the limit.
        """
        self._stream.flush()
        self._rows[source] = num_rows
        num_bad = sum(self._reasons.get(source, Counter()).values())
        allowed = self.max_share * num_rows
        if num_bad > (max(TOLERATED_ROWS, allowed) if self.max_share else 0) or (num_bad and num_bad == num_rows):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self._reasons[source].most_common())
            raise DataError(
                f"{num_bad} of {num_rows} rows of source {source!r} are malformed ({reasons})",
                remedy=f"Fix them, or raise data.max_quarantined_share ({self.max_share}). Listed in {self.kept_at}"
                + (f". The columns are {list(columns)}" if columns and _ABOUT_TEXT & {*self._reasons[source]} else ""),
            )

    @property
    def kept_at(self) -> Path:
        """Where the list is after a preparation that stopped: next to the stores, named after the one that was being
        made.
        """
        return self.file.parent.parent / f"{self.file.parent.name.split('.')[0]}.quarantine.jsonl"

    def keep(self) -> None:
        """Copies the list out of the unfinished store."""
        self._stream.flush()
        self.kept_at.write_bytes(self.file.read_bytes())

    def counts(self) -> dict[str, Any]:
        """{source: {rows, quarantined, reasons}}."""
        return {
            name: {"rows": rows, "quarantined": sum(self._reasons_of(name).values()), "reasons": self._reasons_of(name)}
            for name, rows in self._rows.items()
        }

    def _reasons_of(self, source: str) -> Mapping[str, int]:
        return dict(self._reasons.get(source, Counter()))

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()
