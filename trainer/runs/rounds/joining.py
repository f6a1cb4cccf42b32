"""What the ledger says when a generation joins: its segment, those that retire for it, and the shares."""

from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Retire, Segment, Shares
from trainer.mixture.plan import Plan
from trainer.runs.rounds.files import Made
from trainer.runs.rounds.shares import with_made_source
from trainer.synthesis.config import SynthesisConfig


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
