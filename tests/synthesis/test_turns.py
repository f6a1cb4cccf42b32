"""Draft, critique, revision: a row is the last answer of a conversation, and a killed round resumes in any turn."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from trainer.base.errors import UserError
from trainer.data.config import DataConfig
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.context import Shard
from trainer.synthesis.paths import equations
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.synthesis.prompts import TEMPLATES
from trainer.synthesis.round import run_round

PRINCIPLES = ("be short", "name no one", "say nothing false")
ROWS = 12


def texts(folder: Path) -> None:
    rows = [{"text": f"real text number {n} of many words {n * n}", "id": f"d{n}", "answer_is": n} for n in range(40)]
    (folder / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def round_of(folder: Path, prompt: dict[str, Any], **changes: Any) -> RoundRecord:
    """A round of the talking generator; its own settings are ``generator``."""
    source = {
        "kind": "real",
        "path": "real.jsonl",
        "id_column": "id",
        "provenance": ["answer_is"],
        "license": "CC0-1.0",
    }
    data = {
        "sequence_length": 16,
        "tokenizer": {"train_bpe": 300},
        "sources": {"real": source},
        "held_out": {"kind": "share", "source": "real", "validation": 0.1, "test": 0.1},
        "cache": "cache",
    }
    generator = {"kind": "tests.synthesis.talking:Talking", "log": str(folder / "log"), **changes.pop("generator", {})}
    config = {"pool": "pool", "sources": ["real"], "prompts": [prompt], "generator": generator, "requests": ROWS}
    return run_round(
        SynthesisConfig.model_validate({**config, **changes}),
        DataConfig.model_validate(data),
        Shard(generation=1),
        seed=3,
        base=folder,
        progress=lambda done, total: None,
    )


def rows_in(folder: Path) -> list[dict[str, Any]]:
    file = Pool(folder / "pool").shard_file(1, 0, 1)
    return list(pq.read_table(file).to_pylist())


CRITICIZED = {"template": "rephrase", "turns": ["critique", "revise"], "principles": list(PRINCIPLES)}


def test_a_row_is_the_last_answer_and_knows_the_turns_before_it_and_what_all_of_them_cost(tmp_path: Path) -> None:
    texts(tmp_path)
    record = round_of(tmp_path, CRITICIZED)
    rows = rows_in(tmp_path)
    assert (record.requests, record.accepted) == (ROWS, ROWS)
    assert len((tmp_path / "log").read_text().split()) == 3 * ROWS
    for row in rows:
        assert row["text"].startswith("answer 2")
        assert [turn["text"].split()[1] for turn in row["turns"]] == ["0", "1"]
        assert all(f"- {principle}" in row["turns"][0]["next"] for principle in PRINCIPLES)
        assert row["turns"][1]["next"] == TEMPLATES["revise"]
        assert (row["prompt_tokens"], row["completion_tokens"], row["seconds"]) == (300, 111, 1.5)
    assert (record.prompt_tokens, record.completion_tokens) == (300 * ROWS, 111 * ROWS)
    assert record.accepted_tokens == 100 * ROWS


@pytest.mark.parametrize("after", [1, ROWS, ROWS + 5, 2 * ROWS, 3 * ROWS - 1])
def test_a_round_that_fails_in_any_turn_asks_for_nothing_twice_and_ends_as_one_that_did_not(
    tmp_path: Path, after: int
) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        texts(tmp_path / name)
    round_of(tmp_path / "whole", CRITICIZED)
    with pytest.raises(UserError, match="went away"):
        round_of(tmp_path / "broken", CRITICIZED, generator={"fails_after": after})
    assert len((tmp_path / "broken" / "log").read_text().split()) == after
    round_of(tmp_path / "broken", CRITICIZED)
    asked = (tmp_path / "broken" / "log").read_text().split()
    assert sorted(asked) == sorted((tmp_path / "whole" / "log").read_text().split())
    assert rows_in(tmp_path / "broken") == rows_in(tmp_path / "whole")


def test_a_round_that_was_begun_with_other_turns_is_not_finished_with_these(tmp_path: Path) -> None:
    texts(tmp_path)
    with pytest.raises(UserError, match="went away"):
        round_of(tmp_path, CRITICIZED, generator={"fails_after": 3})
    with pytest.raises(UserError, match="asked for other texts"):
        round_of(tmp_path, {**CRITICIZED, "turns": ["critique", "Write it once more."]})


@pytest.mark.parametrize("turn", [0, 1])
def test_a_conversation_with_an_answer_that_is_cut_off_ends_there_and_is_dropped(tmp_path: Path, turn: int) -> None:
    texts(tmp_path)
    record = round_of(tmp_path, CRITICIZED, generator={"cut_off_turn": turn})
    dropped = record.dropped["generator: cut off at max_new_tokens"]
    assert 0 < dropped < ROWS
    assert record.accepted == ROWS - dropped
    assert len((tmp_path / "log").read_text().split()) == 3 * ROWS - dropped * (2 - turn)


def test_one_principle_is_drawn_for_each_request_and_every_one_has_its_turn(tmp_path: Path) -> None:
    texts(tmp_path)
    prompt = {"template": "{{ text }}", "turns": ["Does it {{ principle }}? {{ answers[0] }}"]}
    round_of(tmp_path, {**prompt, "principles": list(PRINCIPLES)}, requests=30)
    rows = rows_in(tmp_path)
    assert len(rows) == 30
    drawn = []
    for row in rows:
        (turn,) = row["turns"]
        (principle,) = [name for name in PRINCIPLES if turn["next"] == f"Does it {name}? {turn['text']}"]
        drawn.append(principle)
    assert set(drawn) == set(PRINCIPLES)


def test_criticism_without_principles_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="needs principles"):
        SynthesisConfig.model_validate(
            {
                "pool": "pool",
                "sources": ["real"],
                "generator": {"kind": "transformers"},
                "prompts": [{"template": "rephrase", "turns": ["critique"]}],
            }
        )


def test_a_row_may_hold_the_question_and_the_answer_and_its_answer_stands_alone_as_well(tmp_path: Path) -> None:
    texts(tmp_path)
    row = "Q: {{ text }}\nA: {{ answer }} ({{ answer_is }})"
    round_of(tmp_path, {"template": "{{ text }}", "name": "qa", "row": row})
    for made in rows_in(tmp_path):
        assert made["text"] == f"Q: {made['prompt']}\nA: {made['answer']} ({made['source_id'][1:]})"
        assert made["answer"].startswith("answer 0")


def test_each_row_is_asked_about_so_many_times_and_no_more_are_kept_than_the_limit(tmp_path: Path) -> None:
    texts(tmp_path)
    record = round_of(tmp_path, {"template": "rephrase"}, samples_per_row=4, paths={"most_per_row": 3})
    counts: dict[str, int] = {}
    for row in rows_in(tmp_path):
        counts[row["source_id"]] = counts.get(row["source_id"], 0) + 1
    assert sorted(counts.values()) == [3, 3, 3]
    assert record.dropped == {"paths: enough answers to this row": 3}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("She sold 48/2 = <<48/2=24>>24 clips, then 48 + 24 = 72.", ("48/2=24", "48+24=72")),
        ("8 \u00d7 2 = 16 and $1,000 - 16 = $984", ("8*2=16", "1000-16=984")),
        ("The answer is 7.", ()),
        ("(3 + 4) * 2 = 14", ("(3+4)*2=14",)),
        ("2 - 5 = -3, -3 + -4 = -7", ("2-5=-3", "-3+-4=-7")),
    ],
)
def test_the_way_of_an_answer_is_its_equations(text: str, steps: tuple[str, ...]) -> None:
    assert equations(text) == steps
