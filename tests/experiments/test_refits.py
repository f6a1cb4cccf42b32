"""E4 to E7: the closed forms against simulation, and the priced policy against the optimum."""

import numpy as np
import pytest

from experiments.refits import (
    FixedWorld,
    FreshWorld,
    OffsetWorld,
    PooledWorld,
    best_pooled_share,
    best_weights,
    fixed_risk,
    fresh_risk,
    kept_weight,
    pooled_risk,
    weighted_risk,
)
from experiments.world import steered
from trainer.control import ControlConfig

FLOOR = 0.01


def priced(*estimators):
    """Real sets of these worlds are repeated forever, and mixing has no value in them."""
    policy = {"kind": "priced", "estimators": estimators, "warm_up": 0.0, "real_epochs": 1e9, "real_floor": FLOOR}
    mixing = {"advanced": {"mixing": 0.0}} if "source_value" in estimators else {}
    return ControlConfig(policy={**policy, **mixing}, guard={"enabled": False})


def simulated_risk(world, w, generations=400):
    """n risk / d, the mean over the last generations at a constant share."""
    shares = {"real": round(w * 1e6), "synthetic": 1_000_000 - round(w * 1e6)}
    risks = []
    for _ in range(generations):
        world.train(shares)
        risks.append(float((world._theta**2).sum()))
    return world.real * np.mean(risks[generations // 4 :]) / world.dimensions


@pytest.mark.parametrize(("k", "w"), [(1.0, 0.5), (0.3, 0.4), (3.0, 0.8)])
def test_the_closed_forms_of_fresh_and_fixed_real_data_hold(k, w):
    kept = {"real": 100, "k": k, "dimensions": 1000, "evaluations": 1, "held_out": None}
    assert simulated_risk(FreshWorld(seed=1, **kept), w) == pytest.approx(fresh_risk(w, k), rel=0.01)
    assert simulated_risk(FixedWorld(seed=1, **kept), w) == pytest.approx(fixed_risk(w, k), rel=0.12)  # one real set
    assert fresh_risk(kept_weight(k), k) == pytest.approx(kept_weight(k))


@pytest.mark.parametrize("k", [0.1, 0.3, 1.0, 3.0])
def test_priced_keeps_as_much_fresh_real_data_as_is_best(k):
    world = FreshWorld(real=100, k=k, dimensions=4000, evaluations=80, seed=1, held_out=None)
    steered(world, priced("alignment"))
    best = kept_weight(k)
    assert world.late("real") == pytest.approx(best, abs=0.03)
    assert fresh_risk(world.late("real"), k) <= 1.02 * best
    noisy = FreshWorld(real=100, k=k, dimensions=400, evaluations=80, seed=2, held_out=400)
    steered(noisy, priced("alignment", "dither"))
    assert fresh_risk(noisy.late("real"), k) <= 1.10 * best


@pytest.mark.parametrize("k", [0.3, 1.0, 3.0])
def test_priced_gives_up_what_a_model_makes_of_its_own_fixed_data(k):
    for held_out in (None, 1000):
        world = FixedWorld(real=100, k=k, dimensions=1000, evaluations=60, seed=1, held_out=held_out)
        steered(world, priced("alignment", "dither"))
        assert 1 - world.late("real") <= 0.02 + FLOOR
        assert fixed_risk(world.late("real"), k) <= 1.02


@pytest.mark.parametrize("common", [0.0, 0.5])
@pytest.mark.parametrize(
    ("sizes", "offsets"),
    [
        ({"real": 100, "a": 1000}, {"a": 120.0}),
        ({"real": 100, "a": 1000, "b": 500, "c": 2000}, {"a": 80.0, "b": 160.0, "c": 800.0}),
    ],
)
def test_priced_weighs_biased_sources_as_a_quadratic_program_would(sizes, offsets, common):
    world = OffsetWorld(
        sizes=sizes, offsets_squared=offsets, common=common, dimensions=4000, evaluations=100, seed=3, held_out=2000
    )
    steered(world, priced("alignment", "dither"))
    shares = np.array([world.late(name) for name in sizes])
    best = best_weights(world.variances, world.offset_rows)
    risk = weighted_risk(shares, world.variances, world.offset_rows)
    assert risk <= 1.05 * weighted_risk(best, world.variances, world.offset_rows)
    excess = {name: offsets[name] + 4000 / size for name, size in sizes.items() if name in offsets}  # B_k
    assert sorted(excess, key=excess.__getitem__) == sorted(excess, key=world.late, reverse=True)


def test_priced_takes_less_synthetic_data_into_the_pool_the_more_is_real():
    synthetic_shares = {}
    for real in (1000, 2000):
        problem = {"real": real, "offset_squared": 2.0, "dimensions": 2000}
        world = PooledWorld(**problem, evaluations=100, seed=5, held_out=5000)
        steered(world, priced("source_value", "dither"))
        synthetic_shares[real] = world.late("synthetic")
        assert synthetic_shares[real] == pytest.approx(best_pooled_share(**problem), abs=0.05)
    assert synthetic_shares[2000] < synthetic_shares[1000]


def test_the_pool_has_its_closed_form():
    problem = {"real": 200, "offset_squared": 10.0, "dimensions": 4000}
    world = PooledWorld(**problem, evaluations=1, seed=1, held_out=None)
    world.train({"real": 600_000, "synthetic": 400_000})
    assert float((world._theta**2).sum()) == pytest.approx(pooled_risk(0.4, **problem), rel=0.05)
