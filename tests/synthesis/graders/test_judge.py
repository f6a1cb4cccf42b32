"""Judges behind a real server, on good days and bad ones."""

import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis.graders.test_panel import config, record_of, run
from tests.synthesis.openai_server import MODEL, Answer, OpenAIServer, completion
from trainer.base.errors import UserError
from trainer.synthesis.graders.judging import choice_in, scores_in

ASPECTS = {"accuracy": "facts", "language": "words"}


@pytest.fixture
def serve() -> Iterator[Callable[..., OpenAIServer]]:
    servers: list[OpenAIServer] = []

    def start(answer: Callable[[str, int], Answer], **settings: Any) -> OpenAIServer:
        servers.append(OpenAIServer(answer, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def judge(server_url: str, **settings: Any) -> Any:
    model = {
        "kind": "endpoint", "url": server_url, "model": MODEL, "license": "MIT", "retries": 0, "give_up_after": 3,
        "timeout_s": 20,
    }  # fmt: skip
    return config(kind="judge", model=model, aspects=ASPECTS, **settings)


def careful(prompt: str, number: int) -> Answer:
    """Scores as a careful reader would: by the pairs of words that the source has."""
    source, text = re.search(r"Source:\n(.*)\n\nText to grade:\n(.*)\n\nAnswer", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
    words, known = text.replace("Indeed, ", "").split(), source.split()
    pairs = list(itertools.pairwise(words))
    share = (Counter(pairs) & Counter(itertools.pairwise(known))).total() / max(len(pairs), 1)
    score = 1 + 9 * share * (1 if text.endswith(".") else 0.3)
    return completion(f'Here it is: {{"accuracy": {score:.0f}, "language": "{score:.0f}/10"}} I hope that helps.')


def test_two_judges_that_are_told_different_things_are_both_asked(
    tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    server = serve(careful)
    first, second = (judge(server.url, name=name) for name in ("first", "second"))
    strict = second.model.model_copy(update={"system": "You are strict."})
    second = second.model_copy(update={"model": strict})
    run(tmp_path, first, second, own=4, real=20)
    systems = Counter(payload["messages"][0]["content"] == "You are strict." for payload in server.payloads)
    assert systems[True] == systems[False] > 0


def test_a_careful_judge_keeps_its_vote_and_its_use_is_counted(
    tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    server = serve(careful)
    outcome = run(tmp_path, judge(server.url), own=20)
    record = record_of(outcome)
    assert record.has_vote, record.lost_vote_for
    assert (record.model, record.license) == (MODEL, "MIT")
    assert record.calls == len(server.calls) == record.prompt_tokens / 11
    assert set(outcome.grades[0][1][0].scores) == {"judge", "judge.accuracy", "judge.language"}


def test_a_judge_is_not_asked_twice(tmp_path: Path, serve: Callable[..., OpenAIServer]) -> None:
    server = serve(careful)
    first = record_of(run(tmp_path, judge(server.url), own=20))
    (tmp_path / "grades").unlink()  # of a round that was killed before its grades were kept
    again = record_of(run(tmp_path, judge(server.url), own=20))
    assert set(server.calls.values()) == {1}
    assert again.calls == first.calls


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda prompt, number: completion('{"accuracy": 10, "language": 10}'), "agreement 0.50"),
        (lambda prompt, number: completion("I am sorry, as a model I find all texts lovely."), "no verdict on 100%"),
        (lambda prompt, number: completion('{"accuracy": 99, "language": -3}'), "no verdict on 100%"),
        (lambda prompt, number: completion(None), "no verdict on 100%"),
    ],
)
def test_a_judge_that_says_always_the_same_or_garbage_loses_its_vote_and_the_round_goes_on(
    tmp_path: Path, serve: Callable[..., OpenAIServer], answer: Callable[[str, int], Answer], reason: str
) -> None:
    record = record_of(run(tmp_path, judge(serve(answer).url), own=5, real=20))
    assert any(reason in why for why in record.lost_vote_for), record.lost_vote_for


def test_a_dead_judge_stops_the_round_or_loses_its_vote_as_the_recipe_says(
    tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    server = serve(careful)
    server.close()
    with pytest.raises(UserError, match="the grader 'judge' failed"):
        run(tmp_path, judge(server.url), own=5, real=20)
    record = record_of(run(tmp_path, judge(server.url, if_unreachable="abstain"), own=5, real=20))
    assert not record.has_vote
    assert record.abstained == {"the judge could not be reached": 5}


def test_a_judge_that_dies_midway_is_not_asked_again_for_what_it_answered(
    tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    answered: list[str] = []

    def dying(prompt: str, number: int) -> Answer:
        if len(answered) >= 20 and number == 1:
            return 500, {"error": {"message": "out of memory"}}
        answered.append(prompt)
        return careful(prompt, number)

    server = serve(dying)
    with pytest.raises(UserError, match="calls in a row failed"):
        run(tmp_path, judge(server.url), own=5, real=20)
    kept = [json.loads(line)["key"] for line in (tmp_path / "answers").read_text().splitlines()]
    assert len(kept) >= 20
    replacement = serve(careful)
    run(tmp_path, judge(replacement.url), own=5, real=20)
    in_the_end = [json.loads(line)["key"] for line in (tmp_path / "answers").read_text().splitlines()]
    assert in_the_end[: len(kept)] == kept
    assert len(set(in_the_end)) == len(in_the_end) == len(set(answered) | set(replacement.calls))
    assert sum(replacement.calls.values()) == len(in_the_end) - len(kept), "what was kept is not asked for again"


def test_a_slow_judge_is_not_waited_for_beyond_its_time(tmp_path: Path, serve: Callable[..., OpenAIServer]) -> None:
    server = serve(careful, delay_s=0.2)
    began_s = time.monotonic()
    record = record_of(run(tmp_path, judge(server.url, time_limit_s=0.5), own=50, real=60))
    assert record.abstained["not judged in time"] > 0
    assert not record.has_vote
    assert len(server.calls) < 200
    assert time.monotonic() - began_s < 60


def test_a_judge_that_takes_the_first_of_two_loses_its_vote_for_it(
    tmp_path: Path, serve: Callable[..., OpenAIServer]
) -> None:
    server = serve(lambda prompt, number: completion('{"better": "A"}'))
    record = record_of(run(tmp_path, judge(server.url, pairwise=True), own=5, real=20))
    assert any("position bias" in why for why in record.lost_vote_for), record.lost_vote_for


def test_a_judge_that_compares_fairly_keeps_its_vote(tmp_path: Path, serve: Callable[..., OpenAIServer]) -> None:
    def fair(prompt: str, number: int) -> Answer:
        first, second = re.search(r"Text A:\n(.*)\n\nText B:\n(.*)\n\nAnswer", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
        # of two texts that share their words the sound one has the sentences of every river
        sound = [
            text.startswith("The river") and text.endswith(".") and len(set(text.split(". "))) > 1
            for text in (first, second)
        ]
        return completion('{"better": "tie"}' if sound[0] == sound[1] else f'{{"better": "{"AB"[sound[1]]}"}}')

    settings = {"pairwise": True, "faults": ["shuffled", "truncated", "repeated"]}
    record = record_of(run(tmp_path, judge(serve(fair).url, **settings), own=20))
    assert record.has_vote, record.lost_vote_for
    assert record.position_bias is not None
    assert record.position_bias.value == 0.0


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ('{"accuracy": 7, "language": 8}', (7, 8)),
        ('```json\n{"Accuracy": "7/10", "LANGUAGE": 8.5}\n```', (7, 8.5)),
        ('{"note": 1} {"accuracy": {"score": 3, "why": "{"}, "language": 1}', (3, 1)),
        ("**Accuracy**: 7/10\n- language: 8, as it is clear", (7, 8)),
        ('{"accuracy": 7}', None),
        ('{"accuracy": 0, "language": 5}', None),
        ('{"accuracy": 11, "language": 5}', None),
        ('{"accuracy": true, "language": 5}', None),
        ('{"accuracy": NaN, "language": 5}', None),
        ('{"accuracy": N, "language": N}', None),
        ("{" * 3000, None),
        ("", None),
    ],
)
def test_an_answer_is_read_or_is_no_verdict(answer: str, scores: tuple[float, float] | None) -> None:
    expected = None if scores is None else dict(zip(ASPECTS, scores, strict=True))
    assert scores_in(answer, ASPECTS) == expected


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ('{"better": "A"}', "first"), ('I say {"better": "text b"}.', "second"), ('{"better": "tie"}', "tie"),
        ("B", "second"), ("Text A is better.", "first"), ("Text A is not better than text B", None), ("", None),
    ],
)  # fmt: skip
def test_a_choice_is_read_or_is_no_verdict(answer: str, choice: str | None) -> None:
    assert choice_in(answer) == choice
