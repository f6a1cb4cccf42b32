"""Policies from outside the package, and what every built-in one has to be."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest
from pydantic import Field, ValidationError

from tests.journals import start_line
from trainer.base import seams
from trainer.base.config import Config as BaseConfig
from trainer.base.errors import UserError
from trainer.base.records import Kind, Observation, Proposal
from trainer.control import ControlConfig, decide, forgetting_from, initial_state, reads_losses, source_value_from
from trainer.control.policies import POLICIES, Needs, PlainState
from trainer.control.policies.protocol import MEMBERS
from trainer.mixture.ledger import Shares
from trainer.report.explain import explain
from trainer.tracking.figures import SourceFacts
from trainer.tracking.schema import DecisionLine

KINDS: dict[str, Kind] = {"real": "real", "made": "synthetic"}
START = {"real": 500_000, "made": 500_000}
GUARD_OFF = {"enabled": False}


class Alternating:
    """A policy of somebody else's: it goes back and forth by ``size``."""

    class Config(BaseConfig):
        kind: str
        size: int = Field(default=100_000, ge=1_000)

    @dataclass(frozen=True, kw_only=True)
    class State(PlainState):
        """How many decisions there were."""

        count: int = 0

    kind: ClassVar[str] = "alternating"

    @staticmethod
    def begin(config: Any, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> "Alternating.State":
        if config.size > min(shares.values()):
            raise UserError("control.policy.size is greater than a share", got=config.size)
        return Alternating.State()

    @staticmethod
    def propose(
        config: Any, state: "Alternating.State", observation: Observation
    ) -> "tuple[Alternating.State, Proposal]":
        size = config.size if state.count % 2 == 0 else -config.size
        shares = {"real": observation.shares["real"] + size, "made": observation.shares["made"] - size}
        return Alternating.State(count=state.count + 1), Proposal(
            shares=shares, reason="To and fro.", evidence={"count": state.count}
        )

    @staticmethod
    def needs(config: Any, max_epochs: float) -> Needs:
        return Needs(source_value_from=0.25, losses=True)

    @staticmethod
    def explain(evidence: Mapping[str, Any]) -> list[str]:
        return [f"this is decision {evidence['count']}."]


OUTSIDE = f"{__name__}:Alternating"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Alternating.__module__])


@pytest.fixture(params=["path", "entry point"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The policy as a recipe names it, by its import path and by an installed entry point."""
    if request.param == "path":
        return OUTSIDE
    entry = EntryPoint(name="alternating", value=OUTSIDE, group="hybrid_trainer.policies")
    monkeypatch.setattr(seams, "entry_points", lambda group: [entry] if group == entry.group else [])
    monkeypatch.setattr(POLICIES, "loaded", {})
    return "alternating"


def test_a_policy_from_outside_decides_like_a_built_in_one(kind: str, observe: Any) -> None:
    control = ControlConfig.model_validate({"policy": {"kind": kind, "size": 50_000}, "guard": GUARD_OFF})
    state, shares, decisions = initial_state(control, START, KINDS), dict(START), []
    for step in (10, 20, 30):
        state, decision = decide(control, state, observe(step, shares, kinds=KINDS))
        shares = dict(decision.shares)
        decisions.append(decision)
    assert [decision.shares["real"] for decision in decisions] == [550_000, 500_000, 550_000]
    assert {decision.policy for decision in decisions} == {kind}


def test_what_it_needs_is_measured_for_it(kind: str) -> None:
    control = ControlConfig.model_validate(
        {"policy": {"kind": kind}, "guard": {**GUARD_OFF, "measure_source_value": False}}
    )
    assert source_value_from(control) == 0.25
    assert forgetting_from(control, 1.0) is None
    assert reads_losses(control)


def test_its_mistakes_are_those_of_its_own_configuration_and_of_its_start(kind: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ControlConfig.model_validate({"policy": {"kind": kind, "size": 1, "sise": 2}})
    assert [error["loc"][-1] for error in raised.value.errors()] == ["size", "sise"]
    control = ControlConfig.model_validate({"policy": {"kind": kind, "size": 600_000}})
    with pytest.raises(UserError, match="greater than a share"):
        initial_state(control, START, KINDS)


def test_its_decisions_are_explained_in_its_own_words(observe: Any) -> None:
    control = ControlConfig.model_validate({"policy": {"kind": OUTSIDE}, "guard": GUARD_OFF})
    _, decision = decide(control, initial_state(control, START, KINDS), observe(10, START, kinds=KINDS))
    line = DecisionLine.of(decision, step=10)
    start = start_line({name: SourceFacts(kind=kind, num_samples=10) for name, kind in KINDS.items()})
    facts = [
        Shares(step=1, shares=START, reason="the start"),
        Shares(step=11, shares=decision.shares, reason=decision.reason),
    ]
    assert "Policy: this is decision 0." in explain([start, line], facts, 11)
    not_installed = explain([start, replace(line, policy="no_such_package:Policy")], facts, 11)
    assert "Policy:" in not_installed
    assert "count: 0" in not_installed


@pytest.mark.parametrize("name", POLICIES.builtin)
def test_a_built_in_policy_has_all_that_one_from_outside_must_have(name: str) -> None:
    policy = POLICIES.resolve(name)
    assert all(hasattr(policy, member) for member in MEMBERS)
    assert policy.kind == name
    assert policy.Config.model_fields["kind"].annotation.__args__ == (name,)
    assert policy.explain({}) in ((), [])


def test_what_lacks_a_part_of_a_policy_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ValidationError, match="lacks kind, Config, State, begin, propose, needs, explain"):
        ControlConfig.model_validate({"policy": {"kind": "json:JSONDecoder"}})
