"""When a call to a server may begin: rules of values and times, without a clock or a network of their own."""

import math
from typing import Literal

LONGEST_PAUSE_S = 60.0
_FIRST_CALLS = 64
_FREE_RETRIES = 20  # of a round, whatever its size


class Window:
    """How many calls may be in flight: one more for each answer until the server refuses for the first time, then one
    more for a window of answers; half as many when it refuses: additive increase, multiplicative decrease, as TCP.
    """

    def __init__(self, most: int) -> None:
        self.size, self._most = float(min(_FIRST_CALLS, most)), most
        self._was_refused, self._cut_s = False, -math.inf

    def answered(self) -> None:
        """A call was answered."""
        self.size = min(float(self._most), self.size + (1 / self.size if self._was_refused else 1.0))

    def refused(self, *, began_s: float, now_s: float) -> None:
        """The server has too much to do. Calls that began before the last cut tell nothing about the size since."""
        if began_s >= self._cut_s:
            self.size, self._was_refused, self._cut_s = max(1.0, self.size / 2), True, now_s


class Breaker:
    """Stops calling a server that only fails, and asks it with one call at a time whether it is back.

    Closed: calls may begin. After ``opens_after`` failures in a row it is open, for a pause that doubles; then it is
    half-open: one call, the probe, may begin. An answer closes it.
    """

    def __init__(self, *, opens_after: int, pause_s: float) -> None:
        self._opens_after, self._first_pause_s = opens_after, pause_s
        self._failures = 0
        self._pause_s, self._until_s = pause_s, -math.inf
        self.is_open = False
        self._probes = 0  # in flight

    def wait_s(self, now_s: float) -> float:
        """Until the next call may begin; infinite while a probe is in flight."""
        if not self.is_open:
            return 0.0
        return math.inf if self._probes else max(0.0, self._until_s - now_s)

    def begin(self) -> Literal["call", "probe"]:
        """A call begins (``wait_s`` is 0)."""
        self._probes += self.is_open
        return "probe" if self.is_open else "call"

    def answered(self, call: Literal["call", "probe"]) -> None:
        """An answer, also to a call from before the failures, shows that the server is there."""
        self._probes -= call == "probe"
        self._failures, self.is_open, self._pause_s = 0, False, self._first_pause_s

    def failed(self, call: Literal["call", "probe"], now_s: float) -> None:
        """A call failed."""
        self._failures += 1
        if call == "probe":
            self._probes -= 1
            self._open(now_s)
        elif not self.is_open and self._failures >= self._opens_after:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self.is_open, self._until_s = True, now_s + self._pause_s
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)


class RetryBudget:
    """Allows retries up to a share of the answers, so that a server that half fails is not asked twice as much."""

    def __init__(self, share: float) -> None:
        self._share, self._answers, self._retries = share, 0, 0

    def answered(self) -> None:
        """A call was answered."""
        self._answers += 1

    def take(self) -> bool:
        """Whether one more retry is allowed; it then counts."""
        is_allowed = self._retries < _FREE_RETRIES + self._share * self._answers
        self._retries += is_allowed
        return is_allowed


class SharedTime:
    """Divides the time of a server evenly among the calls in flight, so that the parts add up to the time it worked."""

    def __init__(self) -> None:
        self._each_s, self._last_s, self._in_flight = 0.0, 0.0, 0

    def begin(self, now_s: float) -> float:
        """A call begins; gives what ``end`` wants to know."""
        self._advance(now_s)
        self._in_flight += 1
        return self._each_s

    def end(self, mark_s: float, now_s: float) -> float:
        """The call's part of the time since it began."""
        self._advance(now_s)
        self._in_flight -= 1
        return self._each_s - mark_s

    def _advance(self, now_s: float) -> None:
        if self._in_flight:
            self._each_s += (now_s - self._last_s) / self._in_flight
        self._last_s = now_s
