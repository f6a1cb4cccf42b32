"""Texts of a server with the OpenAI API, through the `openai` client.

How many calls are in flight, and when one is tried again, is decided in ``calls`` by the rules of ``pacing``: a dead
server costs minutes, not the night, and the round resumes where it stopped.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from email.utils import mktime_tz, parsedate_tz
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from trainer.base.errors import UserError
from trainer.synthesis.generators.calls import Calls, Failed
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request, TokenLogprobs
from trainer.synthesis.generators.request_cache import RequestCache, cache_key

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_BUSY = (429, 503)
_OF_A_VERSION = re.compile(r"@.+|-\d{4}-\d{2}-\d{2}|-\d{8}|-\d{6}|-\d{4}")
_TOO_LONG = 2  # times the limit on tokens: the server does not keep it
_STOPPED = "stopped by the server's content filter"
_REFUSED = (400, 413, 422)  # of this very request: too long, content that the server does not take


class Endpoint:
    """A client of one model at one server."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._admit: Callable[[Request], bool] = lambda request: True

    def identity(self) -> Identity:
        """The model as the server knows it: from its list, or, where that is missing or leaves the model out (some
        servers list their cache only), from one call. ``UserError`` where it does not answer or has another model.
        """
        return asyncio.run(self._identity())

    async def _identity(self) -> Identity:
        from openai import APIError, APIStatusError

        async with self._client() as client:
            try:
                listed = await _listed(client)
                if self.config.model not in listed:
                    await self._try_call(client, listed)
            except APIError as error:
                problem = "refuses a call" if isinstance(error, APIStatusError) else "does not answer"
                remedy = "Start the server, or fix synthesis.generator.url (it usually ends in /v1)"
                raise UserError(
                    f"the endpoint {problem}: {_in_words(error)}", got=self.config.url, remedy=remedy
                ) from error
        # Nothing in the API tells one version of a model from another: many date `created` by the call.
        return Identity(name=self.config.model, weights="unknown", license=self.config.license)

    async def _try_call(self, client: "AsyncOpenAI", listed: Set[str]) -> None:
        """One token of the model that the server does not list. ``UserError`` where another answers, or none."""
        from openai import APIStatusError

        known = f"It lists {', '.join(sorted(listed))}" if listed else "It lists none"
        try:
            answer: Any = await client.chat.completions.create(
                model=self.config.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=1
            )
        except APIStatusError as error:
            what = f"the endpoint has no such model: {_in_words(error)}"
            raise UserError(what, got=self.config.model, remedy=f"{known} at {self.config.url}") from error
        if not _is_of(self.config.model, answer):
            what = f"the endpoint answers with another model: {answer.model}"
            raise UserError(what, got=self.config.model, remedy=f"{known} at {self.config.url}")

    def _client(self) -> "AsyncOpenAI":
        try:
            from openai import DEFAULT_CONNECTION_LIMITS, AsyncOpenAI, DefaultAsyncHttpxClient
        except ImportError as error:
            remedy = "pip install 'hybrid-trainer[endpoint]'"
            raise UserError("the generator of kind endpoint needs the package openai", remedy=remedy) from error
        key = os.environ.get(self.config.api_key_variable, "none")  # a local server takes any
        most = self.config.max_concurrency  # by default few connections stay open between calls
        limits = type(DEFAULT_CONNECTION_LIMITS)(max_connections=most, max_keepalive_connections=most)
        return AsyncOpenAI(
            base_url=self.config.url,
            api_key=key,
            timeout=self.config.timeout_s,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(limits=limits, timeout=self.config.timeout_s),
        )

    def admit_by(self, admit: Callable[[Request], bool]) -> None:
        """No call begins for which ``admit`` says no."""
        self._admit = admit

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """As they are answered. ``UserError`` after ``give_up_after`` calls that failed in a row."""
        waiting = [request for request in requests if request.id not in done]
        if self.config.cache is None:
            yield from self._asked(waiting)
            return
        cache = RequestCache(self.config.cache)
        try:
            keys = {request.id: cache_key(self.config.url, payload_of(self.config, request)) for request in waiting}
            cached = [cache.get(keys[request.id], request.id) for request in waiting]
            yield from (answer for answer in cached if answer is not None)
            rest = [request for request, answer in zip(waiting, cached, strict=True) if answer is None]
            for answer in self._asked(rest):
                cache.put(keys[answer.request_id], answer)
                yield answer
        finally:
            cache.close()

    def _asked(self, requests: Sequence[Request]) -> Iterator[Completion]:
        calls = Calls(self.config, requests, self._answer, self._admit)
        thread = Thread(target=asyncio.run, args=(calls.run(self._client),), name="endpoint", daemon=True)
        thread.start()
        try:
            while (answer := calls.answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            calls.stop()
            thread.join()

    async def _answer(self, client: "AsyncOpenAI", request: Request) -> Completion | Failed:
        from openai import APIError

        try:
            answer = await client.chat.completions.create(**payload_of(self.config, request))
            if _is_of(self.config.model, answer):
                return _completion(request, answer)
            return Failed(kind="fatal", words=f"another model answered: {answer.model}")
        except APIError as error:
            return _failed(error)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            words = f"not an answer of the OpenAI API: {type(error).__name__}: {error}"
            return Failed(kind="broken", words=words)


def payload_of(config: EndpointConfig, request: Request) -> dict[str, Any]:
    """What the server is sent for a request."""
    messages: list[Any] = [] if config.system is None else [{"role": "system", "content": config.system}]
    messages += [asdict(message) for message in request.messages]
    payload: dict[str, Any] = {
        "model": config.model,
        "messages": [*messages, {"role": "user", "content": request.prompt}],
        "temperature": request.sampling.temperature,
        "top_p": request.sampling.top_p,
        "max_tokens": request.sampling.max_new_tokens,
        "seed": request.seed,
    }
    return payload | ({"logprobs": True, "top_logprobs": request.top_logprobs} if request.top_logprobs else {})


def _failed(error: Any) -> Failed:
    """A call that failed, by the status of HTTP where there is one."""
    status, words = getattr(error, "status_code", None), _in_words(error)
    if status in _BUSY:
        return Failed(kind="busy", words=words, retry_after_s=_retry_after_s(error.response.headers))
    if status in _REFUSED:
        return Failed(kind="refused", words=words)
    if status is not None and 400 <= status < 500 and status != 408:
        return Failed(kind="fatal", words=words)  # the key, the model or the address is wrong: no other try helps
    return Failed(kind="broken", words=words)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What the header Retry-After asks for: seconds, or a date (RFC 9110, 10.2.3)."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        date = parsedate_tz(text)
        return max(0.0, mktime_tz(date) - time.time()) if date else None


async def _listed(client: "AsyncOpenAI") -> set[str]:
    """The names of the models; none where the server has no such list."""
    from openai import APIStatusError

    try:
        return {model.id async for model in client.models.list()}
    except APIStatusError:
        return set()


def _is_of(model: str, answer: Any) -> bool:
    """Whether the answer is by this model; servers add a revision (`name@main`) or a date (`name-2026-01-31`,
    `name-20260131`, `name-0131`), while `name-mini` is another model.
    """
    told = answer.model
    return (
        not told or told == model or (told.startswith(model) and _OF_A_VERSION.fullmatch(told, len(model)) is not None)
    )


def _completion(request: Request, answer: Any) -> Completion:
    """Tokens are told by the server, or estimated as a quarter of the characters where it does not tell them."""
    choice = answer.choices[0]
    text, usage = choice.message.content or "", answer.usage  # no text: a call of a tool
    refusal = getattr(choice.message, "refusal", None)
    most = _TOO_LONG * request.sampling.max_new_tokens
    is_too_long = (len(text) // 8 if usage is None else usage.completion_tokens) > most
    is_refused = bool(refusal) or choice.finish_reason == "content_filter"
    return Completion(
        request_id=request.id,
        text=text,
        finish_reason=_finish_reason(choice.finish_reason, is_refused=is_refused, is_too_long=is_too_long),
        prompt_tokens=len(request.prompt) // 4 if usage is None else usage.prompt_tokens,
        completion_tokens=len(text) // 4 if usage is None else usage.completion_tokens,
        counted="estimated" if usage is None else "told",
        seconds=0.0,  # its part is known when the call has ended
        error="longer than max_new_tokens" if is_too_long else refusal or (_STOPPED if is_refused else None),
        logprobs=_logprobs(choice) if request.top_logprobs else None,
    )


def _finish_reason(
    told: str | None, *, is_refused: bool, is_too_long: bool
) -> Literal["stop", "length", "refused", "unusable"]:
    if is_too_long:
        return "unusable"
    if is_refused:
        return "refused"
    return "length" if told == "length" else "stop"


def _logprobs(choice: Any) -> tuple[TokenLogprobs, ...] | None:
    """None where the server gives none, though it was asked for them."""
    if choice.logprobs is None or choice.logprobs.content is None:
        return None
    return tuple(
        TokenLogprobs(
            token=token.token, logprob=token.logprob, top=tuple((top.token, top.logprob) for top in token.top_logprobs)
        )
        for token in choice.logprobs.content
    )


def _in_words(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    text = " ".join(str(error).split())[:300]
    return f"HTTP {status}: {text}" if status and not text.startswith("Error code") else text


def endpoint(config: EndpointConfig) -> Generator:
    """The generator of kind ``endpoint``."""
    return Endpoint(config)
