"""A generator from outside, for tests, that answers in conversations and notes each request on the disk."""

import hashlib
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from trainer.base.config import Config
from trainer.synthesis.generators import Completion, Identity, Request


class TalkingConfig(Config):
    kind: str
    log: Path
    fails_after: int | None = None
    cut_off_turn: int | None = None  # every second answer of this turn, from 0, is cut off


class Talking:
    Config = TalkingConfig

    def __init__(self, config: TalkingConfig) -> None:
        self.config = config

    def identity(self) -> Identity:
        return Identity(name="talking", weights="w1", license="CC0-1.0")

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        for request in requests:
            if request.id in done:
                continue
            if len(self.asked()) == self.config.fails_after:
                raise ConnectionError("the server went away")
            with self.config.log.open("a") as log:
                log.write(f"{request.id}\n")
                log.flush()
                os.fsync(log.fileno())
            yield Completion(
                request_id=request.id,
                text=answer_to(request),
                finish_reason=self._finish_reason(request),
                prompt_tokens=100,
                completion_tokens=10 ** (len(request.messages) // 2),
                counted="told",
                seconds=0.5,
            )

    def asked(self) -> list[str]:
        return self.config.log.read_text().splitlines() if self.config.log.exists() else []

    def _finish_reason(self, request: Request) -> Literal["stop", "length"]:
        is_odd = hashlib.sha256(request.id.encode()).digest()[0] % 2
        return "length" if is_odd and len(request.messages) // 2 == self.config.cut_off_turn else "stop"


def answer_to(request: Request) -> str:
    said = [asdict(message) for message in request.messages]
    return f"answer {len(said) // 2} " + hashlib.sha256(repr((said, request.prompt, request.seed)).encode()).hexdigest()
