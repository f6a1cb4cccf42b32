"""The rows of a generation in the pool as documents of a training source."""

from collections.abc import Iterator

from trainer.data.documents import NO_SLICE, Document
from trainer.synthesis.pool import Pool, rows_of

PROVENANCE = ("generation", "generator", "source", "source_id", "prompt_name", "temperature", "seed", "license")


def documents_of(pool: Pool, generation: int, num_shards: int) -> Iterator[Document]:
    """The accepted rows of the first shards of a generation, in their order, as the pool lets them be read: none of a
    quarantined generation, and without rows that were taken down.
    """
    manifest = pool.manifest()
    if generation in manifest.quarantined:
        return
    shards = [shard for shard in manifest.shards if shard.generation == generation and shard.shard < num_shards]
    taken_down = manifest.taken_down
    for shard in shards:
        for line, row in enumerate(rows_of(pool.rows / shard.file), start=1):
            if row["id"] in taken_down:
                continue
            yield Document(
                text=row["text"],
                num_bytes=len(row["text"].encode()),
                id=row["id"],
                slice=row["slice"] or NO_SLICE,
                file=shard.file,
                line=line,
                part="train",
                provenance={name: row.get(name) for name in PROVENANCE},
            )
