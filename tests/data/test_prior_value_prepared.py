"""The values of prepared segments: stored with them, told in words, from bounded samples of whole documents."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from tests.data.corpus import RECIPES, WIKIPEDIA, by_bucket, prepared, recipe, small_files, wiki_entries
from trainer.data.prior_value import value_lines, value_warnings
from trainer.data.prior_value.prepared import sampled, word_starts
from trainer.data.store import PreparedData, open_prepared
from trainer.recipe import load_recipe
from trainer.runs.auto_shares import shares_in_words, with_starting_shares
from trainer.tools.plan.data import DataPlan


def _made(name: str) -> dict[str, Any]:
    return {"kind": "synthetic", "path": str(RECIPES / "data" / f"{name}.jsonl.xz"), "license": "CC-BY-SA-4.0"}


@pytest.fixture(scope="module")
def wikipedia(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Two real sources of the same kind of text, three synthetic ones, one of which joins later."""
    wiki_entries()
    thirds = {"of": 30, "by": "title"}
    real = {**WIKIPEDIA, "sample": {**thirds, "buckets": [0, 1, 2, 8, 9, 18, 19, 28, 29]}}
    tree = recipe(
        tokenizer={"train_bpe": 1024},
        sources={
            "wiki": real,
            "other": {**WIKIPEDIA, "sample": {**thirds, "buckets": [4]}},
            "written": {**_made("written"), "joins": [{"from_step": 9, **_made("invented")}]},
            "scrambled": _made("scrambled"),
        },
        held_out=by_bucket(source="wiki", by="title"),
    )
    for join in tree["sources"]["written"]["joins"]:
        del join["kind"], join["license"]
    return prepared(tmp_path_factory.mktemp("wikipedia"), tree)


def test_values_are_stored_with_the_data_and_tell_good_text_from_bad(wikipedia: PreparedData) -> None:
    values = wikipedia.prior_values
    assert set(values) == {"wiki", "other", "written", "written:1", "scrambled"}
    assert open_prepared(wikipedia.folder).prior_values == values
    # of the same population, and each measured on a part of half of it
    assert abs(values["wiki"].measured - 1) < 0.3
    assert abs(values["other"].measured - 1) < 0.4
    assert values["written"].mean > 0.15 + max(values["written:1"].mean, values["scrambled"].mean)
    warned = " ".join(value_warnings(values))
    assert "`scrambled`" in warned
    assert "`written:1`" in warned
    assert "`written`" not in warned


def test_the_plan_of_prepared_data_says_what_a_token_is_worth(wikipedia: PreparedData) -> None:
    plan = DataPlan(files={}, rows=wikipedia.rows, held_out=None, prior_values=wikipedia.prior_values)
    value = wikipedia.prior_values["scrambled"]
    line = f"one token of `scrambled` is worth {value.mean:.2f} ± {value.error:.2f} of a fresh real one"
    assert any(text.startswith(line) for text in plan.lines())
    assert len(plan.lines()) == len(wikipedia.rows) + len(list(value_lines(wikipedia.prior_values)))


def test_a_sample_is_bounded_and_spread_evenly_over_whole_documents(wikipedia: PreparedData) -> None:
    segment = wikipedia.segments["scrambled"][0]
    spans, tokens = segment.token_spans(), segment.token_stream()
    whole = sampled(segment, segment.num_tokens)
    assert len(whole) == segment.num_documents
    assert np.array_equal(np.concatenate(whole), tokens)
    part = sampled(segment, segment.num_tokens // 5)
    total = sum(len(document) for document in part)
    assert segment.num_tokens / 12 < total < segment.num_tokens / 4.5
    texts = {document.tobytes(): place for place, document in enumerate(whole)}
    places = [texts[document.tobytes()] for document in part]
    quarters = np.histogram([spans[place] for place in places], bins=4, range=(0, segment.num_tokens))[0]
    assert quarters.min() > len(part) / 8


def test_what_has_too_little_text_has_no_value_and_says_nothing(tmp_path: Path) -> None:
    small_files(tmp_path)
    tree = recipe(held_out={"kind": "share", "source": "web", "validation": 0.02, "test": 0.02})
    data = prepared(tmp_path, tree)
    assert data.prior_values == {}
    assert list(value_lines(data.prior_values)) == []


def test_shares_that_are_auto_are_equal_until_the_data_are_prepared_and_then_follow_the_prior_values(
    wikipedia: PreparedData, tiny_recipe: Path
) -> None:
    written = tiny_recipe.read_text()
    assert "  shares: {real: 0.5, good: 0.25, bad: 0.25}" in written
    tiny_recipe.write_text(written.replace("shares: {real: 0.5, good: 0.25, bad: 0.25}", "shares: auto"))
    recipe = load_recipe(tiny_recipe, on_this_machine=False).recipe
    assert recipe.mixture.shares == {"real": 0.333334, "good": 0.333333, "bad": 0.333333}
    assert with_starting_shares(recipe, None) == recipe
    # five epochs of the first real source, were it drawn alone
    steps = 5 * wikipedia.segments["wiki"][0].num_samples // recipe.mixture.global_batch
    equal = dict.fromkeys(wikipedia.sources, 0.25)
    mixture = recipe.mixture.model_copy(update={"shares": equal})
    recipe = recipe.model_copy(
        update={"mixture": mixture, "training": recipe.training.model_copy(update={"steps": steps})}
    )
    shares = with_starting_shares(recipe, wikipedia).mixture.shares_in_millionths()
    assert sum(shares.values()) == 1_000_000
    assert shares["scrambled"] == 10_000
    assert shares["wiki"] > shares["other"] > 10_000  # of the same worth, and of another size
    asked = dict(part.split() for part in shares_in_words(with_starting_shares(recipe, wikipedia)).split(", "))
    assert float(asked["wiki"]) == shares["wiki"] / 1e6
    named = with_starting_shares(recipe.model_copy(update={"mixture": mixture.model_copy(
        update={"from_prior_values": False})}), wikipedia)  # fmt: skip
    assert named.mixture.shares == equal


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a", "Ġa", "b", "Ġbc"], [False, True, False, True]),
        (["▁der", "ung", "en", "▁und"], [True, False, False, True]),
        (["the", "##re", "a", "##s"], [True, False, True, False]),
        (["天", "地", "玄", "黄"], None),
    ],
)
def test_word_starts_are_told_by_the_vocabulary(tmp_path: Path, tokens: list[str], expected: list[bool] | None) -> None:
    tokenizer = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    starts = word_starts(tmp_path)
    assert expected == (None if starts is None else starts.tolist())
