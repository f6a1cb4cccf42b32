"""A generator from outside, for tests: its texts follow from the requests, and it notes each request on the disk."""

import os
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from trainer.base.config import Config
from trainer.synthesis.generators import Completion, Identity, Request


class CountingConfig(Config):
    kind: str
    log: Path
    pause_s: float = 0.0
    weights: str = "w1"
    fails_after: int | None = None


class Counting:
    Config = CountingConfig

    def __init__(self, config: CountingConfig) -> None:
        self.config = config

    def identity(self) -> Identity:
        return Identity(name="counting", weights=self.config.weights, license="CC0-1.0")

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        for number, request in enumerate(request for request in requests if request.id not in done):
            if number == self.config.fails_after:
                raise ConnectionError("the server went away")
            with self.config.log.open("a") as log:
                log.write(f"{request.id}\n")
                log.flush()
                os.fsync(log.fileno())
            time.sleep(self.config.pause_s)
            words = [f"{request.id[place : place + 3]}" for place in range(8)]
            text = (
                ""
                if request.seed % 7 == 0
                else "a\x00b c d"
                if request.seed % 13 == 0
                else "same words"
                if request.seed % 5 == 0
                else " ".join(words)
            )
            yield Completion(
                request_id=request.id,
                text=text,
                finish_reason="length" if request.seed % 11 == 0 else "stop",
                prompt_tokens=len(request.prompt) // 4,
                completion_tokens=8,
                counted="told",
                seconds=0.01,
            )
