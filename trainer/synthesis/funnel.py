"""Counts the rows that a round drops, by what dropped them and why, and keeps some of them to be looked at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.synthesis.graders.record import GraderRecord, VerifierRecord
from trainer.synthesis.rows import Row

KEPT_PER_REASON = 20  # dropped rows that are kept to be looked at, for each reason

Reason = tuple[str, str]  # what drops a row (a filter's or grader's name), and why


class Funnel:
    """What a shard of a round has dropped: ``counts`` by "filter: reason", and the first ``rejected`` rows of each;
    what filters only counted (``noted``); and how far its graders can be trusted.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.noted: dict[str, int] = {}
        self.rejected: list[Mapping[str, Any]] = []
        self.graders: Sequence[GraderRecord] = ()
        self.verifier: VerifierRecord | None = None

    def note(self, kind: str, why: str) -> None:
        """Counts a row that a filter has something to say of, and that is kept."""
        self.noted[f"{kind}: {why}"] = self.noted.get(f"{kind}: {why}", 0) + 1

    def drop(self, row: Row, reason: Reason) -> None:
        """Counts a row that does not join."""
        kind, why = reason
        name = f"{kind}: {why}"
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.counts[name] <= KEPT_PER_REASON:
            self.rejected.append({**row, "dropped_by": kind, "reason": why})

    def keep(self, rows: Sequence[Row], dropped_by: Callable[[Row], Reason | None]) -> list[Row]:
        """The rows for which ``dropped_by`` gives None; the others are counted."""
        kept = []
        for row in rows:
            reason = dropped_by(row)
            if reason is None:
                kept.append(row)
            else:
                self.drop(row, reason)
        return kept
