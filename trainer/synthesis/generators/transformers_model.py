"""Texts of a transformers model in this process."""

import hashlib
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.synthesis.generators.config import TransformersConfig
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request

if TYPE_CHECKING:
    from trainer.model.writer import Written


class TransformersModel:
    """Writes in batches of requests that are sampled alike, sorted by length so that little is padding."""

    def __init__(self, config: TransformersConfig) -> None:
        self.config = config

    def identity(self) -> Identity:
        """The folder's or hub id's name, and a hash of the weights' files."""
        from trainer.model.writer import fetched_files

        if self.config.model is None:
            remedy = "Give synthesis.generator.model, or --from RUN to use a run's model"
            raise UserError("the generator has no model", remedy=remedy)
        files = fetched_files(self.config.model)
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return Identity(name=Path(self.config.model).name, weights=digest.hexdigest()[:16], license=self.config.license)

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """Batch by batch. A batch is the same in a round that resumes, and is seeded by its first request, so that a
        killed round writes the texts that it would have written.
        """
        from trainer.model.writer import Writer

        if any(request.top_logprobs for request in requests):
            remedy = "Ask an endpoint for them"
            raise UserError("the generator of kind transformers gives no log-probabilities", remedy=remedy)
        writer = Writer(str(self.config.model), system=self.config.system)
        for batch in batches(requests, self.config.batch):
            if all(request.id in done for request in batch):
                continue
            began_s = time.monotonic()
            sampling = batch[0].sampling
            texts = writer.write(
                [request.prompt for request in batch],
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_new_tokens=sampling.max_new_tokens,
                seed=batch[0].seed,
                before=[[asdict(message) for message in request.messages] for request in batch],
            )
            seconds = (time.monotonic() - began_s) / len(batch)
            for request, text in zip(batch, texts, strict=True):
                if request.id not in done:
                    yield _completion(request, text, seconds)


def batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    """Requests that are sampled alike, ``size`` at a time, the longest prompts first: little of a batch is padding."""

    def alike(request: Request) -> tuple[float, float, int]:
        return request.sampling.temperature, request.sampling.top_p, request.sampling.max_new_tokens

    for _, group in groupby(sorted(requests, key=alike), key=alike):
        in_order = sorted(group, key=lambda request: (-len(request.prompt), request.id))
        for start in range(0, len(in_order), size):
            yield in_order[start : start + size]


def _completion(request: Request, text: "Written", seconds: float) -> Completion:
    return Completion(
        request_id=request.id,
        text=text.text,
        finish_reason="too_long" if text.is_too_long else "length" if text.is_cut_off else "stop",
        prompt_tokens=text.prompt_tokens,
        completion_tokens=text.completion_tokens,
        counted="told",
        seconds=seconds,
    )


def transformers_model(config: TransformersConfig) -> Generator:
    """The generator of kind ``transformers``."""
    return TransformersModel(config)
