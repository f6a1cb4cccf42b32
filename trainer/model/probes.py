"""Proves, before any data is prepared, that the model is what the recipe takes it for.

Asked of the weights themselves and answered in seconds: was every weight loaded, and is every number finite; is the
model causal; does one forward at the full sequence length run; does every id fit the embedding. transformers answers
the first with a table on the terminal and trains on random weights, and never asks the others: a model that sees the
future reaches a loss of nothing, and a context that is too short ends the run at step 1, hours after the data were
prepared.

Causality and length are asked of the first layers, one of each kind at least, with their real weights: what reaches
the future in a deep model does so in one of its kinds of layers, and memory and time do not grow with the depth. They
run on a GPU where there is one.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.model.build import (
    cannot_be_built,
    check_vocabulary,
    instantiate,
    num_parameters,
    quiet,
    transformers_config,
)
from trainer.model.config import ModelConfig
from trainer.model.files import (
    WRAPPER_PREFIXES,
    check_finite,
    is_elsewhere,
    key_mapping,
    local_folder,
    prefix_of,
    shortened,
)
from trainer.model.forward_probe import all_threads, check_forward, in_one_line, is_out_of_memory
from trainer.model.router import COEFFICIENT, OUTPUT, router_loss_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FEWEST_LAYERS = 2
LONG = 8192  # tokens, above which a processor runs one layer of each kind: its seconds grow with their square
PROBED_ROWS = 1024  # of the embedding of a model from scratch: how many there are changes nothing that is asked
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
    elif "pad_token_id" not in config.config:
        settings = transformers_config(
            config,
            vocabulary_size=min(vocabulary.size, PROBED_ROWS),
            sequence_length=sequence_length,
            end_of_document=0,
        )
    with all_threads():
        return notes + _forward_notes(config, settings, sequence_length)


# Loading


def check_loading(pretrained: str) -> list[str]:
    """Compare the names in the files of ``pretrained`` with its architecture; no weight is read, and none is random.

    What a user should know of it. ``UserError`` when a weight of the architecture is in no file, or has another shape
    there: it would be trained from random numbers.
    """
    missing, unexpected, mismatched = _compared(pretrained)
    prefix = prefix_of(pretrained)
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


def _forward_notes(config: ModelConfig, settings: "PretrainedConfig", sequence_length: int) -> list[str]:
    """What a user should know of a run of the first layers, on a GPU where there is one; ``UserError`` for a fault."""
    import torch

    has_gpu = torch.cuda.is_available()
    model = _first_layers(config, settings, is_brief=sequence_length > LONG and not has_gpu)
    if isinstance(model, str):
        return [model]
    router_loss_of(model)
    try:
        if has_gpu:
            _to_gpu(model)
        return check_forward(model, sequence_length=sequence_length)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return [_not_probed(error)]
    finally:
        del model
        if has_gpu:
            torch.cuda.empty_cache()  # the training takes what there is


def _to_gpu(model: "PreTrainedModel") -> None:
    """Move it there; it stays on the processor where the GPU cannot be used, which the training will tell."""
    try:
        model.to("cuda")
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        model.to("cpu")


def _not_probed(error: BaseException) -> str:
    return f"model: not run at full length: {in_one_line(error)}"


def _first_layers(
    config: ModelConfig, settings: "PretrainedConfig", *, is_brief: bool = False
) -> "PreTrainedModel | str":
    """The model with its first layers only, in evaluation mode; all of it where transformers does not let it be cut. A
    word on why not, where that does not fit into memory. ``is_brief``: one layer of each kind, where it can be.
    """
    import torch

    cuts = [_brief(settings) if is_brief else None, _cut(settings), settings]
    # another kernel than the recipe's, which may be of the GPU only: transformers takes sdpa where there is one
    plain = config.model_copy(update={"gradient_checkpointing": False, "attention": None})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _instantiated(plain, [cut for cut in cuts if cut is not None])
    return model if isinstance(model, str) else model.eval()


def _instantiated(config: ModelConfig, candidates: "Sequence[PretrainedConfig]") -> "PreTrainedModel | str":
    """The first of the candidates that transformers can build; its error of the last one."""
    for settings in candidates:
        try:
            return _too_large(settings) or instantiate(config, settings)
        except UserError as error:
            if is_out_of_memory(error.__cause__):
                return _not_probed(error.__cause__ or error)
            if settings is candidates[-1]:
                raise
    raise AssertionError("there is a candidate")


def _kinds(text: "PretrainedConfig") -> list[str]:
    """The kind of each layer; empty where the architecture does not say."""
    return list(getattr(text, "layer_types", None) or ())


def _cut(settings: "PretrainedConfig") -> "PretrainedConfig | None":
    """The configuration with so few layers that each kind of them is there; None where it has no more, or will not."""
    kinds = _kinds(settings.get_text_config())
    number = max([FEWEST_LAYERS, *(kinds.index(kind) + 1 for kind in set(kinds))])
    return _with_layers(settings, number, kinds[:number])


def _brief(settings: "PretrainedConfig") -> "PretrainedConfig | None":
    """The configuration with one layer of each kind, whichever weights they get."""
    kinds = list(dict.fromkeys(_kinds(settings.get_text_config())))
    return _with_layers(settings, len(kinds) or 1, kinds)


def _with_layers(settings: "PretrainedConfig", number: int, kinds: list[str]) -> "PretrainedConfig | None":
    result = copy.deepcopy(settings)
    text = result.get_text_config()
    try:
        if number >= text.num_hidden_layers:
            return None
        text.num_hidden_layers = number
        if "layer_types" in vars(text) and kinds:
            text.layer_types = kinds
    except Exception:  # noqa: BLE001 - a configuration that will not be cut is taken whole
        return None
    return result


def _too_large(settings: "PretrainedConfig") -> str | None:
    """Why a model of these settings is not probed here; None where it fits. What cannot be built is told later."""
    try:
        with quiet():
            needed = 4 * num_parameters(settings)
    except Exception:  # noqa: BLE001 - building it for real gives the reason
        return None
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
