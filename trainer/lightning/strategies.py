"""Where a Lightning run trains: processes from torchrun, the strategy from Lightning's own variable.

What is trained is the recipe's, where it runs is the launcher's. torchrun starts the processes, because Lightning's
own launcher would start the command line anew for each further rank, from inside the first one, which holds the run
folder. ``PL_TRAINER_STRATEGY`` is the variable from which ``pl.Trainer`` takes its ``strategy``.
"""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.distributed.fsdp import fully_shard
from typing_extensions import override

from trainer.base.errors import LaunchError
from trainer.engines import launch
from trainer.engines.deepspeed.sharding import precision_config
from trainer.model.config import TrainingConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PreTrainedModel

TRAINER_VARIABLES = "PL_TRAINER_"  # what they begin with
STRATEGY_VARIABLE = "PL_TRAINER_STRATEGY"
ZERO_STAGES = {"deepspeed_stage_1": 1, "deepspeed_stage_2": 2, "deepspeed_stage_3": 3}
STRATEGIES = ("ddp", "model_parallel", *ZERO_STAGES)
# Behind `--`, for torchrun takes `--run` for an abbreviation of an option of its own.
TORCHRUN = "torchrun --nproc_per_node N -m -- trainer fit RECIPE"


def num_processes() -> int:
    """Processes that were started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def strategy_name() -> str:
    """The launched strategy: one of ``STRATEGIES``, or "single" for one process without any; else ``UserError``."""
    default = "ddp" if num_processes() > 1 else "single"
    name = os.environ.get(STRATEGY_VARIABLE, default)
    if name not in (*STRATEGIES, default):
        raise LaunchError(f"{STRATEGY_VARIABLE} is not a supported strategy", got=name, remedy=_one_of(STRATEGIES))
    return name


def _one_of(names: tuple[str, ...]) -> str:
    return f"Use one of {', '.join(names)}"


def check_launch() -> None:
    """Refuse a launch that would train other than the recipe says, before anything is prepared.

    ``accelerate launch`` describes devices, sharding and precision in variables that Lightning does not read; and a
    rank that another launcher started, without WORLD_SIZE, would train alone.
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # which accelerate launch always sets
        raise LaunchError(
            "the recipe says engine: lightning, but the launch is Accelerate's",
            got="accelerate launch",
            remedy=f"Launch with {TORCHRUN} (one process: trainer fit RECIPE), or set engine: accelerate",
        )
    launch.check_launch(remedy=f"Launch with {TORCHRUN}")
    unsupported = sorted(
        name for name in os.environ if name.startswith(TRAINER_VARIABLES) and name != STRATEGY_VARIABLE
    )
    if unsupported:
        raise LaunchError(
            "Lightning takes settings of its Trainer from variables, and what is trained is the recipe's",
            got=", ".join(unsupported),
            remedy=f"Unset them: {STRATEGY_VARIABLE} is the only one for engine: lightning",
        )
    name = strategy_name()
    if name in ZERO_STAGES:
        require_deepspeed(name)
    if name != "single" and "WORLD_SIZE" not in os.environ:
        raise LaunchError(
            f"{STRATEGY_VARIABLE} asks for several processes, but no launcher started any",
            got=name,
            remedy=f"Launch with {TORCHRUN}",
        )


def require_deepspeed(name: str) -> None:
    """``UserError`` where Lightning's DeepSpeed strategy cannot run."""
    if importlib.util.find_spec("deepspeed") is None:
        raise LaunchError(
            "DeepSpeed was launched but is not installed", got=name, remedy="pip install 'hybrid-trainer[deepspeed]'"
        )
    if not torch.cuda.is_available():
        raise LaunchError(
            "Lightning runs DeepSpeed on CUDA devices only",
            got=name,
            remedy=f"Use {STRATEGY_VARIABLE}=ddp or model_parallel, or engine: accelerate",
        )


def trainer_arguments(training: TrainingConfig) -> dict[str, Any]:
    """The arguments of ``pl.Trainer`` for devices, strategy and precision."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", num_processes()))
    return {
        "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
        "devices": local,
        "num_nodes": num_processes() // local,
        "strategy": _strategy(training),
        "precision": {"fp32": "32-true", "bf16": "bf16-mixed"}[training.precision],
        # stated, or inside a batch job Lightning takes the job's environment for its launcher
        "plugins": [TorchElasticEnvironment() if "WORLD_SIZE" in os.environ else LightningEnvironment()],
    }


class _StepOnWrapped(Strategy):
    """The step calls the wrapped model itself, once for each of its micro-batches.

    Lightning would run the whole step inside one forward of the wrapper, which then sees one forward and several
    backwards.
    """

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*args, **kwargs)


class StepwiseDDP(_StepOnWrapped, DDPStrategy):
    """DDP."""


class StepwiseDeepSpeed(_StepOnWrapped, DeepSpeedStrategy):
    """ZeRO."""


def _strategy(training: TrainingConfig) -> Strategy:
    name, backend = strategy_name(), None if torch.cuda.is_available() else "gloo"
    match name:
        case "single":
            return SingleDeviceStrategy("cuda:0" if torch.cuda.is_available() else "cpu")
        case "ddp":
            return StepwiseDDP(process_group_backend=backend)
        case "model_parallel":
            return ModelParallelStrategy(
                data_parallel_size=num_processes(), tensor_parallel_size=1, process_group_backend=backend
            )
        case _:
            return StepwiseDeepSpeed(config=zero_config(ZERO_STAGES[name], training), process_group_backend=backend)


def zero_config(stage: int, training: TrainingConfig) -> dict[str, Any]:
    """DeepSpeed's configuration, without accumulation: its boundary is set by the step."""
    return {
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": training.max_grad_norm,
        "train_micro_batch_size_per_gpu": training.micro_batch,
        **precision_config(training),
    }


def shard(model: "PreTrainedModel", mesh: "DeviceMesh") -> None:
    """Spread the weights over the mesh (FSDP2): each layer a unit of its own, gathered when it is its turn."""
    lists = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList)]
    for layer in max(lists, key=len, default=()):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
