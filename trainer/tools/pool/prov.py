"""A pool as W3C PROV: entities (documents, rows, files), activities (rounds, takedowns), agents (generators).

A row wasGeneratedBy its round and wasDerivedFrom its parents; a round used a template and wasAssociatedWith the model
that wrote; what is taken down or quarantined wasInvalidatedBy what did it. https://www.w3.org/TR/prov-dm/
"""

import io
from typing import Any

from trainer.data.pool_manifest import ShardFact
from trainer.synthesis.lineage import every_row
from trainer.synthesis.pool import Pool

NAMESPACE = "urn:hybrid-trainer:"
_COLUMNS = (
    "id", "generation", "generator", "generator_weights", "prompt_name", "prompt_template", "source", "source_id",
    "parents", "temperature", "top_p", "seed", "license", "judge_license",
)  # fmt: skip
_OF_A_ROW = ("prompt_name", "prompt_template", "temperature", "top_p", "seed", "license", "judge_license")


def prov_json(pool: Pool) -> str:
    """As PROV-JSON, read back by `prov` before it is given out."""
    from prov.model import ProvDocument

    document = _document(pool)
    text: str = document.serialize(indent=1)
    if ProvDocument.deserialize(io.StringIO(text), format="json") != document:
        raise RuntimeError("what was written as PROV-JSON reads back as something else")
    return text


def prov_n(pool: Pool) -> str:
    """As PROV-N, the notation for people."""
    text: str = _document(pool).get_provn()
    return text


def _document(pool: Pool) -> Any:
    try:
        from prov.model import ProvDocument
    except ImportError as error:
        from trainer.tools.pool.exports import missing_package

        raise missing_package("prov") from error
    document = ProvDocument()
    for name in ("row", "document", "round", "generator", "template", "file", "takedown", "hybrid"):
        document.add_namespace(name, f"{NAMESPACE}{name}:")
    for shard in pool.manifest().shards:
        _add_round(document, shard)
    known: set[str] = set()
    for row in every_row(pool, _COLUMNS):
        _add_row(document, row, known)
    _add_ends(document, pool)
    return document


def _name(kind: str, name: str) -> str:
    """A qualified name: what a name in PROV cannot hold is written as in a URL."""
    from urllib.parse import quote

    return f"{kind}:{quote(name, safe='')}"


def _add_round(document: Any, shard: ShardFact) -> None:
    record = shard.record
    generator = _name("generator", f"{record['generator']}@{record['generator_weights']}")
    document.agent(
        generator,
        {
            "prov:type": "prov:SoftwareAgent",
            "hybrid:name": record["generator"],
            "hybrid:weights": record["generator_weights"],
        },
    )
    figures = {
        f"hybrid:{name}": record[name] for name in ("requests", "accepted", "accepted_tokens", "seconds", "recipe")
    }
    activity = _round(shard.generation)
    document.activity(
        activity, other_attributes={**figures, "hybrid:shard": shard.shard, "hybrid:shards": shard.shards}
    )
    document.association(activity, generator)
    file = _name("file", shard.file)
    document.entity(
        file, {"hybrid:sha256": shard.sha256, "hybrid:rows": shard.num_rows, "prov:type": "prov:Collection"}
    )
    document.wasGeneratedBy(file, activity)


def _round(generation: int) -> str:
    return _name("round", str(generation))


def _add_row(document: Any, row: dict[str, Any], known: set[str]) -> None:
    entity, activity = _name("row", row["id"]), _round(row["generation"])
    document.entity(entity, {f"hybrid:{column}": row[column] for column in _OF_A_ROW if row[column] is not None})
    document.wasGeneratedBy(entity, activity)
    template = _name("template", row["prompt_template"] or "none")
    used = f"{activity} {template}"
    if used not in known:
        known.add(used)
        document.entity(template, {"prov:type": "prov:Plan"})
        document.used(activity, template)
    for parent in row["parents"] or ():
        kind = "document" if ":" in parent else "row"
        if kind == "document" and parent not in known:
            known.add(parent)
            document.entity(_name(kind, parent), {"hybrid:source": parent.partition(":")[0]})
        document.wasDerivedFrom(entity, _name(kind, parent))


def _add_ends(document: Any, pool: Pool) -> None:
    """What is not read any more, and because of what."""
    manifest = pool.manifest()
    for number, fact in enumerate(manifest.takedowns, start=1):
        activity = _name("takedown", str(number))
        document.activity(activity, fact.at, fact.at, {"hybrid:what": fact.what, "hybrid:reason": fact.reason})
        for row in sorted(fact.ids):
            document.wasInvalidatedBy(_name("row", row), activity, fact.at)
    for shard in manifest.shards:
        if reason := manifest.quarantined.get(shard.generation):
            activity = _name("takedown", f"quarantine-{shard.generation}")
            document.activity(activity, other_attributes={"hybrid:reason": reason})
            document.wasInvalidatedBy(_name("file", shard.file), activity)
