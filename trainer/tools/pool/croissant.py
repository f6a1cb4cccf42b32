"""A pool as Croissant, the metadata format of data sets: its files with their hashes, and the columns in them.

Only what is read stands in it: whole generations that are not quarantined. Rows that are taken down are named in the
description, for they are still in the files. https://docs.mlcommons.org/croissant/
"""

import json
from typing import Any

import pyarrow as pa

from trainer.data.pool_manifest import ROWS, ShardFact
from trainer.synthesis.licenses import together
from trainer.synthesis.lineage import every_row
from trainer.synthesis.pool import ROW_SCHEMA, Pool

_PARQUET = "application/x-parquet"
_NESTED = ("messages", "scores")  # columns that Croissant's own loader has no type for


def croissant(pool: Pool) -> str:
    """Croissant's JSON-LD, checked by `mlcroissant`: relative paths are from the pool's folder."""
    try:
        import mlcroissant
    except ImportError as error:
        from trainer.tools.pool.exports import missing_package

        raise missing_package("mlcroissant") from error
    manifest = pool.manifest()
    view = manifest.view()
    terms = together(dict.fromkeys(row["license"] for row in every_row(pool, ("license",))))
    metadata = mlcroissant.Metadata(
        name=pool.folder.resolve().name,
        description=f"Rows that models wrote, {len(view.files)} files of generations {_generations(view.files)}. "
        f"Taken down, and not to be used: {', '.join(sorted(view.taken_down)) or 'none'}.",
        license=[terms],
        url=pool.folder.resolve().as_uri(),
        version=f"{max(1, len(manifest.facts))}.0.0",
        machine_annotation_tools=sorted({shard.record["generator"] for shard in view.files.values()}),
        distribution=[
            mlcroissant.FileObject(
                id=name, name=name, content_url=f"{ROWS}/{name}", encoding_formats=[_PARQUET], sha256=shard.sha256,
                content_size=f"{shard.num_bytes} B",
            )
            for name, shard in view.files.items()
        ],
        record_sets=[_record_set(mlcroissant, name) for name in view.files],
    )  # fmt: skip
    record: dict[str, Any] = metadata.to_json()
    mlcroissant.Dataset(jsonld=record)  # raises where its own rules find a mistake
    return json.dumps(record, indent=1, default=str)


def _generations(files: Any) -> str:
    numbers = sorted({shard.generation for shard in files.values() if isinstance(shard, ShardFact)})
    return ", ".join(map(str, numbers)) or "none"


def _record_set(mlcroissant: Any, file: str) -> Any:
    name = file.removesuffix(".parquet")
    fields = [
        mlcroissant.Field(
            id=f"{name}/{column.name}",
            name=f"{name}/{column.name}",
            data_types=[_type(mlcroissant, column.type)],
            is_array=pa.types.is_list(column.type) or None,
            array_shape="-1" if pa.types.is_list(column.type) else None,
            source=mlcroissant.Source(file_object=file, extract=mlcroissant.Extract(column=column.name)),
        )
        for column in ROW_SCHEMA
        if column.name not in _NESTED
    ]
    return mlcroissant.RecordSet(id=name, name=name, fields=fields)


def _type(mlcroissant: Any, column: Any) -> Any:
    if pa.types.is_integer(column):
        return mlcroissant.DataType.INTEGER
    return mlcroissant.DataType.FLOAT if pa.types.is_floating(column) else mlcroissant.DataType.TEXT
