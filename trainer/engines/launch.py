"""The launch: compared with what was started and with the recipe, and turned into an ``Accelerator``.

The checks ask the environment alone, so that a wrong launch is refused before anything is prepared.
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType
from ruamel.yaml import YAML

from trainer.base.errors import LaunchError
from trainer.model.config import TrainingConfig

NUM_PROCESSES_VARIABLE = "HYBRID_TRAINER_NUM_PROCESSES"  # what a batch script expects; compared with what was started
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16"}  # Accelerate's names
COLLECTIVE_PATIENCE = 4  # times training.timeout_s: the watchdog, which names the rank, comes first (3 times at most)
ON_CPUS = (
    "On CPUs use: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
    "-m trainer fit RECIPE"
)


def check_launch(remedy: str = ON_CPUS) -> None:
    """Refuse a launch that started another number of processes than was asked for, before anything is trained.

    ``accelerate launch --cpu --num_processes 4`` starts one process, says nothing, and leaves MASTER_ADDR without
    WORLD_SIZE behind.
    """
    started = os.environ.get("WORLD_SIZE")
    if os.environ.get("MASTER_ADDR") and started is None:
        raise LaunchError(
            "MASTER_ADDR is set but WORLD_SIZE is not: the launcher meant several processes and started one",
            remedy=remedy,
        )
    for origin, expected in _expected_processes():
        if expected != int(started or 1):
            raise LaunchError(f"{origin} asks for {expected} processes, but {int(started or 1)} started", remedy=remedy)


def _expected_processes() -> Iterable[tuple[str, int]]:
    stated = os.environ.get(NUM_PROCESSES_VARIABLE)
    if stated:
        if not stated.isdigit():
            raise LaunchError(
                f"{NUM_PROCESSES_VARIABLE} is not a number", got=stated, remedy="Set the number of processes"
            )
        yield NUM_PROCESSES_VARIABLE, int(stated)
    arguments = _launcher_arguments()
    if arguments is None:
        return
    if arguments.get("--num_processes", "").isdigit():
        yield "accelerate launch --num_processes", int(arguments["--num_processes"])
        return
    file = Path(arguments.get("--config_file", os.devnull))
    configured = YAML(typ="safe").load(file) or {} if file.is_file() else {}
    if "num_processes" in configured:
        yield f"the launch file {file}", int(configured["num_processes"])


def _launcher_arguments() -> dict[str, str] | None:
    """``--name value`` pairs of the accelerate launcher that started this process; None elsewhere (and where /proc is
    not).
    """
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    names = [Path(word).name for word in words]
    if "accelerate-launch" in names:
        own = words[names.index("accelerate-launch") + 1 :]
    elif "launch" in words and any("accelerate" in word for word in words[: words.index("launch")]):
        own = words[words.index("launch") + 1 :]
    else:
        return None
    own = own[: own.index("fit")] if "fit" in own else own
    pairs = [
        word.split("=", 1) if "=" in word else [word, following]
        for word, following in zip(own, [*own[1:], ""], strict=True)
    ]
    return {name.replace("-", "_").replace("__", "--", 1): value for name, value in pairs if name.startswith("--")}


def check_settings(training: TrainingConfig) -> None:
    """``UserError`` where the launcher says what is the recipe's, or what only another engine reads."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", MIXED_PRECISION[training.precision]):
        raise LaunchError(
            f"the launcher sets mixed precision {launched}, the recipe sets training.precision {training.precision}",
            remedy="Leave it out of the launch file (or say 'no'): precision is the recipe's",
        )
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":  # Accelerate would compile whatever the recipe says, and rename the weights
        raise LaunchError(
            "the launcher sets --dynamo_backend, which is the recipe's (training.compile)",
            got=compiler,
            remedy="Leave it out of the launch, and set training.compile",
        )
    strategy = os.environ.get("PL_TRAINER_STRATEGY")
    if strategy is not None:
        raise LaunchError(
            "PL_TRAINER_STRATEGY is set, but the recipe says engine: accelerate, which does not read it",
            got=strategy,
            remedy="Unset it and launch with accelerate launch --config_file launch/accelerate/X.yaml, "
            "or set engine: lightning",
        )


def collective_timeout(training: TrainingConfig) -> timedelta:
    """How long a rank waits for another, in training and in saving."""
    return timedelta(seconds=COLLECTIVE_PATIENCE * training.timeout_s)


def open_accelerator(training: TrainingConfig) -> Accelerator:
    """The Accelerator that the launcher and the recipe's precision describe; ``UserError`` where it would train alone.
    What contradicts the recipe was refused before (``check_launch``, ``check_settings``).
    """
    # On CPUs Accelerate has no FSDP (prepare_fsdp shards there by itself), and drops DeepSpeed where CPUs are set.
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    on_cpu, several = not torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(
        mixed_precision=MIXED_PRECISION[training.precision],
        cpu=on_cpu and not deepspeed,
        kwargs_handlers=[
            InitProcessGroupKwargs(
                backend="gloo" if on_cpu and (several or deepspeed) else "nccl",
                timeout=collective_timeout(training),
            )
        ],
    )
    if several and accelerator.distributed_type == DistributedType.NO:
        raise LaunchError(
            "several processes were started, but Accelerate would train each alone",
            remedy="On CPUs set ACCELERATE_USE_CPU=true for the launch",
        )
    return accelerator
