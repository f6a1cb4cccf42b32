"""All calls of a round to one server, in one event loop in a thread of its own."""

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal

from trainer.base.errors import UserError
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.pacing import LONGEST_PAUSE_S, Breaker, RetryBudget, SharedTime, Window
from trainer.synthesis.generators.protocol import Completion, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_ASK_AGAIN_S = 0.05  # whether the price allows a call
_RESUME = "What was answered is kept: look at the server, then run it again to resume"
Failure = Literal["busy", "broken", "refused", "fatal"]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a call gave no text: too much to do, broken for now, this request refused, or no call can succeed."""

    kind: Failure
    words: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class _Try:
    request: Request
    number: int = 0  # tries before it


@dataclass(frozen=True)
class _Outcome:
    tried: _Try
    call: Literal["call", "probe"]
    began_s: float
    seconds: float  # its part of the server's time
    result: Completion | Failed


class Calls:
    """Keeps as many calls in flight as window, breaker and price allow; ``answers`` gets completions, an exception, or
    None at the end.
    """

    def __init__(
        self,
        config: EndpointConfig,
        requests: Sequence[Request],
        ask: Callable[["AsyncOpenAI", Request], Awaitable[Completion | Failed]],
        admit: Callable[[Request], bool],
    ) -> None:
        self.config, self._ask, self._admit = config, ask, admit
        self.answers: SimpleQueue[Completion | BaseException | None] = SimpleQueue()
        self._waiting = deque(_Try(request) for request in requests)
        self._delayed: list[tuple[float, int, _Try]] = []  # a heap by the time from which they may be tried again
        self._in_flight: set[asyncio.Task[_Outcome]] = set()
        self._outcomes: deque[asyncio.Task[_Outcome]] = deque()
        self._window = Window(config.max_concurrency)
        self._breaker = Breaker(opens_after=config.opens_after, pause_s=config.pause_s)
        self._budget, self._time = RetryBudget(config.retry_share), SharedTime()
        self._hold_s = 0.0  # the server asked for no call before
        self._failed_in_a_row = self._num_delayed = 0
        self._refused: list[Completion] = []
        self._wake: asyncio.Event | None = None
        self._cancel: Callable[[], object] | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Calls in flight are given up."""
        self._is_stopped = True
        if self._cancel is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._cancel()

    async def run(self, new_client: Callable[[], "AsyncOpenAI"]) -> None:
        """Until all requests are answered or have failed, or the price allows no more."""
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        self._wake = asyncio.Event()
        try:
            async with new_client() as client:
                await self._drain(client, self._wake)
            self._put_refused()
            self.answers.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads the answers
            self.answers.put(error)

    async def _drain(self, client: "AsyncOpenAI", wake: asyncio.Event) -> None:
        try:
            while (self._waiting or self._delayed or self._in_flight) and not self._is_stopped:
                wait_s = self._begin_what_may(client)
                if wait_s is None and not self._in_flight:
                    return  # the price allows no more
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await wake.wait()
                wake.clear()
                results = [self._outcomes.popleft().result() for _ in range(len(self._outcomes))]
                for outcome in sorted(results, key=lambda outcome: isinstance(outcome.result, Failed)):
                    self._take(outcome)  # answers are kept before a failure ends the round
        finally:
            for task in self._in_flight:
                task.cancel()

    def _begin_what_may(self, client: "AsyncOpenAI") -> float | None:
        """Begins calls; gives how long to wait for the next one, or None where only an answer changes anything."""
        now_s = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now_s:
            self._waiting.append(heapq.heappop(self._delayed)[2])
        while self._waiting and len(self._in_flight) < int(self._window.size):
            wait_s = max(self._hold_s - now_s, self._breaker.wait_s(now_s))
            if wait_s > 0:
                return wait_s if wait_s < float("inf") else None
            if not self._admit(self._waiting[0].request):
                return _ASK_AGAIN_S if self._in_flight else None
            self._begin(client, self._waiting.popleft(), now_s)
        return max(0.0, self._delayed[0][0] - now_s) if self._delayed and not self._waiting else None

    def _begin(self, client: "AsyncOpenAI", tried: _Try, now_s: float) -> None:
        call = self._breaker.begin()
        task = asyncio.create_task(self._outcome(client, tried, call, now_s, self._time.begin(now_s)))
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[_Outcome]") -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and self._wake is not None:
            self._outcomes.append(task)
            self._wake.set()

    async def _outcome(
        self, client: "AsyncOpenAI", tried: _Try, call: Literal["call", "probe"], began_s: float, mark_s: float
    ) -> _Outcome:
        result = await self._ask(client, tried.request)
        return _Outcome(tried, call, began_s, self._time.end(mark_s, time.monotonic()), result)

    def _take(self, outcome: _Outcome) -> None:
        if isinstance(outcome.result, Completion):
            self._failed_in_a_row = 0
            self._put_refused()
            self._window.answered()
            self._breaker.answered(outcome.call)
            self._budget.answered()
            self.answers.put(replace(outcome.result, seconds=outcome.seconds))
        elif outcome.result.kind in ("refused", "fatal"):
            if outcome.call == "probe":  # the server is there
                self._breaker.answered(outcome.call)
            self._give_up_on(outcome, outcome.result)
        else:
            self._take_failure(outcome, outcome.result)

    def _take_failure(self, outcome: _Outcome, failed: Failed) -> None:
        """A failure that may pass: the call is tried again, later, where its tries and those of the round allow."""
        now_s, tried = time.monotonic(), outcome.tried
        was_open, was_alone = self._breaker.is_open, self._window.size <= 1
        if failed.kind == "busy":
            self._window.refused(began_s=outcome.began_s, now_s=now_s)
            self._hold(failed.retry_after_s, now_s)
        if failed.kind == "broken" or was_alone or outcome.call == "probe":
            self._breaker.failed(outcome.call, now_s)
        if outcome.call == "probe":
            self._count_failure(failed.words)
        if failed.kind == "busy" or (was_open and outcome.call == "call"):  # no fault of the request
            self._waiting.append(tried)
        elif outcome.call == "probe" and tried.number < self.config.retries:
            self._waiting.append(_Try(tried.request, tried.number + 1))  # the next probe is another request
        elif tried.number < self.config.retries and self._budget.take():
            pause_s = min(LONGEST_PAUSE_S, self.config.pause_s * 2**tried.number) * random.uniform(0.5, 1.0)
            self._num_delayed += 1
            heapq.heappush(self._delayed, (now_s + pause_s, self._num_delayed, _Try(tried.request, tried.number + 1)))
        else:
            self._give_up_on(outcome, failed)

    def _hold(self, retry_after_s: float | None, now_s: float) -> None:
        if retry_after_s is None:
            retry_after_s = self.config.pause_s * random.uniform(0.5, 1.0)
        if retry_after_s > self.config.longest_wait_s:
            what = f"the server asks to wait {retry_after_s:.0f} s, longer than generator.longest_wait_s"
            raise UserError(what, got=self.config.url, remedy="What was answered is kept: run it again later")
        self._hold_s = max(self._hold_s, now_s + retry_after_s)

    def _give_up_on(self, outcome: _Outcome, failed: Failed) -> None:
        completion = Completion(
            request_id=outcome.tried.request.id,
            text="",
            finish_reason="refused" if failed.kind == "refused" else "error",
            prompt_tokens=0,
            completion_tokens=0,
            counted="estimated",
            seconds=outcome.seconds,
            error=failed.words,
        )
        if failed.kind == "refused":
            self._refused.append(completion)
        self._count_failure(failed.words)
        if failed.kind != "refused":
            self.answers.put(completion)

    def _count_failure(self, words: str) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.config.give_up_after:
            what = f"{self._failed_in_a_row} calls in a row failed, the last one: {words}"
            raise UserError(what, got=self.config.url, remedy=_RESUME)

    def _put_refused(self) -> None:
        """Requests that were refused count as such once the server has answered others, or all are through."""
        for completion in self._refused:
            self.answers.put(completion)
        self._refused.clear()
