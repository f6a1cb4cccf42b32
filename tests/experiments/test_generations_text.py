"""Generations of text: what each trains on and writes, and what is measured of it."""

import json
import lzma

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments import generated_text
from experiments import generations_text as lab
from trainer.data.config import needed_columns
from trainer.data.documents import bucket_of
from trainer.recipe import load_recipe

END = 0


@pytest.fixture(autouse=True)
def two_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are to be run."""
    monkeypatch.setattr(lab, "SEEDS", (17, 18))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=20, max_position_embeddings=8, eos_token_id=END, initializer_range=0.5)
    return LlamaForCausalLM(config).eval()


def recipe_of(name):
    return load_recipe(lab.RECIPE, lab.cells()[name].overrides(), on_this_machine=False).recipe


def streams_of(model, **changed):
    settings = {"num_streams": 50, "num_tokens": 60, "temperature": 1.0, "seed": 3}
    return generated_text.streams(model, END, **(settings | changed))


def test_the_cells_are_one_first_generation_and_three_of_each_arm_for_every_seed():
    names = list(lab.cells())
    assert len(names) == 26
    assert names[:2] == ["real-0/17", "real-0/18"]
    assert all(name.startswith("priced-") for name in names[-6:])


def test_every_generation_of_an_arm_trains_on_what_the_arm_says():
    third = {arm: recipe_of(f"{arm}-3/17").mixture.shares for arm in lab.ARMS}
    assert third["replace"] == {"real": 0, "generation-2": 1}
    assert third["real10"] == {"real": 0.1, "generation-2": 0.9}
    assert third["accumulate"] == third["priced"]
    assert third["priced"] == pytest.approx(dict.fromkeys(["real", *(f"generation-{n}" for n in range(3))], 0.25))
    paths = {name: source.path for name, source in recipe_of("priced-3/17").data.sources.items()}
    cells_before = [cell.name for cell in lab.cells()["priced-3/17"].before]
    assert cells_before == ["real-0/17", "priced-1/17", "priced-2/17"]
    assert [paths[f"generation-{n}"] for n in range(3)] == [
        str(lab.RUNS / "text" / f"{name}.jsonl.xz") for name in cells_before
    ]


def test_all_cells_train_on_equally_many_tokens_of_one_vocabulary_and_one_held_out_set():
    recipes = {name: recipe_of(name) for name in lab.cells()}
    first = recipes["real-0/17"]
    for name, recipe in recipes.items():
        assert (recipe.training, recipe.mixture.global_batch) == (first.training, first.mixture.global_batch)
        assert recipe.data.held_out == first.data.held_out
        assert recipe.seed % 1000 == lab.cells()[name].seed
        if recipe.data.tokenizer.train_bpe is None:
            assert recipe.data.tokenizer.pretrained == str(lab.RUNS / f"real-0/{recipe.seed % 1000}/model")
        else:
            assert name.startswith("real-0/")


def test_no_held_out_title_of_the_project_is_trained_on():
    sample = recipe_of("replace-3/17").data.sources["real"].sample
    titles = [f"title {number}" for number in range(2000)]
    used = [title for title in titles if bucket_of(title, sample.of) in sample.buckets]
    assert used
    assert {bucket_of(title, 10) for title in used}.isdisjoint({8, 9})


def test_a_text_begins_at_the_end_of_a_document_alone_and_continues_over_ends(model):
    streams = streams_of(model, num_streams=400)
    assert streams.shape == (400, 60)
    after_end = streams[:, 1:7][streams[:, :6] == END]  # in one window
    assert len(after_end) > 10
    assert (after_end != END).mean() > 0.5
    with torch.inference_mode():
        expected = torch.softmax(model(input_ids=torch.tensor([[END]])).logits[0, 0], dim=0).numpy()
    frequencies = np.bincount(streams[:, 0], minlength=20) / 400
    assert np.abs(frequencies - expected).max() < 4 * np.sqrt(0.25 / 400)


def test_a_token_depends_on_what_is_before_it_in_a_longer_text_too(model):
    sharp = streams_of(model, num_streams=3, temperature=1e-4)
    whole = np.concatenate([np.full((3, 1), END), sharp], axis=1)
    for place, start in ((1, 0), (7, 0), (8, 4), (11, 4), (12, 8), (60, 56)):  # windows of 8 continue from their last 4
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(whole[:, start:place])).logits[:, -1]
        assert (whole[:, place] == logits.argmax(-1).numpy()).all()


def test_a_seed_is_a_text_and_leaves_other_randomness_alone(model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = streams_of(model)
    assert torch.equal(torch.rand(1), expected)
    assert (streams_of(model) == first).all()
    assert (streams_of(model, seed=4) != first).any()


def test_documents_are_what_stands_between_ends_without_what_is_no_text():
    words = {1: "one", 2: " two", 3: "\ufffd", 4: "\0", 5: " "}
    documents = generated_text.documents(
        np.array([[1, 2, END, 1, 3], [END, 5, END, 4, 2]]), END, lambda ids: "".join(words[i] for i in ids)
    )
    assert list(documents) == ["one two", "one", " two"]


def test_a_written_file_says_of_each_text_who_wrote_it_and_how(tmp_path):
    file = tmp_path / "text" / "a.jsonl.xz"
    generated_text.write(
        file, ["one", "zwei é"], {"generator": "priced-2/17", "generation": 2, "temperature": 1.0, "seed": 2017}
    )
    assert generated_text.read(file) == ["one", "zwei é"]
    assert [path.name for path in file.parent.iterdir()] == ["a.jsonl.xz"]
    with lzma.open(file, "rt") as rows:
        columns = json.loads(next(rows))
    assert set(needed_columns(recipe_of("priced-3/17").data, "generation-2")) == set(columns)
    assert columns["generator"] == "priced-2/17"


def test_distinct_counts_different_pairs_within_documents():
    texts = ["a b a b", "a b", "c", "d e"]
    assert generated_text.distinct(texts, num_words=2, num_grams=100) == 3 / 5
    assert generated_text.distinct(texts, num_words=2, num_grams=4) == 2 / 4
    assert generated_text.distinct(texts, num_words=1, num_grams=100) == 5 / 9


def test_tails_are_a_tenth_each_for_real_text_and_follow_a_shift():
    real = np.random.default_rng(1).normal(5.0, 1.0, 10_000)
    assert generated_text.tails(real, real) == pytest.approx({"easy": 0.1, "hard": 0.1}, abs=0.001)
    shifted = generated_text.tails(real - 1.0, real)
    assert shifted["easy"] == pytest.approx(0.389, abs=0.02)
    assert shifted["hard"] == pytest.approx(0.011, abs=0.005)


def test_the_loss_of_a_block_is_the_mean_over_its_predicted_tokens(model):
    ids = np.random.default_rng(1).integers(0, 20, (70, 8))
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(ids)).logits.log_softmax(-1)
    expected = -logits[:, :-1].gather(-1, torch.from_numpy(ids[:, 1:, None])).mean(dim=(1, 2))
    assert generated_text.block_nats(model, ids) == pytest.approx(expected.numpy(), rel=1e-5)


def stored(loss, **changed):
    text = {"distinct": 0.5, "nats_per_token": 4.0, "easy": 0.2, "hard": 0.05}
    return {
        "test_nats_per_token": loss,
        "test_slices": {"a": loss - 0.1, "b": loss + 0.2},
        "final_shares": {"real": 0.1},
        "text": text,
        **changed,
    }


def test_the_table_takes_differences_from_the_first_generation_of_the_same_seed():
    first = {"real-0/17": stored(5.0, real_text=stored(0)["text"]), "real-0/18": stored(6.0)}
    first["real-0/18"]["real_text"] = first["real-0/17"]["real_text"]
    rows = lab.table(first | {"real10-2/17": stored(5.3), "real10-2/18": stored(6.5)})
    [row] = [row for row in rows if row.startswith("| real10")]
    assert (
        row
        == "| real10 | 2 | 2 | 5.900 ± 0.600 | 0.400 ± 0.100 | 6.100 ± 0.600 | 0.10 | 0.500 | 4.000 | 0.200 | 0.050 |"
    )
    assert {row.count("|") for row in rows} == {12}


def test_a_cell_that_is_missing_is_named_and_an_error(tmp_path, capsys):
    results = tmp_path / "generations.json"
    whole = {name: stored(5.0, real_text=stored(0)["text"]) for name in lab.cells()}
    results.write_text(json.dumps(whole))
    assert lab.main([], results) == 0
    del whole["accumulate-2/18"]
    results.write_text(json.dumps(whole))
    assert lab.main([], results) == 1
    assert "missing: accumulate-2/18" in capsys.readouterr().out
