"""What a round as a whole must be: diverse, and no repeat of real text; and what becomes of one that is not."""

import json
import random
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.commands.synthesize import in_words
from trainer.data.documents import bucket_of
from trainer.recipe import load_recipe
from trainer.synthesis.context import Shard
from trainer.synthesis.diversity import compared, distinct, self_bleu, tail_coverage, vendi
from trainer.synthesis.generators import Completion, Identity, Request
from trainer.synthesis.memorization import MOST_DOCUMENTS, Verbatim, asymmetry
from trainer.synthesis.pool import Pool, RoundRecord
from trainer.synthesis.round import run_round

WORDS = ["".join(pair) for pair in zip("abcdefghijklmnopqrstuvwxyz" * 20, [str(n) for n in range(520)], strict=True)]


def written(num: int, seed: int, length: int = 40, vocabulary: int = 400) -> list[str]:
    """Texts of words that are the rarer the later they stand in the list."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary + 1)
    drawn = rng.choice(vocabulary, size=(num, length), p=weights / weights.sum())
    return [" ".join(WORDS[word] for word in row) for row in drawn.tolist()]


def test_distinct_and_tail_are_counted_by_hand() -> None:
    texts = [["a", "b", "a"], ["b", "a", "c"]]
    assert distinct(texts, 2, 100) == 3 / 4  # ab, ba, ba, ac
    assert distinct(texts, 2, 2) == 1
    real = [["x"] * 8, ["y", "z"]]  # the tail, 2 of 10 occurrences: y and z
    assert tail_coverage([["y", "x"]], real, 10) == 0.5
    assert tail_coverage([["x", "y"]], real, 1) == 0


def test_self_bleu_and_vendi_know_copies_from_strangers() -> None:
    same, strangers = [["a", "b", "c", "d", "e"]] * 6, [[f"{text}{word}" for word in range(5)] for text in range(6)]
    assert self_bleu(same) == pytest.approx(1)
    assert self_bleu(strangers) < 0.2
    assert vendi(same) == pytest.approx(1)
    assert vendi(strangers) == pytest.approx(6, rel=1e-3)
    assert vendi([*same, *strangers]) == pytest.approx(np.exp(-0.5 * np.log(0.5) - 0.5 * np.log(1 / 12)), rel=1e-3)


def test_self_bleu_is_that_of_a_plain_count_over_all_others() -> None:
    rng = random.Random(0)
    texts = [rng.choices("abcd", k=rng.randint(6, 9)) for _ in range(12)]

    def plain(place: int) -> float:
        own, others = texts[place], [text for number, text in enumerate(texts) if number != place]
        total = 0.0
        for n in range(1, 5):
            grams = [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]
            most = {
                gram: max(sum(tuple(o[i : i + n]) == gram for i in range(len(o) - n + 1)) for o in others)
                for gram in grams
            }
            matched = sum(min(grams.count(gram), most[gram]) for gram in set(grams))
            total += np.log(max(matched, 0.5) / len(grams)) / 4
        closest = min((abs(len(other) - len(own)), len(other)) for other in others)[1]
        return float(np.exp(total) * min(1.0, np.exp(1 - closest / len(own))))

    assert self_bleu(texts) == pytest.approx(np.mean([plain(place) for place in range(12)]))


def test_text_like_the_real_one_measures_like_it() -> None:
    found, real = compared(written(200, 1), written(500, 2), most=200, seed=0)
    assert real is not None
    for name in ("distinct", "self_bleu", "vendi", "tail_coverage"):
        assert getattr(found, name) == pytest.approx(getattr(real, name), rel=0.1), name
    narrow, _ = compared(written(200, 1, vocabulary=20), written(500, 2), most=200, seed=0)
    assert narrow.distinct < 0.7 * real.distinct
    assert narrow.self_bleu > 1.5 * real.self_bleu
    assert narrow.tail_coverage is not None
    assert real.tail_coverage is not None
    assert narrow.tail_coverage < 0.2 * real.tail_coverage


def test_words_repeated_in_a_row_are_found_and_the_share_is_kept_where_few_sequences_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = written(300, 3, length=100)
    copies = [" ".join([*written(1, 900 + n, length=50)[0].split(), *training[n].split()[:50]]) for n in range(40)]
    found = Verbatim(10)
    for text in training:
        found.add(text)
    shares = found.shares([*copies, *written(40, 5, length=100), "short"])
    assert shares[:40] == pytest.approx(41 / 91)  # of 91 sequences of 10 words, 41 lie in the copied half
    assert not shares[40:].any()
    monkeypatch.setattr("trainer.synthesis.memorization.MOST_GRAMS", 4000)  # of 27,300
    few = Verbatim(10)
    for text in training:
        few.add(text)
    assert few.shares(copies).mean() == pytest.approx(41 / 91, rel=0.1)


def test_the_nearest_neighbor_tells_memorized_text_and_its_interval_holds_a_half_where_nothing_is() -> None:
    training, held_out = written(120, 6), written(120, 7)
    memorized = [
        " ".join([*text.split()[:25], *written(1, place)[0].split()[:15]]) for place, text in enumerate(training)
    ]
    found = asymmetry(memorized, training, held_out, seed=0)
    assert found is not None
    assert found.low > 0.8
    held = 0
    for seed in range(30):
        clean = asymmetry(written(60, 100 + seed), written(80, 200 + seed), written(80, 300 + seed), seed=seed)
        assert clean is not None
        held += clean.low <= 0.5 <= clean.high
    assert held >= 27


def test_as_many_documents_as_fit_into_memory_are_compared_with() -> None:
    training, held_out = written(4200, 1, length=3), written(4200, 2, length=3)
    found = asymmetry(training[:2], training, held_out, seed=0)
    assert found is not None
    assert found.num_documents == MOST_DOCUMENTS


class Answering:
    """A generator that answers with what it is given, in turn."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def identity(self) -> Identity:
        return Identity(name="answering", weights="w", license="CC0-1.0")

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        for request, text in zip(requests, self.texts, strict=False):
            yield Completion(
                request_id=request.id, text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1,
                counted="told", seconds=0.0,
            )  # fmt: skip


def round_of(recipe: Path, texts: Sequence[str], generation: int = 1, **keys: Any) -> RoundRecord:
    section = {
        "pool": "pool",
        "sources": ["real"],
        "prompts": [{"template": "rephrase"}],
        "generator": {"kind": "tests.synthesis.counting:Counting", "log": str(recipe.parent / "log")},
        "requests": len(texts),
        "balance_slices": False,
        **keys,
    }
    file = recipe.with_name("gate.yaml")
    file.write_text(f"{recipe.read_text()}synthesis: {json.dumps(section)}\n")
    loaded = load_recipe(file)
    config = loaded.recipe.synthesis
    assert config is not None
    return run_round(
        config, loaded.recipe.data, Shard(generation=generation), seed=1, base=loaded.folder,
        progress=lambda done, of: None, generator=Answering(texts),
    )  # fmt: skip


def test_a_round_that_says_one_thing_is_quarantined_and_told(tiny_recipe: Path) -> None:
    stuck = [f"the {word} is a thing that many people know and like to see in spring" for word in WORDS[:60]]
    record = round_of(tiny_recipe, stuck, gate={"fewest_rows": 20})
    assert record.accepted == 60
    assert record.gate is not None
    assert any("self-BLEU" in reason for reason in record.gate.failed)
    assert record.quarantined is not None
    pool = Pool(tiny_recipe.parent / "pool")
    assert list(pool.texts(before=2)) == []  # it is kept aside
    assert pool.next_generation() == 2
    (again,) = pool.records()
    assert again == record
    told = "\n".join(in_words(record))
    assert "quarantined by the gate" in told
    assert "diversity of 60 rows" in told


def test_a_round_without_limits_or_with_few_rows_is_not_judged(tiny_recipe: Path) -> None:
    stuck = [f"the {word} is a thing that many people know and like to see in spring" for word in WORDS[:30]]
    assert round_of(tiny_recipe, stuck).gate is None
    assert round_of(tiny_recipe, stuck[::-1], generation=2, gate={"fewest_rows": 40}).quarantined is None


def test_rows_near_real_text_near_the_pool_and_near_each_other_are_dropped_for_these_reasons(tiny_recipe: Path) -> None:
    real = [row for row in load_texts(tiny_recipe) if len(row.split()) >= 8][:3]
    first = written(3, 11)
    record = round_of(tiny_recipe, first, near_duplicates={"threshold": 0.7})
    assert record.accepted == 3
    near_pool = [f"{text} more" for text in first]
    fresh = written(3, 12)
    texts = [*[f"{text} too" for text in real], *near_pool, *fresh, f"{fresh[0]} again"]
    record = round_of(tiny_recipe, texts, generation=2, near_duplicates={"threshold": 0.7})
    assert record.accepted == 3
    assert record.dropped.get("near_duplicate: nearly a row of the pool") == 3
    assert record.dropped.get("near_duplicate: nearly an earlier row of the round") == 1
    assert sum(record.dropped.values()) == len(texts) - 3


def test_a_filter_that_only_counts_drops_no_row_of_a_round_and_is_told(tiny_recipe: Path) -> None:
    texts = [*written(3, 15), "write to mary@shop.com of all the birds"]
    record = round_of(tiny_recipe, texts, filters=[{"kind": "personal_data", "find": ["email"], "action": "count"}])
    assert record.accepted == 4
    assert record.noted == {"personal_data: holds a mail address": 1}
    assert "  kept and counted, personal_data: holds a mail address: 1" in in_words(record)


def test_rows_that_recite_training_text_are_dropped(tiny_recipe: Path) -> None:
    real = max(load_texts(tiny_recipe), key=lambda text: len(text.split()))
    texts = [" ".join([*written(1, 13)[0].split()[:8], *real.split()]), *written(2, 14)]
    record = round_of(tiny_recipe, texts, memorized={"words": 5, "max_share": 0.2})
    assert record.accepted == 2
    (reason,) = record.dropped
    assert reason.startswith("memorized: more than 0.2 of its sequences of 5 words")


def load_texts(recipe: Path) -> list[str]:
    """Texts of the training documents of the recipe's real source."""
    rows = map(json.loads, (recipe.parent / "real.jsonl").read_text().splitlines())
    return [row["text"] for row in rows if bucket_of(row["title"], 5) not in (3, 4)]
