"""The generations of a pool: what each asked for, what came of it, and whether it is read."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from trainer.base.formatting import table
from trainer.data.pool_manifest import ROWS, Manifest, ShardFact
from trainer.synthesis.pool import Pool, RoundRecord


@dataclass(frozen=True, kw_only=True)
class GenerationFacts:
    """A generation, over all its shards that are in the pool. ``state`` says whether it is read, or why not."""

    generation: int
    generator: str
    requests: int
    accepted: int
    rows: int  # accepted ones, or what they were stitched into
    taken_down: int
    tokens: int
    cost: float | None
    state: str


def generations(pool: Pool) -> list[GenerationFacts]:
    """All generations of the pool, in order."""
    manifest = pool.manifest()
    taken_down = Counter(name.partition("-")[0] for name in manifest.taken_down)
    by_generation: dict[int, list[ShardFact]] = {}
    for shard in manifest.shards:
        by_generation.setdefault(shard.generation, []).append(shard)
    facts = []
    for generation, shards in by_generation.items():
        records = [RoundRecord.from_json(shard.record) for shard in shards]
        costs = [record.cost for record in records if record.cost is not None]
        facts.append(
            GenerationFacts(
                generation=generation,
                generator=", ".join(dict.fromkeys(f"{one.generator}@{one.generator_weights[:8]}" for one in records)),
                requests=sum(record.requests for record in records),
                accepted=sum(record.accepted for record in records),
                rows=sum(shard.num_rows for shard in shards),
                taken_down=taken_down[str(generation)],
                tokens=sum(record.accepted_tokens for record in records),
                cost=sum(costs) if costs else None,
                state=_state(manifest, generation, len(records), records[0].shards),
            )
        )
    return facts


def _state(manifest: Manifest, generation: int, there: int, shards: int) -> str:
    if generation in manifest.quarantined:
        return f"quarantined by {manifest.quarantined[generation]}"
    return "read" if generation in manifest.whole else f"not whole: {there} of {shards} shards"


def listing(pool: Pool) -> Iterator[str]:
    """The pool as a table for people."""
    header = ["generation", "generator", "requests", "accepted", "rows", "tokens", "cost", "state"]
    rows = [header]
    for facts in generations(pool):
        state = facts.state + (f", {facts.taken_down} taken down" if facts.taken_down else "")
        cost = "" if facts.cost is None else f"{facts.cost:.4g}"
        numbers = (facts.requests, facts.accepted, facts.rows, facts.tokens)
        rows.append([str(facts.generation), facts.generator, *(f"{number:,}" for number in numbers), cost, state])
    yield f"{pool.folder} (a source reads it with `path: {pool.folder / ROWS}`)"
    yield from table(rows)
    for fact in pool.manifest().takedowns:
        why = f": {fact.reason}" if fact.reason else ""
        yield f"taken down {fact.at}: {fact.what} ({len(fact.ids)} rows){why}"


def listing_json(pool: Pool) -> str:
    """The pool as JSON."""
    takedowns = [
        {"what": fact.what, "at": fact.at, "reason": fact.reason, "rows": sorted(fact.ids)}
        for fact in pool.manifest().takedowns
    ]
    generations_ = [asdict(facts) for facts in generations(pool)]
    return json.dumps({"pool": str(pool.folder), "generations": generations_, "takedowns": takedowns})
