"""Names the part of a recipe that decides the rows of a round, so that one generation is made by one recipe.

What only decides where, when or how fast rows are made is left out: the pool's place, batches, concurrency, time-outs,
retries, a server's address, prices and limits of spending, and when a run makes its rounds.
"""

import hashlib
import json
from typing import Any

from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.loop_config import LoopConfig

_OF_THE_ROUND = {"pool", "prices", "max_cost", "max_failed_share", *LoopConfig.model_fields}
_OF_A_MODEL = {
    "url", "batch", "max_concurrency", "timeout_s", "retries", "give_up_after", "api_key_variable", "price", "prices",
    "cache", "retry_share", "opens_after", "longest_wait_s", "log", "pause_s", "num_proc",
}  # fmt: skip


def recipe_fingerprint(config: SynthesisConfig, seed: int) -> str:
    """16 hex digits that name the seed and what of the section decides which rows a round brings."""
    section = config.model_dump(mode="json", exclude=_OF_THE_ROUND)
    decisive = [seed, _without_speed(section)]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _without_speed(tree: Any) -> Any:
    """The section without what changes no row of a model that it names (generator, graders)."""
    if isinstance(tree, dict):
        left_out = _OF_A_MODEL if "kind" in tree else set()
        return {key: _without_speed(value) for key, value in tree.items() if key not in left_out}
    if isinstance(tree, list):
        return [_without_speed(value) for value in tree]
    return tree
