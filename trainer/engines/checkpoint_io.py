"""Named tensors on the disk in one form for every sharding: safetensors, each rank its part, read back for any other.

The work is torch's (``torch.distributed.checkpoint``): what several ranks hold alike one of them writes, what is spread
over them each writes its part of, and a reader takes from the files what it holds itself. So a checkpoint saved by
eight ranks under one engine is read by one under another. Its own format keeps its index as a pickle, and loads that
without restriction; the one for safetensors has no index, and nothing in it can run.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

FILE_BYTES = 1 << 28  # a tensor that is larger is alone in its file
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class GroupWriters:
    """The ranks that write a checkpoint together, over a group of their own: a thread that saves and the training
    that continues meanwhile must not meet in one another's collectives. ``group`` is None for one process.
    """

    rank: int
    world_size: int
    group: "ProcessGroup | None"

    def gather(self, value: Any) -> list[Any]:
        """(all) Every rank's value, by rank."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values


def open_writers(timeout: timedelta | None = None) -> GroupWriters:
    """(all) The writers among the ranks of the process group as it stands; what they say goes over the CPU. None of
    them waits longer than ``timeout`` for another; torch's half an hour where there is none.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return GroupWriters(rank=0, world_size=1, group=None)
    return GroupWriters(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        group=torch.distributed.new_group(backend="gloo", timeout=timeout),
    )


def model_state(model: torch.nn.Module) -> dict[str, "Tensor"]:
    """By name the very tensors of a model that are saved: ``model.NAME``, parameters (tied ones once) and persistent
    buffers.
    """
    saved_names = model.state_dict().keys()
    state = {f"model.{name}": buffer for name, buffer in model.named_buffers() if name in saved_names}
    return state | {f"model.{name}": parameter for name, parameter in model.named_parameters()}


def training_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, "Tensor"]:
    """``model_state`` and, of each weight that is trained, ``step.NAME`` and Adam's two moments. Reading into them
    restores model and optimizer.
    """
    state = model_state(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state |= {f"{key}.{name}": value for key, value in adam_state(optimizer, parameter).items()}
    return state


def adam_state(optimizer: torch.optim.Optimizer, parameter: "Tensor") -> dict[str, "Tensor"]:
    """What AdamW keeps of a weight; before the first step what it would begin with."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(parameter)
    return state


def write(folder: Path, tensors: Mapping[str, "Tensor"], writers: GroupWriters) -> None:
    """(all) Write the tensors into the folder. Names that only some ranks give are written by those; of a DTensor each
    rank writes its part, of any other tensor that several give one rank writes it. OSError on every rank when one of
    them fails.

    Each rank's part goes into files of about ``FILE_BYTES``: torch has a whole file in host memory, twice, before it is
    written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one process saves alone, which is known
            save(
                _at_least_1d(tensors),
                storage_writer=HuggingFaceStorageWriter(
                    str(folder), fqn_to_index_mapping=_file_of(tensors, writers), save_distributed=True
                ),
                process_group=writers.group,
                no_dist=writers.group is None,
            )
    except CheckpointException as error:  # torch derives it from BaseException: nobody would catch it
        raise OSError(_first_cause(error)) from error


def _file_of(tensors: Mapping[str, "Tensor"], writers: GroupWriters) -> dict[str, int]:
    """(all) By name which of its files, from 1 on, a rank puts the tensor into: the same on all ranks."""
    bytes_of: dict[str, int] = {}
    for part in writers.gather({name: _bytes_held(tensor) for name, tensor in tensors.items()}):
        for name, num_bytes in part.items():
            bytes_of[name] = max(bytes_of.get(name, 0), num_bytes)
    numbers, number, total = dict[str, int](), 1, 0
    for name, num_bytes in bytes_of.items():
        if total and total + num_bytes > FILE_BYTES:
            number, total = number + 1, 0
        numbers[name], total = number, total + num_bytes
    return numbers


def _bytes_held(tensor: "Tensor") -> int:
    """On this rank."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.numel() * own.element_size()


def read(folder: Path, tensors: Mapping[str, "Tensor"]) -> None:
    """Fill the tensors in place from what ``write`` left; each rank reads what it holds, without the others.

    ``UserError`` when a tensor is not there, has another shape, or holds NaN.
    """
    try:
        with warnings.catch_warnings(), _loader_silenced():
            warnings.simplefilter("ignore", UserWarning)
            load(_at_least_1d(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except CheckpointException as error:
        raise UserError(
            "the checkpoint does not hold the tensors of this model",
            got=_first_cause(error),
            file=folder,
            remedy="Resume with the model and the version that saved it, or start anew in another --run folder",
        ) from error
    _refuse_nan(folder, tensors)


@contextmanager
def _loader_silenced() -> Iterator[None]:
    """Inside, torch logs no stack trace of what it cannot read and raises afterwards."""
    root = logging.getLogger()  # which torch's loader uses; what comes to it from other loggers still passes
    root.disabled = True
    try:
        yield
    finally:
        root.disabled = False


def _refuse_nan(folder: Path, tensors: Mapping[str, "Tensor"]) -> None:
    for name, tensor in tensors.items():
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if own.is_floating_point() and bool(torch.isnan(own.detach()).any()):
            raise UserError(
                f"the checkpoint holds NaN in {name}: nothing can be trained or evaluated from it",
                file=folder,
                remedy="Remove it to resume from the one before, or start anew in another --run folder",
            )


def _first_cause(error: CheckpointException) -> str:
    """What went wrong on the first rank on which anything did."""
    cause, _ = next(iter(error.failures.values()))
    return " ".join(str(cause).split())[:300]


def on_the_host(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Copies on the CPU, which training does not change; a DTensor's is a DTensor."""
    staged: dict[str, Tensor] = BlockingAsyncStager().stage(dict(tensors))
    return staged


def _at_least_1d(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Views of one dimension for scalars, which safetensors cannot slice."""
    return {
        name: tensor.detach().reshape(1) if tensor.ndim == 0 else tensor.detach() for name, tensor in tensors.items()
    }
