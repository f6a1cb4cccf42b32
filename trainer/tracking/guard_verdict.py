"""What the guard did in a run, in one line: it acted, was silent as all was well, or could not see."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from trainer.tracking.record import JournalLine
from trainer.tracking.schema import DecisionLine, StartLine

ACTIONS = ("warn", "cut", "rollback", "stop")  # of the guard alone


@dataclass(frozen=True)
class GuardVerdict:
    """In a few words, and in a sentence; ``could_see`` tells whether silence means that all was well."""

    short: str
    text: str
    could_see: bool


def guard_verdict(lines: Iterable[JournalLine]) -> GuardVerdict:
    """The verdict from the lines of a journal, those of starts and decisions."""
    blind: str | None = None
    num_evaluations, num_judged, actions = 0, 0, Counter[str]()
    for line in lines:
        if isinstance(line, StartLine):
            blind = line.guard_blind
        elif isinstance(line, DecisionLine):
            guard = line.evidence.get("guard")
            num_evaluations += 1
            num_judged += isinstance(guard, dict) and "evidence" in guard
            actions[line.action] += line.action in ACTIONS
    acted = ", ".join(f"{actions[action]} {action}" for action in ACTIONS if actions[action])
    judged = f"it judged {num_judged} of {num_evaluations} evaluations"
    if acted:
        return GuardVerdict("acted", f"the guard acted ({acted}); {judged}", could_see=num_judged > 0)
    if num_judged:
        return GuardVerdict("silent, all well", f"the guard was silent because all was well: {judged}", could_see=True)
    why = blind or "no evaluation could be judged yet"
    return GuardVerdict("could not see", f"the guard was silent because it could not see: {why}", could_see=False)
