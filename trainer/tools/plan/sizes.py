"""How large a model is, and what training it takes: parameters, bytes and floating-point operations from a few numbers.

`trainer plan` must answer quickly, and building a model, even without memory, needs four seconds of imports. For the
plain decoders that most recipes train from scratch the count has a closed form, which a test compares with the model
itself; a model on this disk tells its size in the headers of its files. Only what is neither is built.
"""

# B samples of a micro-batch, T tokens of a sample, L layers, H hidden size, V vocabulary

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from trainer.model.build import parameter_count, transformers_config
from trainer.model.config import ModelConfig

_FLOAT_BYTES = 4  # masters, gradients and Adam's two moments are fp32 whatever the precision of the step
_ADAM_MOMENTS = 2
_ACTIVATION_BYTES_PER_VALUE = (
    17  # of 16-bit numbers kept per layer and hidden value: 34 bytes / 2 (Korthikanti et al. 2022, eq. 2)
)
_LOGIT_COPIES = 3  # logits, their log-softmax and their gradient, in fp32
_LAYER_INPUT_VALUES = 1  # all that recomputation keeps of a layer

# Keys with which the closed form below is exact; any other key sends the question to transformers.
_PLAIN_KEYS = {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "attention_dropout",
    "initializer_range",
}
_REQUIRED_KEYS = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Trained parameters (tied ones once) and the shape that activations and attention depend on."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocabulary_size: int


@dataclass(frozen=True, kw_only=True)
class MemoryPerRank:
    """Bytes on one rank. ``activations`` is an estimate: kernels differ. ``total_sharded`` is with all states sharded
    (ZeRO-3, FSDP2).
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    total: int
    total_sharded: int


def model_size(config: ModelConfig, *, vocabulary_size: int, sequence_length: int) -> ModelSize:
    """The size of the model; from a formula, from the headers of its files, or by building it without memory, whichever
    is quickest.
    """
    folder = Path(config.pretrained) if config.pretrained else None
    if folder is not None and (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
        return _size_on_disk(folder)
    if is_plain_llama(config):
        return _llama_size(config.config, vocabulary_size)
    settings = transformers_config(
        config, vocabulary_size=vocabulary_size, sequence_length=sequence_length
    ).get_text_config()
    return ModelSize(
        num_parameters=parameter_count(config, vocabulary_size, sequence_length),
        num_layers=int(settings.num_hidden_layers),
        hidden_size=int(settings.hidden_size),
        vocabulary_size=int(settings.vocab_size),
    )


def is_plain_llama(config: ModelConfig) -> bool:
    """Whether the closed form below holds: a llama from scratch whose keys are all known here."""
    return (
        config.architecture == "llama"
        and config.config.keys() >= _REQUIRED_KEYS
        and config.config.keys() <= _PLAIN_KEYS
    )


def _llama_size(keys: dict[str, Any], vocabulary_size: int) -> ModelSize:
    """Embedding V x H (twice unless tied); per layer q and o H x H, k and v H x (H times the part of heads kept), the
    gated feed-forward 3 x H x F and two norms of H; one norm of H at the end. No biases.
    """
    hidden, inner, layers = keys["hidden_size"], keys["intermediate_size"], keys["num_hidden_layers"]
    heads = keys["num_attention_heads"]
    key_value = hidden // heads * keys.get("num_key_value_heads", heads)
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner + 2 * hidden
    embeddings = vocabulary_size * hidden * (1 if keys.get("tie_word_embeddings", False) else 2)
    return ModelSize(
        num_parameters=embeddings + layers * layer + hidden,
        num_layers=layers,
        hidden_size=hidden,
        vocabulary_size=vocabulary_size,
    )


def _size_on_disk(folder: Path) -> ModelSize:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = settings.get("text_config", settings)
    total = sum(_parameters_in(file) for file in sorted(folder.glob("*.safetensors")))
    return ModelSize(
        num_parameters=total,
        num_layers=int(settings.get("num_hidden_layers", settings.get("n_layer", 0))),
        hidden_size=int(settings.get("hidden_size", settings.get("n_embd", 0))),
        vocabulary_size=int(settings["vocab_size"]),
    )


def _parameters_in(file: Path) -> int:
    """Numbers in a safetensors file, from the shapes in its header."""
    with safe_open(file, framework="numpy") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 - not a mapping


def memory_per_rank(
    size: ModelSize, *, micro_batch: int, sequence_length: int, bf16: bool, recompute: bool, world_size: int
) -> MemoryPerRank:
    """Bytes one rank needs; ``recompute`` is gradient checkpointing, which keeps only the input of each layer."""
    weights = size.num_parameters * _FLOAT_BYTES
    optimizer = _ADAM_MOMENTS * weights
    value_bytes = 2 if bf16 else _FLOAT_BYTES
    values_per_layer = micro_batch * sequence_length * size.hidden_size
    kept_values = _LAYER_INPUT_VALUES if recompute else _ACTIVATION_BYTES_PER_VALUE
    one_layer = _ACTIVATION_BYTES_PER_VALUE if recompute else 0  # recomputed layer by layer
    logits = micro_batch * sequence_length * size.vocabulary_size * _LOGIT_COPIES * _FLOAT_BYTES
    activations = values_per_layer * value_bytes * (kept_values * size.num_layers + one_layer) + logits
    states = weights + weights + optimizer
    return MemoryPerRank(
        weights=weights,
        gradients=weights,
        optimizer=optimizer,
        activations=activations,
        total=states + activations,
        total_sharded=-(-states // world_size) + activations,
    )


def flops_per_token(size: ModelSize, sequence_length: int) -> int:
    """Forward and backward: 6 per parameter and 12 L H T for attention (PaLM, appendix B)."""
    return 6 * size.num_parameters + 12 * size.num_layers * size.hidden_size * sequence_length


def checkpoint_bytes(size: ModelSize) -> int:
    """Weights and Adam's moments; the rest of the state is kilobytes."""
    return size.num_parameters * _FLOAT_BYTES * (1 + _ADAM_MOMENTS)


def model_bytes(size: ModelSize) -> int:
    """The folder `model/` that transformers loads."""
    return size.num_parameters * _FLOAT_BYTES
