"""The environments that policies are measured in: each a world, by seed, and what is the best that can be had in it.

A world joins by a line in ``ENVIRONMENTS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from experiments.generations import Family, GenerationsWorld, at_the_end
from experiments.quadratic import Quadratic, QuadraticWorld, cosine
from experiments.sharpened import Sharpened
from experiments.tokens import Tokens, zipf
from experiments.world import World

GENERATIONS, SAMPLES = 100, 200
BUDGET = 0.25  # of all samples of a run, where real data is scarce


class ScoredWorld(World, Protocol):
    """A world that says how a run ended in it."""

    @property
    def excess(self) -> float:
        """Expected final excess loss on real data, of the shares that were drawn."""
        ...


@dataclass(frozen=True)
class Environment:
    """``world(seed=...)``, and the least excess that any shares, and any constant shares, end with."""

    name: str
    world: Callable[..., ScoredWorld]
    optimum: float
    best_static: float


def _generations(name: str, family: Family, real_generations: int | None) -> Environment:
    """Unlimited real data, from a real share of one half; or a budget, from the share that lasts to the end."""
    is_scarce = real_generations is not None
    most = real_generations / GENERATIONS if is_scarce else 1.0
    best = at_the_end(GENERATIONS, real_generations if is_scarce else GENERATIONS)
    statics = [np.full(GENERATIONS, share) for share in np.linspace(0, most, 101)]
    return Environment(
        name=f"{name} {BUDGET:.0%} real" if is_scarce else name,
        world=partial(
            GenerationsWorld,
            family=family,
            real_share=most if is_scarce else 0.5,
            num_generations=GENERATIONS,
            num_samples=SAMPLES,
            real_samples=round(real_generations * SAMPLES) if is_scarce else None,
        ),
        optimum=family.expected_excess(best, SAMPLES),
        best_static=min(family.expected_excess(static, SAMPLES) for static in statics),
    )


def _quadratic(name: str, problem: Quadratic, real_share: float) -> Environment:
    """Steps on a quadratic from a real share at the start, with an evaluation every twenty of them."""
    return Environment(
        name=name,
        world=partial(QuadraticWorld, problem=problem, real_share=real_share, every_steps=20),
        optimum=problem.optimum(),
        best_static=problem.best_static(),
    )


ENVIRONMENTS = [
    _generations(name, family, real_generations)
    for name, family in (("E10 tokens", Tokens(zipf(50))), ("E12 sharpened", Sharpened(0.8)))
    for real_generations in (None, round(BUDGET * GENERATIONS))
]
ENVIRONMENTS += [_quadratic("E8 quadratic", Quadratic(rates=cosine(2000, 0.2, 0.004)), 0.5)]
ENVIRONMENTS += [
    _quadratic(f"E9 {part:.0%} real", Quadratic(rates=cosine(2000, 0.05, 0.001), real_samples=int(part * 32_000)), part)
    for part in (0.05, 0.1, 0.25)
]
