"""What a recipe says of a filter."""

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from trainer.base.config import Config
from trainer.base.records import Kind


class BuiltinFilterConfig(Config):
    """What every built-in filter has."""

    only: Kind | None = Field(
        None, description="filter real or synthetic sources only; default: both. Two entries give two limits"
    )
    action: Literal["drop", "count"] = Field(
        "drop", description="drop: documents leave; count: they stay, and are counted with the reason"
    )

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


class NearDuplicateConfig(BuiltinFilterConfig):
    """Drop documents that are nearly the same as one before them in the segment (MinHash of word n-grams)."""

    kind: Literal["near_duplicate"] = "near_duplicate"
    threshold: float = Field(
        0.8, ge=0.5, le=1, description="estimated part of the n-grams of both that both have (Jaccard similarity)"
    )
    ngram_words: int = Field(3, ge=1, le=20, description="words of an n-gram")


class LanguageConfig(BuiltinFilterConfig):
    """Drop documents that are not in one of the languages named."""

    kind: Literal["language"] = "language"
    keep: tuple[str, ...] = Field(min_length=1, description="ISO 639-1 codes, such as `en`")
    min_probability: float = Field(0.0, ge=0, le=1, description="drop documents that are less surely in that language")
    min_characters: int = Field(
        40, ge=0, description="shorter documents are kept: of a few words the language cannot be told"
    )


class PersonalDataConfig(BuiltinFilterConfig):
    """Drop, or count, documents that hold what points at a person."""

    kind: Literal["personal_data"] = "personal_data"
    find: tuple[Literal["email", "phone", "card", "iban", "ip"], ...] = Field(
        ("email", "phone", "card", "iban", "ip"),
        min_length=1,
        description="mail addresses, telephone numbers, card numbers (by their check digit), IBANs (by theirs and the "
        "length of the country), public IP addresses",
    )
    phone_region: str | None = Field(
        None, pattern="^[A-Z]{2}$", description="country whose national numbers count, such as US; default: only +..."
    )


class DatatroveConfig(BuiltinFilterConfig):
    """A filter of the package `datatrove`, with its own arguments alongside these keys."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["datatrove"] = "datatrove"
    name: str = Field(
        pattern=r"^[A-Za-z_]\w*$",
        description="a class of datatrove.pipeline.filters: GopherQualityFilter, GopherRepetitionFilter, "
        "C4QualityFilter, C4ParagraphFilter, FineWebQualityFilter ...",
    )
    edited: Literal["keep", "drop"] | None = Field(
        None,
        description="what becomes of a document that the filter would keep in part (C4QualityFilter takes lines out): "
        "keep it whole, or drop it; there is no default",
    )
    metadata: tuple[str, ...] = Field((), description="columns of the row that the filter reads, such as `url`")

    @property
    def arguments(self) -> dict[str, Any]:
        """The filter's own arguments."""
        return dict(self.model_extra or {})

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that become the document's metadata."""
        return self.metadata
