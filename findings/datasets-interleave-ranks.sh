#!/usr/bin/env bash
# datasets 5.2.0: interleave_datasets with probabilities under split_dataset_by_node. Where every rank gets shards of its
# own, every rank also draws the sources in the same order, from the same seed.
# Expected by many: 8 ranks that each draw from two sources half and half make global batches of about 4 and 4.
# Seen: with one example per rank and step, all 193 global batches are of a single source, 8 and 0 or 0 and 8, with
# shuffle and without. The same data in one shard instead of eight gives mixed batches, for then the ranks take turns in
# one stream.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'datasets==5.2.0'
cat >run.py <<'PY'
import sys

from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node

RANKS = 8


def source(name: str, num_shards: int):
    return Dataset.from_dict({"source": [name] * 800}).to_iterable_dataset(num_shards=num_shards)


def drawn(rank: int, num_shards: int, shuffle: bool) -> list[str]:
    mixed = interleave_datasets([source(name, num_shards) for name in "ab"], probabilities=[0.5, 0.5], seed=42)
    if shuffle:
        mixed = mixed.shuffle(seed=1, buffer_size=10)
    return [row["source"] for row in split_dataset_by_node(mixed, rank=rank, world_size=RANKS)]


def single_source(num_shards: int, shuffle: bool) -> tuple[int, int]:
    """Of the global batches of one example per rank: those of one source, and all."""
    batches = list(zip(*(drawn(rank, num_shards, shuffle) for rank in range(RANKS)), strict=False))
    return sum(len(set(batch)) == 1 for batch in batches), len(batches)


seen = {f"{shards} shards{', shuffled' * shuffle}": single_source(shards, shuffle) for shards in (8, 1) for shuffle in (False, True)}
for what, (single, steps) in seen.items():
    print(f"{what}: {single} of {steps} global batches are of one source")
alone = [single == steps for single, steps in seen.values()]
sys.exit(alone != [True, True, False, False] or seen["1 shards"][0] > 10)
PY
HF_HUB_OFFLINE=1 venv/bin/python run.py
