"""A model that is not what the recipe takes it for is refused by the command before any data is prepared; one that is
comes back in the form it had.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.together.launches import Ended, Place, write_recipe
from trainer.data.config import TokenizerConfig
from trainer.data.tokenizer import build_tokenizer

LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
SHORT = (
    "training.steps=4",
    "training.schedule.warmup_steps=0",
    "control.policy={kind: constant}",
    "evaluation.source_value.enabled='off'",
    "checkpoint.every_steps=4",
)


@pytest.fixture
def home(tmp_path: Path) -> Place:
    recipe = write_recipe(tmp_path)
    text = recipe.read_text()
    start, end = text.index("model:"), text.index("data:")
    text = text[:start] + "model: {pretrained: model}\n" + text[end:]
    recipe.write_text(text.replace("tokenizer: {train_bpe: 300}", "tokenizer: {pretrained: model}"))
    return Place(tmp_path, recipe)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def store(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def pretrained(
    home: Place, rows: int | None = None, dtype: torch.dtype = torch.float32, kind: Any = LlamaForCausalLM, **keys: Any
) -> Path:
    """A model and its tokenizer, as somebody would have published them."""
    folder = home.folder / "model"
    texts = [json.loads(line)["text"] for line in (home.folder / "real.jsonl").read_text().splitlines()]
    facts = build_tokenizer(TokenizerConfig(train_bpe=300), [texts], folder, home.folder)
    torch.manual_seed(1)
    end = facts.end_of_document
    config = LlamaConfig(**{**LLAMA, **keys}, vocab_size=rows or facts.vocabulary_size, eos_token_id=end)
    kind(config).to(dtype).save_pretrained(folder)
    return folder


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def add_token(folder: Path, content: str, *, special: bool) -> int:
    """One more token for the tokenizer; its id."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    number = len(tokenizer["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": number, "content": content, "special": special, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return number


def refused(home: Place, ended: Ended) -> str:
    """The one message of a refusal that came before any data."""
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert not list((home.folder / "cache").glob("stores/*"))
    return ended.output


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: store(folder, {name.replace(old, new): tensor for name, tensor in weights(folder).items()})


def spoil(name: str, number: float) -> Callable[[Path], None]:
    def spoiled(folder: Path) -> None:
        tensors = weights(folder)
        tensors[name].view(-1)[3] = number
        store(folder, tensors)

    return spoiled


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "renamed": (rename("mlp", "ffn"), "would be random"),
    "one prefix too many": (rename("model.", "transformer.model."), "would be random"),
    "not a number": (spoil("model.norm.weight", float("nan")), "model.norm.weight"),
    "infinite": (spoil("model.layers.1.mlp.up_proj.weight", float("inf")), "not finite"),
    "empty": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors"),
    "garbage": (lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04" * 99), "model.safetensors"),
    "cut off": (cut_off, "not a whole safetensors file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model"),
    "negative": (lambda folder: change(folder / "config.json", intermediate_size=-8), "model"),
    "no heads": (lambda folder: change(folder / "config.json", num_attention_heads=0), "model"),
    "wider": (lambda folder: change(folder / "config.json", intermediate_size=48), "another shape"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "model.pretrained cannot be read"),
    "a short context": (lambda folder: change(folder / "config.json", max_position_embeddings=16), "context"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
    "half a tokenizer": (lambda folder: (folder / "tokenizer.json").write_text('{"model": {"vocab": 3}}'), "tokenizer"),
}


@pytest.mark.kind("weights that do not fit the model")
@pytest.mark.parametrize("fault", FAULTS)
def test_check_refuses_a_folder_that_is_not_the_model_it_says(home: Place, fault: str) -> None:
    spoil_it, words = FAULTS[fault]
    spoil_it(pretrained(home))
    assert words in refused(home, home.command("check", str(home.recipe)).wait())


@pytest.mark.kind("weights that do not fit the model")
def test_fit_and_plan_refuse_weights_of_another_head_before_any_data(home: Place) -> None:
    pretrained(home, kind=LlamaForSequenceClassification)
    assert "another head" in refused(home, home.fit(home.folder / "run").wait())
    assert "another head" in refused(home, home.command("plan", str(home.recipe)).wait())


@pytest.mark.kind("model that cannot be trained as asked")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{architecture: bert, config: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2}}", "not causal"),
        ("{architecture: xlnet, config: {d_model: 16, n_layer: 2, n_head: 2, d_inner: 32}}", "not causal"),
        ("{architecture: electra, config: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2}}", "causal"),
        ("{architecture: roberta, config: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2}}", "pad"),
        ("{architecture: mpt, config: {d_model: 16, n_layers: 3, n_heads: 2, max_seq_len: 16}}", "on 32 tokens"),
        ("{architecture: llama, config: {hidden_size: -16, num_attention_heads: 2}}", "llama"),
        ("{architecture: mixtral, config: {hidden_size: 16, router_aux_loss_coef: 0.1}}", "no effect"),
    ],
)
def test_a_model_from_scratch_that_cannot_be_trained_is_refused(home: Place, model: str, words: str) -> None:
    for command in ("check", "plan"):
        sets = ["--set", "data.tokenizer={train_bpe: 300}", "--set", f"model={model}"]
        assert words in refused(home, home.command(command, str(home.recipe), *sets).wait())


@pytest.mark.kind("weights that do not fit the model")
def test_the_prefix_of_a_wrapper_is_said_and_the_model_is_trained_and_written_without(home: Place) -> None:
    folder = pretrained(home)
    before = weights(folder)
    store(folder, {f"_orig_mod.{name}": tensor for name, tensor in before.items()})
    ended = home.fit(home.folder / "run", *SHORT).wait()
    assert ended.code == 0, ended.output
    assert "'_orig_mod.'" in ended.output
    after = weights(home.folder / "run" / "model")
    assert after.keys() == before.keys()
    for name, tensor in after.items():  # four small steps from where it was: no random weights
        assert torch.nn.functional.cosine_similarity(tensor.flatten(), before[name].flatten(), dim=0) > 0.9


@pytest.mark.kind("tokenizer larger than the embedding")
def test_an_id_without_a_row_is_a_fault_only_where_it_occurs(home: Place) -> None:
    folder = pretrained(home)
    number = add_token(folder, "<image>", special=True)
    ended = home.fit(home.folder / "run", *SHORT).wait()
    assert ended.code == 0, ended.output
    assert "1 ids have no row" in ended.output
    add_token(folder, "qqq", special=False)
    with (home.folder / "real.jsonl").open("a") as file:
        file.write(json.dumps({"title": "odd", "topic": "birds", "text": "a text with qqq in it"}) + "\n")
    ended = home.fit(home.folder / "other", *SHORT).wait()
    assert ended.code == 2, ended.output
    assert "'qqq'" in ended.output
    ended = home.fit(home.folder / "grown", *SHORT, "model.grow_embedding=true").wait()
    assert ended.code == 0, ended.output
    grown = weights(home.folder / "grown" / "model")["model.embed_tokens.weight"]
    assert grown.shape[0] == number + 2


@pytest.mark.kind("form of the written model")
def test_a_model_comes_back_in_the_numbers_and_with_the_settings_it_came_with(home: Place) -> None:
    folder = pretrained(home, dtype=torch.bfloat16, use_cache=True)
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": [0, 2]}')
    assert home.fit(home.folder / "run", *SHORT).wait().code == 0
    written = home.folder / "run" / "model"
    assert {tensor.dtype for tensor in weights(written).values()} == {torch.bfloat16}
    config = json.loads((written / "config.json").read_text())
    assert (config["dtype"], config["use_cache"]) == ("bfloat16", True)
    assert (written / "generation_config.json").read_text() == (folder / "generation_config.json").read_text()
    saved = next((home.folder / "run" / "checkpoints").glob("*/*.safetensors"))
    assert {tensor.dtype for tensor in load_file(saved).values()} == {torch.float32}
    assert home.fit(home.folder / "full", *SHORT, "model.saved_precision=fp32").wait().code == 0
    assert {tensor.dtype for tensor in weights(home.folder / "full" / "model").values()} == {torch.float32}


@pytest.mark.kind("tied weights")
def test_two_matrices_under_a_configuration_that_says_tied_stay_two(home: Place) -> None:
    folder = pretrained(home, tie_word_embeddings=True)
    tensors = weights(folder)
    store(folder, {**tensors, "lm_head.weight": torch.randn(tensors["model.embed_tokens.weight"].shape)})
    assert home.fit(home.folder / "run", *SHORT).wait().code == 0
    written = AutoModelForCausalLM.from_pretrained(home.folder / "run" / "model")
    assert written.config.tie_word_embeddings is False
    assert not torch.equal(written.lm_head.weight, written.model.embed_tokens.weight)


@pytest.mark.slow
@pytest.mark.kind("weights that do not fit the model")
def test_on_two_processes_a_refusal_is_told_once_and_all_of_them_end(home: Place) -> None:
    FAULTS["not a number"][0](pretrained(home))
    ended = home.launch(home.folder / "run", processes=2).wait(patience_s=100)
    assert ended.code != 0
    assert ended.output.count("hold numbers that are not finite") == 1
    outcome = json.loads((home.folder / "run" / "outcome.json").read_text())
    assert (outcome["state"], outcome["exit_code"], outcome["rank"]) == ("failed", 2, 0)


@pytest.mark.kind("tokenizer larger than the embedding")
def test_an_end_of_document_without_a_row_is_refused_before_any_data(home: Place) -> None:
    folder = pretrained(home)
    add_token(folder, "<end>", special=True)
    sets = ["--set", "data.tokenizer={pretrained: model, end_of_document: <end>}"]
    assert "'<end>'" in refused(home, home.command("check", str(home.recipe), *sets).wait())


@pytest.mark.kind("older tokenizer folder")
def test_an_end_of_sequence_that_only_the_map_of_special_tokens_names_is_found(home: Place) -> None:
    folder = pretrained(home)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    end = settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ended = home.command("check", str(home.recipe)).wait()
    assert "names no end-of-sequence token" in refused(home, ended)
    assert str(folder) in ended.output
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": end}}))
    assert home.command("check", str(home.recipe)).wait().code == 0


@pytest.mark.kind("user's own files in the run folder")
@pytest.mark.parametrize("name", ["model", "recipe.yaml", "checkpoints", "report.html"])
def test_what_a_user_keeps_in_the_run_folder_is_refused_and_never_removed(home: Place, name: str) -> None:
    pretrained(home)
    own = home.folder / "run" / name
    if "." not in name:
        own.mkdir(parents=True)
        own /= "mine.safetensors"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("years of work")
    assert name in refused(home, home.fit(home.folder / "run", *SHORT).wait())
    assert own.read_text() == "years of work"


def test_a_model_is_probed_at_the_first_start_and_not_when_the_run_resumes(home: Place) -> None:
    folder = pretrained(home)
    first = home.fit(home.folder / "run", *SHORT).wait()
    assert first.code == 0, first.output
    assert "probing the model" in first.output
    spoil("model.norm.weight", float("nan"))(folder)  # would be refused by a probe
    again = home.fit(home.folder / "run", *SHORT, "training.steps=8").wait()
    assert again.code == 0, again.output
    assert "probing the model" not in again.output
