"""The ledger: the append-only list of facts from which, with the seed, every batch of a run follows.

A batch must not depend on what some process remembered. So whatever governs the data is a fact with the step it starts
from; a fact never touches a batch before its step, facts are only appended, and the list can be written as lines of
JSON and compared by a digest.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE, Kind


@dataclass(frozen=True, kw_only=True)
class Shares:
    """From batch ``step`` on each source gets its share, in millionths; they sum to SHARE_ONE."""

    fact: ClassVar[str] = "shares"
    step: int
    shares: Mapping[str, int]
    reason: str = ""

    def __post_init__(self) -> None:
        if sum(self.shares.values()) != SHARE_ONE or min(self.shares.values(), default=-1) < 0:
            raise ValueError(f"shares must be non-negative and sum to {SHARE_ONE} millionths, got {dict(self.shares)}")


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """From batch ``step`` on the global batch holds ``global_batch`` samples."""

    fact: ClassVar[str] = "batch"
    step: int
    global_batch: int


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many processes train from ``step`` on, in which micro-batches. Only a record: no batch depends on it."""

    fact: ClassVar[str] = "topology"
    step: int
    world_size: int
    micro_batch: int
    accumulation: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """From batch ``step`` on the segment's samples can be drawn. A source's kind comes with its first segment."""

    fact: ClassVar[str] = "segment"
    step: int
    source: str
    kind: Kind
    segment: int
    num_samples: int
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class Retire:
    """From batch ``step`` on the segment is no longer drawn."""

    fact: ClassVar[str] = "retire"
    step: int
    source: str
    segment: int


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Before batch ``step`` the weights went back to those after ``to_step``; slots [first_slot, last_slot) are used
    and discarded.
    """

    fact: ClassVar[str] = "rollback"
    step: int
    to_step: int
    first_slot: int
    last_slot: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state before batch ``step``, so that counting need not start at the first batch; fields as in
    ``advance.State``.
    """

    fact: ClassVar[str] = "snapshot"
    step: int
    slot: int
    synthetic_deficit: int
    deficits: Mapping[str, int]
    segments: Mapping[str, Mapping[str, tuple[int, int]]]  # source -> segment -> (cursor, deficit)


Fact = Shares | BatchSize | Topology | Segment | Retire | Rollback | Snapshot
GOVERNING = (Shares, BatchSize, Segment, Retire)
_FACTS = {cls.fact: cls for cls in (Shares, BatchSize, Topology, Segment, Retire, Rollback, Snapshot)}


def to_record(fact: Fact) -> dict[str, Any]:
    """The fact as a JSON-able dict."""
    return {"fact": fact.fact, **vars(fact)}


def from_record(record: Mapping[str, Any]) -> Fact:
    """The fact that a JSON line stands for; ``UserError`` when it is not a fact."""
    fields = dict(record)
    kind = fields.pop("fact", None)
    if kind not in _FACTS:
        raise UserError(
            "not a ledger line: it names no fact that exists", got=record, remedy=f"Facts are {', '.join(_FACTS)}"
        )
    if kind == "snapshot":
        fields["segments"] = {
            s: {g: tuple(v) for g, v in segments.items()} for s, segments in fields["segments"].items()
        }
    return _FACTS[kind](**fields)


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
