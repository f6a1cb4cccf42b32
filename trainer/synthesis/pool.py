"""The pool: synthetic rows that passed, round by round, each with what made it.

A folder of parquet files, one for each shard of a round, written aside and renamed: a shard is in the pool whole or not
at all, and a source of a recipe reads the pool as `path: POOL/rows`. A file carries the record of its round (requests,
rows by reason, tokens, seconds) in its own metadata, so that no second file can disagree with it. A part of what was
dropped is kept beside it with the reasons, for people to look at.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.base.atomic import replacing
from trainer.base.errors import UserError
from trainer.base.failures import in_words

_RECORD = b"hybrid_trainer.round"
_NAME = re.compile(r"^generation-(\d{4})\.shard-(\d+)-of-(\d+)\.parquet$")
ROW_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),  # null: plain text
        ("id", pa.string()),
        ("slice", pa.string()),
        ("generation", pa.int32()),
        ("generator", pa.string()),
        ("generator_weights", pa.string()),
        ("prompt_name", pa.string()),
        ("prompt_template", pa.string()),
        ("prompt", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("parents", pa.list_(pa.string())),  # rows of the pool, or "source:id", that it was made from
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_new_tokens", pa.int32()),
        ("seed", pa.int64()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("tokens_counted", pa.string()),
        ("seconds", pa.float64()),
        ("cost", pa.float64()),  # money; null where the recipe has no price
        ("scores", pa.map_(pa.string(), pa.float64())),  # by grader or aspect
        ("filters", pa.list_(pa.string())),  # those that it passed
        ("license", pa.string()),
        ("judge_license", pa.string()),
    ]
)
REJECT_SCHEMA = ROW_SCHEMA.append(pa.field("dropped_by", pa.string())).append(pa.field("reason", pa.string()))


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What became of the requests of one shard of a round: ``requests = dropped + accepted``."""

    generation: int
    shard: int  # from 0
    shards: int
    generator: str
    generator_weights: str
    requests: int
    accepted: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # rows by "filter: reason"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    accepted_tokens: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)  # rows of another engine's files by their hash, all shards
    seconds: float = 0.0  # spent on texts, summed over those written at the same time by their parts
    quarantined: str | None = None  # why its rows are kept and not trained on
    format: int = 1

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**record)


class Pool:
    """The pool in ``folder``; empty where there is none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def rows(self) -> Path:
        """The folder of the accepted rows."""
        return self.folder / "rows"

    def shard_file(self, generation: int, shard: int, of: int) -> Path:
        """Where the accepted rows of a shard are, or will be."""
        return self.rows / f"generation-{generation:04d}.shard-{shard}-of-{of}.parquet"

    def responses_file(self, generation: int, shard: int, of: int) -> Path:
        """Where the answers of a shard are kept until it is whole."""
        return self.folder / "unfinished" / self.shard_file(generation, shard, of).with_suffix(".jsonl").name

    def records(self) -> list[RoundRecord]:
        """The records of all whole shards, in order. ``UserError`` where a file is damaged."""
        return [record for _, record in self._files()]

    def next_generation(self) -> int:
        """The round that is not whole yet, or the one after the last."""
        shards: dict[int, set[int]] = {}
        sizes: dict[int, int] = {}
        for record in self.records():
            shards.setdefault(record.generation, set()).add(record.shard)
            sizes[record.generation] = record.shards
        unfinished = [generation for generation, done in shards.items() if len(done) < sizes[generation]]
        return min(unfinished, default=max(shards, default=0) + 1)

    def texts(self, *, before: int) -> Iterator[str]:
        """The accepted texts of the generations below ``before``."""
        for file, record in self._files():
            if record.generation < before:
                for batch in pq.ParquetFile(file).iter_batches(columns=["text"]):
                    yield from batch.column("text").to_pylist()

    def publish(
        self, record: RoundRecord, accepted: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]
    ) -> Path:
        """Adds a whole shard; what was dropped first, so that the rows' file is the sign that all is there."""
        file = self.shard_file(record.generation, record.shard, record.shards)
        _write(self.folder / "rejected" / file.name, rejected, REJECT_SCHEMA, record)
        _write(file, accepted, ROW_SCHEMA, record)
        return file

    def _files(self) -> Iterator[tuple[Path, RoundRecord]]:
        for file in sorted(self.rows.glob("*.parquet")) if self.rows.is_dir() else []:
            if _NAME.match(file.name):
                yield file, _record(file)


def _record(file: Path) -> RoundRecord:
    try:
        metadata = pq.read_schema(file).metadata or {}
        return RoundRecord.from_json(json.loads(metadata[_RECORD]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        remedy = "Restore the file, or remove it: its rows are then no longer in the pool"
        raise UserError(f"a file of the pool is damaged: {in_words(error)}", file=file, remedy=remedy) from error


def _write(file: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema, record: RoundRecord) -> None:
    metadata = {_RECORD: json.dumps(record.to_json()).encode()}
    table = pa.Table.from_pylist(list(rows), schema=schema).replace_schema_metadata(metadata)
    with replacing(file) as aside:
        pq.write_table(table, aside, compression="zstd")
