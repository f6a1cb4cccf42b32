"""Proves, before any data is prepared, that the model is what the recipe takes it for.

Four questions, asked of the weights themselves and answered in seconds: was every weight loaded; is the model causal;
does one forward at the full sequence length run; does every id fit the embedding. transformers answers the first with
a table on the terminal and trains on random weights, and never asks the others: a model that sees the future reaches a
loss of nothing, and a context that is too short ends the run at step 1, hours after the data were prepared.
"""

# B rows, T tokens, V vocabulary

import json
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# What wrappers put in front of every name when they are saved instead of the model inside them.
WRAPPER_PREFIXES: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
}
NAMES_SHOWN = 5
CAUSAL_LENGTH = 16  # tokens: enough for a later one to reach an earlier one through any layer
BLOCKS_AT_FULL_LENGTH = 2  # how positions are made does not depend on the depth, and a deep model takes minutes
LEAK = 1e-6  # of the largest logit: a causal model gives the same bits, or sums in another order
TIMES_NOISE = 10.0  # what two equal rows differ by is noise


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the names in a model's files map to those of its architecture."""

    prefix: str | None  # of a wrapper, in front of every name in the files
    unexpected: tuple[str, ...]  # in the files, and nowhere in the architecture

    @property
    def key_mapping(self) -> dict[str, str] | None:
        """For ``from_pretrained``."""
        return None if self.prefix is None else {"^" + self.prefix.replace(".", r"\."): ""}

    @property
    def notes(self) -> list[str]:
        """What a user should know of it."""
        notes = []
        if self.prefix is not None:
            notes.append(
                f"model.pretrained: every name in its files begins with {self.prefix!r} "
                f"(saved from inside {WRAPPER_PREFIXES[self.prefix]}); the prefix is taken off"
            )
        if self.unexpected:
            notes.append(
                f"model.pretrained: {len(self.unexpected)} weights of its files have no place in the language model "
                f"and are left out: {_shortened(self.unexpected)}"
            )
        return notes


def check_loading(pretrained: str) -> Loading:
    """Compare the names in the files of ``pretrained`` with its architecture; no weight is read, and none is random.

    ``UserError`` when a weight of the architecture is in no file, or has another shape there: it would be trained from
    random numbers.
    """
    prefix = wrapper_prefix(_names_in_files(pretrained))
    loading = Loading(prefix=prefix, unexpected=())
    missing, unexpected, mismatched = _compared(pretrained, loading.key_mapping)
    if mismatched:
        raise UserError(
            f"{len(mismatched)} weights of the pretrained model have another shape in its files than in config.json",
            got=_shortened(mismatched),
            remedy="Use the config.json that the weights were saved with",
            file=pretrained,
        )
    if missing:
        raise UserError(
            f"{len(missing)} weights of the pretrained model are in none of its files and would be random",
            got=_shortened(missing),
            remedy=_remedy_for_missing(missing, unexpected),
            file=pretrained,
        )
    return Loading(prefix=prefix, unexpected=tuple(unexpected))


def wrapper_prefix(names: Sequence[str]) -> str | None:
    """The prefix of a wrapper that every name has; None where some lack it."""
    for prefix in WRAPPER_PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def _names_in_files(pretrained: str) -> list[str]:
    """Names of the tensors in the safetensors files of a local folder; empty for a hub id that is not there."""
    folder = Path(pretrained)
    names: list[str] = []
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        names += [name for name in header(file) if name != "__metadata__"]
    return names


def header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: names, types, shapes, offsets. ``UserError`` where it is not whole."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if not 2 <= length <= file.stat().st_size - 8:
                raise ValueError(f"a header of {length} bytes")
            names: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise UserError(
            "a file of the pretrained model is not a whole safetensors file",
            got=str(error),
            remedy="Copy or download it again",
            file=file,
        ) from None
    return names


def _compared(pretrained: str, key_mapping: Mapping[str, str] | None) -> tuple[list[str], list[str], list[str]]:
    """Names that are missing, unexpected, or of another shape, as transformers finds them when it loads."""
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            _, found = AutoModelForCausalLM.from_pretrained(
                pretrained,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                device_map="meta",
                ignore_mismatched_sizes=True,
                key_mapping=None if key_mapping is None else dict(key_mapping),
            )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise UserError(
            "the pretrained model cannot be loaded",
            got=pretrained,
            remedy=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from error
    mismatched = [str(name[0] if isinstance(name, tuple) else name) for name in found["mismatched_keys"]]
    return sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), sorted(mismatched)


def _remedy_for_missing(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    if unexpected and all(name.startswith("lm_head") or "head" in name for name in missing):
        return (
            f"Its files hold {_shortened(unexpected)} instead: it was saved with another head. Give a causal language "
            "model"
        )
    if unexpected:
        return f"Its files hold other names: {_shortened(unexpected)}. Save it with save_pretrained of the model itself"
    return "A file may be missing: copy or download the model again"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables and bars of transformers: what they say is said here, once."""
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)


def check_forward(model: "PreTrainedModel", *, sequence_length: int, padding: int) -> float:
    """One short forward that shows whether the model is causal, and one at ``sequence_length`` tokens through the
    first layers; the seconds they took.

    ``padding`` is an id of the vocabulary. ``UserError`` when the last token changes the logits of an earlier position,
    or when the model cannot run at that length. The model is left as it was, in its mode and on its device.
    """
    import torch

    started_s = time.monotonic()
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _check_causal(model, min(CAUSAL_LENGTH, sequence_length), padding)
            _check_length(model, torch.full((1, sequence_length), padding, device=model.device))
    finally:
        model.train(was_training)
    return time.monotonic() - started_s


def _check_causal(model: "PreTrainedModel", length: int, padding: int) -> None:
    import torch

    if length < 2:
        return
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocabulary, (1, length), generator=generator).repeat(3, 1).to(model.device)
    ids_BT[2, -1] = (ids_BT[2, -1] + 1 + padding) % vocabulary
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


def _check_length(model: "PreTrainedModel", ids_BT: "Tensor") -> None:
    """One forward at full length, through the first blocks; through all of them where that fails, for some models count
    their blocks themselves.
    """
    with _first_blocks(model, BLOCKS_AT_FULL_LENGTH) as is_cut:
        try:
            _run(model, ids_BT, logits_to_keep=1)
            return
        except UserError:
            if not is_cut:
                raise
    _run(model, ids_BT, logits_to_keep=1)


def _run(model: "PreTrainedModel", ids_BT: "Tensor", **arguments: int) -> "Tensor":
    """Logits of the ids [B, T, V]; ``UserError`` when the model cannot take them."""
    import inspect

    known = {name: value for name, value in arguments.items() if name in inspect.signature(model.forward).parameters}
    try:
        logits: Tensor = model(input_ids=ids_BT, use_cache=False, **known).logits
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the model cannot run on {ids_BT.shape[1]} tokens: {type(error).__name__}: {reason}",
            got=model.config.model_type,
            remedy=f"Its context may be shorter than data.sequence_length ({ids_BT.shape[1]}), or its configuration "
            "lack a value (for example pad_token_id)",
        ) from error
    return logits


@contextmanager
def _first_blocks(model: "PreTrainedModel", number: int) -> Iterator[bool]:
    """The model with its first ``number`` layers only, where they lie in one list; whether any are left out."""
    from torch import nn

    holder = max(
        ((module, name, child) for module in model.modules() for name, child in module.named_children()
         if isinstance(child, nn.ModuleList)),
        key=lambda place: sum(parameter.numel() for parameter in place[2].parameters()),
        default=None,
    )  # fmt: skip
    if holder is None or len(holder[2]) <= number:
        yield False
        return
    module, name, blocks = holder
    setattr(module, name, nn.ModuleList(blocks[:number]))
    try:
        yield True
    finally:
        setattr(module, name, blocks)


def check_ids(rows: int, *, largest_id: int, token: str | None) -> None:
    """``UserError`` when an id that occurs has no row in an embedding of ``rows``."""
    if largest_id >= rows:
        raise UserError(
            f"the text holds the id {largest_id}{f' ({token!r})' if token else ''}, the embedding of the model has "
            f"{rows} rows",
            remedy="Take the tokenizer of the same model, or set model.grow_embedding: true",
        )


def _shortened(names: Sequence[str]) -> str:
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
