"""The engine over DeepSpeed ZeRO-1 and ZeRO-2 under Accelerate: optimizer state (and gradients) spread over the ranks.

DeepSpeed is told nothing about accumulation: it would divide the loss by its own count, which the plan may change in a
run. Its boundary is set by hand instead, so that what is left to undo is its average over the ranks, as under DDP. The
step is taken here and not by ``accelerator.backward``, which would step before anybody has looked at the figures.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from typing_extensions import override

from trainer.engines.accelerate import AccelerateEngine, PendingStep, open_accelerator
from trainer.records import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.data.stream import StepBatch
    from trainer.model.optimizer import TrainingConfig

STAGES = (1, 2)


class DeepSpeedEngine(AccelerateEngine):
    """ZeRO-1 and ZeRO-2. See ``loop.Engine`` for the verbs."""

    def __init__(
        self,
        model: "PreTrainedModel",
        training: "TrainingConfig",
        *,
        seed: int,
        accelerator: Accelerator | None = None,
    ) -> None:
        if not torch.cuda.is_available():
            _leave_out_shared_memory_op()
        accelerator = accelerator or open_accelerator(training)
        _configure(accelerator, training)
        super().__init__(model, training, seed=seed, accelerator=accelerator)

    @override
    def _backward(self, loss: "Tensor", *, last: bool) -> None:
        self._model.set_gradient_accumulation_boundary(last)
        self._model.backward(loss)

    @override
    def _update(self, batch: "StepBatch", nats: "Tensor", *, stop: bool, ledger_digest: int) -> PendingStep:
        """DeepSpeed clips and steps; it skips by itself, on all ranks, where the norm over all ranks is not finite."""
        figures = self._reduced_figures(batch, nats, stop=stop, ledger_digest=ledger_digest)
        self._model.step()
        skipped = bool(self._model.optimizer.overflow)
        tail = torch.tensor([float(self._model.get_global_grad_norm()), float(skipped)], dtype=torch.float64)
        return PendingStep(
            torch.cat([figures, tail.to(self.device)]), batch.target_tokens, self.world_size, ledger_digest
        )

    @contextmanager
    @override
    def rehearsal(self, *, rate_scale: float) -> Iterator[Callable[[], None]]:
        """Refused: DeepSpeed keeps weights twice, in its own flat buffers, and offers no way back."""
        raise UserError(
            "the worth of sources cannot be measured under DeepSpeed",
            remedy="Use control.policy constant or schedule, or launch with DDP",
        )
        yield  # type: ignore[unreachable]  # makes it the generator that the others are


def _configure(accelerator: Accelerator, training: "TrainingConfig") -> None:
    """Put what the recipe owns into DeepSpeed's configuration; ``UserError`` where the launcher says something else."""
    config: dict[str, Any] = accelerator.state.deepspeed_plugin.deepspeed_config
    stage = config["zero_optimization"]["stage"]
    if stage not in STAGES:
        raise UserError(f"ZeRO stage {stage} is not supported", remedy=f"Use one of {', '.join(map(str, STAGES))}")
    owned = {
        "gradient_clipping": (training.clip_norm, "training.clip_norm"),
        "gradient_accumulation_steps": (1, "mixture.global_batch and training.micro_batch"),
        "train_micro_batch_size_per_gpu": (training.micro_batch, "training.micro_batch"),
    }
    for key, (value, home) in owned.items():
        if config.get(key, "auto") not in ("auto", value):
            raise UserError(
                f"the launcher sets DeepSpeed's {key}, which follows from the recipe ({home})",
                got=config[key],
                remedy="Leave it out of the launch file, or set it to 'auto'",
            )
        config[key] = value
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise UserError(f"the launcher sets DeepSpeed's {section}", remedy="Leave it out: it is the recipe's")
    config["zero_allow_untested_optimizer"] = True
    config["zero_force_ds_cpu_optimizer"] = False


def _leave_out_shared_memory_op() -> None:
    """DeepSpeed compiles a C++ all-reduce for CPUs at its first start (30 to 60 s, a compiler needed); a process that
    is killed meanwhile leaves a lock behind on which every later run hangs. Gloo does without it.
    """
    import importlib

    # ``import deepspeed.comm.torch as name`` would bind torch itself: the module hides behind an attribute.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
