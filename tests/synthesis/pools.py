"""Pools for tests, filled through the pool's own functions, without a generator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.synthesis.pool import Pool, RoundRecord


def row(name: str, generation: int = 1, **changes: Any) -> dict[str, Any]:
    """A row of a pool with all columns."""
    return {
        "text": f"a text that is named {name}", "messages": None, "id": f"{generation}-{name}", "slice": "all",
        "generation": generation, "generator": "writer", "generator_weights": "w1", "prompt_name": "rephrase",
        "prompt_template": "0123456789abcdef", "prompt": "Rewrite", "source": "books", "source_id": "b1",
        "parents": ["books:b1"], "temperature": 0.8, "top_p": 0.95, "max_new_tokens": 64, "seed": 1,
        "turns": [], "answer": None,
        "finish_reason": "stop", "prompt_tokens": 4, "completion_tokens": 8, "tokens_counted": "told", "seconds": 0.5,
        "cost": 0.25, "scores": {"quality": 0.5}, "filters": ["length"], "license": "CC-BY-4.0", "judge_license": None,
        **changes,
    }  # fmt: skip


def record(generation: int, accepted: int, *, shard: int = 0, shards: int = 1, **changes: Any) -> RoundRecord:
    """The record of a round that dropped nothing."""
    facts: dict[str, Any] = {
        "generator": "writer", "generator_weights": "w1", "requests": accepted, "accepted": accepted,
        "accepted_tokens": 8 * accepted, "completion_tokens": 8 * accepted, **changes,
    }  # fmt: skip
    return RoundRecord(generation=generation, shard=shard, shards=shards, **facts)


def publish(folder: Path, generation: int, rows: Sequence[Mapping[str, Any]], **changes: Any) -> None:
    """Adds a generation (or a shard of one) to the pool."""
    Pool(folder).publish(record(generation, len(rows), **changes), rows, [])
