"""What a recipe says of a source: where its rows come from, which of them, and which segments join later.

Where rows come from: local files, a hub id, or a file inside an installed package (found without importing it: data
packages import whatever they like). Selection is by column value and by hash bucket, int(sha256(value)) mod n, because
a hash splits the same documents the same way in every order, file format and language.

A source is a list of segments. Most have one; further ones join from a step on, alongside those before them or in their
place.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
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


class WindowConfig(Config):
    """The newest generations of a pool, so many of them."""

    window: int = Field(ge=1, description="how many of the newest generations are read")


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
    quoting: bool | Literal["trusted"] = Field(
        True,
        description="whether quotes in a csv file enclose cells; false: they are text; trusted: they do, and a cell of "
        "several lines is never taken for rows that a stray quote took in",
    )
    generations: Literal["accumulate", "replace"] | WindowConfig | None = Field(
        None,
        description="of a pool (`path: POOL/rows`): `accumulate` reads all generations (the default), `replace` only "
        "the newest, `{window: 3}` the newest three; those that are quarantined or not whole are never read",
    )
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

    @property
    def newest_generations(self) -> int | None:
        """How many of the newest generations of a pool are read; None: all."""
        if isinstance(self.generations, WindowConfig):
            return self.generations.window
        return 1 if self.generations == "replace" else None

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
        if (self.delimiter or self.quoting is not True) and self.format not in (None, "csv"):
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
