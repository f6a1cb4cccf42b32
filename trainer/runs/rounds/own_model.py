"""The texts of a round that the run's own model writes: planned elsewhere, written by all ranks, kept as they come."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.base.heartbeat import beat
from trainer.engines.writing import TextBatch
from trainer.model.prompt_tokens import prompt_encoder
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.generators.protocol import Completion, Message, Request, Sampling
from trainer.synthesis.generators.transformers_model import batches
from trainer.synthesis.pool import Pool
from trainer.synthesis.responses import Responses, begun_for_others

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.engine import TrainingEngine


@dataclass(frozen=True)
class _Asked:
    """A batch of requests with the tokens of their prompts."""

    requests: Sequence[Request]
    batch: TextBatch


def read_asked(file: Path) -> list[Request]:
    """The requests that were planned."""
    return [
        Request(
            **{
                **saved,
                "sampling": Sampling(**saved["sampling"]),
                "messages": tuple(Message(**message) for message in saved["messages"]),
            }
        )
        for saved in json.loads(file.read_text(encoding="utf-8"))
    ]


def write_own_texts(
    engine: "TrainingEngine", data: "PreparedData", config: RunConfig, pool: Pool, generation: int, asked: Path
) -> int:
    """(all) Write what is missing of the texts of a round; how many were written now.

    Every batch is on the disk before the ranks write the next ones. OSError on all ranks where that fails.
    """
    with ExitStack() as stack:
        responses, todo, problem = None, list[_Asked](), None
        if engine.is_main:
            try:
                requests = read_asked(asked)
                file = pool.responses_file(generation, 0, 1)
                if begun_for_others(file, requests):  # a step after which the texts failed: another model wrote them
                    file.unlink()
                responses = stack.enter_context(Responses(file, requests))
                todo = _todo(data, config, responses, requests)
            except (OSError, UserError) as error:
                problem = in_words(error)
        todo, problem = engine.broadcast((todo, problem))
        if problem is not None:
            raise OSError(problem)
        fits = engine.context
        num_written = 0
        for first in range(0, len(todo), engine.world_size):
            beat("writing texts")
            own = todo[first + engine.rank] if first + engine.rank < len(todo) else None
            completions = _written(engine, own, data, fits)
            num_written += _keep(engine, responses, completions)
    return num_written


def _todo(data: "PreparedData", config: RunConfig, responses: Responses, asked: Sequence[Request]) -> list[_Asked]:
    """The batches that are not answered yet. A batch is the same in a round that resumes, whatever is left of it."""
    before = [data.end_of_document if data.begin_of_document is None else data.begin_of_document]
    encode = prompt_encoder(data.tokenizer_folder, system=config.system, before=before)
    return [
        _Asked(
            requests,
            TextBatch(
                prompts=[
                    encode(request.prompt, [vars(message) for message in request.messages]) for request in requests
                ],
                temperature=requests[0].sampling.temperature,
                top_p=requests[0].sampling.top_p,
                max_new_tokens=requests[0].sampling.max_new_tokens,
                seed=requests[0].seed,
            ),
        )
        for requests in batches(asked, config.batch)
        if any(request.id not in responses.completions for request in requests)
    ]


def _written(
    engine: "TrainingEngine", own: _Asked | None, data: "PreparedData", context: int | None
) -> list[Completion]:
    """(all) This rank's completions."""
    began_s = time.monotonic()
    fits = (
        []
        if own is None
        else [context is None or len(prompt) + own.batch.max_new_tokens <= context for prompt in own.batch.prompts]
    )
    batch = None
    if own is not None and any(fits):
        prompts = [prompt for prompt, fit in zip(own.batch.prompts, fits, strict=True) if fit]
        batch = TextBatch(**{**vars(own.batch), "prompts": prompts})
    texts = iter(engine.write_texts(batch, end=data.end_of_document))
    if own is None:
        return []
    seconds = (time.monotonic() - began_s) / len(own.requests)
    return [
        _completion(request, next(texts) if fit else None, len(prompt), data, seconds)
        for request, prompt, fit in zip(own.requests, own.batch.prompts, fits, strict=True)
    ]


def _completion(
    request: Request, tokens: list[int] | None, prompt_tokens: int, data: "PreparedData", seconds: float
) -> Completion:
    new = tokens or []
    is_cut_off = len(new) >= request.sampling.max_new_tokens
    return Completion(
        request_id=request.id,
        text=data.decode(new),
        finish_reason="too_long" if tokens is None else "length" if is_cut_off else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=len(new),
        counted="told",
        seconds=seconds,
    )


def _keep(engine: "TrainingEngine", responses: Responses | None, completions: list[Completion]) -> int:
    """(all) Put every rank's completions on the disk; how many they are. OSError on all ranks where that fails."""
    every = [completion for own in engine.gather(completions) for completion in own]
    problem: str | None = None
    if responses is not None:
        try:
            responses.add(completion for completion in every if completion.request_id not in responses.completions)
        except OSError as error:
            problem = str(error)
    problem = engine.broadcast(problem)
    if problem is not None:
        raise OSError(problem)
    return len(every)
