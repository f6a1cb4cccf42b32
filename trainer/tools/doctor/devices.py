"""The devices of this machine: whether they compute, and the memory that processes share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.model.precision import is_bf16_slow
from trainer.tools.doctor.findings import Finding, Subject

LEAST_SHARED_MEMORY = 1 << 30  # bytes; NCCL and loaders fail in odd ways in the 64 MiB of a plain container
SHARED_MEMORY = Path("/dev/shm")


def check_devices(_subject: Subject) -> Iterator[Finding]:
    """GPUs do arithmetic; a machine with GPUs has a torch that sees them."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
            result = f"the machine has NVIDIA devices, torch {torch.__version__} sees none"
            yield Finding("gpu", "fail", result, "Install a CUDA build of torch, or a driver as new as it asks for")
        else:
            slow = "; bf16 is only emulated: set training.precision: auto, or fp32" if is_bf16_slow() else ""
            remedy = f"Fine for small models: training is slow{slow}"
            yield Finding("gpu", "warn", f"none; {os.cpu_count()} CPU cores", remedy)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        ones = torch.ones(256, 256, device=f"cuda:{number}")
        is_right = bool((ones @ ones == 256).all())
        free, total = torch.cuda.mem_get_info(number)
        result = f"{about.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, torch {torch.__version__}"
        name = f"gpu {number}"
        if not is_right:
            yield Finding(name, "fail", f"{result}: it computes wrongly", "Take it out of CUDA_VISIBLE_DEVICES")
        elif free < total / 2:
            yield Finding(name, "warn", result, "Another process uses it: see nvidia-smi")
        elif not torch.cuda.is_bf16_supported():
            yield Finding(name, "warn", f"{result}; no bf16", "Set training.precision: fp32")
        else:
            yield Finding(name, "ok", result)


def check_shared_memory(_subject: Subject) -> Iterator[Finding]:
    """/dev/shm is there and large enough."""
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", "warn", f"{SHARED_MEMORY} is missing", "Mount a tmpfs there")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    result = f"{free / 2**30:.1f} GiB free in {SHARED_MEMORY}"
    if free < LEAST_SHARED_MEMORY:
        yield Finding("shared memory", "warn", result, "In a container: docker run --shm-size=8g, or --ipc=host")
    else:
        yield Finding("shared memory", "ok", result)
