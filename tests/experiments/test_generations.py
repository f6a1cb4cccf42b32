"""The worlds of generations: what they call optimal is, what they count is drawn, what they show is measured."""

import numpy as np
import pytest

from experiments.environments import ENVIRONMENTS
from experiments.generations import GenerationsWorld
from experiments.sharpened import Sharpened
from experiments.tokens import Tokens, expected_diversity, zipf
from experiments.world import steered
from trainer.control import ControlConfig

FAMILIES = {"tokens": Tokens(zipf(50)), "sharpened": Sharpened(0.8)}
BY_NAME = {environment.name: environment for environment in ENVIRONMENTS}


def run_of(world, **policy):
    steered(world, ControlConfig.model_validate({"policy": policy, "guard": {"enabled": False}}))
    return world


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith(("E10", "E12"))])
def test_no_shares_within_the_budget_end_below_the_optimum(name):
    environment, rng = BY_NAME[name], np.random.default_rng(1)
    world = environment.world(seed=1)
    most = 1.0 if world.real_samples is None else world.real_samples / (world.num_generations * world.num_samples)
    for _ in range(300):
        path = rng.random(world.num_generations) ** rng.choice([0.2, 1.0, 5.0])
        path = np.floor(path * min(1.0, most / path.mean()) * world.num_samples) / world.num_samples
        assert world.family.expected_excess(path, world.num_samples) >= environment.optimum - 1e-12
    assert environment.optimum <= environment.best_static


@pytest.mark.parametrize("real", [0.1, 0.5, 1.0])
def test_the_expected_excess_of_tokens_is_what_models_end_with(real):
    family, excesses = FAMILIES["tokens"], []
    for seed in range(150):
        world = GenerationsWorld(family=family, seed=seed, real_share=real, num_generations=12, num_samples=60)
        while not world.is_done:
            world.train(world.shares)
        excesses.append(((world._parameters - family.truth) ** 2).sum())
    sizes = {"truth_V": family.truth, "num_samples": 60, "num_generations": 12, "exact": True}
    lost = expected_diversity(real, **sizes)
    assert world.excess == pytest.approx(lost[0] - lost[-1])
    error = np.std(excesses) / np.sqrt(len(excesses))
    assert np.mean(excesses) == pytest.approx(world.excess, abs=3 * error)


@pytest.mark.parametrize("family", FAMILIES)
def test_real_samples_are_counted_exactly_and_end_with_the_budget(family):
    world = GenerationsWorld(family=FAMILIES[family], seed=1, real_share=0.333, real_samples=1_500)
    for generation in range(1, 101):
        world.train(world.shares)
        assert abs(world.used - min(generation * 0.333 * 200, 1_500)) <= 0.5
    assert world.is_done
    assert world.path[-1] == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_a_run_and_another_seed_another(family):
    runs = [
        run_of(GenerationsWorld(family=FAMILIES[family], seed=seed, real_share=0.3), kind="odm") for seed in (1, 1, 2)
    ]
    assert runs[0].path == runs[1].path != runs[2].path


@pytest.mark.parametrize("family", FAMILIES)
def test_signals_tell_real_from_synthetic_once_the_model_has_drifted_and_not_before(family):
    world = GenerationsWorld(family=FAMILIES[family], seed=3, real_share=0.02)
    at_the_truth = world.observation(world.shares)
    for _ in range(30):
        world.train(world.shares)
    later = world.observation(world.shares)
    for alignment in at_the_truth.gradient_alignment.values():
        assert abs(alignment.inner_product) < 4 * alignment.standard_error
    assert later.gradient_alignment["real"].inner_product > 4 * later.gradient_alignment["real"].standard_error
    synthetic, real = later.gradient_alignment["synthetic"], later.gradient_alignment["real"]
    assert synthetic.inner_product < real.inner_product - 3 * (synthetic.standard_error + real.standard_error)
    assert later.source_value["real"].value == pytest.approx(1.0, abs=4 * later.source_value["real"].standard_error)
    assert later.source_value["synthetic"].value < 0.5
    assert later.evaluation.nats_per_token > at_the_truth.evaluation.nats_per_token
    assert later.losses["real"].nats_per_token > later.losses["synthetic"].nats_per_token


@pytest.mark.parametrize("name", ["E10 tokens", "E12 sharpened"])
def test_alignment_goes_to_real_data_where_there_is_no_end_of_it(name):
    environment = BY_NAME[name]
    world = run_of(environment.world(seed=1), kind="pike")
    assert world.path[-1] > 0.95
    assert world.excess - environment.optimum < 0.02 * (
        environment.world(seed=1).family.expected_excess(np.full(100, 0.5), 200) - environment.optimum
    )


@pytest.mark.parametrize("name", ["E10 tokens 25% real", "E12 sharpened 25% real"])
@pytest.mark.parametrize("kind", ["pike", "odm", "fms_odm"])
def test_rules_that_look_no_further_than_the_next_evaluation_spend_scarce_real_data_early(name, kind):
    environment = BY_NAME[name]
    world = run_of(environment.world(seed=1), kind=kind)
    assert world.used == world.real_samples
    assert world.path[-10:] == [0.0] * 10
    assert world.excess > 10 * environment.best_static
