"""Which rows of a pool derive from a document, a source or a license, through all generations."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trainer.base.errors import UserError
from trainer.data.pool_manifest import Manifest, TakedownFact
from trainer.synthesis.licenses import symbols_of
from trainer.synthesis.pool import PARTS, Pool, rows_of

_COLUMNS = ("id", "generation", "source", "source_id", "parents", "license", "judge_license")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What is taken down: a document ("source:id", an id of any source, or a row's id), a source, or a license."""

    document: str | None = None
    source: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.document, self.source, self.license)) != 1:
            raise UserError("a takedown names one thing", remedy="Give one of --document, --source and --license")

    def is_of(self, source: str, document: str, license_text: str) -> bool:
        """Whether a document of a source is what is taken down."""
        if self.document is not None:
            return self.document in (document, f"{source}:{document}")
        return self.source == source if self.source is not None else self.license in symbols_of(license_text)

    def begins(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was made from it directly, or is it."""
        if self.license is not None:
            return self.license in symbols_of(row["license"]) or self.license in symbols_of(row["judge_license"] or "")
        parents = row["parents"] or ()
        if self.source is not None:
            return row["source"] == self.source or any(parent.startswith(f"{self.source}:") for parent in parents)
        ids = {row["id"], row["source_id"], f"{row['source']}:{row['source_id']}", *parents}
        return self.document in ids or any(parent.partition(":")[2] == self.document for parent in parents)


def every_row(pool: Pool, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
    """All rows of the pool, also quarantined ones, taken down ones, and the parts of stitched ones."""
    wanted = None if columns is None else list(columns)
    for shard in pool.manifest().shards:
        yield from rows_of(pool.rows / shard.file, wanted)
        parts = pool.folder / PARTS / shard.file
        if parts.is_file():
            yield from rows_of(parts, wanted)


def derived(pool: Pool, begins: Callable[[Mapping[str, Any]], bool]) -> dict[str, tuple[str, ...]]:
    """The ids, by generation, of the rows that ``begins`` names and of all that were made from these, in any number of
    steps and in any order of generations.
    """
    children: dict[str, list[str]] = {}
    generation_of: dict[str, int] = {}
    waiting: list[str] = []
    for row in every_row(pool, _COLUMNS):
        generation_of[row["id"]] = row["generation"]
        for parent in row["parents"] or ():
            children.setdefault(parent, []).append(row["id"])
        if begins(row):
            waiting.append(row["id"])
    taken: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in taken:
            taken.add(name)
            waiting += children.get(name, ())
    by_generation: dict[str, list[str]] = {}
    for name in sorted(taken):
        by_generation.setdefault(str(generation_of[name]), []).append(name)
    return {generation: tuple(names) for generation, names in sorted(by_generation.items())}


def take_down(pool: Pool, origin: Origin, reason: str) -> TakedownFact:
    """Takes down what derives from the origin: no later preparation reads these rows, no later round makes such ones.

    The fact that was added, or the earlier one that says the same. A round that publishes while this looks is seen by
    the next takedown of the same origin.
    """
    rows = derived(pool, origin.begins)

    def decide(manifest: Manifest) -> TakedownFact | None:
        before = [fact for fact in manifest.takedowns if _origin(fact) == origin]
        if before and not _new(rows, before):
            return None
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return TakedownFact(
            document=origin.document, source=origin.source, license=origin.license, reason=reason, at=at, rows=rows
        )

    manifest = pool.manifest()
    fact = manifest.append(decide)
    if fact is None:
        fact = next(fact for fact in reversed(manifest.takedowns) if _origin(fact) == origin)
    assert isinstance(fact, TakedownFact)
    return fact


def _new(rows: Mapping[str, tuple[str, ...]], before: list[TakedownFact]) -> bool:
    known = frozenset[str]().union(*(fact.ids for fact in before))
    return any(name not in known for names in rows.values() for name in names)


def _origin(fact: TakedownFact) -> Origin:
    return Origin(document=fact.document, source=fact.source, license=fact.license)


def taken_down_origins(pool: Pool) -> list[Origin]:
    """What nothing may be made of any more."""
    return [_origin(fact) for fact in pool.manifest().takedowns]
