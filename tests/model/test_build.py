"""Models are built as asked, or refused with the name that was meant."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM

from trainer.base.errors import UserError
from trainer.model.build import build_model, form_of, parameter_count
from trainer.model.config import ModelConfig
from trainer.model.saving import save_model

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def model_config(**keys: Any) -> ModelConfig:
    """The configuration with our own keys, and the rest under `config`."""
    own = {key: value for key, value in keys.items() if key in ModelConfig.model_fields}
    return ModelConfig.model_validate({**own, "config": {key: keys[key] for key in keys.keys() - own.keys()}})


def build(seed: int = 1, vocabulary_size: int = 50, sequence_length: int = 12, **keys: Any) -> Any:
    return build_model(
        model_config(**keys),
        vocabulary_size=vocabulary_size,
        end_of_document=3,
        sequence_length=sequence_length,
        seed=seed,
    )


def test_the_configuration_costs_no_heavy_import() -> None:
    code = "import sys, trainer.model.build; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (
        build(architecture="llama", **TINY),
        build(architecture="llama", **TINY),
        build(2, architecture="llama", **TINY),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_ids_and_context_come_from_the_tokenizer_and_the_data() -> None:
    model = build(architecture="llama", **TINY)
    assert (model.config.vocab_size, model.config.eos_token_id, model.config.bos_token_id) == (50, 3, 3)
    assert model.config.max_position_embeddings == 12
    assert model.config.use_cache is False
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_saved_model_writes_texts_with_its_cache(tmp_path: Path) -> None:
    model = build(architecture="llama", **TINY)
    save_model(model, tmp_path, form_of(model))
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert (loaded.config.use_cache, loaded.generation_config.use_cache) == (True, True)


def test_other_architectures_take_their_own_words() -> None:
    model = build(architecture="gpt2", n_embd=16, n_layer=1, n_head=2)
    assert model.config.n_positions == 12
    assert model(torch.zeros(1, 12, dtype=torch.int64)).logits.shape == (1, 12, 50)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "lama"}, "Did you mean llama"),
        ({"architecture": "llama", "hiden_size": 16}, "Did you mean hidden_size"),
        ({"architecture": "llama", "vocab_size": 16}, "follows from data.tokenizer"),
        ({"architecture": "llama", "rms_norm_eps": "small"}, "expected float"),
        (
            {"architecture": "llama", "hidden_size": 100, "num_attention_heads": 7},
            "multiple of the number of attention",
        ),
        ({"architecture": "llama", **TINY, "max_position_embeddings": 8}, "At least 12 is needed"),
        ({"architecture": "gpt2", "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}, "At least 12 is needed"),
        ({"architecture": "llama", **TINY, "attention": "flesh"}, "flesh"),
        ({"pretrained": "/nowhere"}, "cannot be read"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**keys)


@pytest.mark.parametrize(
    "keys", [{}, {"architecture": "llama", "pretrained": "x"}, {"pretrained": "x", "hidden_size": 4}]
)
def test_a_model_has_exactly_one_origin(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model_config(**keys)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_without_weights_and_tied_ones_once(tied: bool) -> None:
    keys = {"architecture": "llama", **TINY, "tie_word_embeddings": tied}
    counted = parameter_count(model_config(**keys), 50, 12)
    assert counted == sum(parameter.numel() for parameter in build(**keys).parameters())
    # embedding, attention 4 h^2, three h x ff matrices, two norms and the last one
    assert counted == 50 * 16 * (1 if tied else 2) + 4 * 16**2 + 3 * 16 * 32 + 3 * 16


def test_a_model_of_trillions_of_parameters_is_counted_in_no_memory() -> None:
    giant = {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 20, "num_attention_heads": 128}
    assert parameter_count(model_config(architecture="llama", **giant), 128000, 4096) > 10**12


def test_pretrained_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    model = build(architecture="llama", **TINY)
    model.save_pretrained(tmp_path)
    again = build(pretrained=str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert again.config.use_cache is False


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    build(architecture="llama", **TINY).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="600 ids, the embedding of the pretrained model 50 rows"):
        build(pretrained=str(tmp_path), vocabulary_size=600)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    model = build(architecture="llama", **TINY)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be built"):
        build(pretrained=str(tmp_path))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    ids = torch.arange(12)[None]

    def gradient(checkpointing: bool) -> list[torch.Tensor]:
        model = build(architecture="llama", gradient_checkpointing=checkpointing, **TINY)
        assert model.is_gradient_checkpointing is checkpointing
        model(ids, labels=ids).loss.backward()
        return [parameter.grad for parameter in model.parameters()]

    for one, two in zip(gradient(False), gradient(True), strict=True):
        torch.testing.assert_close(one, two)
