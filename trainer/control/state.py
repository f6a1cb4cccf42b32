"""What policy and guard remember between decisions."""

from dataclasses import dataclass, field
from typing import Any

from trainer.control.guard.state import GuardState
from trainer.control.policies.protocol import PolicyState


@dataclass(frozen=True, kw_only=True)
class ControlState:
    """The policy's state, the guard's, and the sources that the guard has ``cut``, which stay at 0 for the rest of the
    run.
    """

    policy: PolicyState
    guard: GuardState = field(default_factory=GuardState)
    cut: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types; ``trainer.control.controller.restored_state`` is the way back."""
        return {"policy": self.policy.to_json(), "guard": self.guard.to_json(), "cut": list(self.cut)}
