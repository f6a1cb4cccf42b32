"""Instead of a cut of the source that a run makes: quarantine of the generations that the damage came with.

The guard lays damage to a source; of a source that grows by generations what changed is the newest. So they retire and
the others stay, ``MOST`` generations at most; then the cut of the whole source stands, as it does for any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from trainer.base.records import Decision
from trainer.control.state import ControlState
from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Retire, Segment
from trainer.mixture.plan import Plan
from trainer.runs.rounds.files import RoundFiles, RoundState
from trainer.runs.rounds.withdrawn import Withdrawn

MOST = 2  # generations of a run that are quarantined before the guard's cut of their source stands


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """What is done instead of a cut: the state and decision of policy and guard, and the ``segments`` that retire."""

    control: ControlState
    decision: Decision
    segments: Sequence[int]

    def facts(self, source: str) -> list[Fact]:
        """The segments that retire, as facts."""
        step = self.decision.from_step
        return [Retire(step=step, source=source, segment=segment) for segment in self.segments]


def instead_of_cut(
    source: str,
    before: ControlState,
    after: ControlState,
    decision: Decision,
    *,
    live: Sequence[Segment],
    shares: Mapping[str, int],
    healthy_step: int,
    num_before: int,
) -> Quarantine | None:
    """The quarantine that takes the place of a cut of ``source``; None where ``decision`` is no such cut, or it stands.

    ``live`` are its segments that are drawn from, ``shares`` those in force. Those that joined after ``healthy_step``
    retire, the newest in any case; where others are left the source keeps its share, and where none is, the next
    generation brings it back.
    """
    if source not in after.cut or source in before.cut or not live or num_before >= MOST:
        return None
    newest = max(live, key=lambda segment: segment.step)
    suspects = [segment.segment for segment in live if segment is newest or segment.step > healthy_step]
    is_spared = len(suspects) < len(live)
    left = "the earlier ones stay" if is_spared else "none is left, so its share is 0 until the next one joins"
    numbers = ", ".join(map(str, suspects))
    return Quarantine(
        control=replace(after, cut=tuple(name for name in after.cut if name != source)),
        decision=replace(
            decision,
            shares=dict(shares) if is_spared else decision.shares,
            reason=f"{decision.reason} What joined last is quarantined (segment {numbers} of {source}); {left}.",
        ),
        segments=suspects,
    )


def num_quarantined(plan: Plan, source: str, states: Mapping[int, RoundState], generations: Mapping[str, int]) -> int:
    """How many generations of ``source`` were quarantined, as far as the ledger has come: ``states`` may be those of a
    killed launch that came further. ``generations`` by the fingerprint of their segment.
    """
    retired = {fact.segment for fact in plan.ledger.facts if isinstance(fact, Retire) and fact.source == source}
    joined = [segment for segment in plan.segments if segment.source == source and segment.segment in retired]
    numbers = [generations.get(segment.fingerprint) for segment in joined]
    return sum(number is not None and states[number].quarantined is not None for number in numbers if number in states)


def review(
    plan: Plan,
    files: RoundFiles,
    states: Mapping[int, RoundState],
    source: str,
    before: ControlState,
    after: ControlState,
    decision: Decision,
    last_healthy_step: int,
) -> tuple[Quarantine | None, list[Withdrawn]]:
    """The quarantine instead of a cut of ``source`` in ``decision``, if any, and the generations that it is of."""
    generations, numbers = files.generations(), lookups.live_segments(plan, decision.from_step)[source]
    live = [segment for segment in plan.segments if segment.source == source and segment.segment in numbers]
    quarantine = instead_of_cut(
        source,
        before,
        after,
        decision,
        live=live,
        shares=plan.shares(decision.from_step),
        healthy_step=int(decision.evidence.get("guard", {}).get("last_healthy_step", last_healthy_step)),
        num_before=num_quarantined(plan, source, states, generations),
    )
    taken = [] if quarantine is None else [segment for segment in live if segment.segment in quarantine.segments]
    return quarantine, [
        Withdrawn(generation=generations[segment.fingerprint], segment=segment, reason=decision.reason)
        for segment in taken
    ]
