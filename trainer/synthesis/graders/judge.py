"""Grades rows by asking a model: the generator itself, or another one.

An answer that cannot be read is no verdict. Answers are kept as they come, named by model and prompt, so that nothing
is asked, or paid for, twice.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.synthesis.generators import GENERATORS
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request, Sampling
from trainer.synthesis.graders.config import JudgeConfig, JudgeSettings, SelfConfig, name_of
from trainer.synthesis.graders.judging import choice_in, pair_prompt, scores_in, scores_prompt
from trainer.synthesis.graders.kept import Kept
from trainer.synthesis.graders.protocol import Grade, Grader, Row, Surroundings, Verdict

_SEED = 0  # answers are greedy
_WINS = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a judge has read and written for a round, before a kill too."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class JudgeGrader:
    """The score of the grader's own name is the mean of the aspects; who compares: the part of the orders it wins."""

    def __init__(self, config: JudgeSettings, model: Any, surroundings: Surroundings) -> None:
        self.name, self.config, self._answers = name_of(config), config, surroundings.answers
        # Two judges of one round may differ in these alone: a server says nothing of the weights behind a name
        self._told = [self.name, getattr(model, "system", None)]
        self._generator: Generator = GENERATORS.resolve(model.kind)(model)
        self._identity: Identity | None = None
        self._failure: str | None = None  # why the judge is asked no more
        self._began_s: float | None = None
        self.keeps_answers = True
        self._used: dict[str, Completion] = {}

    @property
    def usage(self) -> Usage:
        """Over the answers that grades were made of."""
        return Usage(
            calls=len(self._used),
            prompt_tokens=sum(completion.prompt_tokens for completion in self._used.values()),
            completion_tokens=sum(completion.completion_tokens for completion in self._used.values()),
        )

    @property
    def model(self) -> str | None:
        """The judge's name; None where it could not be reached."""
        return None if self._identity is None else self._identity.name

    @property
    def license(self) -> str | None:
        """The terms that the judge's verdicts come under."""
        return None if self._identity is None else self._identity.license

    def grade(self, rows: Sequence[Row], /) -> Sequence[Grade]:
        """Asks for all rows at once. ``UserError`` where the judge cannot be reached and the recipe says to stop."""
        if self._began_s is None:
            self._began_s = time.monotonic()
        prompts = [self._prompts(row) for row in rows]
        try:
            answers = {} if self._failure else self._ask([prompt for asked in prompts for prompt in asked])
        except Exception as error:  # whatever a generator does
            if self.config.if_unreachable == "stop":
                remedy = "What it answered is kept: run it again to resume, or set if_unreachable: abstain"
                raise UserError(f"the grader {self.name!r} failed: {in_words(error)}", remedy=remedy) from error
            self._failure, answers = "the judge could not be reached", {}
        return [self._grade([answers.get(prompt) for prompt in asked]) for asked in prompts]

    def _prompts(self, row: Row) -> list[str]:
        limit, aspects = self.config.max_characters, self.config.aspects
        text, source = row["text"][:limit], str(row["prompt_row"]["text"])[:limit]
        if not self.config.pairwise:
            return [scores_prompt(text, source, aspects)]
        return [pair_prompt(text, source, aspects), pair_prompt(source, text, aspects)]

    def _ask(self, prompts: Sequence[str]) -> dict[str, Completion]:
        """Completions by prompt: those that were kept, and the others as far as the time goes."""
        if self._identity is None:
            self._identity = self._generator.identity()
        requests = {prompt: self._request(prompt, self._identity) for prompt in prompts}
        with Kept(self._answers) as kept:
            asked = list(dict.fromkeys(requests.values()))
            done = {request.id for request in asked} & kept.records.keys()
            if len(done) < len(asked):
                self._keep_answers(self._generator.generate(asked, done), kept)
            answered = {
                prompt: Completion(**kept.records[request.id]["completion"])
                for prompt, request in requests.items()
                if request.id in kept.records
            }
        self._used.update((completion.request_id, completion) for completion in answered.values())
        return answered

    def _keep_answers(self, completions: Iterator[Completion], kept: Kept) -> None:
        """As they come, until the time is over."""
        for completion in completions:
            if completion.finish_reason != "error":
                kept.add([{"key": completion.request_id, "completion": asdict(completion)}])
            if self._is_late():
                self._failure = "not judged in time"
                break
        getattr(completions, "close", bool)()  # calls in flight are given up

    def _is_late(self) -> bool:
        limit_s, began_s = self.config.time_limit_s, self._began_s
        return limit_s is not None and began_s is not None and time.monotonic() - began_s > limit_s

    def _request(self, prompt: str, identity: Identity) -> Request:
        sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=self.config.max_new_tokens)
        decisive = json.dumps([identity.name, identity.weights, *self._told, prompt, asdict(sampling)])
        name = hashlib.sha256(decisive.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return Request(id=name, prompt=prompt, sampling=sampling, seed=_SEED)

    def _grade(self, answers: Sequence[Completion | None]) -> Grade:
        texts = [answer.text for answer in answers if answer is not None and answer.finish_reason in ("stop", "length")]
        if len(texts) < len(answers):
            ends = {answer.finish_reason for answer in answers if answer is not None}
            too_long = "too long for the judge's context" if "too_long" in ends else None
            refused = "the judge refused" if "refused" in ends else None
            reason = too_long or refused or self._failure or "the judge did not answer"
            return Grade(scores={}, verdict="abstain", reason=reason)
        return self._compared(texts) if self.config.pairwise else self._scored(texts[0])

    def _scored(self, answer: str) -> Grade:
        scores = scores_in(answer, self.config.aspects)
        if scores is None:
            return Grade(scores={}, verdict="abstain", reason="an answer that cannot be read")
        mean = sum(scores.values()) / len(scores)
        is_kept = mean >= self.config.keep_from
        return Grade(
            scores={self.name: mean, **{f"{self.name}.{aspect}": score for aspect, score in scores.items()}},
            verdict="keep" if is_kept else "drop",
            reason=None if is_kept else f"mean score below {self.config.keep_from:g}",
        )

    def _compared(self, answers: Sequence[str]) -> Grade:
        text_first, source_first = (choice_in(answer) for answer in answers)
        if text_first is None or source_first is None:
            return Grade(scores={}, verdict="abstain", reason="an answer that cannot be read")
        wins = (_WINS[text_first] + 1 - _WINS[source_first]) / 2
        scores = {self.name: wins, f"{self.name}.first": (_WINS[text_first] + _WINS[source_first]) / 2}
        verdict: Verdict = "drop" if wins == 0 else "keep"
        return Grade(scores=scores, verdict=verdict, reason=None if verdict == "keep" else "worse than the real row")


def judge(config: JudgeConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``judge``."""
    return JudgeGrader(config, config.model, surroundings)


def self_grading(config: SelfConfig, surroundings: Surroundings, /) -> Grader:
    """The grader of kind ``self``."""
    return JudgeGrader(config, surroundings.generator, surroundings)
