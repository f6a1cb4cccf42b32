"""The sharding of DeepSpeed ZeRO-1, -2 and -3: optimizer state, gradients, weights spread over the ranks.

DeepSpeed does not learn of accumulation: it would divide the loss by its own count, which the plan may change in a run.
Its boundary is set by hand instead, so that what is left is its average over the ranks, as under DDP. The step is taken
here and not by ``accelerator.backward``, which would step before the loss over all ranks is looked at.
"""

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from trainer.engines.adam_scales import AdamPart
from trainer.engines.deepspeed.launch_checks import owned_by_the_recipe
from trainer.engines.deepspeed.zero_state import ZeroState
from trainer.engines.protocols import Launcher
from trainer.engines.replicated import bare
from trainer.model.build import filled_model
from trainer.model.optimizer import build_optimizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from trainer.model.config import TrainingConfig


def prepare_zero(
    model: "PreTrainedModel", training: "TrainingConfig", accelerator: Accelerator
) -> tuple[Any, "dict[str, Tensor]"]:
    """DeepSpeed's engine around the model, and the exact weights that its masters have to begin with."""
    _configure(accelerator.state.deepspeed_plugin.deepspeed_config, training)
    exact = exact_weights(model, training)
    model.to(accelerator.device)
    wrapped, _ = accelerator.prepare(model, build_optimizer(model, training))
    return wrapped, exact


def quieten_deepspeed() -> None:
    """Before its process group is there: no compiler on CPUs, and no warning of torch's in every run."""
    if not torch.cuda.is_available():
        leave_out_shared_memory_op()
    # torch tells DeepSpeed, in every run, that two collectives will be renamed
    warnings.filterwarnings("ignore", message="`torch.distributed.* is deprecated", category=FutureWarning)


class ZeroSharding:
    """ZeRO around a DeepSpeed engine, which does backward, clipping and step by itself.

    ``kind`` and ``config`` are those of the language model as it was; ``exact`` are the weights, by name, that the
    fp32 masters begin with where DeepSpeed has rounded them.
    """

    def __init__(
        self,
        model: Any,
        launcher: Launcher,
        *,
        kind: "type[PreTrainedModel]",
        config: "PretrainedConfig",
        exact: "Mapping[str, Tensor]",
    ) -> None:
        self.model, self._launcher = model, launcher
        self._kind, self._config = kind, config
        self._state = ZeroState(model, bare(model))
        if exact:
            self._state.begin_with(exact)

    @property
    def forwards_together(self) -> bool:
        """Under ZeRO-3 weights are gathered for each forward."""
        return int(self.model.zero_optimization_stage()) == 3

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        groups: list[dict[str, Any]] = self.model.optimizer.param_groups
        return groups

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once; under stage 3 they are empty between uses."""
        return sum(_size(parameter) for parameter in self.model.parameters())

    @property
    def num_trained(self) -> int:
        """Those among them that are not frozen."""
        return sum(_size(parameter) for parameter in self.model.parameters() if parameter.requires_grad)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Nothing: DeepSpeed learns of the last micro-batch by ``backward``."""
        return nullcontext()

    def backward(self, loss: "Tensor", *, last: bool) -> None:
        """Add the gradient of a micro-batch; the boundary says that the step follows."""
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss)

    def step(self, loss: "Tensor | None" = None) -> "tuple[Tensor, Tensor]":
        """DeepSpeed clips and steps; it skips by itself, on all ranks, where the norm over all ranks is not finite.

        It does not look at the loss, and one that is infinite can have a gradient that is not.
        """
        is_finite = loss is None or bool(loss.isfinite())
        with nullcontext() if is_finite else self._state.gradients_unsound():
            self.model.step()
        figures = [float(self.model.get_global_grad_norm()), float(bool(self.model.optimizer.overflow))]
        norm, skipped = torch.tensor(figures, dtype=torch.float64).to(self._launcher.device)
        return norm, skipped

    def clear_gradients(self) -> None:
        """Nothing: DeepSpeed clears them after each step."""

    @contextmanager
    def unclipped(self) -> Iterator[None]:
        """Inside, gradients are not scaled down."""
        optimizer = self.model.optimizer
        limit, optimizer.clip_grad = optimizer.clip_grad, 0.0
        try:
            yield
        finally:
            optimizer.clip_grad = limit

    def release(self) -> None:
        """Nothing: DeepSpeed drops what it gathers after each forward."""

    def adam_parts(self) -> list[AdamPart]:
        """This rank's part of the flat buffers."""
        return self._state.adam_parts()

    def state_tensors(self) -> list["Tensor"]:
        """Masters and moments on this rank."""
        return self._state.tensors()

    def publish(self) -> None:
        """(all) Make the weights that the forward uses from the masters."""
        self._state.publish()

    def captured(self, *, detached: bool) -> "Mapping[str, Tensor]":
        """(all) Whole weights and moments, each on one rank; copies in host memory in any case."""
        return self._state.partitioned()

    def restore(self, folder: Path) -> None:
        """(all) Load what was saved."""
        self._state.fill(folder)

    def whole_model(self) -> "PreTrainedModel | None":
        """(all) A copy on the CPU, on the main rank."""
        weights = self._state.whole_weights()
        return filled_model(self._kind, self._config, weights) if self._launcher.rank == 0 else None


def _size(parameter: Any) -> int:
    size: int = getattr(parameter, "ds_numel", parameter.numel())
    return size


def exact_weights(model: torch.nn.Module, training: "TrainingConfig") -> dict[str, "Tensor"]:
    """What the masters have to begin with, by name, where DeepSpeed would not: under bf16 it rounds the model first and
    makes its fp32 masters of what is left.
    """
    rounds = training.precision == "bf16"
    return {name: weight.detach().clone() for name, weight in model.named_parameters()} if rounds else {}


def _configure(config: dict[str, Any], training: "TrainingConfig") -> None:
    """Put what the recipe owns into DeepSpeed's configuration; ``UserError`` where the launcher says something else."""
    config |= owned_by_the_recipe(config, training)
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False
    config |= precision_config(training)


def precision_config(training: "TrainingConfig") -> dict[str, Any]:
    """DeepSpeed's configuration of the recipe's precision.

    Weights are used in bf16, and gradients are summed in fp32, over micro-batches and over ranks, as under DDP and
    FSDP2. DeepSpeed would sum both in bf16, where 256 + 1 is 256: with many micro-batches or ranks most of a gradient
    is lost.
    """
    if training.precision != "bf16":
        return {}
    return {
        "bf16": {"enabled": True, "check_grad_overflow": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
    }


def leave_out_shared_memory_op() -> None:
    """DeepSpeed compiles a C++ all-reduce for CPUs at its first start (30 to 60 s, a compiler needed); a process that
    is killed meanwhile leaves a lock behind on which every later run hangs. Gloo does without it.
    """
    # ``import deepspeed.comm.torch as name`` would bind torch itself: the module hides behind an attribute.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
