"""Conversations of several turns: an answer is asked about again, and the last one is the row's text.

Draft, critique and revision are three requests, each with what was said before it. Every answer is on the disk before
the next turn is asked for, and a request's name follows from the answers before it: a round that is killed resumes in
the turn where it was, and asks for nothing twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from trainer.base.hashing import derived_rng
from trainer.synthesis.generators.protocol import Completion, Message, Request
from trainer.synthesis.prompts import render, template_of
from trainer.synthesis.requests import Asked, id_of

Completions = Mapping[str, Completion]
_UNFINISHED = "the last turn was not asked for: the price allowed no more"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An answer before the last one, and what was asked after it."""

    text: str
    completion_tokens: int
    next: str


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What became of an item: its last ``answer``, with the tokens, seconds and joules of all ``answers``, and the
    ``turns`` before it. One that the price cut short has no text.
    """

    item: Asked
    answer: Completion
    answers: tuple[Completion, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class _Chain:
    """The requests of one conversation so far; all but the last are answered."""

    item: Asked
    requests: tuple[Request, ...]

    def continued(self, completions: Completions, *, keep_cut_off: bool) -> "_Chain | None":
        """With the next turn's request; None after the last turn, and where an answer leaves nothing to ask about."""
        turns = self.item.turns
        answer = completions.get(self.requests[-1].id)
        if len(self.requests) > len(turns) or answer is None or not answer.text.strip():
            return None
        if answer.finish_reason != "stop" and not (keep_cut_off and answer.finish_reason == "length"):
            return None
        answers = [completions[request.id].text.strip() for request in self.requests]
        prompt = render(template_of(turns[len(self.requests) - 1]), {**self.item.columns, "answers": answers})
        return _Chain(self.item, (*self.requests, _next(self.requests[-1], answers[-1], prompt)))


def turns_of(asked: Sequence[Asked], completions: Completions, *, keep_cut_off: bool) -> Iterator[list[Request]]:
    """The requests of each turn, where there are any; those of a turn follow from ``completions`` of the ones before,
    which must be there when it is asked for.
    """
    live = [_Chain(item, (item.request,)) for item in asked]
    while live:
        yield [chain.requests[-1] for chain in live]
        longer = (chain.continued(completions, keep_cut_off=keep_cut_off) for chain in live)
        live = [chain for chain in longer if chain is not None]


def whole_answer(item: Asked, completions: Completions, *, keep_cut_off: bool) -> Conversation:
    """The conversation that began with an item's request, which must be answered."""
    chain = _Chain(item, (item.request,))
    while (longer := chain.continued(completions, keep_cut_off=keep_cut_off)) is not None:
        chain = longer
    answers = tuple(completions[request.id] for request in chain.requests if request.id in completions)
    turns = tuple(
        Turn(text=answer.text.strip(), completion_tokens=answer.completion_tokens, next=request.prompt)
        for answer, request in zip(answers, chain.requests[1:], strict=False)
    )
    return Conversation(
        item=item, answer=_summed(answers, is_whole=len(answers) == len(chain.requests)), answers=answers, turns=turns
    )


def _summed(answers: Sequence[Completion], *, is_whole: bool) -> Completion:
    counted: Literal["told", "estimated"] = "estimated"
    if all(answer.counted == "told" for answer in answers):
        counted = "told"
    joules = [answer.joules for answer in answers if answer.joules is not None]
    last = replace(
        answers[-1],
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        counted=counted,
        seconds=sum(answer.seconds for answer in answers),
        cached=all(answer.cached for answer in answers),
        joules=sum(joules) if joules else None,
    )
    return last if is_whole else replace(last, text="", finish_reason="unusable", error=_UNFINISHED)


def written_tokens(row: Mapping[str, Any]) -> int:
    """Tokens of a row's last answer alone; its ``completion_tokens`` are those of all turns."""
    return int(row["completion_tokens"] - sum(turn["completion_tokens"] for turn in row["turns"]))


def _next(request: Request, answer: str, prompt: str) -> Request:
    """The request of the next turn, named by the one before, its answer and what is asked for now."""
    messages = (
        *request.messages,
        Message(role="user", content=request.prompt),
        Message(role="assistant", content=answer),
    )
    decisive = [request.id, [asdict(message) for message in messages], prompt]
    seed = int(derived_rng(request.seed, "turn", len(messages)).integers(2**31))
    return replace(request, id=id_of(decisive), prompt=prompt, messages=messages, seed=seed)
