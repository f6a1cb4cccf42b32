"""What texts cost: tokens, time and energy, by the price table of the recipe, and where a round has to stop."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from trainer.base.errors import UserError
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.protocol import Completion, Request
from trainer.synthesis.prices_config import PricesConfig

_JOULES_PER_KWH = 3.6e6
_BYTES_PER_TOKEN = 2.0  # of UTF-8, at least, so that a prompt's estimate is more than it has in any script
_MILLION = 1e6


def cost_of(prices: PricesConfig, completion: Completion) -> float:
    """Money for an answer: its tokens, its time on the GPUs, its energy. One from the cache costs nothing.

    Energy is that measured, else ``prices.watts`` over the time.
    """
    if completion.cached:
        return 0.0
    joules = completion.joules
    if joules is None:
        joules = (prices.watts or 0.0) * completion.seconds
    return (
        prices.per_million_prompt_tokens * completion.prompt_tokens / _MILLION
        + prices.per_million_completion_tokens * completion.completion_tokens / _MILLION
        + prices.per_gpu_hour * prices.gpus * completion.seconds / 3600
        + prices.per_kwh * joules / _JOULES_PER_KWH
    )


def most_cost_of(prices: PricesConfig, request: Request, *, system: str | None = None) -> float:
    """Money that the tokens of a request can cost at most, with those of the ``system`` message."""
    texts = [system or "", request.prompt, *(message.content for message in request.messages)]
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return (
        prices.per_million_prompt_tokens * (num_bytes / _BYTES_PER_TOKEN + 16 * len(texts)) / _MILLION
        + prices.per_million_completion_tokens * request.sampling.max_new_tokens / _MILLION
    )


class Budget:
    """What may still be spent. Requests in flight hold back the most that they can cost, so that a price by tokens is
    never exceeded; a price by time is known when an answer is there, and exceeded by what is then in flight at most.
    """

    def __init__(self, prices: PricesConfig | None, limit: float | None, *, system: str | None = None) -> None:
        self._system, self._prices, self._limit, self._lock = system, prices, limit, Lock()
        self._spent, self._held = 0.0, dict[str, float]()
        self._settled: set[str] = set()
        self._texts = 0
        self.was_refused = False  # a request was not admitted

    @property
    def spent(self) -> float:
        """Money so far."""
        return self._spent

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self._limit is not None and self._spent >= self._limit

    @property
    def is_limited(self) -> bool:
        """Whether requests were left out for their price."""
        return self.is_spent or self.was_refused

    def admit(self, request: Request) -> bool:
        """Whether the request may be asked now; what it can cost is then held back."""
        if self._prices is None or self._limit is None:
            return True
        with self._lock:
            mean = self._spent / self._texts if self._texts else 0.0
            most = max(most_cost_of(self._prices, request, system=self._system), mean)
            held = sum(self._held.values()) - self._held.get(request.id, 0.0)  # one that is tried again is held once
            if self._spent + held + most > self._limit:
                self.was_refused = True
                return False
            self._held[request.id] = most
            return True

    def settle(self, completions: Iterable[Completion]) -> None:
        """Answers, or failures, are there: they cost what they cost."""
        with self._lock:
            for completion in completions:
                self._held.pop(completion.request_id, None)
                if self._prices is not None and completion.request_id not in self._settled:
                    self._settled.add(completion.request_id)
                    self._texts += 1
                    self._spent += cost_of(self._prices, completion)


def budget_of(config: SynthesisConfig, *, spent_before: float, shards: int) -> Budget:
    """The budget of a shard: its part of what the pool may still cost. ``UserError`` where that is nothing."""
    prices, max_cost = config.prices, config.max_cost
    if max_cost is None:
        return Budget(prices, None)
    left = max_cost - spent_before
    if left <= 0:
        what = f"the pool has cost {spent_before:.4g} of synthesis.max_cost"
        raise UserError(what, got=max_cost, remedy="Raise it to make a further round")
    return Budget(prices, left / shards, system=getattr(config.generator, "system", None))


@dataclass(frozen=True, kw_only=True)
class RoundEstimate:
    """What a round will take, before anything is asked."""

    requests: int
    prompt_tokens: float
    most_completion_tokens: int
    most_cost: float | None  # by tokens; None where the recipe has no such price


def estimate_round(
    prices: PricesConfig | None,
    *,
    requests: int,
    max_new_tokens: int,
    prompt_characters: Sequence[int],
    ways: Sequence[tuple[int, Sequence[int]]] = ((1, ()),),
) -> RoundEstimate:
    """By the characters of some prompts (four to a token), as if every text reached its limit. ``ways`` to ask: how
    many of the requests, and the characters of each further turn, which is asked with all that was said before it.
    """
    first = sum(prompt_characters) / len(prompt_characters) / 4 if prompt_characters else 0.0
    read, calls, weights = 0.0, 0, sum(weight for weight, _ in ways)
    for weight, turns in ways:
        said = 0.0
        for number, characters in enumerate((0, *turns)):
            said += (first if number == 0 else max_new_tokens) + characters / 4
            read += weight * said
        calls += weight * (1 + len(turns))
    prompt_tokens, completion_tokens = requests * read / weights, math.ceil(requests * max_new_tokens * calls / weights)
    has_price = prices is not None and (prices.per_million_prompt_tokens or prices.per_million_completion_tokens)
    return RoundEstimate(
        requests=requests,
        prompt_tokens=prompt_tokens,
        most_completion_tokens=completion_tokens,
        most_cost=(
            prices.per_million_prompt_tokens * prompt_tokens / _MILLION
            + prices.per_million_completion_tokens * completion_tokens / _MILLION
        )
        if prices is not None and has_price
        else None,
    )
