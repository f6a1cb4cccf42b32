"""What a recipe says of a filter."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from trainer.base.config import Config
from trainer.base.records import Kind


class BuiltinFilterConfig(Config):
    """What every built-in filter has."""

    only: Kind | None = Field(None, description="filter real or synthetic sources only; default: both")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that the filter reads, besides the text."""
        return ()


class LengthConfig(BuiltinFilterConfig):
    """Drop documents that are too short or too long."""

    kind: Literal["length"] = "length"
    min_words: int | None = Field(None, ge=1, description="fewer words, separated by white space, are dropped")
    max_words: int | None = Field(None, ge=1, description="more words are dropped")
    min_characters: int | None = Field(None, ge=1, description="fewer characters are dropped")
    max_characters: int | None = Field(None, ge=1, description="more characters are dropped")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not self.model_fields_set & {"min_words", "max_words", "min_characters", "max_characters"}:
            raise ValueError("a length filter needs a limit: min_words, max_words, min_characters or max_characters")
        for unit in ("words", "characters"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} must be at most max_{unit}, got {least} and {most}")
        return self


class RepetitionConfig(BuiltinFilterConfig):
    """Drop documents that repeat themselves. The defaults are those of Gopher (Rae et al. 2021, arXiv:2112.11446, table
    A1).
    """

    kind: Literal["repetition"] = "repetition"
    max_duplicate_line_share: float = Field(0.3, ge=0, le=1, description="of lines that occurred before")
    max_duplicate_line_character_share: float = Field(0.2, ge=0, le=1, description="of characters in such lines")
    max_duplicate_paragraph_share: float = Field(0.3, ge=0, le=1, description="of paragraphs that occurred before")
    max_duplicate_paragraph_character_share: float = Field(
        0.2, ge=0, le=1, description="of characters in such paragraphs"
    )
    max_top_ngram_share: dict[int, float] = Field(
        default={2: 0.20, 3: 0.18, 4: 0.16},
        description="by n: of characters in the most frequent sequence of n words, where it occurs more than once",
    )
    max_duplicate_ngram_share: dict[int, float] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10},
        description="by n: of characters in sequences of n words that occur more than once",
    )

    @field_validator("max_top_ngram_share", "max_duplicate_ngram_share")
    @classmethod
    def _are_shares(cls, limits: dict[int, float]) -> dict[int, float]:
        for length, share in limits.items():
            if length < 1 or not 0 <= share <= 1:
                raise ValueError(f"a sequence has at least one word and a share in [0, 1], got {{{length}: {share}}}")
        return limits


class PatternConfig(BuiltinFilterConfig):
    """Drop documents by a regular expression."""

    kind: Literal["regex"] = "regex"
    pattern: str = Field(description="regular expression, as Python's `re.search` takes it")
    drop: Literal["matching", "other"] = Field("matching", description="which documents are dropped")
    column: str | None = Field(None, description="column that is searched; default: the text")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that is searched."""
        return (self.column,) if self.column else ()


class ScoreConfig(BuiltinFilterConfig):
    """Drop documents by a number in a column, such as a grader's score. A row without the number is dropped."""

    kind: Literal["score"] = "score"
    column: str = Field(description="column that holds the number")
    minimum: float | None = Field(None, description="lower scores are dropped")
    maximum: float | None = Field(None, description="higher scores are dropped")

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("a score filter needs a limit: minimum or maximum")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The column with the score."""
        return (self.column,)


class ExactDuplicateConfig(BuiltinFilterConfig):
    """Drop documents whose words occurred before in the same segment; case and white space are ignored."""

    kind: Literal["exact_duplicate"] = "exact_duplicate"
