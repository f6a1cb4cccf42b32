"""What a recipe says about its data: sources, held-out documents, tokenizer, and the limits of preparation.

All segments of all sources are prepared before the first step, but what the run begins with decides what is fixed for
the run: held-out documents and a trained tokenizer come from the first segments alone, so that data which arrives while
the run is interrupted can join it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from trainer.base.config import Config
from trainer.data.filters import FilterConfig
from trainer.data.machine_text.config import MachineTextConfig
from trainer.data.source_config import SourceConfig

HELD_OUT_SEGMENTS = ("held_out.validation", "held_out.test")  # names of held-out data sets of their own


class HeldOutByBucket(Config):
    """Held-out documents are the hash buckets ``validation`` and ``test`` of a real source's rows."""

    kind: Literal["bucket"] = "bucket"
    source: str = Field(description="the real source they are taken from, and out of")
    by: str = Field(description="column whose value is hashed")
    of: int = Field(ge=2, description="number of buckets")
    validation: tuple[int, ...] = Field(min_length=1, description="buckets that policy and guard read")
    test: tuple[int, ...] = Field(min_length=1, description="buckets that only the final figures read")

    @model_validator(mode="after")
    def _buckets_differ(self) -> "HeldOutByBucket":
        wrong = [bucket for bucket in (*self.validation, *self.test) if not 0 <= bucket < self.of]
        if wrong:
            raise ValueError(f"buckets must lie in 0..{self.of - 1}, got {wrong}")
        if both := sorted(set(self.validation) & set(self.test)):
            raise ValueError(f"validation and test must be disjoint, both have bucket {both}")
        return self


class HeldOutByShare(Config):
    """Held-out documents are a share of a real source's documents, chosen by a hash of seed and text."""

    kind: Literal["share"] = "share"
    source: str = Field(description="the real source they are taken from, and out of")
    validation: float = Field(0.05, gt=0, lt=1, description="share of the documents that policy and guard read")
    test: float = Field(0.05, gt=0, lt=1, description="share of the documents that only the final figures read")

    @model_validator(mode="after")
    def _leaves_something(self) -> "HeldOutByShare":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test must leave documents to train on, got {self.validation} + {self.test}"
            )
        return self


class HeldOutDataset(Config):
    """Held-out documents are data sets of their own."""

    kind: Literal["dataset"] = "dataset"
    validation: SourceConfig
    test: SourceConfig

    @model_validator(mode="after")
    def _real(self) -> "HeldOutDataset":
        for part in ("validation", "test"):
            if getattr(self, part).kind != "real":
                raise ValueError(f"held-out documents must be real, but `{part}` is of kind synthetic")
            if getattr(self, part).joins:
                raise ValueError(f"{part}.joins has no effect: held-out documents are the same at every step")
        return self


HeldOutConfig = Annotated[HeldOutByBucket | HeldOutByShare | HeldOutDataset, Field(discriminator="kind")]


class ContaminationConfig(Config):
    """What to do with training documents that are copies of held-out documents, whole, nearly or in part."""

    action: Literal["drop", "fatal"] = Field("drop", description="drop them from training, or stop")
    threshold: float = Field(
        0.6, gt=0.1, le=1, description="share of a document's own word 3-grams that makes it a copy of another"
    )
    form_documents: int = Field(
        4,
        ge=2,
        description="word 3-grams of so many different real documents are a form (of letters, of log lines, a license) "
        "and no document's own",
    )
    max_lost_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a real source's documents dropped as near or partial copies that stops preparation",
    )


class TokenizerConfig(Config):
    """Train a byte-level BPE on the real training documents, or take an existing tokenizer."""

    train_bpe: int | None = Field(None, ge=257, le=1_000_000, description="size of the vocabulary to train")
    max_training_bytes: int = Field(
        64_000_000, gt=0, description="text the BPE is trained on at most, spread over the real sources"
    )
    pretrained: str | None = Field(
        None, description="folder with a tokenizer.json, relative to the recipe, or a hub id"
    )
    end_of_document: str | None = Field(
        None, description="token between documents; default: the tokenizer's end-of-sequence token"
    )
    begin_of_document: str = Field(
        "auto",
        min_length=1,
        description="token before every document, in training, evaluation and sample texts: auto (what the tokenizer's "
        "own template puts before a text), none, or a token; one that is the end-of-document token is there already",
    )
    max_lost_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of the held-out text that the tokenizer may lose before preparation is refused",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "TokenizerConfig":
        if (self.train_bpe is None) == (self.pretrained is None):
            raise ValueError("the tokenizer needs exactly one of `train_bpe` and `pretrained`")
        return self


class TeacherConfig(Config):
    """A model that reads the samples while they are prepared: what it expects after each token is stored alongside, for
    `training.teacher_weight`.
    """

    model: str = Field(
        min_length=1,
        description="folder as `save_pretrained` writes it, relative to the recipe, or a hub id; with the tokenizer of "
        "the recipe, or it is refused",
    )
    top_k: int = Field(
        16, ge=1, le=1024, description="likeliest tokens that are stored of each distribution; all others share one"
    )
    sources: tuple[str, ...] = Field((), description="the sources that it reads; default: all")
    batch: int = Field(8, ge=1, le=4096, description="samples that it reads at the same time")


def segment_name(source: str, number: int) -> str:
    """What preparation calls a segment: the first by its source's name, which has no colon in it, others with their
    number.
    """
    return f"{source}:{number}" if number else source


class DataConfig(Config):
    """All data of a run."""

    sequence_length: int = Field(ge=2, le=2**24, description="tokens of a sample")
    tokenizer: TokenizerConfig
    sources: dict[str, SourceConfig] = Field(min_length=1)
    held_out: HeldOutConfig
    filters: tuple[FilterConfig, ...] = Field(
        (), description="drop training documents of all sources, in this order; never held-out documents"
    )
    contamination: ContaminationConfig = ContaminationConfig()
    teacher: TeacherConfig | None = Field(None, description="a model whose distributions are learned from as well")
    machine_text: MachineTextConfig | None = Field(
        None, description="check the sources called real for machine-written text before training"
    )
    max_row_bytes: int = Field(8_000_000, gt=0, description="a longer row goes to the quarantine")
    max_quarantined_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of malformed rows of a source above which preparation stops; for ten rows or fewer it never "
        "does, unless this is 0 or all rows are malformed",
    )
    num_proc: int = Field(
        1, ge=1, le=1024, description="processes that tokenize; 1: threads of the tokenizer in the main process"
    )
    remote_timeout_s: float = Field(
        30.0, gt=0, description="seconds that the server of a URL may take for an answer, before the run gives up"
    )
    cache: Path | None = Field(
        None, description="folder of prepared stores, relative to the recipe; default $HYBRID_TRAINER_CACHE"
    )

    @property
    def every_segment(self) -> dict[str, SourceConfig]:
        """The segments of the training sources by their names, and the held-out data sets and labeled references where
        they are data sets of their own.
        """
        rule = self.held_out
        own = (
            dict(zip(HELD_OUT_SEGMENTS, (rule.validation, rule.test), strict=True))
            if isinstance(rule, HeldOutDataset)
            else {}
        )
        segments = {
            segment_name(name, number): segment
            for name, source in self.sources.items()
            for number, segment in enumerate(source.segments)
        }
        return {**segments, **own, **(self.machine_text.references if self.machine_text else {})}

    @field_validator("sources")
    @classmethod
    def _names(cls, sources: dict[str, SourceConfig]) -> dict[str, SourceConfig]:
        for name in sources:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
                raise ValueError(f"a source's name is made of letters, digits, `-`, `_` and `.`, got {name!r}")
        return sources

    @model_validator(mode="after")
    def _held_out_is_real(self) -> "DataConfig":
        real = [name for name, source in self.sources.items() if source.kind == "real"]
        if not isinstance(self.held_out, HeldOutDataset):
            name = self.held_out.source
            if name not in self.sources:
                raise ValueError(f"held_out.source names no source: got {name!r}, the real ones are {real}")
            if name not in real:
                raise ValueError(
                    f"held-out documents must be real, but source {name!r} is synthetic; the real ones are {real}"
                )
        if self.tokenizer.train_bpe and not real:
            raise ValueError("`train_bpe` is trained on real sources, and there is none")
        if self.machine_text and (problem := self.machine_text.contradiction(self.sources)):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> "DataConfig":
        if self.teacher is not None:
            if unknown := [name for name in self.teacher.sources if name not in self.sources]:
                raise ValueError(f"teacher.sources: {unknown[0]!r} is not a source, they are {list(self.sources)}")
            if self.tokenizer.pretrained is None:
                raise ValueError(
                    "a teacher expects tokens of its own tokenizer: set tokenizer.pretrained to the teacher's folder"
                )
        return self

    def taught(self, name: str) -> bool:
        """Whether the teacher reads segment ``name`` (``segment_name``)."""
        return self.teacher is not None and name.partition(":")[0] in (self.teacher.sources or self.sources)


def filters_of(config: DataConfig, name: str) -> tuple[Any, ...]:
    """The configurations of the filters of segment ``name``: those for all sources of its kind, then its own."""
    segment = config.every_segment[name]
    if isinstance(config.held_out, HeldOutDataset) and name in HELD_OUT_SEGMENTS:
        return segment.filters
    shared = (row_filter for row_filter in config.filters if getattr(row_filter, "only", None) in (None, segment.kind))
    own = (row_filter for row_filter in segment.filters if getattr(row_filter, "only", None) in (None, segment.kind))
    return *shared, *own


def needed_columns(config: DataConfig, name: str) -> tuple[str, ...]:
    """Every column that preparation needs of segment ``name`` (``segment_name``), each once."""
    segment, rule = config.every_segment[name], config.held_out
    optional = tuple(column for column in (segment.id_column, segment.slice) if column)
    sample = (segment.sample.by,) if segment.sample else ()
    held_out = (rule.by,) if isinstance(rule, HeldOutByBucket) and rule.source == name.partition(":")[0] else ()
    filtered = (column for row_filter in filters_of(config, name) for column in getattr(row_filter, "columns", ()))
    names = (segment.text_column, *optional, *segment.provenance, *segment.where, *sample, *held_out, *filtered)
    return tuple(dict.fromkeys(names))
