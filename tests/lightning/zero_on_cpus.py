"""`trainer fit` with Lightning's DeepSpeed strategy let through on CPUs, which it refuses; nothing else is changed.

PL_TRAINER_STRATEGY=deepspeed_stage_2 torchrun ... -m -- tests.lightning.zero_on_cpus fit ...
"""

import sys

import torch

import trainer.lightning.strategies as launch
from trainer.commands.cli import main
from trainer.engines.deepspeed.sharding import leave_out_shared_memory_op


class OnCPUs(launch.StepwiseDeepSpeed):
    """The checks for CUDA devices are left out, and the devices are CPUs."""

    def setup_environment(self) -> None:
        super(launch.DeepSpeedStrategy, self).setup_environment()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


if __name__ == "__main__":
    leave_out_shared_memory_op()
    launch.StepwiseDeepSpeed = OnCPUs
    launch.require_deepspeed = lambda name: None
    sys.argv[0] = "trainer"
    main()
