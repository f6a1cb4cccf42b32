"""The rows of a generation in the pool as documents of a training source."""

from collections.abc import Iterator

import pyarrow.parquet as pq

from trainer.data.documents import NO_SLICE, Document
from trainer.synthesis.pool import Pool

PROVENANCE = ("generation", "generator", "source", "source_id", "prompt_name", "temperature", "seed", "license")


def documents_of(pool: Pool, generation: int) -> Iterator[Document]:
    """The accepted rows of a generation, in the order of its files."""
    for file in sorted(pool.rows.glob(f"generation-{generation:04d}.shard-*.parquet")):
        line = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                line += 1
                yield Document(
                    text=row["text"],
                    num_bytes=len(row["text"].encode()),
                    id=row["id"],
                    slice=row["slice"] or NO_SLICE,
                    file=file.name,
                    line=line,
                    part="train",
                    provenance={name: row.get(name) for name in PROVENANCE},
                )
