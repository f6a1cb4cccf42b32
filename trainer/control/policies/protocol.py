"""What a policy is: a module, class or object that proposes shares, says what it needs measured, and explains itself.

Policies are pure: configuration, state and observation in, state and proposal out. One from outside the package is
named in the recipe by ``kind: package.module:Name`` or by an entry point of the group ``hybrid_trainer.policies``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Protocol, Self

from trainer.base.config import Config
from trainer.base.json_values import jsonable
from trainer.base.records import Kind, Observation, Proposal

MEMBERS = ("kind", "Config", "State", "begin", "propose", "needs", "explain")  # of a policy from outside


class PolicyState(Protocol):
    """What a policy remembers from one decision to the next: frozen, and JSON in a checkpoint."""

    def to_json(self) -> dict[str, Any]:
        """The state in types that JSON has; numbers are kept exactly."""
        ...

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The state of which ``value`` is the ``to_json``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The measurements that a policy uses: the progress of the run from which each has to be made; None for never.

    All but the losses cost compute. ``losses``: whether it cannot work without the training loss by source.
    """

    source_value_from: float | None = None
    gradient_alignment_from: float | None = None
    forgetting_from: float | None = None
    losses: bool = False


class Policy(Protocol):
    """The interface of a policy. ``config`` is an instance of its ``Config``, ``state`` one of its ``State``."""

    @property
    def kind(self) -> str:
        """Its name in recipes, decisions and the journal."""
        ...

    @property
    def Config(self) -> type[Config]:  # noqa: N802 -- a class
        """Its section of a recipe, with a field ``kind``."""
        ...

    @property
    def State(self) -> type[PolicyState]:  # noqa: N802 -- a class
        """The class of its state."""
        ...

    def begin(self, config: Any, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> PolicyState:
        """The state before the first evaluation, from the start ``shares`` in millionths.

        Raises ``UserError`` where configuration and start do not fit.
        """
        ...

    def propose(self, config: Any, state: Any, observation: Observation) -> tuple[PolicyState, Proposal]:
        """The state after ``observation`` and the shares to train with from the next step on, with reason and evidence.

        ``Proposal.evidence`` is JSON-able and goes to the journal.
        """
        ...

    def needs(self, config: Any, max_epochs: float) -> Needs:
        """What has to be measured for it, where real data may be drawn for ``max_epochs`` at most."""
        ...

    def explain(self, evidence: Mapping[str, Any]) -> Sequence[str]:
        """The evidence of one of its decisions in lines of text, for ``trainer explain`` and the report.

        Empty where the figures say enough: then they are listed by name.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class PlainState:
    """Base of states whose fields are JSON as they are."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        fields: dict[str, Any] = jsonable(asdict(self))
        return fields

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The state of which ``value`` is the ``to_json``."""
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class NoState(PlainState):
    """The state of a policy that remembers nothing."""


def no_needs(config: Any, max_epochs: float = inf) -> Needs:
    """The needs of a policy that looks at nothing but shares and sizes."""
    return Needs()


def loss_needs(config: Any, max_epochs: float = inf) -> Needs:
    """The needs of a policy that follows the training losses by source."""
    return Needs(losses=True)


def unexplained(evidence: Mapping[str, Any]) -> Sequence[str]:
    """No text of its own: the figures of the evidence are listed by name."""
    return ()
