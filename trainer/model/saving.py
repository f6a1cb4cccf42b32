"""Writes the trained model in the form of the one that training began with: its numbers, its way of generating.

Training keeps fp32 masters and never caches; neither belongs into what is shipped. A checkpoint is something else: it
keeps every digit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.atomic import write_text
from trainer.model.config import ModelConfig
from trainer.model.files import CONFIG, SAVED_AS, local_folder, precision_of, stored_tensors, wrapper_prefix

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, kw_only=True)
class SavedForm:
    """How a model is written. ``precision`` is torch's name of the numbers, ``kept_fp32`` names the weights that came
    in fp32 among others that did not; ``generation_config`` is the text of the file that came with the weights.
    """

    precision: str = "float32"
    kept_fp32: frozenset[str] = field(default=frozenset())
    use_cache: bool | None = None
    generation_config: str | None = None


def form_as_loaded(config: ModelConfig, *, use_cache: bool | None) -> SavedForm:
    """The form of a model of this recipe: as its pretrained weights came, fp32 from scratch, unless the recipe says
    otherwise.
    """
    folder = None if config.pretrained is None else local_folder(config.pretrained)
    if folder is None:
        return SavedForm(precision=SAVED_AS[config.saved_precision or "fp32"], use_cache=use_cache)
    file = folder / GENERATION_CONFIG
    generation_config = file.read_text(encoding="utf-8") if file.is_file() else None
    if config.saved_precision is not None:
        return SavedForm(
            precision=SAVED_AS[config.saved_precision], use_cache=use_cache, generation_config=generation_config
        )
    tensors = stored_tensors(folder)
    prefix = wrapper_prefix(list(tensors)) or ""
    return SavedForm(
        precision=precision_of(tensors),
        kept_fp32=frozenset(name.removeprefix(prefix) for name, tensor in tensors.items() if tensor.dtype == "F32"),
        use_cache=use_cache,
        generation_config=generation_config,
    )


def save_model(model: "PreTrainedModel", folder: Path, form: SavedForm) -> None:
    """Write what ``AutoModelForCausalLM.from_pretrained`` loads; the model itself stays as it is."""
    model.save_pretrained(str(folder), state_dict=_cast(model.state_dict(), form))
    file = folder / CONFIG
    cache = {} if form.use_cache is None else {"use_cache": form.use_cache}  # training has it off
    _change(file, {"dtype": form.precision, **cache})
    file = folder / GENERATION_CONFIG
    if form.generation_config is not None:
        write_text(file, form.generation_config, durable=False)
    elif file.is_file():
        _change(file, cache)


def _change(file: Path, changes: "Mapping[str, Any]") -> None:
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    write_text(file, json.dumps({**settings, **changes}, indent=2, sort_keys=True) + "\n", durable=False)


def _cast(state: "Mapping[str, Tensor]", form: SavedForm) -> "dict[str, Tensor]":
    """The weights in the numbers of the form; what shares its memory still does, for that is how tied weights are told
    from others.
    """
    import torch

    precision: torch.dtype = getattr(torch, form.precision)
    done: dict[tuple[int, torch.Size], Tensor] = {}
    result = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if not tensor.is_floating_point() or name in form.kept_fp32:
            result[name] = tensor
        elif key in done:
            result[name] = done[key]
        else:
            result[name] = done[key] = tensor.to(precision)
    return result
