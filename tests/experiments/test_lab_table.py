"""The stored table of every policy in every environment."""

import json

import pytest

from experiments.__main__ import RESULTS, SEEDS, arms
from experiments.environments import ENVIRONMENTS


@pytest.mark.parametrize("name", list(arms()))
def test_every_arm_is_stored_for_every_environment_under_the_name_it_has_now(name: str) -> None:
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))["environments"]
    assert {environment.name for environment in ENVIRONMENTS} == set(stored)
    assert all(len(stored[environment.name]["excess"][name]) == len(SEEDS) for environment in ENVIRONMENTS)
