"""Fixtures that every part shares: a small recipe over real files, which trains in seconds on one core."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.cases.commands import Ended, WarmCommands

settings.register_profile("shared machine", deadline=None)  # other work on the cores makes any deadline fail
settings.load_profile("shared machine")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: spinning threads starve each other on a shared machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

TINY_RECIPE = """\
name: tiny
seed: 3
model:
  architecture: llama
  config:
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    tie_word_embeddings: true
data:
  sequence_length: 16
  tokenizer: {train_bpe: 300}
  cache: cache
  sources:
    real: {kind: real, path: real.jsonl, id_column: title, slice: topic, license: CC0-1.0}
    good: {kind: synthetic, path: good.jsonl, license: CC0-1.0}
    bad: {kind: synthetic, path: bad.jsonl, license: CC0-1.0}
  held_out: {kind: bucket, source: real, by: title, of: 5, validation: [3], test: [4]}
mixture:
  global_batch: 8
  shares: {real: 0.5, good: 0.25, bad: 0.25}
evaluation: {every_steps: 4}
training:
  steps: 12
  micro_batch: 4
  learning_rate: 1.0e-3
  schedule: {kind: cosine, warmup_steps: 2}
  precision: fp32
checkpoint: {every_steps: 4, keep: 2}
tracking: {trackers: []}
"""

_NUM_DOCUMENTS = 80
_WORDS_PER_DOCUMENT = 40


def _write_documents(file: Path, seed: int) -> None:
    """Documents of random syllables: no two of them alike, so that nothing counts as contamination."""
    generator = random.Random(seed)
    words = ["".join(generator.choice("bdfklmnprst") + generator.choice("aeiou") for _ in range(3)) for _ in range(200)]
    rows = (
        {
            "title": f"{file.stem} {number}",
            "topic": ("rivers", "towns")[number % 2],
            "text": " ".join(generator.choices(words, k=_WORDS_PER_DOCUMENT)),
        }
        for number in range(_NUM_DOCUMENTS)
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """A recipe file with its data next to it: three sources, held-out buckets, a model of a few thousand parameters."""
    for seed, name in enumerate(("real", "good", "bad")):
        _write_documents(tmp_path / f"{name}.jsonl", seed)
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY_RECIPE, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def warm_commands() -> "Iterator[WarmCommands]":
    """The real command in processes whose imports are done."""
    from tests.cases.commands import WarmCommands  # imports numpy: after the number of threads is set

    commands = WarmCommands()
    yield commands
    commands.close()


@pytest.fixture
def trainer(warm_commands: "WarmCommands", tiny_recipe: Path) -> "Callable[..., Ended]":
    """trainer("check", recipe, expected=2) runs the command to its end; ``expected`` is its exit code."""
    folder = tiny_recipe.parent

    def run(*arguments: object, expected: int = 0, file_bytes: int | None = None) -> "Ended":
        words = [str(word) for word in arguments]
        ended = warm_commands.run(words, folder=folder, environment={}, streams=folder, file_bytes=file_bytes)
        assert ended.exit_code == expected, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    return run
