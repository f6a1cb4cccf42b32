"""The manifest of a pool of generated rows: what is in it, what of it is not trained on, and why.

An append-only list of facts. Each is a file of its own, ``POOL/manifest/000001.json``, written aside, synced, and
linked to the first free number: a link fails where its name is taken, so writers of any number of machines need no
lock and overwrite nothing, and a kill leaves a fact whole or absent. What a source reads of the pool follows from the
facts alone; a file that no fact names is not part of it.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from trainer.base.atomic import sync_file, sync_folder
from trainer.base.errors import DataError

ROWS, MANIFEST = "rows", "manifest"
ID_COLUMN = "id"
_NAME = re.compile(r"^(\d{6,})\.json$")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ShardFact:
    """A shard of a generation is in the pool: its file in ``rows``, that file's hash, and what became of its round.

    ``quarantined`` is why the gate does not let the generation be trained on; ``record`` is the round's.
    """

    fact: ClassVar[str] = "shard"
    generation: int
    shard: int  # from 0
    shards: int
    file: str
    sha256: str
    num_bytes: int
    num_rows: int
    quarantined: str | None
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class QuarantineFact:
    """From here on a generation is not read: by whose word (gate, guard, user) and why."""

    fact: ClassVar[str] = "quarantine"
    generation: int
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReleaseFact:
    """From here on a generation that was quarantined is read again."""

    fact: ClassVar[str] = "release"
    generation: int
    by: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class TakedownFact:
    """From here on what derives from a document, a source or a license (one of them) is neither read nor made:
    ``rows`` are the ids of what did, by generation.
    """

    fact: ClassVar[str] = "takedown"
    document: str | None = None  # "source:id", an id in any source, or a row of the pool
    source: str | None = None
    license: str | None = None
    reason: str
    at: str  # UTC, ISO 8601
    rows: Mapping[str, tuple[str, ...]]

    @property
    def what(self) -> str:
        """What is taken down, in words."""
        named = {"document": self.document, "source": self.source, "license": self.license}
        return " ".join(f"{kind} {name}" for kind, name in named.items() if name is not None)

    @property
    def ids(self) -> frozenset[str]:
        """All rows that it takes down."""
        return frozenset(name for names in self.rows.values() for name in names)


Fact = ShardFact | QuarantineFact | ReleaseFact | TakedownFact
_FACTS: dict[str, type[Fact]] = {cls.fact: cls for cls in (ShardFact, QuarantineFact, ReleaseFact, TakedownFact)}


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """What is read of a pool: files of ``rows``; ``left_out`` says why others are not; ``taken_down`` are row ids."""

    files: Mapping[str, ShardFact]
    left_out: Mapping[str, str]
    taken_down: frozenset[str]


class Manifest:
    """The facts of the pool in ``folder``, as they are now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / MANIFEST
        self.facts: list[Fact] = []
        self._last = 0
        for number, file in _numbered(self.folder):
            self.facts.append(_read(file))
            self._last = number

    @property
    def shards(self) -> list[ShardFact]:
        """The shards in the pool, by generation and number."""
        shards = [fact for fact in self.facts if isinstance(fact, ShardFact)]
        return sorted(shards, key=lambda shard: (shard.generation, shard.shard))

    @property
    def takedowns(self) -> list[TakedownFact]:
        """What was taken down, in order."""
        return [fact for fact in self.facts if isinstance(fact, TakedownFact)]

    @property
    def taken_down(self) -> frozenset[str]:
        """Ids of all rows that are taken down."""
        return frozenset[str]().union(*(fact.ids for fact in self.takedowns))

    @property
    def quarantined(self) -> dict[int, str]:
        """The generations that are not read, with the reason."""
        reasons: dict[int, str] = {}
        for fact in self.facts:
            if isinstance(fact, ReleaseFact):
                reasons.pop(fact.generation, None)
            elif isinstance(fact, QuarantineFact):
                reasons[fact.generation] = f"{fact.by}: {fact.reason}"
            elif isinstance(fact, ShardFact) and fact.quarantined:
                reasons[fact.generation] = f"gate: {fact.quarantined}"
        return reasons

    @property
    def whole(self) -> set[int]:
        """The generations of which every shard is there."""
        there: dict[int, set[int]] = {}
        for shard in self.shards:
            there.setdefault(shard.generation, set()).add(shard.shard)
        return {shard.generation for shard in self.shards if len(there[shard.generation]) == shard.shards}

    def view(self, newest: int | None = None) -> PoolView:
        """What a source reads: all generations that are whole and not quarantined, or so many of the ``newest``."""
        quarantined = self.quarantined
        usable = sorted(self.whole - quarantined.keys())
        read = set(usable if newest is None else usable[-newest:])
        files = {shard.file: shard for shard in self.shards if shard.generation in read}
        left_out = {
            shard.file: "of a quarantined generation of the pool"
            if shard.generation in quarantined
            else "of an older generation of the pool (`generations`)"
            if shard.generation in usable
            else "of a generation of the pool that is not whole yet"
            for shard in self.shards
            if shard.generation not in read
        }
        taken_down = (fact.rows.get(str(generation), ()) for fact in self.takedowns for generation in read)
        return PoolView(files=files, left_out=left_out, taken_down=frozenset[str]().union(*taken_down))

    def append(self, decide: Callable[["Manifest"], Fact | None]) -> Fact | None:
        """Adds what ``decide`` makes of the manifest as it then is; nothing where that is None. On the disk when this
        returns.
        """
        current = self
        while True:
            current = Manifest(self.folder.parent)
            fact = decide(current)
            added = fact is None or current._link(fact)
            if added:
                self.facts, self._last = [*current.facts, *([fact] if fact else [])], current._last
                return fact

    def _link(self, fact: Fact) -> bool:
        """Whether the fact got the next number; another writer may have been faster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{os.uname().nodename}.{os.getpid()}.partial"
        try:
            aside.write_text(json.dumps({"fact": fact.fact, **asdict(fact)}) + "\n", encoding="utf-8")
            sync_file(aside)
            try:
                os.link(aside, self.folder / f"{self._last + 1:06d}.json")
            except FileExistsError:
                return False
            self._last += 1
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(self.folder)
        return True


def _numbered(folder: Path) -> Iterable[tuple[int, Path]]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(match[1]), file) for file in files if (match := _NAME.match(file.name)))


def _read(file: Path) -> Fact:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        cls = _FACTS[record.pop("fact")]
        if cls is TakedownFact:
            record["rows"] = {generation: tuple(ids) for generation, ids in record["rows"].items()}
        return cls(**record)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        remedy = "Bring it back from a backup: it says what of the pool is trained on"
        raise DataError("a fact of a pool's manifest is damaged", remedy=remedy, file=file) from error


def pool_of(path: Path) -> Path | None:
    """The pool whose rows lie at ``path`` (its folder of rows, or a file in it); None where that is no pool."""
    for rows in (path, path.parent):
        if rows.name == ROWS and (rows.parent / MANIFEST).is_dir():
            return rows.parent
    return None
