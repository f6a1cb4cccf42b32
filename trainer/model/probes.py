"""Proves, before any data is prepared, that the model is what the recipe takes it for.

Asked of the weights themselves and answered in seconds: was every weight loaded, and is every number finite; is the
model causal; does one forward at the full sequence length run; does every id fit the embedding. transformers answers
the first with a table on the terminal and trains on random weights, and never asks the others: a model that sees the
future reaches a loss of nothing, and a context that is too short ends the run at step 1, hours after the data were
prepared.

Causality and length are asked of the first layers, one of each kind at least, with their real weights: what reaches
the future in a deep model does so in one of its kinds of layers, and memory and time do not grow with the depth.
"""

# B rows, T tokens, V vocabulary

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainer.base.errors import UserError
from trainer.model.build import cannot_be_built, check_vocabulary, instantiate, quiet, transformers_config
from trainer.model.config import ModelConfig
from trainer.model.files import (
    WRAPPER_PREFIXES,
    check_finite,
    is_elsewhere,
    key_mapping,
    local_folder,
    shortened,
    stored_tensors,
    wrapper_prefix,
)
from trainer.model.router import COEFFICIENT, OUTPUT, router_loss_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

CAUSAL_LENGTH = 16  # tokens: enough for a later one to reach an earlier one through any layer
FEWEST_LAYERS = 2
PROBED_ROWS = 1024  # of the embedding of a model from scratch: how many there are changes nothing that is asked
LEAK = 1e-5  # of the largest logit: a causal model gives the same bits, or sums in another order
TIMES_NOISE = 10.0  # what two equal rows differ by is noise
PART_OF_MEMORY = 0.5  # of what is free, that the probed layers may take


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The ids that the text will be made of: how many there are, those that every document has, and the tokens of
    those that a text can hold. ``tokens`` is empty where they are not known.
    """

    size: int
    in_every_document: frozenset[int] = frozenset({0})
    tokens: Mapping[int, str] = field(default_factory=dict)


def probe(config: ModelConfig, vocabulary: Vocabulary, *, sequence_length: int, may_fetch: bool = False) -> list[str]:
    """Every probe of the model of a recipe; what a user should know of it. ``UserError`` for the first fault.

    Without ``may_fetch`` a hub id whose weights are not on this disk is not probed, and that is said.
    """
    if config.pretrained is not None and not may_fetch and is_elsewhere(config.pretrained):
        return [f"model.pretrained: the weights of {config.pretrained} are not on this disk and were not probed"]
    settings = transformers_config(
        config, vocabulary_size=vocabulary.size, sequence_length=sequence_length, end_of_document=0
    )
    notes = check_router(config, settings)
    if config.pretrained is not None:
        notes += check_loading(config.pretrained)  # fetches those of a hub id
        if (folder := local_folder(config.pretrained)) is not None:
            check_finite(folder)
        rows = int(settings.get_text_config().vocab_size)
        notes += check_vocabulary_ids(config, vocabulary, rows)
    else:
        if "pad_token_id" not in config.config:
            settings = transformers_config(
                config,
                vocabulary_size=min(vocabulary.size, PROBED_ROWS),
                sequence_length=sequence_length,
                end_of_document=0,
            )
    model = _first_layers(config, settings)
    if isinstance(model, str):
        return [*notes, model]
    router_loss_of(model)
    check_forward(model, sequence_length=sequence_length)
    return notes


# Loading


def check_loading(pretrained: str) -> list[str]:
    """Compare the names in the files of ``pretrained`` with its architecture; no weight is read, and none is random.

    What a user should know of it. ``UserError`` when a weight of the architecture is in no file, or has another shape
    there: it would be trained from random numbers.
    """
    missing, unexpected, mismatched = _compared(pretrained)
    folder = local_folder(pretrained)
    prefix = None if folder is None else wrapper_prefix(list(stored_tensors(folder)))
    if mismatched:
        raise UserError(
            f"{len(mismatched)} weights of the pretrained model have another shape in its files than in config.json",
            got=shortened(mismatched),
            remedy="Use the config.json that the weights were saved with",
            file=pretrained,
        )
    if missing:
        raise UserError(
            f"{len(missing)} weights of the pretrained model are in none of its files and would be random",
            got=shortened(missing),
            remedy=_remedy_for_missing(missing, unexpected),
            file=pretrained,
        )
    notes = []
    if prefix is not None:
        notes.append(
            f"model.pretrained: every name in its files begins with {prefix!r} "
            f"(saved from inside {WRAPPER_PREFIXES[prefix]}); the prefix is taken off"
        )
    if unexpected:
        notes.append(
            f"model.pretrained: {len(unexpected)} weights of its files have no place in the language model "
            f"and are left out: {shortened(unexpected)}"
        )
    return notes


def _compared(pretrained: str) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, or of another shape, as transformers finds them when it loads."""
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            _, found = AutoModelForCausalLM.from_pretrained(
                pretrained,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                device_map="meta",
                ignore_mismatched_sizes=True,
                key_mapping=key_mapping(pretrained),
            )
    except UserError:
        raise
    except Exception as error:  # whatever a library raises over a folder that is a user's
        raise cannot_be_built(ModelConfig(pretrained=pretrained), error) from error
    mismatched = [str(name[0] if isinstance(name, tuple) else name) for name in found["mismatched_keys"]]
    return sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), sorted(mismatched)


def _remedy_for_missing(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if unexpected and all("head" in name for name in missing):
        return (
            f"Its files hold {shortened(unexpected)} instead: it was saved with another head. Give a causal language "
            "model"
        )
    if unexpected:
        return f"Its files hold other names: {shortened(unexpected)}. Save it with save_pretrained of the model itself"
    return "A file may be missing: copy or download the model again"


# Ids and keys


def check_vocabulary_ids(config: ModelConfig, vocabulary: Vocabulary, rows: int) -> list[str]:
    """What a user should know of a tokenizer with more ids than the embedding has ``rows``; ``UserError`` where an id
    that begins or ends each document is one of those, or where it must be the tokenizer of another model.
    """
    pretrained = str(config.pretrained)
    check_vocabulary(pretrained, rows, vocabulary.size, may_grow=config.grow_embedding)
    if vocabulary.size <= rows:
        return []
    if config.grow_embedding:
        return [f"model.grow_embedding: from {rows} to {vocabulary.size} rows, the new ones the mean of the others"]
    largest = max(vocabulary.in_every_document)
    check_ids(rows, largest_id=largest, token=vocabulary.tokens.get(largest))
    beyond = [f"{vocabulary.tokens[number]!r}" for number in sorted(vocabulary.tokens) if number >= rows]
    named = f": {shortened(beyond)}" if beyond else ""
    return [
        f"data.tokenizer: {vocabulary.size - rows} ids have no row in the embedding of the model ({rows} rows){named}. "
        "A text that holds one will be an error; model.grow_embedding: true gives them rows"
    ]


def check_ids(rows: int, *, largest_id: int, token: str | None, place: str = "every document") -> None:
    """``UserError`` when an id that occurs, somewhere in ``place``, has no row in an embedding of ``rows``."""
    if largest_id >= rows:
        raise UserError(
            f"{place} holds the id {largest_id}{f' ({token!r})' if token else ''}, the embedding of the model has "
            f"{rows} rows",
            remedy="Take the tokenizer of the same model, or set model.grow_embedding: true",
        )


def check_router(config: ModelConfig, settings: "PretrainedConfig") -> list[str]:
    """What a user should know of experts that nothing balances; ``UserError`` for a key that nothing would use."""
    text = settings.get_text_config()
    if not hasattr(text, COEFFICIENT) or getattr(text, OUTPUT, False):
        return []
    if COEFFICIENT in config.config:
        raise UserError(
            f"model.config.{COEFFICIENT} has no effect: the balancing loss of the experts is not asked for",
            got=config.config[COEFFICIENT],
            remedy=f"Set model.config.{OUTPUT}: true, or remove the key",
        )
    remedy = f"model.config.{OUTPUT}: true" if config.pretrained is None else f'"{OUTPUT}": true in its config.json'
    return [f"model: nothing keeps its experts in balance; {remedy} adds the balancing loss of its architecture"]


# The forward


def _first_layers(config: ModelConfig, settings: "PretrainedConfig") -> "PreTrainedModel | str":
    """The model with its first layers only, in evaluation mode; all of it where transformers does not let it be cut. A
    word on why not, where that does not fit into memory.
    """
    import torch

    shallow = _cut(settings)
    candidates = [settings] if shallow is None else [shallow, settings]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _instantiated(config.model_copy(update={"gradient_checkpointing": False}), candidates)
    if isinstance(model, str):
        return model
    if config.attention not in (None, "eager", "sdpa"):  # its kernel is the GPU's
        model.set_attn_implementation("eager")
    return model.eval()


def _instantiated(config: ModelConfig, candidates: "Sequence[PretrainedConfig]") -> "PreTrainedModel | str":
    """The first of the candidates that transformers can build; its error of the last one."""
    for settings in candidates[:-1]:
        try:
            return _too_large(settings) or instantiate(config, settings)
        except UserError:
            continue
    return _too_large(candidates[-1]) or instantiate(config, candidates[-1])


def _cut(settings: "PretrainedConfig") -> "PretrainedConfig | None":
    """The configuration with so few layers that each kind of them is there; None where it has no more, or will not."""
    result = copy.deepcopy(settings)
    text = result.get_text_config()
    kinds = getattr(text, "layer_types", None)
    number = max([FEWEST_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))]) if kinds else FEWEST_LAYERS
    try:
        if number >= text.num_hidden_layers:
            return None
        text.num_hidden_layers = number
        if "layer_types" in vars(text) and kinds:
            text.layer_types = kinds[:number]
    except Exception:  # noqa: BLE001 - a configuration that will not be cut is taken whole
        return None
    return result


def _too_large(settings: "PretrainedConfig") -> str | None:
    """Why a model of these settings is not probed here; None where it fits. What cannot be built is told later."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    except Exception:  # noqa: BLE001 - building it for real gives the reason
        return None
    needed = 4 * sum(parameter.numel() for parameter in model.parameters())
    free = free_memory()
    if needed <= PART_OF_MEMORY * free:
        return None
    return (
        f"model: its first layers take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: whether it is causal and "
        "runs at full length was not probed here"
    )


def free_memory() -> float:
    """Bytes that a process may still take, as Linux estimates it; without bound where it does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return math.inf


def check_forward(model: "PreTrainedModel", *, sequence_length: int) -> None:
    """One short forward that shows whether the model is causal, and one at ``sequence_length`` tokens.

    ``UserError`` when the last token changes the logits of an earlier position, or when the model cannot run at that
    length. The model is left as it was, in its mode and on its device.
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _check_causal(model, min(CAUSAL_LENGTH, sequence_length))
            _run(model, torch.full((1, sequence_length), _some_id(model), device=model.device), logits_to_keep=1)
    finally:
        model.train(was_training)


def _some_id(model: "PreTrainedModel") -> int:
    """An id of the vocabulary that does not stand for padding, which some models give no position of its own."""
    return 1 if getattr(model.config.get_text_config(), "pad_token_id", None) == 0 else 0


def _check_causal(model: "PreTrainedModel", length: int) -> None:
    import torch

    if length < 2:
        return
    vocabulary = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocabulary, (1, length), generator=generator).repeat(3, 1).to(model.device)
    ids_BT[2, -1] = (ids_BT[2, -1] + 1) % vocabulary
    logits_BTV = _run(model, ids_BT).float()
    noise, earlier_TV = (logits_BTV[0] - logits_BTV[1]).abs().max(), (logits_BTV[0] - logits_BTV[2])[:-1].abs()
    if float(earlier_TV.max()) > TIMES_NOISE * float(noise) + LEAK * float(logits_BTV.abs().max()):
        first = int((earlier_TV.amax(dim=1) > 0).nonzero()[0])
        raise UserError(
            f"the model is not causal: its logits at position {first} change with the token at position {length - 1}, "
            "so it would be trained to copy what it is to predict",
            got=model.config.model_type,
            remedy="Choose a decoder; an encoder that can be one needs is_decoder: true in its configuration",
        )


def _run(model: "PreTrainedModel", ids_BT: "Tensor", **arguments: int) -> "Tensor":
    """Logits of the ids [B, T, V]; ``UserError`` when the model cannot take them."""
    arguments["use_cache"] = False
    known = {name: value for name, value in arguments.items() if name in inspect.signature(model.forward).parameters}
    try:
        logits: Tensor = model(input_ids=ids_BT, **known).logits
    except Exception as error:  # whatever the code of a model raises over its own configuration
        length, reason = ids_BT.shape[1], " ".join(str(error).split())[:200]
        raise UserError(
            f"the model cannot run on {length} tokens: {type(error).__name__}: {reason}",
            got=model.config.model_type,
            remedy=f"Its context may be shorter than data.sequence_length ({length}); a model that counts positions "
            "from its padding id also needs model.config.pad_token_id, and a context longer by that id and one",
        ) from error
    if not bool(logits.isfinite().all()):
        raise UserError(
            "the model's logits are not finite before it is trained",
            got=model.config.model_type,
            remedy="Look at its configuration: a scale, an epsilon or an initialization is out of range",
        )
    return logits
