"""What a recipe says of the rows of a round as a whole, and of repeats of real text."""

from typing import Literal

from pydantic import Field

from trainer.base.config import Config


class NearDuplicatesConfig(Config):
    """Drop generated rows that are nearly the same as another text (MinHash of word 3-grams)."""

    threshold: float = Field(0.8, ge=0.5, le=1, description="estimated Jaccard similarity from which a row is dropped")
    against: tuple[Literal["round", "pool", "real"], ...] = Field(
        ("round", "pool", "real"),
        min_length=1,
        description="earlier rows of the round, the pool, the real training documents of synthesis.sources",
    )


class MemorizedConfig(Config):
    """Drop generated rows that repeat real training text word for word."""

    words: int = Field(20, ge=5, le=200, description="words in a row that count as repeated")
    max_share: float = Field(0.1, ge=0, le=1, description="of a row's sequences of so many words that may be repeated")


class GateConfig(Config):
    """Limits that all rows of a round (of a shard of it) keep together, else they are kept aside and not trained on.

    Figures with `of_real` are relative to as much real text of synthesis.sources.
    """

    min_distinct_of_real: float = Field(0.6, ge=0, le=2, description="different word 3-grams")
    max_self_bleu: float = Field(0.8, ge=0, le=1, description="BLEU-4 of a row against the others")
    min_vendi_of_real: float = Field(0.5, ge=0, le=2, description="entirely different texts that they amount to")
    min_tail_coverage_of_real: float = Field(0.5, ge=0, le=2, description="rare words of real text that occur")
    max_nearer_training: float = Field(
        0.75,
        ge=0.5,
        le=1,
        description="part of the rows that are nearer to training than to held-out documents, other than those that "
        "they were made of; 0.5 where nothing is memorized",
    )
    rows: int = Field(400, ge=20, le=5000, description="rows that are measured at most")
    fewest_rows: int = Field(50, ge=2, description="a round of fewer rows is not judged")
