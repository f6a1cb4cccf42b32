"""A filter that drops documents in which one line is repeated too often."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from trainer.base.config import Config
from trainer.base.records import Kind


class RepeatedLinesConfig(Config):
    """Drop documents that repeat one line."""

    kind: str
    most: int = Field(default=3, ge=1, description="how often one line may occur")
    only: Kind | None = Field(default=None, description="filter real or synthetic sources only; default: both")
    version: int = Field(default=1, description="raise it when the rule changes: the data is then prepared again")


class RepeatedLines:
    """The filter: made from its configuration, called with each document of a source."""

    Config = RepeatedLinesConfig

    def __init__(self, config: RepeatedLinesConfig) -> None:
        self.most = config.most

    def __call__(self, text: str, columns: Mapping[str, Any]) -> str | None:
        """The reason to drop the document, None to keep it; reasons are counted in the report."""
        lines = Counter(line for line in text.splitlines() if line.strip())
        return "one line too often" if lines and max(lines.values()) > self.most else None
