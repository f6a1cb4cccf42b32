"""A policy that gives real data more share whenever held-out loss stops falling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from trainer.base.config import Config
from trainer.base.records import SHARE_ONE, Kind, Observation, Proposal
from trainer.control.policies import Needs, PlainState
from trainer.mixture.shares import rounded, step_of, with_real


class OnPlateauConfig(Config):
    """Move share to real data when held-out loss has not improved for some evaluations."""

    kind: str
    patience: int = Field(default=2, ge=1, description="evaluations without improvement before share moves")
    min_improvement: float = Field(default=0.01, ge=0, description="fall of held-out loss that counts, nats per token")
    move: float = Field(default=0.1, gt=0, le=1, description="share that moves to real data at a time")


@dataclass(frozen=True, kw_only=True)
class OnPlateauState(PlainState):
    """The best held-out loss so far, and for how many evaluations it has stood."""

    best: float | None = None
    waited: int = 0


class OnPlateau:
    """The policy; the trainer calls its functions and keeps its state in checkpoints."""

    kind = "on_plateau"
    Config = OnPlateauConfig
    State = OnPlateauState

    @staticmethod
    def begin(config: OnPlateauConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> OnPlateauState:
        """The state before the first evaluation."""
        return OnPlateauState()

    @staticmethod
    def propose(
        config: OnPlateauConfig, state: OnPlateauState, observation: Observation
    ) -> tuple[OnPlateauState, Proposal]:
        """The next state, and the shares to train with from the next step on."""
        loss = observation.evaluation.nats_per_token
        evidence = {"nats_per_token": loss, "best": state.best, "waited": state.waited}
        if state.best is None or loss < state.best - config.min_improvement:
            reason = f"Held-out loss fell to {loss:.3f} nats per token."
            return OnPlateauState(best=loss), Proposal(shares=observation.shares, reason=reason, evidence=evidence)
        if state.waited + 1 < config.patience:
            state = OnPlateauState(best=state.best, waited=state.waited + 1)
            reason = f"No improvement on {state.best:.3f} nats per token for {state.waited} evaluations."
            return state, Proposal(shares=observation.shares, reason=reason, evidence=evidence)
        reason = f"Held-out loss has not improved for {config.patience} evaluations: more real data."
        proposal = Proposal(shares=_more_real(observation, config.move), reason=reason, evidence=evidence)
        return OnPlateauState(best=state.best), proposal

    @staticmethod
    def needs(config: OnPlateauConfig, max_epochs: float) -> Needs:
        """Nothing but the evaluation, which every run makes."""
        return Needs()

    @staticmethod
    def explain(evidence: Mapping[str, Any]) -> Sequence[str]:
        """The evidence in words, for `trainer explain` and the report."""
        if evidence["best"] is None:
            return ["This is the first evaluation."]
        return [f"The best held-out loss before was {evidence['best']:.3f} nats per token."]


def _more_real(observation: Observation, move: float) -> dict[str, int]:
    """The shares in millionths with ``move`` more for real data; within a kind the proportions stay."""
    shares = {source: share / SHARE_ONE for source, share in observation.shares.items()}
    real = sum(share for source, share in shares.items() if observation.kinds[source] == "real")
    targets = with_real(shares, observation.kinds, min(1.0, real + move))
    return rounded(targets, step=step_of(observation.shares.values()))
