"""When evidence about the sources is measured: it costs training compute, so it is spread over the part of a run in
which it is needed.
"""

import math
from dataclasses import dataclass
from typing import Literal

Enabled = Literal["auto", "on", "off"]  # auto: when the policy asks for it


@dataclass(frozen=True, kw_only=True)
class Times:
    """Every so many steps, from schedule position ``start`` to ``end``."""

    start: int
    end: int
    every_steps: int

    @property
    def count(self) -> int:
        """How many measurements that makes; at least 1."""
        return max(1, self.end // self.every_steps - (self.start - 1) // self.every_steps)

    @property
    def last(self) -> int:
        """Schedule position of the last one."""
        return self.end // self.every_steps * self.every_steps

    def due(self, step: int, position: int) -> bool:
        """Whether it is time after ``step``, at ``position`` of the schedule."""
        return step % self.every_steps == 0 and self.start <= position <= self.end


def times(
    enabled: Enabled, needed_from: float | None, *, until: float, num_steps: int, every_steps: int
) -> Times | None:
    """The times in a run of ``num_steps``; needed from progress ``needed_from`` to ``until``. None where it is not."""
    if enabled == "off" or (enabled == "auto" and needed_from is None):
        return None
    return Times(
        start=math.ceil((needed_from or 0.0) * num_steps), end=math.floor(until * num_steps), every_steps=every_steps
    )
