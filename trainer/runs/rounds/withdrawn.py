"""Generations that a user took out of a run's pool while it trains: quarantined, or with rows that were taken down."""

from dataclasses import dataclass

from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Retire, Segment
from trainer.mixture.plan import Plan
from trainer.runs.rounds.files import RoundFiles
from trainer.runs.takedown import shares_without
from trainer.synthesis.pool import Pool

OURS = ("guard", "gate")  # what these quarantine the run knows already


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """A generation that is drawn no more, its segment, and why."""

    generation: int
    segment: Segment
    reason: str


def withdrawn(plan: Plan, files: RoundFiles, source: str, step: int) -> list[Withdrawn]:
    """The generations drawn after ``step`` of which the pool's manifest no longer lets all rows be read."""
    manifest = Pool(files.pool).manifest()
    reasons = {generation: why for generation, why in manifest.quarantined.items() if why.partition(":")[0] not in OURS}
    for place, fact in enumerate(manifest.takedowns):
        for number in map(int, fact.rows):
            made = files.made(number)
            if made is not None and place >= made.takedowns:  # else it was packed without these rows
                reasons[number] = f"{fact.what} was taken down: {fact.reason}"
    if not reasons:
        return []
    generations, live = files.generations(), lookups.live_segments(plan, step + 1)[source]
    return [
        Withdrawn(generation=generation, segment=segment, reason=reasons[generation])
        for segment in plan.segments
        if segment.source == source
        and segment.segment in live
        and (generation := generations.get(segment.fingerprint)) in reasons
        and generation is not None
    ]


def withdrawal_facts(plan: Plan, taken: list[Withdrawn], source: str, step: int) -> list[Fact]:
    """Their segments retire after ``step``; where none is left the source's share goes to the others."""
    facts: list[Fact] = [Retire(step=step + 1, source=source, segment=item.segment.segment) for item in taken]
    is_empty = len(facts) == len(lookups.live_segments(plan, step + 1)[source])
    return [*facts, *(shares_without(plan, source, step + 1) if is_empty else ())]
