"""A tracker that writes every figure into a CSV file: step, name, value."""

import csv
from pathlib import Path
from typing import TextIO

from pydantic import Field

from trainer.base.config import Config
from trainer.tracking.record import JournalLine
from trainer.tracking.tracker import RunInfo


class CsvConfig(Config):
    """Write all metrics into a CSV file."""

    kind: str
    file: str = Field(default="metrics.csv", min_length=1, description="name of the file, in the run folder")


class CsvTracker:
    """The tracker. It runs in a thread of its own; where it fails, training continues with a warning."""

    Config = CsvConfig

    def __init__(self, config: CsvConfig) -> None:
        self.name = config.file
        self.stream: TextIO | None = None

    def begin(self, run: RunInfo) -> None:
        """Open the file; a resumed run appends to it."""
        self.stream = (Path(run.folder) / self.name).open("a", newline="", encoding="utf-8")

    def note(self, line: JournalLine) -> None:
        """Write the figures of one line of the journal."""
        assert self.stream is not None
        csv.writer(self.stream).writerows([line.step, name, value] for name, value in line.metrics().items())

    def close(self) -> None:
        """Close the file."""
        if self.stream is not None:
            self.stream.close()
