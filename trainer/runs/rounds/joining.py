"""What a round begins with, and what the ledger says when it joins: its segment, those that retire, the shares."""

from typing import TYPE_CHECKING

from trainer.base.records import SHARE_ONE
from trainer.mixture import lookups
from trainer.mixture.advance import State
from trainer.mixture.ledger import Fact, Retire, Segment, Shares
from trainer.mixture.plan import Plan
from trainer.runs.rounds.files import Made, RoundState
from trainer.runs.rounds.shares import with_made_source
from trainer.synthesis.config import SynthesisConfig

if TYPE_CHECKING:
    from trainer.data.store import PreparedData


def joining_facts(plan: Plan, config: SynthesisConfig, made: Made, step: int) -> list[Fact]:
    """The facts with which what was ``made`` is drawn after ``step``.

    Its source gets a share where it has none: with its first generation, or after all of them were quarantined.
    """
    name, first = config.source, step + 1
    assert name is not None
    assert made.fingerprint is not None
    live = lookups.live_segments(plan, first)[name]
    taken: list[Fact] = [
        Segment(
            step=first,
            source=name,
            kind="synthetic",
            segment=sum(segment.source == name for segment in plan.segments),
            num_samples=made.num_samples,
            fingerprint=made.fingerprint,
        )
    ]
    if config.keep_generations is not None:
        retired = live[: max(0, len(live) + 1 - config.keep_generations)]
        taken += [Retire(step=first, source=name, segment=old) for old in retired]
    shares = plan.shares(first)
    if not shares[name]:
        kinds = dict(zip(plan.sources, plan.kinds, strict=True))
        given = with_made_source(shares, kinds, name, share=config.share, real_floor=config.real_floor)
        if given != shares:
            reason = f"generation {made.generation} joins; real data keep {config.real_floor:g} at least"
            taken.append(Shares(step=first, shares=given, reason=reason))
    return taken


def begun_round(
    plan: Plan, state: State, config: SynthesisConfig, data: "PreparedData", generation: int, step: int
) -> RoundState:
    """A round that begins after ``step``, with what buying goes by: epochs of real text so far, what its source holds,
    and what will be drawn of it until the next round.
    """
    assert config.source is not None
    epochs, sizes, shares = lookups.epochs(plan, state), lookups.live_sizes(plan, step + 1), plan.shares(step + 1)
    real = {name: sizes[name] for name, kind in zip(plan.sources, plan.kinds, strict=True) if kind == "real"}
    total = sum(real.values())
    share = shares[config.source] / SHARE_ONE or config.share
    steps = config.every or 1
    return RoundState(
        generation=generation,
        step=step,
        real_epochs=sum(epochs[name] * size for name, size in real.items()) / total if total else 0.0,
        held_tokens=sizes[config.source] * data.sequence_length,
        demand_tokens=round(share * plan.global_batch(step + 1) * steps * data.sequence_length),
    )
