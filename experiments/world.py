"""A world that control can steer: what a run is to ``decide``, as a simulator of which the best possible is known."""

from collections.abc import Mapping
from typing import Protocol

from trainer.base.records import Decision, Kind, Observation
from trainer.control.config import ControlConfig
from trainer.control.controller import decide, initial_state


class World(Protocol):
    """A simulated run. ``train`` continues to the next evaluation under the given shares (millionths)."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Real or synthetic, by source."""
        ...

    @property
    def shares(self) -> Mapping[str, int]:
        """At the start."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether the run is at its end."""
        ...

    def train(self, shares: Mapping[str, int]) -> None:
        """Steps under these shares, up to the next evaluation or the end."""
        ...

    def observation(self, shares: Mapping[str, int]) -> Observation:
        """What control gets to see now, with the shares in force."""
        ...


def steered(world: World, control: ControlConfig) -> list[Decision]:
    """Run the world to its end under the control that training uses; the decisions. A rollback or stop ends it."""
    shares = dict(world.shares)
    state, decisions = initial_state(control, shares, world.kinds), []
    while True:
        world.train(shares)
        if world.is_done:
            return decisions
        state, decision = decide(control, state, world.observation(shares))
        decisions.append(decision)
        if decision.action in ("rollback", "stop"):
            return decisions
        shares = dict(decision.shares)
