"""The pool: synthetic rows that passed, round by round, each with what made it.

A folder: ``rows`` has a parquet file for each shard of a round, ``manifest`` the facts that say which of them are in
the pool and what became of their rounds (``trainer.data.pool_manifest``), ``rejected`` a part of what was dropped with
the reasons, ``parts`` the rows that were stitched into longer ones, ``unfinished`` the answers of shards that are not
whole yet. A shard is in the pool when its fact is there: a kill before leaves files that nothing reads, and the next
try writes them anew. Nothing is ever changed or removed; a source of a recipe reads the pool as `path: POOL/rows`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.base.atomic import replacing, sync_file, sync_folder
from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.data.find import content_hash
from trainer.data.pool_manifest import ROWS, Manifest, QuarantineFact, ReleaseFact, ShardFact
from trainer.data.shown_rows import ShownRow
from trainer.synthesis.gate_record import GateRecord
from trainer.synthesis.graders.record import GraderRecord, VerifierRecord

PARTS = "parts"
Row = Mapping[str, Any]  # the columns of ``ROW_SCHEMA``
_TURN = pa.struct([("text", pa.string()), ("completion_tokens", pa.int64()), ("next", pa.string())])
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
        ("turns", pa.list_(_TURN)),  # answers before the last one, and what was asked next
        ("answer", pa.string()),  # what the generator wrote last, where the text holds more
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
    """What became of the requests of one shard of a round: ``requests = dropped + accepted``.

    The accepted rows are those of the shard's file, or were stitched into its ``stitched`` documents. ``recipe`` is the
    fingerprint of what of the recipe decides rows.
    """

    generation: int
    shard: int  # from 0
    shards: int
    generator: str
    generator_weights: str
    requests: int
    accepted: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # rows by "filter: reason"
    noted: Mapping[str, int] = field(default_factory=dict)  # rows that a filter counted and did not drop
    prompt_tokens: int = 0
    completion_tokens: int = 0
    accepted_tokens: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)  # rows of another engine's files by their hash, all shards
    seconds: float = 0.0  # spent on texts, summed over those written at the same time by their parts
    cost: float | None = None  # money; None where the recipe has no price
    currency: str | None = None
    cost_by_source: Mapping[str, float] = field(default_factory=dict)  # of the prompts
    joules: float | None = None  # of this machine's GPUs, where it can be read
    gpu_seconds: float | None = None  # by the recipe's number of GPUs; None where it has no price
    cached: int = 0  # answers that were there from earlier rounds and cost nothing
    not_asked: int = 0  # requests that `max_cost` left out
    graders: Sequence[GraderRecord] = ()
    verifier: VerifierRecord | None = None
    gate: GateRecord | None = None
    shown: Sequence[ShownRow] = ()
    quarantined: str | None = None  # why its rows are kept and not trained on
    stitched: int | None = None
    recipe: str = ""
    format: int = 1

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        graders = tuple(GraderRecord.from_json(each) for each in record["graders"])
        verifier = None if record["verifier"] is None else VerifierRecord.from_json(record["verifier"])
        gate = None if record["gate"] is None else GateRecord.from_json(record["gate"])
        shown = tuple(ShownRow.from_json(row) for row in record["shown"])
        return cls(**{**record, "graders": graders, "verifier": verifier, "gate": gate, "shown": shown})


class Pool:
    """The pool in ``folder``; empty where there is none yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def rows(self) -> Path:
        """The folder of the accepted rows."""
        return self.folder / ROWS

    def manifest(self) -> Manifest:
        """The facts of the pool, as they are now. ``UserError`` where one is damaged."""
        return Manifest(self.folder)

    def shard_file(self, generation: int, shard: int, of: int) -> Path:
        """Where the accepted rows of a shard are, or will be."""
        return self.rows / f"generation-{generation:04d}.shard-{shard}-of-{of}.parquet"

    def responses_file(self, generation: int, shard: int, of: int) -> Path:
        """Where the answers of a shard are kept until it is whole."""
        return self.folder / "unfinished" / self.shard_file(generation, shard, of).with_suffix(".jsonl").name

    def records(self) -> list[RoundRecord]:
        """The records of all shards in the pool, in order."""
        return [RoundRecord.from_json(shard.record) for shard in self.manifest().shards]

    def next_generation(self) -> int:
        """The round that is not whole yet, or the one after the last."""
        manifest = self.manifest()
        begun = {shard.generation for shard in manifest.shards}
        return min(begun - manifest.whole, default=max(begun, default=0) + 1)

    def texts(self, *, before: int) -> Iterator[str]:
        """The accepted texts of the generations below ``before``, without those of quarantined ones; texts that are
        taken down are among them, for nothing that repeats one may join.
        """
        manifest = self.manifest()
        quarantined = manifest.quarantined
        for shard in manifest.shards:
            if shard.generation < before and shard.generation not in quarantined:
                for batch in batches_of(self.rows / shard.file, ["text"]):
                    yield from batch.column("text").to_pylist()

    def publish(
        self,
        record: RoundRecord,
        accepted: Sequence[Row],
        rejected: Sequence[Row],
        parts: Sequence[Row] = (),
    ) -> Path:
        """Adds a whole shard: first the rows, then what was dropped and the rows that were stitched, and last the fact
        that makes them part of the pool. ``UserError`` where the generation was made in other shards or by another
        recipe meanwhile.
        """
        self.refuse_other(record.generation, record.shards, record.recipe)
        if (made := self.shard(record.generation, record.shard)) is not None:
            return self.rows / made.file
        file = _added(self.shard_file(record.generation, record.shard, record.shards), accepted)
        _write(self.folder / "rejected" / file.name, rejected, REJECT_SCHEMA)
        if parts:
            _write(self.folder / PARTS / file.name, parts, ROW_SCHEMA)
        self.manifest().append(lambda manifest: self._shard_fact(manifest, file, record, len(accepted)))
        return file

    def _shard_fact(self, manifest: Manifest, file: Path, record: RoundRecord, num_rows: int) -> ShardFact | None:
        if any((shard.generation, shard.shard) == (record.generation, record.shard) for shard in manifest.shards):
            return None  # another process has made the same shard
        return ShardFact(
            generation=record.generation,
            shard=record.shard,
            shards=record.shards,
            file=file.name,
            sha256=content_hash(file),
            num_bytes=file.stat().st_size,
            num_rows=num_rows,
            quarantined=record.quarantined,
            record=record.to_json(),
        )

    def shard(self, generation: int, number: int) -> ShardFact | None:
        """The shard, where it is in the pool."""
        shards = self.manifest().shards
        return next((shard for shard in shards if (shard.generation, shard.shard) == (generation, number)), None)

    def refuse_other(self, generation: int, shards: int, recipe: str) -> None:
        """Raises ``UserError`` where shards of the generation were made in another split, or by another recipe."""
        others = [record for record in self.records() if record.generation == generation]
        if split := next((record.shards for record in others if record.shards != shards), None):
            remedy = f"Split it as before, into {split}, or begin generation {generation + 1}"
            raise UserError(f"generation {generation} was made in {split} shards", got=shards, remedy=remedy)
        if any(record.recipe != recipe for record in others):
            remedy = f"Finish it with the recipe that it was begun with, or begin generation {generation + 1}"
            raise UserError(f"generation {generation} was begun by another recipe", remedy=remedy)

    def quarantine(self, generation: int, *, by: str, reason: str) -> None:
        """Takes a generation out of what is read; its rows are kept. ``UserError`` where there is none of it."""
        self._require(generation)
        self.manifest().append(
            lambda manifest: (
                None
                if generation in manifest.quarantined
                else QuarantineFact(generation=generation, by=by, reason=reason)
            )
        )

    def release(self, generation: int, *, by: str, reason: str) -> None:
        """Lets a generation be read again. ``UserError`` where it is not quarantined."""
        self._require(generation)
        if generation not in self.manifest().quarantined:
            raise UserError("the generation is not quarantined", got=generation)
        self.manifest().append(lambda _: ReleaseFact(generation=generation, by=by, reason=reason))

    def _require(self, generation: int) -> None:
        there = {shard.generation for shard in self.manifest().shards}
        if generation not in there:
            raise UserError(
                f"the pool {self.folder} has no such generation", got=generation, remedy=f"It has {sorted(there)}"
            )


def batches_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file of the pool, some at a time. ``UserError`` where it is damaged."""
    try:
        yield from pq.ParquetFile(file).iter_batches(columns=columns, batch_size=1024)
    except (OSError, pa.ArrowException) as error:
        remedy = "Restore the file, or quarantine its generation: `trainer pool POOL --quarantine N`"
        raise UserError(f"a file of the pool is damaged: {in_words(error)}", file=file, remedy=remedy) from error


def rows_of(file: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file of the pool; ``scores`` as a dict."""
    for batch in batches_of(file, columns):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _added(file: Path, rows: Sequence[Row]) -> Path:
    """Writes the rows as ``file``; where that name has other rows, of a process that was killed or one that makes the
    same shard now, under a name with their hash: no file that a fact may name is ever written again. Returns the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.uname().nodename}.{os.getpid()}.partial")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=ROW_SCHEMA), aside, compression="zstd")
        sync_file(aside)
        own = content_hash(aside)
        for name in (file, file.with_name(f"{file.stem}.{own[:16]}{file.suffix}")):
            try:
                os.link(aside, name)
            except FileExistsError:
                if content_hash(name) != own:
                    continue
            break
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(file.parent)
    return name


def _write(file: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    with replacing(file) as aside:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), aside, compression="zstd")
