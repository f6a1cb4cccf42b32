"""A generator from outside, for tests, that solves sums: two answers of three are right."""

import re
from collections.abc import Iterator, Sequence, Set

from trainer.base.config import Config
from trainer.synthesis.generators import Completion, Identity, Request


class SolvingConfig(Config):
    kind: str


class Solving:
    Config = SolvingConfig

    def __init__(self, config: SolvingConfig) -> None:
        self.config = config

    def identity(self) -> Identity:
        return Identity(name="solving", weights="w1", license="CC0-1.0")

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        for request in requests:
            if request.id not in done:
                yield Completion(
                    request_id=request.id,
                    text="So: " * (request.seed % 5 < 2)
                    + solution(request.prompt, wrong=request.seed % 3 == 0, backwards=request.seed % 2 == 0),
                    finish_reason="stop",
                    prompt_tokens=10,
                    completion_tokens=20,
                    counted="told",
                    seconds=0.01,
                )


def solution(question: str, *, wrong: bool, backwards: bool) -> str:
    """Worked out from the left, or with the last two numbers first."""
    first, *rest = re.findall(r"-? ?\d+", question)
    a, b, c = (int(number.replace(" ", "")) for number in (first, *rest))
    total = a + b + c + wrong
    steps = (b, c, b + c, a) if backwards else (a, b, a + b, c)
    return f"{steps[0]} + {steps[1]} = {steps[2]}, {steps[2]} + {steps[3]} = {total}. The answer is {total}."
