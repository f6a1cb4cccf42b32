"""What ``priced`` says of its decisions, from decisions that it took in a world of the laboratory."""

from typing import Any

import pytest

from experiments.environments import ENVIRONMENTS
from experiments.world import steered
from tests.journals import start_line
from trainer.base.records import Decision
from trainer.control import ControlConfig
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.estimators import weighted_by_shares
from trainer.control.priced.explain import estimates_by_share
from trainer.control.priced.explain import explain as lines_of
from trainer.mixture.ledger import Shares
from trainer.report.explain import explain
from trainer.tracking.figures import SourceFacts
from trainer.tracking.schema import DecisionLine

START = start_line({kind: SourceFacts(kind=kind, num_samples=500) for kind in ("real", "synthetic")})


def explained(decision: Decision) -> str:
    start = Shares(step=1, shares=decision.evidence["shares_before"], reason="the start")
    fact = Shares(step=decision.from_step, shares=decision.shares, reason=decision.reason)
    line = DecisionLine.of(decision, step=decision.from_step - 1)
    return explain([START, line], [start, fact], decision.from_step)


def test_a_priced_decision_names_estimators_price_budget_and_limits(decisions: list[Decision]) -> None:
    decision = next(
        decision_line for decision_line in reversed(decisions) if decision_line.evidence["policy"]["price"] > 0
    )
    text = explained(decision)
    policy = decision.evidence["policy"]
    used = f"{int(policy['budget']['used_samples']):,} samples used of {int(policy['budget']['samples']):,}"
    for words in (
        "value", "by alignment", "by dither", "pull to the start", "share by value", used, "of 1 epochs",
        "it has to be worth that much more than a synthetic one; real data are worth 0.18",
        "Limited by: real-data budget (the real tokens left are enough for no greater share), floor of",
        "A value and its pull count beyond 1.5 standard errors",
    ):  # fmt: skip
        assert words in text, text
    assert all(f"\n  {name} " in text for name in policy["sources"])


def test_before_anything_is_measured_no_value_is_given(decisions: list[Decision]) -> None:
    text = explained(decisions[0])
    assert "Nothing is known yet of their value." in text
    assert "Price of a real token: not known before the sources are compared." in text


def test_a_price_nobody_could_pay_is_called_out_of_reach(decisions: list[Decision]) -> None:
    dearest = max(decisions, key=lambda decision: decision.evidence["policy"]["price"])
    assert dearest.evidence["policy"]["price"] > 1e9
    assert "Price of a real token now: out of reach" in explained(dearest)


def test_each_estimator_is_compared_with_the_others_by_share_as_the_value_is() -> None:
    """Of one estimator alone the policy's value is what the estimator says."""
    kept = {"a": (1.0, 0.2), "b": (-2.0, 0.3), "c": (1.0, 0.4)}  # against the plain mean of the others
    shares = {"a": 0.7, "b": 0.2, "c": 0.1}
    estimates = {name: Estimate(value=value, standard_error=error) for name, (value, error) in kept.items()}
    sources = {
        name: {"share_by_value": shares[name], "estimators": {"source_value": estimate.to_json()}}
        for name, estimate in estimates.items()
    }
    alone = {name: by_estimator["source_value"] for name, by_estimator in estimates_by_share(sources).items()}
    assert alone == weighted_by_shares(estimates, shares)
    assert alone["c"].value != pytest.approx(1.0)


def test_the_price_is_given_in_fresh_tokens_where_their_value_is_known() -> None:
    budget = {
        "samples": 100, "used_samples": 50, "used_epochs": 1.0, "planned_epochs": 2.0, "planned_share": 0.25,
        "value_of_repeat": 0.94, "value_of_new_sample": 0.1,
    }  # fmt: skip
    source: dict[str, Any] = {"standard_error": 0.5, "pull": 0.0, "estimators": {}}
    evidence: dict[str, Any] = {
        "sources": {
            "real": source | {"value": 4.0, "share_by_value": 0.6},
            "made": source | {"value": -4.0, "share_by_value": 0.4},
        },
        "price": 3.0, "budget": budget, "limits": ["real-data budget"], "threshold": 1.5, "trust_region": None,
        "unit": 12.0, "real_advantage": 4.0,
        "prior_values": {"made": {"value": 2 / 3, "standard_error": 0.2, "by_text": False}},
    }  # fmt: skip
    text = "\n".join(lines_of(evidence))
    assert "Price of a real token now: 3, or 0.25 of what a fresh one does." in text
    assert "real data are worth 4 more now" in text
    assert "a fresh real token is worth 12 of that now" in text
    assert "Prior value of a token: made 0.67 ± 0.20 of a fresh real one" in text
    assert "50 samples used of 100, 1.00 of 2 epochs; what is left is enough for a share of 25 % now" in text
    without_unit = "\n".join(lines_of({key: value for key, value in evidence.items() if key != "unit"}))
    assert "Price of a real token now: 3. Drawn beyond the plan" in without_unit
    assert "unit of learning rate.\n" in without_unit


def test_what_is_known_of_forgetting_is_given_with_its_error(decisions: list[Decision]) -> None:
    assert "How fast the model forgets is configured: curvature 1 per unit of rate." in explained(decisions[-1])
    world = next(environment for environment in ENVIRONMENTS if environment.name.startswith("E9")).world(seed=1)
    control = ControlConfig.model_validate({"policy": {"kind": "priced"}, "guard": {"enabled": False}})
    learnt = steered(world, control)
    assert "is not known yet: scarce real data wait for the first probe." in explained(learnt[0])
    assert "wait until it is known how fast the model forgets" in learnt[0].reason
    assert "How fast the model forgets: curvature 1.0" in explained(learnt[-1])
    assert " per unit of learning rate, by 4 probes." in explained(learnt[-1])
