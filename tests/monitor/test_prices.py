"""What a decision of the policy ``priced`` rested on, told from decisions that it took in a world of the laboratory."""

import pytest

from tests.lab.environments import ENVIRONMENTS
from tests.lab.world import steered
from trainer.control import ControlConfig
from trainer.monitor.explain import explain
from trainer.records import Decision

SETTINGS = {"kind": "priced", "estimators": ["alignment", "dither"], "curvature": 1.0, "real_epochs": 1.0}


@pytest.fixture(scope="module")
def decisions() -> list[Decision]:
    """Of a run whose real data are scarce."""
    world = next(one for one in ENVIRONMENTS if one.name.startswith("E9")).world(seed=1)
    control = {"policy": {**SETTINGS, "real_floor": 0.001}, "guard": {"enabled": False}}
    return steered(world, ControlConfig.model_validate(control))


def told(decision: Decision) -> str:
    start = {"fact": "shares", "step": 1, "shares": decision.evidence["shares_before"], "reason": "the start"}
    fact = {"fact": "shares", "step": decision.from_step, "shares": decision.shares, "reason": decision.reason}
    line = {
        "kind": "decision",
        "step": decision.from_step - 1,
        "from_step": decision.from_step,
        "action": decision.action,
        "shares": decision.shares,
        "reason": decision.reason,
        "evidence": decision.evidence,
    }
    return explain([line], [start, fact], decision.from_step)


def test_a_priced_decision_names_estimators_price_budget_and_bounds(decisions: list[Decision]) -> None:
    decision = next(one for one in reversed(decisions) if one.evidence["policy"]["price"] > 0)
    text = told(decision)
    policy = decision.evidence["policy"]
    used = f"{int(policy['budget']['used_samples']):,} samples used of {int(policy['budget']['samples']):,}"
    for words in (
        "value", "alignment", "dither", "share by value", used, "of 1 epochs",
        "which a synthetic one has to come up to", "Held by: ", "real budget",
        "A value counts beyond 1.5 standard errors",
    ):  # fmt: skip
        assert words in text, text
    assert all(f"\n  {name} " in text for name in policy["sources"])


def test_before_anything_is_measured_no_value_is_told(decisions: list[Decision]) -> None:
    assert "Nothing is known yet of what they are worth." in told(decisions[0])


def test_what_is_known_of_forgetting_is_told_with_its_error(decisions: list[Decision]) -> None:
    assert "How fast the model forgets is told: curvature 1 per unit of learning rate." in told(decisions[-1])
    world = next(one for one in ENVIRONMENTS if one.name.startswith("E9")).world(seed=1)
    control = ControlConfig.model_validate({"policy": {"kind": "priced"}, "guard": {"enabled": False}})
    learnt = steered(world, control)
    assert "is not known yet: scarce real data wait for the first probe." in told(learnt[0])
    assert "wait until it is known how fast the model forgets" in learnt[0].reason
    assert "How fast the model forgets: curvature 1.0" in told(learnt[-1])
    assert " per unit of learning rate, by 4 probes." in told(learnt[-1])
