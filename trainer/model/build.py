"""Any causal language model of transformers, from a few keys or from pretrained weights.

Why not ``AutoConfig.for_model`` alone: it takes an unknown key without a word (``hiden_size`` trains the default of
4,096), so every key is compared with the configuration class here. Weights are fp32 masters whatever the precision of
the run; pretrained weights are read as safetensors only and never bring code along. Importing this module costs
nothing: torch and transformers (4 s) load on first use.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from trainer.base.errors import UserError
from trainer.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

# Keys of the transformers configuration that follow from the tokenizer, the precision or the training itself.
DERIVED_KEYS: Mapping[str, str] = {
    "vocab_size": "it follows from data.tokenizer",
    "bos_token_id": "it follows from data.tokenizer",
    "eos_token_id": "it follows from data.tokenizer",
    "pad_token_id": "it follows from data.tokenizer",
    "use_cache": "training never caches",
    "dtype": "weights are fp32 masters; set training.precision",
    "torch_dtype": "weights are fp32 masters; set training.precision",
    "model_type": "set model.architecture",
    "gradient_checkpointing": "it stands alongside architecture: model.gradient_checkpointing",
}
SPARE_ROWS_AT_LEAST = 512  # a published embedding is often padded: Qwen2.5 by 271 rows, Phi-3 by 53
LONGEST_LIST = 60  # names that an error message may list
SPARE_ROWS_PART = 20  # and DeepSeek's by 2.4 %: up to a twentieth of the vocabulary counts as padding


def transformers_config(
    config: ModelConfig, *, vocabulary_size: int, sequence_length: int, end_of_document: int | None = None
) -> "PretrainedConfig":
    """The full transformers configuration; UserError on an unknown architecture or key, a wrong value, or too short a
    context.

    ``vocabulary_size`` in ids, ``sequence_length`` in tokens.
    """
    if config.pretrained is None:
        result = _from_keys(config, vocabulary_size, sequence_length, end_of_document)
    else:
        result = _from_pretrained(config.pretrained)
        _check_vocabulary(config.pretrained, cast(int, result.get_text_config().vocab_size), vocabulary_size)
    context = getattr(result.get_text_config(), "max_position_embeddings", None)
    if isinstance(context, int) and 0 < context < sequence_length:
        raise UserError(
            "the model's context is shorter than data.sequence_length",
            got=context,
            remedy=f"At least {sequence_length} is needed",
        )
    return result


def build_model(
    config: ModelConfig, *, vocabulary_size: int, end_of_document: int, sequence_length: int, seed: int
) -> "PreTrainedModel":
    """The model in fp32 on the CPU, in training mode; the same weights for the same seed, and the caller's random state
    is left alone.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # one bar for each file it reads or writes would tear our own
    settings = transformers_config(
        config, vocabulary_size=vocabulary_size, sequence_length=sequence_length, end_of_document=end_of_document
    )
    chosen = {} if config.attention is None else {"attn_implementation": config.attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_model_seed(seed))
        try:
            if config.pretrained is None:
                model = AutoModelForCausalLM.from_config(
                    settings, dtype=torch.float32, trust_remote_code=False, **chosen
                )
            else:
                model = AutoModelForCausalLM.from_pretrained(
                    config.pretrained,
                    config=settings,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    **chosen,
                )
            if config.gradient_checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                "the model cannot be built",
                got=config.pretrained or config.architecture,
                remedy=str(error).splitlines()[0] if str(error) else None,
            ) from error
    model.config.use_cache = False
    return cast("PreTrainedModel", model.train())


def filled_model(
    like: "type[PreTrainedModel]", config: "PretrainedConfig", weights: "Mapping[str, Tensor]"
) -> "PreTrainedModel":
    """A model on the CPU with the ``weights`` (parameters and persistent buffers, tied ones once) of one that is spread
    over ranks. Not ``from_pretrained``, which under ZeRO-3 is a collective and hangs on one rank.
    """
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = like(config)
    model.tie_weights()
    unknown = model.load_state_dict(dict(weights), strict=False).unexpected_keys
    missing = {name for name, _ in model.named_parameters()} - weights.keys()
    if unknown or missing:
        raise ValueError(f"weights do not fit {like.__name__}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    return model.eval()


def parameter_count(config: ModelConfig, vocabulary_size: int, sequence_length: int) -> int:
    """Number of trained parameters, tied ones once; on the meta device, so that a model of any size costs no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    settings = transformers_config(config, vocabulary_size=vocabulary_size, sequence_length=sequence_length)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def _from_keys(
    config: ModelConfig, vocabulary_size: int, sequence_length: int, end_of_document: int | None
) -> "PretrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    architecture = cast(str, config.architecture)
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            "model.architecture is not a causal language model of transformers",
            got=architecture,
            remedy=_nearest(architecture, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        )
    default = AutoConfig.for_model(architecture)
    allowed = {key for key in [*default.to_dict(), *default.attribute_map] if not key.startswith("_")}
    for key in config.config:
        if key in DERIVED_KEYS:
            raise UserError(
                f"model.config.{key} cannot be set: {DERIVED_KEYS[key]}",
                got=config.config[key],
                remedy="Remove the key",
            )
        if key not in allowed:
            raise UserError(
                f"model.config.{key} is not a key of {type(default).__name__}",
                got=key,
                remedy=_nearest(key, allowed - set(DERIVED_KEYS)),
            )
    values = {"max_position_embeddings": sequence_length, **config.config}
    position_name = default.attribute_map.get("max_position_embeddings")
    if position_name in config.config or "max_position_embeddings" not in allowed:
        values = dict(config.config)
    ids = {"bos_token_id": end_of_document, "eos_token_id": end_of_document, "pad_token_id": None}
    try:
        return AutoConfig.for_model(architecture, **values, **ids, vocab_size=vocabulary_size, use_cache=False)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise UserError(
            f"the {architecture} configuration is not valid", got=config.config, remedy=" ".join(str(error).split())
        ) from error


def _from_pretrained(pretrained: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    except (OSError, ValueError) as error:
        remedy = "Give a folder that holds config.json and *.safetensors, or a hub id that can be reached"
        raise UserError("model.pretrained cannot be read", got=pretrained, remedy=remedy) from error


def _check_vocabulary(pretrained: str, rows: int, vocabulary_size: int) -> None:
    spare = rows - vocabulary_size
    if not 0 <= spare <= max(SPARE_ROWS_AT_LEAST, vocabulary_size // SPARE_ROWS_PART):
        raise UserError(
            f"the tokenizer has {vocabulary_size} ids, the embedding of the pretrained model {rows} rows",
            got=pretrained,
            remedy="Set data.tokenizer.pretrained to the tokenizer of the same model",
        )


def _nearest(word: str, names: Iterable[str]) -> str:
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known here: {', '.join(names)}" if len(names) <= LONGEST_LIST else "See the transformers documentation"


def _model_seed(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/model".encode(), digest_size=8).digest(), "little") >> 1
