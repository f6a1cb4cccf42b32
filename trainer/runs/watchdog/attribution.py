"""Which rank stalls a run: functions of the signs that were observed, and of nothing else.

Times are the idle seconds of the rank that observes, counted in ticks of its thread and not read off a clock: a process
that was stopped as a whole, or whose clock jumps, continues where it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from trainer.runs.watchdog.signs import ProcessState, Sign

DIED = "died or was killed"
SILENT_S = 3.0  # a rank that gave no sign for so long gives none: three ticks
LOST_S = 60.0  # a rank on another host that gave no sign for so long is lost; on this host /proc knows immediately
PATIENT_PHASES = ("starting", "saving", "restoring", "finishing")
PATIENCE = 3  # times the time-out in these phases and until the second step: compiling, first collectives, large files


@dataclass(frozen=True, kw_only=True)
class ObservedRank:
    """Another rank: its last sign, how long that has stood, and its process."""

    sign: Sign
    silent_s: float
    process: ProcessState


@dataclass(frozen=True, kw_only=True)
class StallAttribution:
    """The rank to which a stall is attributed. ``can_report`` says that it lives and may report more than others know;
    one that cannot is killed where that is possible.
    """

    sign: Sign
    reason: str
    can_report: bool = False


@dataclass(frozen=True, kw_only=True)
class SignHistory:
    """The others' signs since this rank stopped moving, and at which idle second each was first observed."""

    signs: Mapping[int, Sign] = field(default_factory=dict)
    since_s: Mapping[int, float] = field(default_factory=dict)

    def after(self, signs: Mapping[int, Sign], idle_s: float) -> Self:
        """With the signs as they are after ``idle_s``."""
        changed = {
            rank: idle_s
            for rank, sign in signs.items()
            if rank not in self.signs or self.signs[rank].count != sign.count
        }
        return type(self)(signs={**self.signs, **signs}, since_s={**self.since_s, **changed})

    def silent_s(self, rank: int, idle_s: float) -> float:
        """How long the rank's last sign has stood."""
        return idle_s - self.since_s[rank]


def patience_s(timeout_s: float, *, phase: str, steps_begun: int) -> float:
    """How long a rank may make no progress."""
    return timeout_s * (PATIENCE if phase in PATIENT_PHASES or steps_begun < 3 else 1)


def dead_rank(others: Iterable[ObservedRank]) -> StallAttribution | None:
    """A rank that will not come back, if there is one: its process is gone, or its host is.

    A rank that saves or restores may be silent: a busy file system delays signs too.
    """
    for rank in others:
        if rank.sign.has_left:
            continue
        if rank.process == "gone":
            return StallAttribution(sign=rank.sign, reason=DIED)
        if rank.process == "hidden" and rank.sign.phase not in PATIENT_PHASES and rank.silent_s >= LOST_S:
            reason = f"has given no heartbeat for {LOST_S:g} s: its host may be gone"
            return StallAttribution(sign=rank.sign, reason=reason)
    return None


def stalling_rank(own: Sign, others: Sequence[ObservedRank], *, idle_s: float) -> StallAttribution:
    """The rank for which the others wait, when patience is over: one that is stopped, else one that is silent, else
    the one that is behind, and among several of those one that does not wait in a collective itself.
    """
    alive = [rank for rank in others if not rank.sign.has_left]
    for rank in alive:
        if rank.process == "stopped":
            return StallAttribution(sign=rank.sign, reason=f"is stopped by a signal {_where(rank.sign)}")
    for rank in alive:
        if rank.silent_s >= SILENT_S:
            return StallAttribution(sign=rank.sign, reason=f"gives no heartbeat {_where(rank.sign)}")
    signs = [own, *(rank.sign for rank in alive)]
    last = min(sign.place for sign in signs)
    behind = [sign for sign in signs if sign.place == last]
    sign = next((sign for sign in behind if not sign.waits), behind[0])
    reason = f"made no progress for {idle_s:g} s {_where(sign)}, while the others wait"
    return StallAttribution(sign=sign, reason=reason, can_report=True)


def breaking_rank(
    others: Sequence[ObservedRank], before: Mapping[int, Sign], *, waited_s: float
) -> StallAttribution | None:
    """The rank whose death broke a collective of this one, if it shows ``waited_s`` after the break: its process is
    gone, or it has given no sign since ``before``.
    """
    alive = [rank for rank in others if not rank.sign.has_left]
    missing = [rank for rank in alive if rank.process == "gone"]
    if not missing and waited_s > SILENT_S:
        missing = [rank for rank in alive if rank.sign == before.get(rank.sign.rank)]
    return StallAttribution(sign=missing[0].sign, reason=DIED) if missing else None


def _where(sign: Sign) -> str:
    return f"in step {sign.step} ({sign.phase})"
