"""What a recipe says of making synthetic data."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.data.filters import FilterConfig
from trainer.synthesis.gate_config import GateConfig, MemorizedConfig, NearDuplicatesConfig
from trainer.synthesis.generators import FilesConfig, GeneratorConfig
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.graders import GraderConfig, GradingConfig
from trainer.synthesis.graders.config import WithGraders
from trainer.synthesis.licenses_config import LicensesConfig
from trainer.synthesis.loop_config import LoopConfig
from trainer.synthesis.prices_config import PricesConfig
from trainer.synthesis.prompts import CRITIQUE, TEMPLATES

Temperature = Annotated[float, Field(ge=0, le=10)]
TopP = Annotated[float, Field(gt=0, le=1)]


class PromptConfig(Config):
    """One way to ask: a built-in template by its name, or a template of your own."""

    template: str = Field(
        description=f"{', '.join(TEMPLATES)}, or a jinja2 template over the row: `text`, `id`, `slice`, its "
        "provenance, and `pair` and `triple`, names that its text has"
    )
    name: str | None = Field(None, min_length=1, description="what the rows made by it are counted under")
    weight: int = Field(1, ge=1, le=1000, description="how many of the requests use it, relative to the others")
    turns: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="what is asked after each answer, one after the other: critique, revise, or templates over the row "
        "and `answers`, those so far; the last answer is the text",
    )
    principles: tuple[str, ...] = Field(
        (),
        description="for templates: all as `principles`, and one that is drawn for each request as `principle`",
    )
    row: str | None = Field(
        None,
        min_length=1,
        description="template of the text that is kept, over the row and `answer`; default: the answer alone",
    )

    @model_validator(mode="after")
    def _has_principles(self) -> Self:
        if CRITIQUE in self.turns and not self.principles:
            raise ValueError(f"turns: {CRITIQUE} needs principles to hold the text against")
        return self

    @property
    def label(self) -> str:
        """The name that its rows are counted under."""
        return self.name or (self.template if self.template in TEMPLATES else "own")


class SamplingConfig(Config):
    """How texts are sampled; of several values each request takes one, in turn, so that a sweep covers them evenly."""

    temperature: tuple[Temperature, ...] = Field((0.8,), min_length=1, description="softmax temperatures; 0 is greedy")
    top_p: tuple[TopP, ...] = Field((0.95,), min_length=1, description="probability mass that is sampled from")
    max_new_tokens: int = Field(256, ge=1, le=1_000_000, description="a text is cut off there")


class PathsConfig(Config):
    """Which of several accepted answers to the same real row are kept."""

    distinct: bool = Field(True, description="drop an answer with the equations of another answer to the same row")
    most_per_row: int | None = Field(None, ge=1, description="most answers to a row that a round keeps")


class SynthesisConfig(LoopConfig, WithGraders):
    """One round of synthesis: which rows are prompts, what generates, what is dropped, and where the rest is kept."""

    pool: Path = Field(
        Path("pool"),
        description="folder of the accepted rows, relative to the recipe; a source reads them at `POOL/rows`. Rounds "
        "that `trainer fit` makes have a pool of their own in the run's folder",
    )
    sources: tuple[str, ...] = Field(
        (), description="real training sources whose rows are the prompts; for files: that their rows were made from"
    )
    prompts: tuple[PromptConfig, ...] = Field((), description="how the generator is asked; none for files")
    generator: GeneratorConfig = Field(description="what writes the texts")
    sampling: SamplingConfig = SamplingConfig()
    requests: int = Field(1000, ge=1, description="texts that a round asks for")
    balance_slices: bool = Field(
        True, description="every slice of the sources gets as many prompts; false: as many as it has rows"
    )
    samples_per_row: int = Field(
        1, ge=1, le=1000, description="texts that are asked for about a row before the next one has its turn"
    )
    paths: PathsConfig | None = Field(None, description="keep different answers to a row; null: all of them")
    keep_cut_off: bool = Field(False, description="keep texts that reached max_new_tokens before they ended")
    graders: tuple[GraderConfig, ...] = Field((), description="score generated rows and vote on them")
    grading: GradingConfig = Field(GradingConfig(), description="how the graders themselves are graded in every round")
    filters: tuple[FilterConfig, ...] = Field((), description="drop generated rows, in this order")
    near_duplicates: NearDuplicatesConfig | None = Field(
        None, description="drop rows that are nearly the same as another text; null: only those with the same words"
    )
    memorized: MemorizedConfig | None = Field(
        None, description="drop rows that repeat real training text word for word; null: keep them"
    )
    gate: GateConfig | None = Field(
        None, description="keep a whole round aside that is less diverse, or more memorized, than this; null: never"
    )
    stitch: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="join the texts of one prompt about one document, so many at most, into one; null: each alone",
    )
    licenses: LicensesConfig = LicensesConfig()
    prices: PricesConfig | None = Field(None, description="what synthesis costs; null: tokens and time are counted")
    max_cost: float | None = Field(
        None,
        gt=0,
        description="money that all rounds of the pool may cost; the round that reaches it ends there",
    )
    max_failed_share: float = Field(
        0.01, ge=0, le=1, description="requests that may fail for good; with more the round waits to be run again"
    )

    @property
    def needs_whole_documents(self) -> bool:
        """Whether all texts about a document must be made in one shard, to be joined or chosen from."""
        return self.stitch is not None or self.paths is not None

    @model_validator(mode="after")
    def _lot_is_asked_for(self) -> Self:
        if self.lot is not None and isinstance(self.generator, RunConfig):
            raise ValueError("`lot` has no effect on kind run: its texts are written in one go, between two steps")
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [prompt.label for prompt in self.prompts]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"prompts need different names, got {', '.join(twice)} more than once: give them `name`")
        return self

    @model_validator(mode="after")
    def _limit_has_prices(self) -> Self:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("max_cost needs prices: without them nothing costs anything")
        if self.max_cost is not None and isinstance(self.generator, FilesConfig):
            raise ValueError("max_cost has no effect on rows that another engine has written: remove it")
        return self

    @model_validator(mode="after")
    def _turns_can_be_written(self) -> Self:
        if self.generator.kind == "run" and any(prompt.turns for prompt in self.prompts):
            raise ValueError(
                "prompts.turns: the model of the run itself writes one turn; take another kind of generator"
            )
        return self

    @model_validator(mode="after")
    def _is_asked_about_rows(self) -> Self:
        if isinstance(self.generator, FilesConfig):
            if self.prompts:
                raise ValueError("prompts have no effect on rows that another engine wrote: remove them")
            if bool(self.sources) != (self.generator.columns.source_id is not None):
                raise ValueError("sources and generator.columns.source_id go together: name both, or neither")
        elif not self.sources or not self.prompts:
            missing = "prompts" if self.sources else "sources"
            raise ValueError(f"{missing} missing: what is the generator asked about?")
        return self
