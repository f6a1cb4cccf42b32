"""The files of a pretrained model: which hold its weights, under which names, in which numbers.

Only headers are read here (a few kilobytes of each file), but for ``check_finite``, which reads every number once.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError

# What wrappers put in front of every name when they are saved instead of the model inside them.
WRAPPER_PREFIXES: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "_fsdp_wrapped_module.": "FullyShardedDataParallel",
    "_forward_module.": "Lightning Fabric",
}
FLOATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
SAVED_AS: Mapping[str, str] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
NAMES_SHOWN = 5
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as the header of its file describes it."""

    dtype: str  # of safetensors: F32, BF16, ...
    num_elements: int


def local_folder(pretrained: str) -> Path | None:
    """The folder on this disk that holds the model: ``pretrained`` itself, or what was fetched of a hub id before."""
    folder = Path(pretrained)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(pretrained, CONFIG)
    except HFValidationError:
        return None
    found = Path(config).parent if isinstance(config, str) else None
    return found if found is not None and weight_files(found) else None


def is_elsewhere(pretrained: str) -> bool:
    """Whether it is a hub id (`name` or `owner/name`) of which nothing is on this disk."""
    return not Path(pretrained).is_absolute() and pretrained.count("/") <= 1 and local_folder(pretrained) is None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads of a model folder; empty where there are none.

    ``UserError`` where the index cannot be read or names a file that is not there.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / str(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "the index of the pretrained model's weights cannot be read",
            got=f"{type(error).__name__}: {error}",
            remedy="Copy or download it again",
            file=index,
        ) from None
    for file in files:
        if not file.is_file():
            raise UserError(
                "a file of the pretrained model's weights is missing",
                got=file.name,
                remedy="Copy or download the model again",
                file=index,
            )
    return files


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """By name what the model's files hold. ``UserError`` where a file is not whole."""
    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        tensors |= header(file)
    return tensors


def header(file: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds, by name. ``UserError`` where it is not whole."""
    try:
        return _header(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise UserError(
            "a file of the pretrained model is not a whole safetensors file",
            got=str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}",
            remedy="Copy or download it again",
            file=file,
        ) from None


def _header(file: Path) -> dict[str, StoredTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8:
            raise ValueError(f"{size} bytes")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= min(size - 8, MOST_HEADER_BYTES):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        entries: dict[str, Any] = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end != size - 8 - length:
        raise ValueError(f"{size} bytes, its header says {8 + length + end}")
    return {
        name: StoredTensor(dtype=str(entry["dtype"]), num_elements=prod(entry["shape"]))
        for name, entry in entries.items()
    }


def wrapper_prefix(names: Sequence[str]) -> str | None:
    """The prefix of a wrapper that every name has; None where some lack it."""
    for prefix in WRAPPER_PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def prefix_of(pretrained: str) -> str | None:
    """The prefix of a wrapper in the files of a model; None where there is none, or nothing of it on this disk."""
    folder = local_folder(pretrained)
    return None if folder is None else wrapper_prefix(list(stored_tensors(folder)))


def key_mapping(pretrained: str) -> dict[str, str] | None:
    """For ``from_pretrained``: takes the prefix of a wrapper off; None where there is none."""
    prefix = prefix_of(pretrained)
    return None if prefix is None else {pattern_of(prefix): ""}


def pattern_of(prefix: str) -> str:
    """As a regular expression."""
    return "^" + prefix.replace(".", r"\.")


def precision_of(tensors: Mapping[str, StoredTensor]) -> str:
    """In which of torch's numbers most of the weights came: float32, bfloat16 or float16 (float32 for any other)."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.num_elements
    most = counts.most_common(1)[0][0] if counts else "F32"
    name = FLOATS.get(most, "float32")
    return name if name in SAVED_AS.values() else "float32"


def check_finite(folder: Path) -> None:
    """Read every number once. ``UserError`` names the weights that hold one that is not finite."""
    import torch
    from safetensors import safe_open

    for file in weight_files(folder):
        bad = []
        dtypes = {name: tensor.dtype for name, tensor in header(file).items()}
        with safe_open(file, framework="pt") as tensors:
            for name, dtype in dtypes.items():
                if dtype in FLOATS and not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    bad.append(name)
        if bad:
            raise UserError(
                f"{len(bad)} weights of the pretrained model hold numbers that are not finite",
                got=shortened(bad),
                remedy="Take another checkpoint of that model: this one has diverged, or its file is damaged",
                file=file,
            )


def shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
