"""Runs that make rounds of synthesis, as several tests start them, and a generator of their own."""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from trainer.base.config import Config
from trainer.synthesis.generators import Completion, Identity, Request

OWN = {
    "every": 8,
    "source": "made",
    "share": 0.25,
    "sources": ["real"],
    "generator": {"kind": "run", "batch": 4},
    "prompts": [{"template": "{{ text[:24] }}", "name": "begin"}],
    "sampling": {"temperature": [1.0], "max_new_tokens": 12},
    "requests": 24,
    "keep_cut_off": True,
}
STEPS = 30


class WordsConfig(Config):
    """What the generator of these tests does besides writing words."""

    kind: str
    pids: str | None = None  # a folder in which each process that generates leaves its number
    seconds: float = 0.0  # for each text
    fails: bool = False


class Words:
    """Writes words that follow from the request alone."""

    Config = WordsConfig

    def __init__(self, config: WordsConfig) -> None:
        self.config = config

    def identity(self) -> Identity:
        return Identity(name="words", weights="none", license="CC0-1.0")

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        if self.config.pids is not None:
            (Path(self.config.pids) / str(os.getpid())).touch()
        for request in requests:
            if self.config.fails:
                raise RuntimeError("the server is gone")
            if request.id in done:
                continue
            time.sleep(self.config.seconds)
            generator = random.Random(request.id)
            text = " ".join("".join(generator.choices("abcdefgh", k=4)) for _ in range(12))
            yield Completion(
                request_id=request.id,
                text=text,
                finish_reason="stop",
                prompt_tokens=6,
                completion_tokens=12,
                counted="told",
                seconds=0.01,
            )


WORDS = {**OWN, "every": 6, "generator": {"kind": "tests.together.rounds:Words"}}


def sets(synthesis: Mapping[str, Any] = OWN, *, steps: int = STEPS, **more: Any) -> list[str]:
    """Overrides of a recipe that makes rounds."""
    return [
        f"synthesis={json.dumps({**synthesis, **more})}",
        f"training.steps={steps}",
        "control.policy={kind: constant}",
        "evaluation={every_steps: 5, validation_documents: 24, source_samples: 4}",
    ]


def words(**more: Any) -> dict[str, Any]:
    """The generator of these tests, with these settings."""
    return {"kind": "tests.together.rounds:Words", **more}
