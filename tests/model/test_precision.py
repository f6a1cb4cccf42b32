"""Which precision `auto` is, and when bf16 is slow: by what the CPU says of itself."""

import pytest

from trainer.model import precision
from trainer.model.precision import SLOW_BF16, cpu_has_bf16, has_accelerator, is_bf16_slow, resolved


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu avx2 amx_bf16", True),
        ("Features\t: fp asimd svebf16 bf16", True),
        ("Features\t: fp asimd", False),
        ("nothing of the kind", True),
    ],
)
def test_the_flags_of_the_processor_tell(line: str, has: bool) -> None:
    assert precision._flags_have_bf16(["processor\t: 0\n", f"{line}\n"]) == has


@pytest.mark.parametrize("limit", ["AVX2", "avx512_core", "SSE41"])
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_cpu_without_bf16_takes_fp32_for_auto(monkeypatch: pytest.MonkeyPatch, name: str, limit: str) -> None:
    monkeypatch.setenv(name, limit)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (cpu_has_bf16(), has_accelerator(), is_bf16_slow()) == (False, False, True)
    assert (resolved("auto"), resolved("bf16"), resolved("fp32")) == ("fp32", "bf16", "fp32")
    assert "training.precision: auto" in SLOW_BF16


@pytest.mark.parametrize(("name", "value"), [("CUDA_VISIBLE_DEVICES", "-1"), ("ACCELERATE_USE_CPU", "true")])
def test_a_gpu_that_is_hidden_does_not_count(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert not has_accelerator()
