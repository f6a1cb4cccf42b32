"""Energy that this process's GPUs use, as their drivers count it, through nvidia-ml-py where it is installed."""

import os
import time
from typing import Any

_MILLI = 1e-3


class EnergyMeter:
    """Reads the GPUs' own energy counters (millijoules since the driver was loaded; Volta and later)."""

    def __init__(self) -> None:
        self._devices = _devices()
        self._began_joules, self._began_s = self._read(), time.monotonic()

    def joules(self, seconds: float) -> float | None:
        """The energy of so much of the time since the meter was made, at the mean power since; None where it cannot be
        read.
        """
        now, elapsed_s = self._read(), time.monotonic() - self._began_s
        if now is None or self._began_joules is None or elapsed_s <= 0:
            return None
        return (now - self._began_joules) / elapsed_s * seconds

    def _read(self) -> float | None:
        if not self._devices:
            return None
        import pynvml

        try:
            return _MILLI * sum(float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) for device in self._devices)
        except pynvml.NVMLError:
            self._devices = []
            return None


def _devices() -> list[Any]:
    """The GPUs that this process may use (all, or those of CUDA_VISIBLE_DEVICES)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(number) for number in range(count)] if visible is None else visible.split(",")
        by_index = [pynvml.nvmlDeviceGetHandleByIndex(int(name)) for name in names if name.strip().isdigit()]
        return by_index + [pynvml.nvmlDeviceGetHandleByUUID(name) for name in names if name.startswith("GPU-")]
    except Exception:  # noqa: BLE001 - no package, no driver, no such device: no figure
        return []
