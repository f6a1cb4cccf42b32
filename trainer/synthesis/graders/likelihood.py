"""Grades texts by how likely a reference model finds them, against real text of the same source and slice.

Text that is less likely than real text is no language of this source; text that is more likely says little that the
model did not know (what a model samples too coldly, templates, repetition). So both tails are faults. The bounds are
quantiles of real rows, of the slice where it has enough of them, else of the source, else of all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.base.errors import DataError
from trainer.base.records import FloatArray
from trainer.data.documents import unit_hash
from trainer.synthesis.graders.config import LikelihoodConfig, name_of
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings

if TYPE_CHECKING:
    from trainer.model.scorer import Scorer

MIN_REFERENCE_ROWS = 30  # fewer say nothing of a tail of 2 %


class LikelihoodGrader:
    """The score of the grader's own name is how typical a text is: 1 in the middle of real text, 0 beyond all of it."""

    license: str | None = None

    def __init__(self, config: LikelihoodConfig, surroundings: Surroundings) -> None:
        self.name, self.config, self.model = name_of(config), config, Path(config.model).name
        self._real = surroundings.real
        self._scorer: Scorer | None = None
        self._references: dict[tuple[str, ...], FloatArray] = {}

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """In batches of texts of about the same length."""
        nats = self._nats([row["text"] for row in rows])
        return [self._grade(row, value) for row, value in zip(rows, nats, strict=True)]

    def _grade(self, row: Row, nats: float) -> Grade:
        if not np.isfinite(nats):
            return Grade(scores={}, verdict="abstain", reason="text without tokens")
        reference = self._reference(row)
        below, ties = float((reference < nats).mean()), float((reference == nats).mean())
        place = below + ties / 2
        scores = {self.name: 2 * min(place, 1 - place), f"{self.name}.nats_per_token": nats}
        tails = [self.config.lower_tail, 1 - self.config.upper_tail]
        low, high = np.quantile(reference, tails, method="weibull")  # of real text to come that share is beyond
        if nats < low:
            return Grade(scores=scores, verdict="drop", reason="more likely than real text")
        if nats > high:
            return Grade(scores=scores, verdict="drop", reason="less likely than real text")
        return Grade(scores=scores, verdict="keep")

    def _reference(self, row: Row) -> FloatArray:
        """Losses of real rows, of the narrowest group that has enough of them."""
        for key in ((row["source"], row["slice"]), (row["source"],), ()):
            if key not in self._references:
                texts = self._texts_of(key)
                enough = len(texts) >= MIN_REFERENCE_ROWS
                self._references[key] = np.array(self._nats(texts) if enough else [])
            if len(self._references[key]):
                return self._references[key]
        remedy = f"Name a source with at least {MIN_REFERENCE_ROWS} training documents, or leave the grader out"
        raise DataError("too few real rows to tell what is likely", got=len(self._real), remedy=remedy)

    def _texts_of(self, key: tuple[str, ...]) -> list[str]:
        texts = [row["text"] for row in self._real if (row["source"], row["slice"])[: len(key)] == key]
        return sorted(texts, key=lambda text: unit_hash(0, text))[: self.config.reference_rows]

    def _nats(self, texts: Sequence[str]) -> list[float]:
        if self._scorer is None:
            from trainer.model.scorer import Scorer

            self._scorer = Scorer(self.config.model)
        return self._scorer.nats_per_token(texts, max_tokens=self.config.max_tokens)


def likelihood(config: LikelihoodConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``likelihood``."""
    return LikelihoodGrader(config, surroundings)
