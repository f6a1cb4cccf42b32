"""What the guard did in a run, in one line: it acted, was silent as all was well, judged little, or could not see."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.tracking.record import JournalLine
from trainer.tracking.schema import DecisionLine, StartLine

ACTIONS = ("warn", "cut", "rollback", "stop")  # of the guard alone


@dataclass(frozen=True)
class GuardVerdict:
    """In a few words, and in a sentence; ``could_see`` tells whether any evaluation could be judged."""

    short: str
    text: str
    could_see: bool


def guard_verdict(lines: Iterable[JournalLine]) -> GuardVerdict:
    """The verdict from the lines of a journal, those of starts and decisions."""
    blind: str | None = None
    num_evaluations, num_judged, num_unusable, actions = 0, 0, 0, Counter[str]()
    for line in lines:
        if isinstance(line, StartLine):
            blind = line.guard_blind
        elif isinstance(line, DecisionLine):
            guard = line.evidence.get("guard")
            num_evaluations += 1
            num_judged += isinstance(guard, dict) and "evidence" in guard
            num_unusable += isinstance(guard, dict) and guard.get("usable") is False
            actions[line.action] += line.action in ACTIONS
    acted = ", ".join(f"{actions[action]} {action}" for action in ACTIONS if actions[action])
    judged = _judged_in_words(num_judged, num_evaluations, num_unusable, blind)
    if acted:
        return GuardVerdict("acted", f"the guard acted ({acted}); {judged}", could_see=num_judged > 0)
    if num_judged and 2 * num_judged < num_evaluations:
        text = f"the guard was silent, which says little: {judged}"
        return GuardVerdict(f"silent, judged only {num_judged} of {num_evaluations}", text, could_see=True)
    if num_judged:
        return GuardVerdict("silent, all well", f"the guard was silent because all was well: {judged}", could_see=True)
    why = blind or "no evaluation could be judged yet"
    return GuardVerdict("could not see", f"the guard was silent because it could not see: {why}", could_see=False)


def _judged_in_words(num_judged: int, num_evaluations: int, num_unusable: int, blind: str | None) -> str:
    """How many evaluations it judged; of fewer than half also why not the others."""
    if 2 * num_judged >= num_evaluations:
        return f"it judged {num_judged} of {num_evaluations} evaluations"
    reasons = []
    if num_too_early := num_evaluations - num_judged - num_unusable:
        reasons.append(f"at {num_too_early} it had too few before them to judge by")
    if num_unusable:
        reasons.append(f"{num_unusable} could not be judged, as of losses that are not finite")
    text = f"it judged only {num_judged} of {num_evaluations} evaluations ({'; '.join(reasons)})"
    return f"{text}; {blind}" if blind else text
