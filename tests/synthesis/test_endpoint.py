"""The client of an endpoint, against a real server over HTTP, on good days and bad ones."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.synthesis.openai_server import HANGS_UP, MODEL, Answer, OpenAIServer, completion, good, text_of
from trainer.base.errors import UserError
from trainer.synthesis.generators import Completion, Message, Request, Sampling, TokenLogprobs
from trainer.synthesis.generators.config import EndpointConfig
from trainer.synthesis.generators.endpoint import endpoint

SAMPLING = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=32)
OVERLOADED: Answer = (429, {"error": {"message": "slow down"}})


@contextmanager
def server(answer: Callable[[str, int], Answer] = good, delay_s: float = 0.0) -> Iterator[OpenAIServer]:
    running = OpenAIServer(answer, delay_s=delay_s)
    try:
        yield running
    finally:
        running.close()


def config(url: str, **changes: object) -> EndpointConfig:
    return EndpointConfig.model_validate(
        {"kind": "endpoint", "url": url, "model": MODEL, "retries": 2, "pause_s": 0.05, **changes}
    )


def requests(count: int) -> list[Request]:
    return [Request(id=f"r{n}", prompt=f"prompt {n}", sampling=SAMPLING, seed=n) for n in range(count)]


def answers(settings: EndpointConfig, count: int, done: frozenset[str] = frozenset()) -> dict[str, Completion]:
    return {answer.request_id: answer for answer in endpoint(settings).generate(requests(count), done)}


def test_every_request_is_answered_once_with_its_own_text_and_tokens_told() -> None:
    with server() as running:
        given = answers(config(running.url), 30)
        assert {name: answer.text for name, answer in given.items()} == {
            f"r{n}": text_of(f"prompt {n}") for n in range(30)
        }
        assert set(running.calls.values()) == {1}
    assert {(answer.prompt_tokens, answer.completion_tokens, answer.counted) for answer in given.values()} == {
        (11, 10, "told")
    }


def test_what_is_done_is_not_asked_again() -> None:
    with server() as running:
        given = answers(config(running.url), 10, frozenset(f"r{n}" for n in range(7)))
        assert sorted(given) == ["r7", "r8", "r9"]
        assert sorted(running.calls) == ["prompt 7", "prompt 8", "prompt 9"]


def test_calls_run_at_the_same_time_but_never_more_than_allowed() -> None:
    with server(delay_s=0.05) as running:
        answers(config(running.url, max_concurrency=3), 24)
        assert running.most_at_once == 3


def test_a_server_that_refuses_is_asked_again_with_fewer_calls_at_the_same_time() -> None:
    with server(lambda prompt, number: OVERLOADED if number == 1 else good(prompt, number)) as running:
        given = answers(config(running.url), 12)
        assert all(answer.finish_reason == "stop" for answer in given.values())
        assert set(running.calls.values()) == {2}


def test_a_call_that_cannot_succeed_is_not_repeated() -> None:
    refused: Answer = (400, {"error": {"message": "no such parameter"}})
    with server(lambda prompt, number: refused if prompt == "prompt 1" else good(prompt, number)) as running:
        given = answers(config(running.url), 4)
        assert running.calls["prompt 1"] == 1
    assert given["r1"].finish_reason == "refused"
    assert "no such parameter" in str(given["r1"].error)
    assert [given[f"r{n}"].finish_reason for n in (0, 2, 3)] == ["stop"] * 3


@pytest.mark.parametrize(
    "broken",
    [(500, {"error": {"message": "boom"}}), (200, b"<html>proxy</html>"), (200, {"choices": []}), (200, b"null")],
)
def test_a_broken_answer_is_tried_again_and_then_counted_as_failed(broken: Answer) -> None:
    with server(lambda prompt, number: broken if prompt == "prompt 0" else good(prompt, number)) as running:
        given = answers(config(running.url, retries=1), 3)
        assert running.calls["prompt 0"] == 2
    assert given["r0"].finish_reason == "error"
    assert given["r1"].text == text_of("prompt 1")


def test_a_server_that_is_dead_stops_the_round_after_as_many_calls_as_allowed() -> None:
    with (
        server(lambda prompt, number: (500, {"error": {"message": "boom"}})) as running,
        pytest.raises(UserError, match=r"3 calls in a row failed.*run it again to resume"),
    ):
        answers(config(running.url, retries=0, give_up_after=3, max_concurrency=1), 50)
    assert sum(running.calls.values()) == 3


def test_a_server_that_refuses_every_request_stops_the_round_and_nothing_of_it_counts() -> None:
    refused: Answer = (400, {"error": {"message": "unsupported parameter"}})
    taken: list[Completion] = []
    with (
        server(lambda prompt, number: refused) as running,
        pytest.raises(UserError, match=r"4 calls in a row failed.*unsupported parameter"),
    ):
        taken.extend(
            endpoint(config(running.url, give_up_after=4, max_concurrency=1)).generate(requests(50), frozenset())
        )
    assert not taken


def test_a_model_that_goes_away_is_no_answer_to_any_request() -> None:
    gone: Answer = (404, {"error": {"message": "model unloaded"}})
    with server(lambda prompt, number: gone) as running:
        given = answers(config(running.url, give_up_after=99), 3)
        assert set(running.calls.values()) == {1}
    assert {answer.finish_reason for answer in given.values()} == {"error"}


def test_a_refusal_without_text_is_an_empty_text_and_a_cut_off_text_says_so() -> None:
    by_prompt = {"prompt 0": completion(None), "prompt 1": completion("long", finish="length")}
    with server(lambda prompt, number: by_prompt[prompt]) as running:
        given = answers(config(running.url), 2)
    assert (given["r0"].text, given["r0"].finish_reason) == ("", "stop")
    assert given["r1"].finish_reason == "length"


def test_tokens_that_the_server_does_not_tell_are_marked_as_estimated() -> None:
    with server(lambda prompt, number: completion("x" * 40, usage=False)) as running:
        (answer,) = answers(config(running.url), 1).values()
    assert (answer.completion_tokens, answer.counted) == (10, "estimated")


def test_a_model_that_the_server_lists_is_the_same_at_every_start_so_that_a_round_can_resume() -> None:
    with server() as running:
        first, again = (endpoint(config(running.url)).identity() for _ in range(2))
        assert first == again
        assert first.name == MODEL
        assert not running.calls


def test_a_model_that_is_not_listed_is_known_by_one_call() -> None:
    with server(lambda prompt, number: completion("Hi", model="unlisted@main")) as running:
        identity = endpoint(config(running.url, model="unlisted")).identity()
        assert (identity.name, identity.weights) == ("unlisted", "unknown")
        assert running.calls == {"Hello": 1}


def test_a_server_with_another_model_is_refused_with_the_names_it_lists() -> None:
    missing: Answer = (404, {"error": {"message": "unknown model"}})
    for answer in (missing, completion("Hi", model="other")):
        with (
            server(lambda prompt, number, answer=answer: answer) as running,  # type: ignore[misc]
            pytest.raises(UserError, match=f"model.*It lists {MODEL}"),
        ):
            endpoint(config(running.url, model="another")).identity()


def test_a_text_of_another_model_is_not_taken() -> None:
    with server(lambda prompt, number: completion("text", model="other")) as running:
        (answer,) = answers(config(running.url), 1).values()
    assert (answer.finish_reason, answer.error) == ("error", "another model answered: other")


@pytest.mark.parametrize(
    ("told", "is_taken"),
    [("@main", True), ("-2026-01-31", True), ("-20260131", True), ("-0131", True), ("-mini-2026-01-31", False),
     ("-large", False), ("-2", False)],
)  # fmt: skip
def test_a_version_of_the_model_is_the_model_and_one_with_a_longer_name_is_not(told: str, *, is_taken: bool) -> None:
    with server(lambda prompt, number: completion("text", model=MODEL + told)) as running:
        (answer,) = answers(config(running.url), 1).values()
    assert (answer.finish_reason == "stop") == is_taken


def test_a_server_that_is_not_there_is_named_before_anything_is_asked() -> None:
    with pytest.raises(UserError, match=r"does not answer.*127\.0\.0\.1:9/v1"):
        endpoint(config("http://127.0.0.1:9/v1")).identity()


def test_a_server_is_not_called_before_the_time_that_it_asks_for() -> None:
    called_s: list[float] = []

    def busy_once(prompt: str, number: int) -> Answer:
        called_s.append(time.monotonic())
        return (429, {"error": {"message": "later"}}, {"Retry-After": "1"}) if len(called_s) == 1 else good(prompt, 1)

    with server(busy_once) as running:
        assert len(answers(config(running.url, max_concurrency=1), 3)) == 3
    assert called_s[1] - called_s[0] >= 1


def test_a_server_that_asks_for_a_longer_wait_than_allowed_stops_the_round() -> None:
    with (
        server(lambda prompt, number: (429, {}, {"Retry-After": "7200"})) as running,
        pytest.raises(UserError, match="asks to wait 7200 s"),
    ):
        answers(config(running.url), 3)


def test_a_server_that_is_away_for_a_while_costs_no_text_and_is_asked_by_one_call_at_a_time() -> None:
    at_once: list[int] = []
    calls = itertools.count()

    def away(prompt: str, number: int) -> Answer:
        turn = next(calls)
        if 10 <= turn < 26:
            at_once.append(running.at_once)
            return HANGS_UP
        return good(prompt, number)

    with server(away, delay_s=0.02) as running:
        given = answers(config(running.url, max_concurrency=4, opens_after=4, pause_s=0.01, give_up_after=50), 40)
    assert {answer.finish_reason for answer in given.values()} == {"stop"}
    assert len(given) == 40
    assert set(at_once[-6:]) == {1}, "while it is away one call asks whether it is back"


def test_a_server_that_half_fails_is_not_asked_more_than_its_retries_allow() -> None:
    with server(lambda prompt, number: (500, {}) if int(prompt.split()[1]) % 2 else good(prompt, number)) as running:
        settings = config(
            running.url, retries=3, retry_share=0.1, pause_s=0.001, opens_after=999, give_up_after=99, max_concurrency=4
        )
        given = answers(settings, 80)
        assert sum(running.calls.values()) <= 80 + 20 + 0.1 * 40
    assert sum(answer.finish_reason == "stop" for answer in given.values()) == 40


def test_what_was_answered_once_is_not_asked_again_by_any_later_round(tmp_path: Path) -> None:
    with server() as running:
        first = answers(config(running.url, cache=tmp_path / "cache"), 5)
        again = answers(config(running.url, cache=tmp_path / "cache"), 8)
        assert set(running.calls.values()) == {1}
    assert {name: answer.text for name, answer in first.items()}.items() <= {
        name: answer.text for name, answer in again.items()
    }.items()
    assert [again[f"r{n}"].cached for n in range(8)] == [True] * 5 + [False] * 3
    assert again["r0"].seconds == 0


def test_another_setting_or_server_is_another_entry_of_the_cache_and_a_failure_is_none(tmp_path: Path) -> None:
    broken: Answer = (500, {})
    with server(lambda prompt, number: broken if number == 1 else good(prompt, number)) as running:
        settings = config(running.url, cache=tmp_path, retries=0)
        assert {answer.finish_reason for answer in answers(settings, 2).values()} == {"error"}
        assert {answer.finish_reason for answer in answers(settings, 2).values()} == {"stop"}
        briefly = settings.model_copy(update={"system": "be brief"})
        assert {answer.cached for answer in answers(briefly, 2).values()} == {False}
        assert set(running.calls.values()) == {3}


def test_a_damaged_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "requests.sqlite").write_bytes(b"no database" * 100)
    with server() as running, pytest.raises(UserError, match=r"requests\.sqlite.*Remove it"):
        answers(config(running.url, cache=tmp_path), 2)


def test_the_seconds_of_the_texts_add_up_to_the_time_that_the_server_was_at_work() -> None:
    with server(delay_s=0.1) as running:
        began_s = time.monotonic()
        given = answers(config(running.url, max_concurrency=8), 16)
        wall_s = time.monotonic() - began_s
    assert 0.2 <= sum(answer.seconds for answer in given.values()) <= wall_s


def test_a_conversation_and_log_probabilities_are_asked_for() -> None:
    content = [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "Yo", "logprob": -2.0}]}]
    status, body = completion("Hi")[:2]
    body["choices"][0]["logprobs"] = {"content": content}
    request = Request(
        id="r", prompt="revise", sampling=SAMPLING, seed=1, top_logprobs=1,
        messages=(Message(role="user", content="write"), Message(role="assistant", content="draft")),
    )  # fmt: skip
    with server(lambda prompt, number: (status, body)) as running:
        (answer,) = endpoint(config(running.url)).generate([request], frozenset())
        (payload,) = running.payloads
    assert [message["content"] for message in payload["messages"]] == ["write", "draft", "revise"]
    assert (payload["logprobs"], payload["top_logprobs"]) == (True, 1)
    assert answer.logprobs == (TokenLogprobs(token="Hi", logprob=-0.1, top=(("Yo", -2.0),)),)
    assert Completion.from_json(json.loads(json.dumps(asdict(answer)))) == answer
