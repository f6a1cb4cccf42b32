"""The launcher Accelerate: processes and devices as ``accelerate launch`` describes them, and the precision.

Accelerate launches, wraps and averages; data, order, loss normalization and schedule are ours. The loader is never
given to ``prepare`` (it would split the batches a second time), nor is a scheduler (it would count the steps once per
process), and accumulation is a plain loop with ``no_sync`` (Accelerate would divide the loss again).
"""

import time

import torch
from accelerate import Accelerator

QUIET_S = 0.05  # ten times the interval after which Python's lock changes hands


class AccelerateLauncher:
    """The processes that ``accelerate launch`` started, or this one alone."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        """Where tensors belong."""
        return self.accelerator.device  # type: ignore[no-any-return]

    def close(self) -> None:
        """(all) Leave the process group."""
        if self.world_size > 1:
            wait_for_threads()
        self.accelerator.end_training()


def wait_for_threads() -> None:
    """Before a process group is destroyed: gloo's destructor joins its threads with Python's lock held, and a thread
    that has yet to drop the tensors of the last collective waits for that lock. Without a pause such runs never end.
    """
    time.sleep(QUIET_S)
