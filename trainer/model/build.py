"""Any causal language model of transformers, from a few keys or from pretrained weights.

Why not ``AutoConfig.for_model`` alone: it takes an unknown key without a word (``hiden_size`` trains the default of
4,096), so every key is compared with the configuration class here. Weights are fp32 masters whatever the precision of
the run; pretrained weights are read as safetensors only and never bring code along. Importing this module costs
nothing: torch and transformers (4 s) load on first use.
"""

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from trainer.base.errors import UserError
from trainer.model.config import ModelConfig
from trainer.model.files import key_mapping
from trainer.model.saving import SavedForm, form_as_loaded

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

# Keys of the transformers configuration that follow from the tokenizer, the precision or the training itself.
DERIVED_KEYS: Mapping[str, str] = {
    "vocab_size": "it follows from data.tokenizer",
    "bos_token_id": "it follows from data.tokenizer",
    "eos_token_id": "it follows from data.tokenizer",
    "use_cache": "training never caches",
    "dtype": "weights are fp32 masters; set training.precision",
    "torch_dtype": "weights are fp32 masters; set training.precision",
    "model_type": "set model.architecture",
    "gradient_checkpointing": "it stands alongside architecture: model.gradient_checkpointing",
}
SPARE_ROWS_AT_LEAST = 512  # a published embedding is often padded: Qwen2.5 by 271 rows, Phi-3 by 53
_FORM = "hybrid_trainer_form"  # where a model carries how it is to be written
LONGEST_LIST = 60  # names that an error message may list
SPARE_ROWS_PART = 20  # and DeepSeek's by 2.4 %: up to a twentieth of the vocabulary counts as padding


def transformers_config(
    config: ModelConfig,
    *,
    vocabulary_size: int,
    sequence_length: int,
    end_of_document: int | None = None,
    begin_of_document: int | None = None,
) -> "PretrainedConfig":
    """The full transformers configuration; UserError on an unknown architecture or key, a wrong value, or too short a
    context.

    ``vocabulary_size`` in ids, ``sequence_length`` in tokens.
    """
    if config.pretrained is None:
        begin = end_of_document if begin_of_document is None else begin_of_document
        ids = {"bos_token_id": begin, "eos_token_id": end_of_document, "pad_token_id": None}
        result = _from_keys(config, vocabulary_size, sequence_length, ids)
    else:
        result = _from_pretrained(config.pretrained)
        rows = cast(int, result.get_text_config().vocab_size)
        check_vocabulary(config.pretrained, rows, vocabulary_size, may_grow=config.grow_embedding)
    context = getattr(result.get_text_config(), "max_position_embeddings", None)
    if isinstance(context, int) and 0 < context < sequence_length:
        raise UserError(
            "the model's context is shorter than data.sequence_length",
            got=context,
            remedy=f"At least {sequence_length} is needed",
        )
    return result


def build_model(
    config: ModelConfig,
    *,
    vocabulary_size: int,
    end_of_document: int,
    sequence_length: int,
    seed: int,
    begin_of_document: int | None = None,
) -> "PreTrainedModel":
    """The model in fp32 on the CPU, in training mode; the same weights for the same seed, and the caller's random state
    is left alone.
    """
    import torch

    settings = transformers_config(
        config,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        end_of_document=end_of_document,
        begin_of_document=begin_of_document,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_model_seed(seed))
        model = instantiate(config, settings)
    if config.grow_embedding:
        _grow(model, vocabulary_size)
    use_cache = True if config.pretrained is None else getattr(settings, "use_cache", None)
    model.__dict__[_FORM] = form_as_loaded(config, use_cache=use_cache)
    model.config.use_cache = False
    return cast("PreTrainedModel", model.train())


def form_of(model: "PreTrainedModel") -> SavedForm:
    """How the model is to be written: as it came."""
    return cast(SavedForm, model.__dict__.get(_FORM, SavedForm()))


def instantiate(config: ModelConfig, settings: "PretrainedConfig") -> "PreTrainedModel":
    """The model of ``settings`` in fp32 on the CPU, with the weights of ``config``: drawn, or those of its files.

    ``UserError`` with the reason where transformers cannot.
    """
    import torch
    from transformers import AutoModelForCausalLM

    chosen = {} if config.attention is None else {"attn_implementation": config.attention}
    with quiet():
        try:
            if config.pretrained is None:
                model = AutoModelForCausalLM.from_config(
                    settings, dtype=torch.float32, trust_remote_code=False, **chosen
                )
            else:
                prefix = key_mapping(config.pretrained)
                model = AutoModelForCausalLM.from_pretrained(
                    config.pretrained,
                    config=settings,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    key_mapping=prefix,
                    **chosen,
                )
                _forget_renaming(model, prefix)
                untie_as_loaded(model)
            if config.gradient_checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        except UserError:
            raise
        except Exception as error:  # whatever a library raises over a folder or keys that are a user's
            raise cannot_be_built(config, error) from error
    return cast("PreTrainedModel", model)


def cannot_be_built(config: ModelConfig, error: Exception) -> UserError:
    """What transformers said, in one line."""
    reason = str(error).strip().splitlines()
    return UserError(
        "the model cannot be built",
        got=config.pretrained or config.architecture,
        remedy=f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the tables and bars of transformers: what they say is said here, once."""
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # one bar for each file it reads or writes would tear our own
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def untie_as_loaded(model: "PreTrainedModel") -> bool:
    """Let the configuration say what was loaded: where it says that output and input embedding are one matrix and the
    files hold two different ones, transformers loads two and leaves the word "tied". Whoever builds a model from that
    configuration and fills in the weights has another one. Whether it was changed.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    settings = model.config.get_text_config()
    says_tied = getattr(settings, "tie_word_embeddings", False) or getattr(model.config, "tie_word_embeddings", False)
    if not says_tied or head is None or getattr(head, "weight", None) is getattr(embedding, "weight", None):
        return False
    settings.tie_word_embeddings = model.config.tie_word_embeddings = False
    return True


def _forget_renaming(model: "PreTrainedModel", prefix: Mapping[str, str] | None) -> None:
    """Saving undoes every renaming of the loading: the prefix of a wrapper would be back."""
    conversions = model.__dict__.get("_weight_conversions")
    if prefix and conversions:
        kept = [each for each in conversions if not set(getattr(each, "source_patterns", ())) & set(prefix)]
        model.__dict__["_weight_conversions"] = kept or None


def _grow(model: "PreTrainedModel", vocabulary_size: int) -> None:
    """Give every id of the tokenizer a row of input and output embedding: the mean of those there are (Hewitt 2021)."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if vocabulary_size <= rows:
        return
    model.resize_token_embeddings(vocabulary_size, mean_resizing=False)
    head = model.get_output_embeddings()
    with torch.no_grad():
        for module in (model.get_input_embeddings(), head):
            for name in ("weight", "bias"):
                values = getattr(module, name, None)
                if values is not None and values.shape[0] == vocabulary_size:
                    values[rows:] = values[:rows].mean(0)


def filled_model(
    like: "type[PreTrainedModel]", config: "PretrainedConfig", weights: "Mapping[str, Tensor]"
) -> "PreTrainedModel":
    """A model on the CPU with the ``weights`` (parameters and persistent buffers, tied ones once) of one that is spread
    over ranks. Not ``from_pretrained``, which under ZeRO-3 is a collective and hangs on one rank.
    """
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = like(config)
    _share(model, weights)
    unknown = model.load_state_dict(dict(weights), strict=False).unexpected_keys
    missing = {name for name, _ in model.named_parameters()} - weights.keys()
    if unknown or missing:
        raise ValueError(f"weights do not fit {like.__name__}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    return model.eval()


def _share(model: "PreTrainedModel", weights: "Mapping[str, Tensor]") -> None:
    """Tie what was tied where ``weights`` come from, and nothing else: of tied weights they hold one."""
    from torch import nn

    model.tie_weights()
    own = set[int]()
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if name in weights and id(parameter) in own:
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, nn.Parameter(parameter.detach().clone()))
        elif name in weights:
            own.add(id(parameter))


def parameter_count(config: ModelConfig, vocabulary_size: int, sequence_length: int) -> int:
    """Number of trained parameters of a recipe's model."""
    return num_parameters(transformers_config(config, vocabulary_size=vocabulary_size, sequence_length=sequence_length))


def num_parameters(settings: "PretrainedConfig") -> int:
    """Number of trained parameters, tied ones once; on the meta device, so that a model of any size costs no memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def _from_keys(
    config: ModelConfig, vocabulary_size: int, sequence_length: int, ids: Mapping[str, int | None]
) -> "PretrainedConfig":
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
    try:
        return AutoConfig.for_model(architecture, **{**ids, **values}, vocab_size=vocabulary_size, use_cache=False)
    except Exception as error:  # whatever a configuration class raises over keys that are a user's
        raise UserError(
            f"the {architecture} configuration is not valid", got=config.config, remedy=" ".join(str(error).split())
        ) from error


def _from_pretrained(pretrained: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(pretrained, trust_remote_code=False)
    except Exception as error:  # whatever a library raises over a file that is a user's
        remedy = "Give a folder that holds config.json and *.safetensors, or a hub id that can be reached"
        raise UserError("model.pretrained cannot be read", got=pretrained, remedy=remedy) from error


def check_vocabulary(pretrained: str, rows: int, vocabulary_size: int, *, may_grow: bool) -> None:
    """``UserError`` for the tokenizer of another model: one with far more or far fewer ids than the embedding has rows.

    One with a few more is usual (Gemma 3 has one): only an id that occurs is a fault, see ``probes.check_ids``.
    """
    spare, padding = rows - vocabulary_size, max(SPARE_ROWS_AT_LEAST, vocabulary_size // SPARE_ROWS_PART)
    if spare > padding or (spare < -padding and not may_grow):
        raise UserError(
            f"the tokenizer has {vocabulary_size} ids, the embedding of the pretrained model {rows} rows",
            got=pretrained,
            remedy="Set data.tokenizer.pretrained to the tokenizer of the same model"
            + (", or model.grow_embedding: true" if spare < 0 else ""),
        )


def _nearest(word: str, names: Iterable[str]) -> str:
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known here: {', '.join(names)}" if len(names) <= LONGEST_LIST else "See the transformers documentation"


def _model_seed(seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/model".encode(), digest_size=8).digest(), "little") >> 1
