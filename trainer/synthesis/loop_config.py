"""What a recipe says of rounds of synthesis that are made while a run trains."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from trainer.base.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
SOURCE_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$"


class LoopConfig(Config):
    """When a run makes a round, and how what it brings joins the mixture.

    The rounds of a run have a pool of their own, ``RUN/pool``.
    """

    every: int | None = Field(
        None, ge=1, description="in `trainer fit`: a round after every so many steps; null: none by step"
    )
    first: int | None = Field(None, ge=1, description="the step after which the first round begins; null: `every`")
    refill_epochs: float | None = Field(
        None,
        gt=0,
        description="at an evaluation a round also begins where the pool is empty, or was drawn for more epochs than "
        "this; null: never",
    )
    source: str | None = Field(
        None, pattern=SOURCE_NAME, description="name of the synthetic source that the rounds of a run make"
    )
    share: Share = Field(
        0.25, gt=0, description="its share from its first generation on, taken from all others in proportion"
    )
    real_floor: Share = Field(
        0.3, description="least share of all real sources together when a generation joins; its source gets less"
    )
    wait: bool | None = Field(
        None,
        description="training waits until a round is over, so that it joins at a step that is known before; null: only "
        "for kind run, whose texts the run itself writes",
    )
    lot: int | None = Field(
        None,
        ge=1,
        description="in `trainer fit`: texts of a first lot, whose value decides how many more of `requests` are made; "
        "null: all are made",
    )
    keep_generations: int | None = Field(
        None, ge=1, description="generations that are drawn from at most; when one joins older ones retire; null: all"
    )

    @property
    def is_looping(self) -> bool:
        """Whether a run makes rounds."""
        return self.every is not None or self.refill_epochs is not None

    def is_due(self, step: int) -> bool:
        """Whether a round is due by step after ``step``."""
        return self.next_due(step - 1) == step

    def next_due(self, after: int) -> int | None:
        """The first step after ``after`` at which a round is due by step; None where none is."""
        if self.every is None:
            return None
        first = self.every if self.first is None else self.first
        return first if after < first else first + ((after - first) // self.every + 1) * self.every

    @model_validator(mode="after")
    def _loop_is_whole(self) -> Self:
        if self.first is not None and self.every is None:
            raise ValueError("`first` has an effect only with `every`")
        if self.is_looping and self.source is None:
            raise ValueError("rounds of a run need `source`, the name of the synthetic source that they make")
        if self.source is not None and not self.is_looping:
            raise ValueError("`source` has an effect only with `every` or `refill_epochs`")
        if self.lot is not None and not self.is_looping:
            raise ValueError("`lot` has an effect only with `every` or `refill_epochs`")
        return self
