"""The ledger: the append-only list of facts from which, with the seed, every batch of a run follows.

A batch must not depend on what some process remembered. So whatever governs the data is a fact with the step it starts
from; a fact never touches a batch before its step, facts are only appended, and the list can be written as lines of
JSON and compared by a digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind

_NO_SEGMENT = -1  # stands for a source that is known before it has any

Step = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[str, Field(pattern=r"^[0-9]+$")]  # a key of JSON


@dataclass(frozen=True, kw_only=True)
class Shares:
    """From batch ``step`` on each source gets its share, in millionths; they sum to SHARE_ONE."""

    fact: ClassVar[str] = "shares"
    step: Step
    shares: Mapping[str, int]
    reason: str = ""

    def __post_init__(self) -> None:
        if sum(self.shares.values()) != SHARE_ONE or min(self.shares.values(), default=-1) < 0:
            raise ValueError(f"shares must be non-negative and sum to {SHARE_ONE} millionths, got {dict(self.shares)}")


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """From batch ``step`` on the global batch holds ``global_batch`` samples."""

    fact: ClassVar[str] = "batch"
    step: Step
    global_batch: Positive


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many processes train from ``step`` on, in which micro-batches. Only a record: no batch depends on it."""

    fact: ClassVar[str] = "topology"
    step: Step
    world_size: Positive
    micro_batch: Positive
    accumulation: Positive


@dataclass(frozen=True, kw_only=True)
class Source:
    """From batch ``step`` on the source is known, without a sample: its segments are made while the run goes on."""

    fact: ClassVar[str] = "source"
    step: Step
    source: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Segment:
    """From batch ``step`` on the segment's samples can be drawn. A source's kind comes with its first segment, where no
    ``Source`` came before.
    """

    fact: ClassVar[str] = "segment"
    step: Step
    source: str
    kind: Kind
    segment: Count
    num_samples: Positive
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Retire:
    """From batch ``step`` on the segment is no longer drawn."""

    fact: ClassVar[str] = "retire"
    step: Step
    source: str
    segment: Count


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Before batch ``step`` the weights went back to those after ``to_step``; slots [first_slot, last_slot) are used
    and discarded.
    """

    fact: ClassVar[str] = "rollback"
    step: Step
    to_step: Count
    first_slot: Count
    last_slot: Count
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state before batch ``step``, so that counting need not start at the first batch; fields as in
    ``advance.State``.
    """

    fact: ClassVar[str] = "snapshot"
    step: Step
    slot: Count
    synthetic_deficit: int
    deficits: Mapping[str, int]
    segments: Mapping[str, Mapping[Number, tuple[int, int]]]  # source -> segment -> (cursor, deficit)


Fact = Shares | BatchSize | Topology | Source | Segment | Retire | Rollback | Snapshot
GOVERNING = (Shares, BatchSize, Source, Segment, Retire)
_FACTS = {cls.fact: cls for cls in (Shares, BatchSize, Topology, Source, Segment, Retire, Rollback, Snapshot)}


def to_record(fact: Fact) -> dict[str, Any]:
    """The fact as a JSON-able dict."""
    return {"fact": fact.fact, **vars(fact)}


def from_record(record: Mapping[str, Any]) -> Fact:
    """The fact that a JSON line stands for; ``UserError`` when it is not a fact, or a field of it is not one."""
    kind = record.get("fact")
    cls = _FACTS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise UserError(
            "not a ledger line: it names no fact that exists", got=record, remedy=f"Facts are {', '.join(_FACTS)}"
        )
    values = {name: value for name, value in record.items() if name != "fact"}
    if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
        raise UserError(f"a fact of kind {kind!r} has no field {unknown[0]!r}", got=values[unknown[0]])
    try:
        return _adapter(cls).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"a fact of kind {kind!r}{f': {place}' if place else ''}: {first['msg'].removeprefix('Value error, ')}"
        raise UserError(what, got=None if first["type"] == "missing" else first["input"]) from None


@cache
def _adapter(cls: type[Fact]) -> TypeAdapter[Fact]:
    return TypeAdapter(cls)


def facts_of(lines: Iterable[tuple[int, Mapping[str, Any]]], file: Path) -> list[Fact]:
    """The facts on the numbered lines of a ledger's file, in order. ``UserError`` with file and line where one is not a
    fact, is before the one above it, or names a source or segment that has not joined.
    """
    facts, joined = list[Fact](), set[tuple[str, int]]()
    for line, record in lines:
        try:
            fact = from_record(record)
            if facts and fact.step < facts[-1].step:
                raise UserError(f"its step lies before that of the line above it, {facts[-1].step}", got=fact.step)
            if isinstance(fact, Segment):
                joined.add((fact.source, fact.segment))
            if isinstance(fact, Source):
                joined.add((fact.source, _NO_SEGMENT))
            if missing := _never_joined(fact, joined):
                raise UserError(f"it names {missing}, which has not joined")
        except UserError as error:
            remedy = error.remedy or "The ledger was changed after it was written: bring it back from a backup"
            raise UserError(error.what, got=error.got, remedy=remedy, file=file, line=line) from None
        facts.append(fact)
    return facts


def _never_joined(fact: Fact, joined: set[tuple[str, int]]) -> str | None:
    """What a fact says of a source or segment that is not among those that ``joined``."""
    if isinstance(fact, Shares):
        sources = {source for source, _ in joined}
        return next((f"source {source!r}" for source in fact.shares if source not in sources), None)
    if isinstance(fact, Retire) and (fact.source, fact.segment) not in joined:
        return f"segment {fact.segment} of source {fact.source!r}"
    if isinstance(fact, Snapshot):
        named = {(source, int(number)) for source, segments in fact.segments.items() for number in segments}
        return next((f"segment {number} of source {source!r}" for source, number in sorted(named - joined)), None)
    return None


def made_sources(facts: Iterable[Fact]) -> dict[str, Kind]:
    """The sources whose segments are made while the run goes on, with their kinds."""
    return {fact.source: fact.kind for fact in facts if isinstance(fact, Source)}


class Ledger:
    """Facts in the order they were taken. ``digest`` is equal on two machines exactly when all their facts are."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self.facts: list[Fact] = []
        self._hash = hashlib.blake2b(digest_size=8)
        for fact in facts:
            self.append(fact)

    def append(self, fact: Fact) -> None:
        """Add a fact. A step before the last fact's would change the past and is refused."""
        if self.facts and fact.step < self.facts[-1].step:
            raise ValueError(
                f"the ledger stands at step {self.facts[-1].step}; a fact from step {fact.step} would change the past"
            )
        self.facts.append(fact)
        self._hash.update(json.dumps(to_record(fact), sort_keys=True, separators=(",", ":")).encode())

    @property
    def digest(self) -> int:
        """64-bit digest of all facts."""
        return int.from_bytes(self._hash.digest(), "big")
