"""A model that is not what the recipe takes it for is refused before any data is prepared, and left as it was."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification, PreTrainedModel

from trainer.base.errors import UserError
from trainer.model import forward_probe, probes
from trainer.model.build import build_model, form_of, transformers_config
from trainer.model.config import ModelConfig
from trainer.model.files import wrapper_prefix
from trainer.model.forward_probe import all_threads, check_forward
from trainer.model.probes import Vocabulary, check_loading, probe
from trainer.model.saving import save_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 120}
FITTING: dict[str, Any] = {"vocabulary_size": 120, "end_of_document": 0, "sequence_length": 32, "seed": 1}
LLAMA = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64}
LLAMA_KEYS = {key: value for key, value in LLAMA.items() if key != "vocab_size"}


def model(architecture: str, **keys: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **keys)).train()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model("llama", **LLAMA).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rename(folder: Path, names: dict[str, str]) -> None:
    file = folder / "model.safetensors"
    save_file(
        {names.get(name, name): tensor for name, tensor in load_file(file).items() if names.get(name, name)}, file
    )


def test_a_whole_model_loads_without_a_word(folder: Path) -> None:
    assert check_loading(str(folder)) == []


def test_the_prefix_of_a_wrapper_is_taken_off_said_and_not_put_back(folder: Path, tmp_path: Path) -> None:
    names = load_file(folder / "model.safetensors")
    rename(folder, {name: f"_orig_mod.{name}" for name in names})
    (note,) = check_loading(str(folder))
    assert "torch.compile" in note
    loaded = build_model(ModelConfig(pretrained=str(folder)), **FITTING)
    assert torch.equal(loaded.model.embed_tokens.weight, names["model.embed_tokens.weight"])
    save_model(loaded, tmp_path / "written", form_of(loaded))
    assert load_file(tmp_path / "written" / "model.safetensors").keys() == names.keys()


def test_a_prefix_that_only_some_names_have_is_not_taken_off() -> None:
    assert wrapper_prefix(["_orig_mod.a", "b"]) is None
    assert wrapper_prefix(["module.a", "module.b"]) == "module."
    assert wrapper_prefix([]) is None


def test_weights_under_other_names_are_refused_with_both_names(folder: Path) -> None:
    rename(folder, {"model.norm.weight": "model.final_norm.weight"})
    with pytest.raises(UserError, match=r"model\.norm\.weight.*model\.final_norm\.weight"):
        check_loading(str(folder))


def test_a_classifier_has_no_language_model_head(tmp_path: Path) -> None:
    LlamaForSequenceClassification(LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lm_head\.weight.*another head"):
        check_loading(str(tmp_path))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 64', '"intermediate_size": 96'))
    with pytest.raises(UserError, match="another shape"):
        check_loading(str(folder))


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0garbage!"])
def test_a_file_that_is_not_whole_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: .*not a whole safetensors file"):
        check_loading(str(folder))


def test_weights_that_nobody_asked_for_are_said(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), "value_head.weight": torch.zeros(2, 2)}, file)
    (note,) = check_loading(str(folder))
    assert "value_head.weight" in note


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "gpt_neox", "opt"])
def test_decoders_pass_and_are_left_as_they_were(architecture: str) -> None:
    keys = {"opt": {**LLAMA, "ffn_dim": 64, "word_embed_proj_dim": 32}}.get(architecture, dict(SMALL))
    probed = model(architecture, **keys)
    before = {name: tensor.clone() for name, tensor in probed.state_dict().items()}
    random = torch.get_rng_state()
    check_forward(probed, sequence_length=48)
    assert probed.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in probed.state_dict().items())


@pytest.mark.parametrize("architecture", ["bert", "electra"])
def test_a_model_that_sees_the_future_is_refused(architecture: str) -> None:
    encoder = model(architecture, **SMALL, intermediate_size=64)
    with pytest.raises(UserError, match=r"not causal.*is_decoder"):
        check_forward(encoder, sequence_length=32)
    check_forward(model(architecture, **SMALL, intermediate_size=64, is_decoder=True), sequence_length=32)


def test_a_context_under_another_key_that_is_too_short_is_refused() -> None:
    mpt = model("mpt", d_model=32, n_heads=2, n_layers=3, vocab_size=120, max_seq_len=16)
    check_forward(mpt, sequence_length=16)
    with pytest.raises(UserError, match="cannot run on 32 tokens"):
        check_forward(mpt, sequence_length=32)


def test_learned_positions_that_end_before_the_sequence_are_refused() -> None:
    with pytest.raises(UserError, match="cannot run on 40 tokens"):
        check_forward(model("gpt2", **SMALL, n_positions=32), sequence_length=40)


@contextmanager
def memory_limited_to(more_bytes: int) -> Iterator[None]:
    """With so much more address space than is taken now."""
    with all_threads():
        torch.ones(1 << 22).exp_()  # starts the threads, each with a stack of its own
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_too_little_memory_is_a_note_and_no_refusal() -> None:
    wide = model("llama", **{**LLAMA, "intermediate_size": 1 << 16, "num_hidden_layers": 1})
    with memory_limited_to(200 << 20):
        (note,) = check_forward(wide, sequence_length=4096)  # 1 GiB for one projection
    assert "not run at full length" in note
    assert "allocate" in note


class Raising(torch.nn.Module):
    """In the place of a layer's part, fails on more than the tokens of the short forward."""

    def __init__(self, part: torch.nn.Module, error: Exception) -> None:
        super().__init__()
        self.part, self.error = part, error

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[1] > 16:
            raise self.error
        return self.part(hidden)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("of Python"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_every_kind_of_memory_error_is_a_note(error: Exception) -> None:
    probed = model("llama", **LLAMA)
    probed.model.layers[1].mlp = Raising(probed.model.layers[1].mlp, error)
    (note,) = check_forward(probed, sequence_length=32)
    assert str(error)[:20] in note


@pytest.mark.parametrize(
    ("error", "is_of_length"),
    [
        (IndexError("beyond"), True),
        (RuntimeError("The size of tensor a must match"), True),
        (NotImplementedError("this operator is not there"), False),
        (RuntimeError("mkldnn could not create a primitive"), False),
        (TypeError("takes 2 arguments"), False),
    ],
)
def test_a_short_context_is_the_remedy_for_an_index_or_a_size_only(error: Exception, is_of_length: bool) -> None:
    probed = model("llama", **LLAMA)
    probed.model.layers[1].mlp = Raising(probed.model.layers[1].mlp, error)
    with pytest.raises(UserError, match="cannot run on 32 tokens") as caught:
        check_forward(probed, sequence_length=32)
    assert str(error) in str(caught.value)
    assert ("context may be shorter" in str(caught.value)) == is_of_length


@pytest.mark.parametrize("kernel", ["flash_attention_2", "eager", "sdpa", "flash_attention_3", "flex_attention"])
@pytest.mark.parametrize("is_pretrained", [False, True])
def test_the_kernel_of_the_recipe_is_not_asked_of_this_machine(folder: Path, kernel: Any, is_pretrained: bool) -> None:
    if is_pretrained:
        config = ModelConfig(pretrained=str(folder), attention=kernel)
    else:
        config = ModelConfig(architecture="llama", config={**LLAMA_KEYS}, attention=kernel)
    assert probe(config, Vocabulary(size=120), sequence_length=32) == []


def test_the_length_is_run_without_the_attention_matrix() -> None:
    heads = {"n_embd": 32, "n_head": 8, "n_layer": 1, "n_positions": 8192}
    eager = {"architecture": "gpt2", "attention": "eager", "config": heads}
    probe(ModelConfig(**eager), Vocabulary(size=300), sequence_length=64)  # what it imports and starts
    with memory_limited_to(1 << 30):  # the matrix takes 2 GiB
        assert probe(ModelConfig(**eager), Vocabulary(size=300), sequence_length=8192) == []


@pytest.mark.parametrize(("architecture", "head"), [("trocr", "output_projection"), ("whisper", "proj_out")])
def test_where_the_last_logits_cannot_be_had_alone_the_length_is_run_without_the_head(
    architecture: str, head: str
) -> None:
    keys = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 120}
    positions = {"whisper": "max_target_positions"}.get(architecture, "max_position_embeddings")
    headed = model(architecture, **keys, **{positions: 64}, pad_token_id=0)
    setattr(headed, head, Raising(getattr(headed, head), MemoryError("the head")))  # on more than the short forward
    assert check_forward(headed, sequence_length=60) == []
    with pytest.raises(UserError, match="cannot run on 80 tokens"):
        check_forward(headed, sequence_length=80)


def test_a_long_sequence_runs_one_layer_of_each_kind_on_a_processor() -> None:
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    keys = {**LLAMA_KEYS, "num_hidden_layers": 4, "layer_types": kinds, "max_position_embeddings": 1 << 14}
    settings = transformers_config(
        ModelConfig(architecture="qwen2", config=keys), vocabulary_size=120, sequence_length=64, end_of_document=0
    )
    brief = probes._brief(settings)
    assert brief is not None
    assert brief.layer_types == ["sliding_attention", "full_attention"]
    assert brief.num_hidden_layers == 2
    whole = probes._cut(settings)
    assert whole is None  # the last kind is that of the last layer


def test_the_probe_takes_all_cores_and_gives_them_back() -> None:
    before = torch.get_num_threads()
    with all_threads():
        assert torch.get_num_threads() == max(before, len(os.sched_getaffinity(0)))
    assert torch.get_num_threads() == before


def test_beyond_a_table_on_a_gpu_is_an_error_before_the_look_up() -> None:
    table = torch.nn.Embedding(4, 2)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"))  # all that is asked of the model
    with torch.no_grad(), forward_probe.checked_embeddings(on_gpu):
        assert table(torch.tensor([3])).shape == (1, 2)
        with pytest.raises(IndexError, match="in an embedding"):
            table(torch.tensor([1, 4]))
