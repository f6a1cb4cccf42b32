"""Texts of a server with the OpenAI API, through the `openai` client.

Concurrency rises by one per answered round of calls and halves when the server refuses (429, 503): additive increase,
multiplicative decrease, as TCP shares a link. A call is tried again after a growing pause; calls that fail in a row
stop the round, so that a dead server costs minutes, not the night, and the round resumes where it stopped.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, cast

from trainer.base.errors import UserError
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request, TokenLogprobs

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LONGEST_PAUSE_S = 60.0
_BUSY = (429, 503)
_REFUSED = (400, 413, 422)  # of this very request: too long, content that the server does not take


class Endpoint:
    """A client of one model at one server."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config

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
            from openai import AsyncOpenAI
        except ImportError as error:
            remedy = "pip install 'hybrid-trainer[endpoint]'"
            raise UserError("the generator of kind endpoint needs the package openai", remedy=remedy) from error
        key = os.environ.get(self.config.api_key_variable, "none")  # a local server takes any
        return AsyncOpenAI(base_url=self.config.url, api_key=key, timeout=self.config.timeout_s, max_retries=0)

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """As they are answered. ``UserError`` after ``give_up_after`` calls that failed in a row."""
        waiting = [request for request in requests if request.id not in done]
        answers: Queue[Completion | BaseException | None] = Queue()
        calls = _Calls(self.config, waiting, answers)
        thread = Thread(target=lambda: asyncio.run(calls.run(self._client)), name="endpoint", daemon=True)
        thread.start()
        try:
            while (answer := answers.get()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            calls.stop()
            thread.join()


class _Calls:
    """All calls of a round, in one event loop in a thread of its own."""

    def __init__(
        self, config: EndpointConfig, requests: Sequence[Request], answers: "Queue[Completion | BaseException | None]"
    ) -> None:
        self.config, self.answers = config, answers
        self.waiting = list(reversed(requests))
        self.window = float(min(8, config.max_concurrency))  # calls that may be in flight
        self.failed_in_a_row = 0
        self.refused: list[Completion] = []
        self._cancel: Callable[[], object] | None = None

    def stop(self) -> None:
        """Calls in flight are given up."""
        if self._cancel is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._cancel()

    async def run(self, new_client: Any) -> None:
        """Keeps as many calls in flight as the window allows, until all are answered."""
        task = asyncio.current_task()
        assert task is not None
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        try:
            async with new_client() as client:
                await self._drain(client)
            self._put_refused()
            self.answers.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads the answers
            self.answers.put(error)

    async def _drain(self, client: "AsyncOpenAI") -> None:
        in_flight: set[asyncio.Task[Completion]] = set()
        while self.waiting or in_flight:
            while self.waiting and len(in_flight) < int(self.window):
                in_flight.add(asyncio.create_task(self._answered(client, self.waiting.pop())))
            ready, in_flight = await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
            for completion in sorted((task.result() for task in ready), key=_is_failed):  # answers are kept first
                self._take(completion)

    def _take(self, completion: Completion) -> None:
        if completion.finish_reason not in ("error", "refused"):
            self.failed_in_a_row = 0
            self._put_refused()
            self.window = min(self.config.max_concurrency, self.window + 1 / self.window)
            self.answers.put(completion)
            return
        self.failed_in_a_row += 1
        if completion.finish_reason == "refused":
            self.refused.append(completion)
        if self.failed_in_a_row >= self.config.give_up_after:
            raise UserError(
                f"{self.failed_in_a_row} calls in a row failed, the last one: {completion.error}",
                got=self.config.url,
                remedy="What was answered is kept: look at the server, then run it again to resume",
            )
        if completion.finish_reason == "error":
            self.answers.put(completion)

    def _put_refused(self) -> None:
        """Requests that were refused count as such once the server has answered others, or all are through."""
        for completion in self.refused:
            self.answers.put(completion)
        self.refused.clear()

    async def _answered(self, client: "AsyncOpenAI", request: Request) -> Completion:
        """The completion, tried ``1 + retries`` times, or its last error."""
        from openai import APIError

        began_s = time.monotonic()
        error, reason = "", "error"
        for attempt in range(1 + self.config.retries):
            if attempt:
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(_LONGEST_PAUSE_S, 0.5 * 2**attempt))
            try:
                answer = await self._call(client, request)
                if _is_of(self.config.model, answer):
                    return _completion(request, answer, time.monotonic() - began_s)
                error = f"another model answered: {answer.model}"
                break
            except APIError as failure:
                error = _in_words(failure)
                status = getattr(failure, "status_code", None)
                if status in _BUSY:
                    self.window = max(1.0, self.window / 2)
                elif status in _REFUSED:
                    reason = "refused"  # the same request will be refused again
                    break
                elif status is not None and 400 <= status < 500 and status != 408:
                    break  # the key, the model or the address is wrong: no other try helps
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as failure:
                error = f"not an answer of the OpenAI API: {type(failure).__name__}: {failure}"
        return Completion(
            request_id=request.id,
            text="",
            finish_reason=cast(Literal["refused", "error"], reason),
            prompt_tokens=0,
            completion_tokens=0,
            counted="estimated",
            seconds=time.monotonic() - began_s,
            error=error,
        )

    async def _call(self, client: "AsyncOpenAI", request: Request) -> Any:
        return await client.chat.completions.create(**payload_of(self.config, request))


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


def _is_failed(completion: Completion) -> bool:
    return completion.finish_reason in ("error", "refused")


async def _listed(client: "AsyncOpenAI") -> set[str]:
    """The names of the models; none where the server has no such list."""
    from openai import APIStatusError

    try:
        return {model.id async for model in client.models.list()}
    except APIStatusError:
        return set()


def _is_of(model: str, answer: Any) -> bool:
    """Whether the answer is by this model; servers add a revision (`name@main`) or a date (`name-2026-01-31`)."""
    return not answer.model or answer.model == model or answer.model.startswith((f"{model}@", f"{model}-"))


def _completion(request: Request, answer: Any, seconds: float) -> Completion:
    """Tokens are told by the server, or estimated as a quarter of the characters where it does not tell them."""
    choice = answer.choices[0]
    text = choice.message.content
    if text is None:
        text = ""  # a refusal, or a call of a tool: an empty text, which is dropped and counted
    usage = answer.usage
    return Completion(
        request_id=request.id,
        text=text,
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=len(request.prompt) // 4 if usage is None else usage.prompt_tokens,
        completion_tokens=len(text) // 4 if usage is None else usage.completion_tokens,
        counted="estimated" if usage is None else "told",
        seconds=seconds,
        logprobs=_logprobs(choice) if request.top_logprobs else None,
    )


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
