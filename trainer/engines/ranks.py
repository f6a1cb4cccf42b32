"""What the processes of a launcher do together, whatever the model on them is there for."""

from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from trainer.base.records import FloatArray
from trainer.engines.protocols import Launcher


class LaunchedRanks:
    """The ranks of a launcher; see ``evaluate.ports.Devices`` for the methods."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    @property
    def rank(self) -> int:
        """This process's number among all."""
        return self._launcher.rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self._launcher.world_size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where tensors belong."""
        return self._launcher.device

    def reduce(self, array: FloatArray) -> FloatArray:
        """(all) The float64 array summed over all ranks."""
        return summed_over_ranks(array, self.device) if self.world_size > 1 else array

    def broadcast(self, value: Any) -> Any:
        """(all) The main rank's value."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """(all) Every rank's value, by rank."""
        return list(gather_object([value])) if self.world_size > 1 else [value]

    def close(self) -> None:
        """(all) Leave the process group."""
        self._launcher.close()


def summed_over_ranks(array: FloatArray, device: torch.device) -> FloatArray:
    """(all) The float64 sum of every rank's array."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()
