"""What a recipe says about its data: sources, held-out documents, tokenizer, and the limits of preparation.

A source is named, is real or synthetic, and says where its rows come from: local files, a hub id, or a file inside an
installed package (found without importing it: data packages import whatever they like). Selection is by column value
and by hash bucket, int(sha256(value)) mod n, because a hash splits the same documents the same way in every order,
file format and language.

A source is a list of segments. Most have one; further ones join from a step on, alongside those before them or in their
place. All of them are prepared before the first step, but what the run begins with decides what is fixed for the run:
held-out documents and a trained tokenizer come from the first segments alone, so that data which arrives while the run
is interrupted can join it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from trainer.base.config import Config
from trainer.base.errors import UserError
from trainer.base.records import Kind
from trainer.base.seams import OUTSIDE_PATTERN
from trainer.data.filters import FilterConfig
from trainer.data.readers import READERS


def _existing_format(kind: str) -> str:
    try:
        READERS.resolve(kind)
    except UserError as error:
        raise ValueError(str(error)) from error
    return kind


Format = Annotated[
    str,
    AfterValidator(_existing_format),
    WithJsonSchema({"anyOf": [{"enum": [*READERS.builtin]}, {"type": "string", "pattern": OUTSIDE_PATTERN}]}),
]
Scalar = str | int | float | bool
PACKAGE = r"^[A-Za-z_]\w*$"
HELD_OUT_SEGMENTS = ("held_out.validation", "held_out.test")  # names of held-out data sets of their own
ORIGIN = ("path", "package", "hub", "configuration", "revision")


class SampleConfig(Config):
    """A part of the rows, chosen by a hash: those whose int(sha256(str(value))) mod ``of`` is one of ``buckets``."""

    by: str = Field(description="column whose value is hashed")
    of: int = Field(ge=2, description="number of buckets")
    buckets: tuple[int, ...] = Field(min_length=1, description="the buckets taken")

    @model_validator(mode="after")
    def _buckets_exist(self) -> "SampleConfig":
        wrong = [bucket for bucket in self.buckets if not 0 <= bucket < self.of]
        if wrong:
            raise ValueError(f"buckets must lie in 0..{self.of - 1}, got {wrong}")
        return self


class Rows(Config):
    """Where rows come from, how they are read, and which of them are taken."""

    path: str | None = Field(
        None, description="file, glob or folder, relative to the recipe; with `package`: the file inside it"
    )
    hub: str | None = Field(None, description="id of a data set on the Hugging Face hub")
    package: str | None = Field(
        None, pattern=PACKAGE, description="name of an installed Python package that holds `path`"
    )
    format: Format | None = Field(
        None,
        description="jsonl, json, csv, text, parquet, arrow or `package.module:Name`; default: by the file's suffix",
    )
    configuration: str | None = Field(None, description="name of the hub data set's configuration")
    revision: str | None = Field(None, description="commit or tag of the hub data set")
    split: str | None = Field(
        None,
        min_length=1,
        description="split of a hub data set (default `train`), of a saved data set, or of files whose names tell it "
        "(`train`, `validation`, `test`); `all` for every one of them",
    )
    streaming: bool = Field(
        False, description="read row by row through a one-time local index, without downloading the whole first"
    )
    text_column: str = Field("text", description="column that holds the text")
    id_column: str | None = Field(None, description="column that names the document; default: file and line")
    text_unit: Literal["line", "file"] = Field("line", description="what is one document of a text file")
    special_tokens: Literal["text", "parse"] = Field(
        "text",
        description="what a text that spells a special token means: text, its letters; parse, the token "
        "(a chat that is rendered already)",
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="sign between cells of a csv file; default: `,`, a tab for .tsv",
    )
    quoting: bool = Field(True, description="whether quotes in a csv file enclose cells; false: they are text")
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict, description="keep rows whose column has the value(s)"
    )
    sample: SampleConfig | None = Field(
        None, description="train on some hash buckets only (held-out documents are taken before)"
    )
    max_rows: int | None = Field(
        None, gt=0, description="read only so many rows, the first ones: a part of an endless stream"
    )
    max_documents: int | None = Field(None, gt=0, description="stop after so many training documents, in reading order")

    def contradiction(self) -> str | None:
        """What these keys cannot mean together; None where there is nothing."""
        if (self.path is None) == (self.hub is None):
            return "a source needs exactly one of `path` and `hub` (and `package` only with `path`)"
        if self.package and (self.hub or self.streaming):
            return "`package` goes with `path` only, without `hub` and `streaming`"
        if self.hub is None and (self.configuration or self.revision):
            return "`configuration` and `revision` have an effect only with `hub`"
        if self.text_unit == "file" and self.format not in (None, "text"):
            return f"`text_unit: file` has an effect only on text files, got format {self.format}"
        if (self.delimiter or not self.quoting) and self.format not in (None, "csv"):
            return f"`delimiter` and `quoting` have an effect only on csv files, got format {self.format}"
        return None


class JoinConfig(Rows):
    """A further segment of a source: from which step on it is drawn, and where its rows come from.

    A key that is not given, or null, is the source's. Only the origin is a whole: where ``path`` or ``hub`` is named,
    nothing is taken from the source's ``path``, ``package``, ``hub``, ``configuration`` and ``revision``.
    """

    from_step: int = Field(ge=2, description="the first step whose batch can hold samples of this segment")
    retires: bool = Field(False, description="from that step on the segments before it are drawn no more")

    def changed(self) -> dict[str, Any]:
        """The source's keys that are others in this segment, with their values."""
        own = {name: getattr(self, name) for name in Rows.model_fields if name in self.model_fields_set}
        origin = dict.fromkeys(ORIGIN) if self.path or self.hub else {}
        return {**origin, **{name: value for name, value in own.items() if value is not None}}

    @model_serializer(mode="wrap")
    def _given_keys(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was given: a default written out would replace the source's value when it is read again."""
        return {name: value for name, value in serialize(self).items() if name in self.model_fields_set}


class SourceConfig(Rows):
    """A named data set, real or synthetic: a list of rows with a text each."""

    kind: Kind = Field(description="real: written by people; synthetic: written by a model or a program")
    license: str = Field("unknown", min_length=1, description="SPDX expression; `unknown` is allowed and reported")
    share: float | None = Field(
        None, ge=0, le=1, exclude=True, description="starting share of the batch; those of all sources sum to 1"
    )  # moves to mixture.shares when a recipe is loaded
    slice: str | None = Field(None, description="column that names the document's slice")
    provenance: tuple[str, ...] = Field(
        (), description="further columns kept with each document (generator, prompt, seed ...)"
    )
    filters: tuple[FilterConfig, ...] = Field(
        (), description="drop training documents, after data.filters; held-out documents taken from it are kept"
    )
    joins: tuple[JoinConfig, ...] = Field(
        (),
        description="further segments, each drawn from a step on, alongside those before it or in their place; not "
        "where the source has no share by then, because the guard cut it or it reached its cap of epochs",
    )

    @model_validator(mode="after")
    def _rows_agree(self) -> "SourceConfig":
        if problem := self.contradiction():
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _joins_follow_each_other(self) -> "SourceConfig":
        last_step, live = 1, [self.segments[0]]
        for number, (join, segment) in enumerate(zip(self.joins, self.segments[1:], strict=True)):
            if join.from_step <= last_step:
                raise ValueError(
                    f"joins.{number}.from_step must be above {last_step}, from which the segment before it is drawn, "
                    f"got {join.from_step}"
                )
            if problem := segment.contradiction():
                raise ValueError(f"joins.{number}: {problem}")
            if segment in live:
                raise ValueError(
                    f"joins.{number} has the rows of a segment that is drawn already: name a `path`, `where` or "
                    "`sample` of its own"
                )
            last_step, live = join.from_step, [segment] if join.retires else [*live, segment]
        return self

    @property
    def segments(self) -> "tuple[SourceConfig, ...]":
        """Where the rows of each segment come from: of the first, then of those that join."""
        first = self.model_copy(update={"joins": ()})
        return first, *(first.model_copy(update=join.changed()) for join in self.joins)


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
    max_row_bytes: int = Field(8_000_000, gt=0, description="a longer row goes to the quarantine")
    max_quarantined_share: float = Field(
        0.01, ge=0, le=1, description="share of malformed rows of a source from which preparation stops"
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
        """The segments of the training sources by their names, and the held-out data sets where they are data sets of
        their own.
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
        return {**segments, **own}

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
        return self


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
