"""E8 and E9: the closed forms against simulation, and the priced policy against the optimum."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.quadratic import Quadratic, QuadraticWorld, cosine, falls, greedy_excess, late_excess
from experiments.world import steered
from trainer.control import ControlConfig
from trainer.control.priced.forgetting import with_probe

SCARCE = {
    part: Quadratic(rates=cosine(2000, 0.05, 0.001), real_samples=int(part * 32_000)) for part in (0.05, 0.1, 0.25)
}
DECAYING = Quadratic(rates=cosine(2000, 0.2, 0.004))


def priced(**settings):
    """Priced with the world's curvature, no floor that would cost more than is measured here, and the guard off."""
    policy = {"kind": "priced", "estimators": ["alignment", "dither"], "advanced": {"curvature": 1.0}, "warm_up": 0.02}
    bounds = {"floor": 0.001, "real_floor": 0.001}
    return ControlConfig(policy={**policy, **bounds, **settings}, guard={"enabled": False})


def run(problem, seed, *, start, every=10, **settings):
    world = QuadraticWorld(problem=problem, seed=seed, real_share=start, every_steps=every)
    return world, steered(world, priced(**settings))


def test_the_expected_excess_is_that_of_simulated_steps():
    problem = Quadratic(rates=np.full(60, 0.1), dimensions=40)
    path, rng = np.linspace(0.2, 0.9, 60), np.random.default_rng(1)
    theta = rng.standard_normal((4000, 40)) * np.sqrt(problem.start_squared / 40)
    for rate, share in zip(problem.rates, path, strict=True):
        variance = share * problem.synthetic_variance + (1 - share) * problem.real_variance
        noise = rng.standard_normal(theta.shape) * np.sqrt(variance / problem.batch)
        theta += rate * (share * np.sqrt(problem.distance_squared / 40) + noise - theta)
    assert 0.5 * (theta**2).sum(axis=1).mean() == pytest.approx(problem.excess(path), rel=0.01)


def test_the_best_share_at_a_constant_rate_is_proportional_to_the_rate():
    for rate, batch in ((0.05, 64), (0.05, 16)):
        problem = Quadratic(rates=np.full(2000, rate), batch=batch)
        grid = np.linspace(0, 1, 1001)
        best = grid[np.argmin([problem.excess(np.full(2000, share)) for share in grid])]
        expected = rate * 100 * 0.9 / (2 * batch * (2 - rate) * 0.25)
        assert best == pytest.approx(expected, abs=0.001)
    assert expected == pytest.approx(0.288, abs=0.001)


@pytest.mark.parametrize(
    ("part", "static", "late", "optimum"), [(0.1, 0.1022, 0.0726, 0.0468), (0.25, 0.0719, 0.0085, 0.0080)]
)
def test_scarce_real_data_have_the_published_excesses(part, static, late, optimum):
    problem = SCARCE[part]
    assert problem.best_static() == pytest.approx(static, abs=1e-4)
    assert late_excess(problem) == pytest.approx(late, abs=1e-4)
    assert problem.optimum() == pytest.approx(optimum, abs=1e-4)
    assert greedy_excess(problem) == pytest.approx(0.1255, abs=1e-4)  # the worst: that of no real data at all


def test_the_optimum_is_no_better_than_what_a_path_attains():
    """The value of the dual is that of a feasible path: real data where the kernel is greatest, for a small budget."""
    problem = SCARCE[0.1]
    synthetic = np.ones(2000)
    synthetic[np.argsort(-problem.kernel())[:200]] = 0.0
    assert problem.optimum() <= problem.excess(synthetic) <= 1.001 * problem.optimum()


@pytest.mark.parametrize("part", [0.05, 0.1, 0.25])
def test_priced_spends_scarce_real_data_nearly_as_well_as_can_be(part):
    problem = SCARCE[part]
    for seed in (1, 2):
        world, decisions = run(problem, seed, start=part, real_epochs=1)
        assert world.excess <= 1.15 * problem.optimum()
        assert world.excess < problem.best_static()
        assert 0.98 <= world.used / problem.real_samples <= 1.0
    evidence = [decision.evidence["policy"] for decision in decisions]
    limited = [row for row in evidence if "real-data budget" in row["limits"] and row["sources"]]
    assert (
        limited[0]["price"] > limited[0]["sources"]["real"]["value"] > 0
    )  # expensive while the best steps are to come


@pytest.mark.parametrize("part", [0.05, 0.1, 0.25])
def test_priced_at_its_defaults_learns_in_the_run_how_to_spend_scarce_real_data(part):
    problem = SCARCE[part]
    for seed in (1, 2, 3):
        world = QuadraticWorld(problem=problem, seed=seed, real_share=part, every_steps=20)
        decisions = steered(world, ControlConfig(policy={"kind": "priced"}, guard={"enabled": False}))
        assert world.excess <= 1.15 * problem.optimum()
        assert world.excess < problem.best_static()
        assert 0.98 <= world.used / problem.real_samples <= 1.0
        forgetting = decisions[-1].evidence["policy"]["forgetting"]
        assert forgetting["curvature"] == pytest.approx(1.0, abs=3 * forgetting["measured"]["standard_error"])


@pytest.mark.parametrize("curvature", [0.3, 1.0, 3.0])
def test_a_probe_measures_the_curvature_of_the_world_and_not_its_rate(curvature):
    """Rates of another unit: what a step at rate r does in a world of curvature 1, one at r/h does in one of h."""
    rates = cosine(2000, 0.05, 0.001)
    world = QuadraticWorld(problem=Quadratic(rates=rates), seed=4, real_share=0.5)
    probes = ()
    while not world.is_done:
        world.train(world.shares)
        observation = world.observation(world.shares) if world.position < 2000 else None
        if observation is not None and observation.forgetting:
            horizon = replace(observation.horizon, rates=[rate / curvature for rate in observation.horizon.rates])
            probes = with_probe(probes, replace(observation, horizon=horizon))
    assert len(probes) >= 3
    for probe in probes:
        assert abs(probe.value - curvature) < 3 * probe.standard_error < 0.5 * curvature


def test_priced_that_may_not_measure_spends_evenly_and_no_worse_than_the_best_static():
    problem = SCARCE[0.1]
    world, _ = run(problem, 1, start=0.1, every=20, advanced={"concentration": 0}, real_epochs=1)
    assert world.excess <= 1.01 * problem.best_static()
    assert 0.98 <= world.used / problem.real_samples <= 1.0


def test_priced_finds_the_best_share_at_a_constant_rate():
    problem = Quadratic(rates=np.full(2000, 0.05))
    for seed in (0, 1, 2):
        world, _ = run(problem, seed, start=0.5, every=20)
        assert np.mean(world.path[1000:]) == pytest.approx(0.2885, abs=0.05)


def test_priced_lets_the_synthetic_share_fall_with_the_rate():
    for seed in (0, 1, 2):
        world, _ = run(DECAYING, seed, start=0.5, every=20)
        assert falls(world.path)
        assert world.excess <= 1.02 * DECAYING.best_static()
