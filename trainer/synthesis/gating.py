"""The gate: looks at all rows of a shard that passed, and lets them join or quarantines them together."""

from collections.abc import Sequence

from trainer.synthesis.context import RoundContext
from trainer.synthesis.rows import Row


def quarantine_reason(rows: Sequence[Row], context: RoundContext) -> str | None:
    """Why the rows must not be trained on; None where they may. No rule is configured yet: they may."""
    return None
