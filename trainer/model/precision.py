"""Which precision a machine computes in: bf16 where something here does, fp32 on a CPU that would emulate it.

Without torch: `trainer plan` asks too, and answers in a second.
"""

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

CPU_INFO, DEVICES = Path("/proc/cpuinfo"), Path("/dev")
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # of the library that torch computes bf16 by on a CPU
_NO_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
ONLY_EMULATED = "this machine's CPU only emulates it, 4 to 17 times slower than fp32"
SLOW_BF16 = f"training.precision is bf16: {ONLY_EMULATED}; set training.precision: auto, or fp32"


def resolved(precision: Literal["fp32", "bf16", "auto"]) -> Literal["fp32", "bf16"]:
    """The precision that the word of a recipe stands for on this machine."""
    if precision == "auto":
        return "fp32" if is_bf16_slow() else "bf16"
    return precision


def is_bf16_slow() -> bool:
    """Whether training here is on a CPU that computes bf16 by converting it; False where that cannot be told."""
    return not has_accelerator() and not cpu_has_bf16()


def has_accelerator() -> bool:
    """Whether processes here train on a GPU: one is there, and none of the variables hides it."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return False
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    return any(DEVICES.glob("nvidia[0-9]*")) or (DEVICES / "kfd").exists() or (DEVICES / "dri" / "accel0").exists()


def cpu_has_bf16() -> bool:
    """Whether the CPU has instructions for bf16, as Linux tells."""
    if platform.system() != "Linux":
        return True
    if any(os.environ.get(name, "").upper() in _NO_BF16 for name in _LIMITS):
        return False
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
            return _flags_have_bf16(lines)
    except OSError:
        return True


def _flags_have_bf16(lines: Iterable[str]) -> bool:
    """From the first processor's line of flags: `avx512_bf16` and `amx_bf16` of x86, `bf16` of ARM."""
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "bf16")
    return re.search(r"\b(avx512_|amx_|sve)?bf16\b", flags) is not None
