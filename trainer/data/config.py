"""What a recipe says about its data: sources, held-out documents, tokenizer, and the limits of preparation.

A source is named, is real or synthetic, and says where its rows come from: local files, a hub id, or a file inside an
installed package (found without importing it: data packages import whatever they like). Selection is by column value
and by hash bucket, int(sha256(value)) mod n, because a hash splits the same documents the same way in every order,
file format and language.

A source is a list of segments. Most have one; further ones join from a step on, beside those before them or in their
place. All of them are prepared before the first step, but what the run begins with decides what is fixed for the run:
held-out documents and a trained tokenizer come from the first segments alone, so that data which arrives while the run
is interrupted can join it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from trainer.base.config import Config
from trainer.base.records import Kind

Format = Literal["jsonl", "json", "csv", "text", "parquet", "arrow"]
Scalar = str | int | float | bool
PACKAGE = r"^[A-Za-z_]\w*$"
PLACE = ("path", "package", "hub", "configuration", "revision")


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


class JoinConfig(Config):
    """A further segment of a source: from which step on it is drawn, and where its rows come from.

    A key that is null is the source's. Only the place is a whole: where ``path`` or ``hub`` is named, nothing is taken
    from the source's ``path``, ``package``, ``hub``, ``configuration`` and ``revision``.
    """

    from_step: int = Field(ge=2, description="the first step whose batch can hold samples of this segment")
    retires: bool = Field(False, description="from that step on the segments before it are drawn no more")
    path: str | None = Field(None, description="file, glob or folder, as the source's")
    hub: str | None = Field(None, description="id of a data set on the Hugging Face hub")
    package: str | None = Field(None, pattern=PACKAGE, description="name of an installed package that holds `path`")
    format: Format | None = Field(None, description="format of the files")
    configuration: str | None = Field(None, description="name of the hub data set's configuration")
    revision: str | None = Field(None, description="commit or tag of the hub data set")
    split: str | None = Field(None, description="split of a hub data set or of a saved arrow folder")
    streaming: bool | None = Field(None, description="read row by row through a one-time local index")
    text_column: str | None = Field(None, description="column that holds the text")
    id_column: str | None = Field(None, description="column that names the document")
    text_unit: Literal["line", "file"] | None = Field(None, description="what is one document of a text file")
    where: dict[str, Scalar | tuple[Scalar, ...]] | None = Field(
        None, description="keep rows whose column has the value(s), instead of the source's"
    )
    sample: SampleConfig | None = Field(None, description="train on some hash buckets only")
    max_rows: int | None = Field(None, gt=0, description="read only so many rows, the first ones")
    max_documents: int | None = Field(None, gt=0, description="stop after so many training documents")

    @model_validator(mode="after")
    def _package_has_a_path(self) -> "JoinConfig":
        if self.package and self.hub:
            raise ValueError("`package` goes with `path` only, without `hub`")
        return self

    def changed(self) -> dict[str, Any]:
        """The source's keys that are others in this segment, with their values."""
        own = {name: getattr(self, name) for name in JoinConfig.model_fields if name not in ("from_step", "retires")}
        place = dict.fromkeys(PLACE) if self.path or self.hub else {}
        return {**place, **{name: value for name, value in own.items() if value is not None}}


class SourceConfig(Config):
    """A named data set, real or synthetic: a list of rows with a text each."""

    kind: Kind = Field(description="real: written by people; synthetic: written by a model or a program")
    share: float | None = Field(
        None, ge=0, le=1, exclude=True, description="starting share of the batch; those of all sources sum to 1"
    )  # moves to mixture.shares when a recipe is loaded
    license: str = Field("unknown", min_length=1, description="SPDX expression; `unknown` is allowed and reported")
    path: str | None = Field(
        None, description="file, glob or folder, relative to the recipe; with `package`: the file inside it"
    )
    hub: str | None = Field(None, description="id of a data set on the Hugging Face hub")
    package: str | None = Field(
        None, pattern=PACKAGE, description="name of an installed Python package that holds `path`"
    )
    format: Format | None = Field(None, description="format of the files; default: from the file's suffix")
    configuration: str | None = Field(None, description="name of the hub data set's configuration")
    revision: str | None = Field(None, description="commit or tag of the hub data set")
    split: str = Field("train", description="split of a hub data set or of a saved arrow folder")
    streaming: bool = Field(
        False, description="read row by row through a one-time local index, without downloading the whole first"
    )
    text_column: str = Field("text", description="column that holds the text")
    id_column: str | None = Field(None, description="column that names the document; default: file and line")
    slice: str | None = Field(None, description="column that names the document's slice")
    provenance: tuple[str, ...] = Field(
        (), description="further columns kept with each document (generator, prompt, seed ...)"
    )
    text_unit: Literal["line", "file"] = Field("line", description="what is one document of a text file")
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
    joins: tuple[JoinConfig, ...] = Field(
        (),
        description="further segments, each drawn from a step on, beside those before it or in their place; not where "
        "the source has no share by then, be it cut by the guard or at its cap of epochs",
    )

    _bucket_columns: tuple[str, ...] = PrivateAttr(())  # what `held_out` hashes of this source; set by DataConfig

    @model_validator(mode="after")
    def _one_origin(self) -> "SourceConfig":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a source needs exactly one of `path` and `hub` (and `package` only beside `path`)")
        if self.package and (self.hub or self.streaming):
            raise ValueError("`package` goes with `path` only, without `hub` and `streaming`")
        if self.hub is None and (self.configuration or self.revision):
            raise ValueError("`configuration` and `revision` have an effect only with `hub`")
        if self.text_unit == "file" and self.format not in (None, "text"):
            raise ValueError(f"`text_unit: file` has an effect only on text files, got format {self.format}")
        return self

    @model_validator(mode="after")
    def _joins_follow_each_other(self) -> "SourceConfig":
        last_step, live = 1, [self._first()]
        for number, (join, segment) in enumerate(zip(self.joins, self.segments[1:], strict=True)):
            if join.from_step <= last_step:
                raise ValueError(
                    f"joins.{number}.from_step must be above {last_step}, from which the segment before it is drawn, "
                    f"got {join.from_step}"
                )
            try:
                SourceConfig.model_validate(segment.model_dump())
            except ValidationError as error:
                raise ValueError(f"joins.{number}: {error.errors()[0]['ctx']['error']}") from None
            if segment in live:
                raise ValueError(
                    f"joins.{number} has the rows of a segment that is drawn already: name a `path`, `where` or "
                    "`sample` of its own"
                )
            last_step, live = join.from_step, [segment] if join.retires else [*live, segment]
        return self

    def _first(self) -> "SourceConfig":
        return self.model_copy(update={"joins": ()})

    @property
    def segments(self) -> "tuple[SourceConfig, ...]":
        """Where the rows of each segment come from: of the first, then of those that join."""
        first = self._first()
        return first, *(first.model_copy(update=join.changed()) for join in self.joins)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that preparation needs, each once."""
        sample = (self.sample.by,) if self.sample else ()
        optional = tuple(column for column in (self.id_column, self.slice) if column)
        names = (self.text_column, *optional, *self.provenance, *self.where, *sample, *self._bucket_columns)
        return tuple(dict.fromkeys(names))


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
    """What to do with training documents that are held-out documents, exactly or nearly."""

    action: Literal["drop", "fatal"] = Field("drop", description="drop them from training, or stop")
    threshold: float = Field(
        0.8, gt=0.1, le=1, description="Jaccard similarity of word 3-grams from which two documents are the same"
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

    sequence_length: int = Field(ge=2, description="tokens of a sample")
    tokenizer: TokenizerConfig
    sources: dict[str, SourceConfig] = Field(min_length=1)
    held_out: HeldOutConfig
    contamination: ContaminationConfig = ContaminationConfig()
    max_row_bytes: int = Field(8_000_000, gt=0, description="a longer row goes to the quarantine")
    max_quarantined_share: float = Field(
        0.01, ge=0, le=1, description="share of malformed rows of a source from which preparation stops"
    )
    num_proc: int = Field(
        1, ge=1, description="processes that tokenize; 1: threads of the tokenizer in the main process"
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
            {"held_out.validation": rule.validation, "held_out.test": rule.test}
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
        if isinstance(self.held_out, HeldOutByBucket):
            self.sources[self.held_out.source]._bucket_columns = (self.held_out.by,)
        return self
