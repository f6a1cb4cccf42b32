"""The answers of a shard that is not whole yet are written by one process at a time."""

from pathlib import Path

import pytest

from trainer.base.errors import UserError
from trainer.synthesis import responses
from trainer.synthesis.generators.protocol import Completion, Request, Sampling
from trainer.synthesis.responses import Responses, begun_for_others

ASKED = [
    Request(id=str(n), prompt="?", sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4), seed=n)
    for n in range(3)
]


def answer(request: Request) -> Completion:
    return Completion(
        request_id=request.id, text="a", finish_reason="stop", prompt_tokens=1, completion_tokens=1, counted="told",
        seconds=0.1,
    )  # fmt: skip


def test_a_shard_that_another_process_makes_is_refused_and_its_answers_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "_LOCK_PATIENCE_S", 0.0)
    file = tmp_path / "shard.jsonl"
    with Responses(file, ASKED) as first:
        first.add([answer(ASKED[0])])
        with pytest.raises(UserError, match="another process makes this shard"):
            Responses(file, ASKED)
        first.add([answer(ASKED[1])])
    with Responses(file, ASKED) as again:
        assert again.completions.keys() == {"0", "1"}


def test_answers_to_other_requests_are_known_by_their_first_line(tmp_path: Path) -> None:
    file = tmp_path / "shard.jsonl"
    assert not begun_for_others(file, ASKED)
    with Responses(file, ASKED):
        pass
    assert not begun_for_others(file, ASKED)
    assert begun_for_others(file, ASKED[:2])
