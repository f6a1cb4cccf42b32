"""What a generator is, what it is asked, and what it gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is sampled. ``temperature`` 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Message:
    """What was said by one side of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One text that is asked for; ``id`` is a hash of all that decides it.

    ``messages`` is what was said before ``prompt``, oldest first. ``top_logprobs`` asks for the log-probabilities of
    each written token and of the so many most likely ones.
    """

    id: str
    prompt: str
    sampling: Sampling
    seed: int
    messages: tuple[Message, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which model writes: its name, a hash of its weights (or "unknown", behind an API), its license."""

    name: str
    weights: str
    license: str


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """A written token with its log-probability, and the most likely tokens at its place with theirs (nats)."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What came of a request: a text, or the error that took its place.

    ``finish_reason``: the text ended, reached its limit, was not written because the prompt leaves no room in the
    context, the server refuses this very request, the row of another engine cannot be used (``error`` says why), or the
    call failed and may succeed later. Tokens are ``counted`` by the generator ("told") or by us ("estimated").
    ``seconds`` is the time spent on this text: what was written at the same time shares it, so that the seconds of a
    round add up to the time that the generator was at work.
    """

    request_id: str
    text: str
    finish_reason: Literal["stop", "length", "too_long", "refused", "unusable", "error"]
    prompt_tokens: int
    completion_tokens: int
    counted: Literal["told", "estimated"]
    seconds: float
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] | None = None
    cached: bool = False  # answered before, and not paid for again
    joules: float | None = None  # energy of this machine's GPUs, where it can be read

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave, through JSON."""
        if not record.get("logprobs"):
            return cls(**record)
        tokens = tuple(
            TokenLogprobs(**{**token, "top": tuple((name, value) for name, value in token["top"])})
            for token in record["logprobs"]
        )
        return cls(**{**record, "logprobs": tokens})


class Generator(Protocol):
    """Writes texts. Made once for a round, in the process that runs it."""

    def identity(self) -> Identity:
        """Which model writes. ``UserError`` where it cannot be reached or is not the one that the recipe names."""
        ...

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """One completion for each request whose id is not in ``done``, in any order, as they come.

        ``requests`` are all of the round, also when it resumes: what is written together can stay together.
        """
        ...


@runtime_checkable
class Admitting(Protocol):
    """A generator that asks before each request whether its price is allowed; others stop when the price is spent."""

    def admit_by(self, admit: Callable[[Request], bool]) -> None:
        """No request is asked for which ``admit`` says no."""
        ...


class GeneratorFactory(Protocol):
    """Makes a generator from its configuration."""

    def __call__(self, config: Any, /) -> Generator:
        """A generator that has not loaded anything yet."""
        ...
