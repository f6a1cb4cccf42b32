"""The real training text of the sources that a round is made from, as far as rows are compared with it."""

from collections.abc import Iterator

from trainer.data.filters.near_duplicates import NearDuplicates
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.memorization import Verbatim
from trainer.synthesis.requests import PromptRow


class RealText:
    """Remembers real documents while they are read: sketches of them, and their sequences of words."""

    def __init__(self, config: SynthesisConfig) -> None:
        near, memorized = config.near_duplicates, config.memorized
        self.near = NearDuplicates(near.threshold) if near is not None and "real" in near.against else None
        self.verbatim = None if memorized is None else Verbatim(memorized.words)

    def watching(self, rows: Iterator[PromptRow]) -> Iterator[PromptRow]:
        """The rows as they come, each remembered."""
        for row in rows:
            if self.near is not None:
                self.near.add(row.document.text)
            if self.verbatim is not None:
                self.verbatim.add(row.document.text)
            yield row
