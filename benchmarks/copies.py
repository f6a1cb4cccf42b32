"""How well copies of held-out documents are told from documents of one form: what is found, and what is eaten.

Lost: of a corpus whose second half is of one form, a tenth held out, the part of the training documents that is taken
for copies, where none is one. Found: of 1,000 held-out introductions of Wikipedia, planted in training text again with
words changed or as a part, the part that is recognized.
"""

import random
from collections.abc import Callable

from benchmarks.figures import Figure, Result, figure
from benchmarks.templates import FORMS, templated, word
from tests.data.corpus import wiki_texts
from trainer.data.decontamination import HeldOutIndex

SIZES = (160, 1000, 4000)
PLANTED = 1000


def run(rounds: int = 2) -> Result:
    """Every figure over ``rounds`` seeds."""
    plain = list(dict.fromkeys(wiki_texts()))
    lost = [
        figure(f"lost of {size:,} documents, half of them of one form: {kind}",
               [_lost(kind, size, plain, seed) for seed in seeds], "ratio", at_most=0.001)
        for size in SIZES for kind in FORMS for seeds in [range(rounds)]
    ]  # fmt: skip
    natural = figure("lost of Wikipedia introductions", [_lost_of(plain, seed) for seed in range(rounds)], "ratio")
    found = [
        figure(f"found: {name}", [_found(change, plain, seed) for seed in range(rounds)], "ratio", at_least=target)
        for name, (change, target) in CHANGES.items()
    ]
    figures: list[Figure] = [*lost, natural, *found]
    return Result(title="Copies of held-out documents", figures=figures)


def _lost(kind: str, size: int, plain: list[str], seed: int) -> float:
    half = size // 2
    return _lost_of([*templated(kind, half, seed), *random.Random(seed).sample(plain, half)], seed)


def _lost_of(texts: list[str], seed: int) -> float:
    texts = random.Random(seed).sample(texts, len(texts))
    held_out, training = texts[: len(texts) // 10], texts[len(texts) // 10 :]
    stride = -(-len(training) // 1024)
    index = HeldOutIndex([held_out], sample=[training[::stride]])
    return sum(len(index.match(training[i : i + 1024]).copies) for i in range(0, len(training), 1024)) / len(training)


Change = Callable[[list[str], random.Random], list[str]]


def changed(share: float) -> Change:
    """Other words in the place of a share of them, at least one."""

    def change(words: list[str], rng: random.Random) -> list[str]:
        places = set(rng.sample(range(len(words)), max(1, round(share * len(words)))))
        return [word(rng, 4) if place in places else old for place, old in enumerate(words)]

    return change


def _half(words: list[str], rng: random.Random) -> list[str]:
    return words[: len(words) // 2]


def _inside(words: list[str], rng: random.Random) -> list[str]:
    others = [word(rng) for _ in range(5 * len(words))]
    return [*others[: len(words)], *words, *others[len(words) :]]


def _joined_half(words: list[str], rng: random.Random) -> list[str]:
    return [*_half(words, rng), *(word(rng) for _ in range(len(words) // 2))]


CHANGES: dict[str, tuple[Change, float | None]] = {
    "equal words": (lambda words, rng: words, 1.0),
    "1 % of words changed": (changed(0.01), 0.99),
    "4 % of words changed": (changed(0.04), 0.99),
    "10 % of words changed": (changed(0.10), 0.95),
    "15 % of words changed": (changed(0.15), None),
    "20 % of words changed": (changed(0.20), None),
    "first half": (_half, 0.9),
    "first half, 4 % of words changed": (lambda words, rng: changed(0.04)(_half(words, rng), rng), 0.8),
    "whole, inside a text six times as long": (_inside, 0.95),
    "first half, with as much other text": (_joined_half, None),
}


def _found(change: Change, plain: list[str], seed: int) -> float:
    rng = random.Random(seed)
    texts = rng.sample(plain, 2 * PLANTED)
    held_out, training = texts[:PLANTED], texts[PLANTED:]
    copies = [" ".join(change(text.split(), rng)) for text in held_out]
    return len(HeldOutIndex([held_out], sample=[training]).match(copies).copies) / PLANTED
