"""E11: the published misses, and how soon the priced policy is rid of a source that turned bad."""

import numpy as np
import pytest

from experiments.memory import MemoryWorld, expected_miss, zipf
from experiments.world import steered
from trainer.control import ControlConfig


@pytest.mark.parametrize(("real", "miss"), [(1, 0.0077), (0.5, 0.0102), (0.1, 0.0186), (0.01, 0.0419), (0, 0.0748)])
def test_misses_are_the_published_ones(real, miss):
    p = zipf(1.5, 200_000)
    head = np.where(np.arange(len(p)) < 100, p, 0) / p[:100].sum()
    assert expected_miss(p, real * p + (1 - real) * head, 1e6) == pytest.approx(miss, abs=1e-4)


def test_simulated_draws_miss_what_is_expected():
    world = MemoryWorld(seed=1, joins=99)
    for _ in range(5):
        world.train({"real": 500_000, "written": 500_000})
    assert world._miss(world._seen) == pytest.approx(expected_miss(world.p, world.p, 100_000), rel=0.05)


@pytest.mark.parametrize(("joins", "share", "mixing"), [(1, 0.5, 0.2), (2, 0.5, 0.2), (1, 0.8, 0.0)])
def test_priced_is_back_at_real_only_tails_nearly_as_soon_as_an_oracle(joins, share, mixing):
    policy = {"kind": "priced", "estimators": ["source_value"], "warm_up": 0.0, "advanced": {"mixing": mixing}}
    control = ControlConfig(policy=policy, guard={"enabled": False})
    for seed in (1, 2, 3):
        world = MemoryWorld(seed=seed, joins=joins, share=share)
        steered(world, control)
        assert world.tokens_until_back() <= 1.5 * world.tokens_until_back(world.oracle())
        assert world.tokens_until_back(world.oracle()) > 0
