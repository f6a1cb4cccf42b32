"""The state in a checkpoint is checked field by field before a run resumes from it."""

import json
import math
from contextlib import suppress
from typing import Any

import pytest

from trainer.base.errors import UserError
from trainer.base.records import SourceLoss
from trainer.control.config import ControlConfig
from trainer.control.controller import check_saved_state, initial_state
from trainer.control.policies import POLICIES
from trainer.training.run import RunState, SavedOffsets

STATE = RunState(
    step=30,
    position=20,
    tokens=900,
    documents=[1, 4],
    last_healthy_step=10,
    anchor=[1.5, math.nan, math.inf],
    recent_losses=[4.0, 5.5],
    losses={"real": SourceLoss(loss_sum_nats=3.5, tokens=7)},
    skewed=["rivers"],
)
OPTIONAL = {"documents", "replay", "anchor"}  # may be null
OTHER = (None, {}, [], "x", -1, 2.5, True, [None], {"real": None})


def saved(state: RunState = STATE) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(state.to_json()))
    return fields


def test_what_was_saved_comes_back() -> None:
    assert json.dumps(RunState.from_json(saved()).to_json()) == json.dumps(STATE.to_json())


@pytest.mark.parametrize("name", saved())
def test_a_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} is missing"):
        RunState.from_json({key: value for key, value in saved().items() if key != name})


@pytest.mark.parametrize("name", saved())
@pytest.mark.parametrize("value", OTHER, ids=repr)
def test_a_field_that_holds_something_else_is_named_or_is_as_good(name: str, value: Any) -> None:
    """As good: null where there may be none, a list without entries."""
    fields, state = {**saved(), name: value}, None
    with suppress(UserError):
        state = RunState.from_json(fields)
    if state is None:
        with pytest.raises(UserError, match=f"{name}|cannot lie after step"):
            RunState.from_json(fields)
        return
    assert json.loads(json.dumps(state.to_json())) == json.loads(json.dumps(fields)), "not taken for something else"


@pytest.mark.parametrize("name", ["step", "position", "tokens", "last_healthy_step", "skipped_in_a_row", "losses"])
def test_null_is_no_number(name: str) -> None:
    with pytest.raises(UserError, match=name):
        RunState.from_json({**saved(), name: None})


@pytest.mark.parametrize(
    "files", [None, {}, [], {"journal": None}, {"journal": -1}, {"ledger": 2.5}, {"ledger_digest": 3}]
)
def test_offsets_that_are_none_are_refused_or_the_beginning(files: Any) -> None:
    if files == {}:
        assert SavedOffsets.from_json(files) == SavedOffsets()
        return
    with pytest.raises(UserError, match="files"):
        SavedOffsets.from_json(files)


def control_state(kind: str) -> tuple[ControlConfig, dict[str, Any]]:
    policy: dict[str, Any] = {"kind": kind}
    if kind == "doremi":
        policy["fit_until"] = 0.5
    if kind == "schedule":
        policy["points"] = [{"at": 0.5, "shares": {"real": 0.5, "made": 0.5}}]
    config = ControlConfig.model_validate({"policy": policy})
    state = initial_state(config, {"real": 500_000, "made": 500_000}, {"real": "real", "made": "synthetic"})
    return config, json.loads(json.dumps(state.to_json()))


@pytest.mark.parametrize("kind", sorted(POLICIES.builtin))
def test_the_state_of_each_policy_is_taken_as_it_was_saved_and_refused_in_part(kind: str) -> None:
    config, state = control_state(kind)
    check_saved_state(config, state)
    for name in state:
        with pytest.raises(UserError, match="policy and guard"):
            check_saved_state(config, {key: value for key, value in state.items() if key != name})
        for other in (None, "x", 3):
            with pytest.raises(UserError, match="policy and guard"):
                check_saved_state(config, {**state, name: other})
    for name in state["guard"]:
        for other in (None, "x", [None]):
            with pytest.raises(UserError, match="policy and guard"):
                check_saved_state(config, {**state, "guard": {**state["guard"], name: other}})
