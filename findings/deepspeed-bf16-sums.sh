#!/usr/bin/env bash
# deepspeed 0.19.8 on torch 2.13.0, one CPU process: micro-batch gradients 256, then 63 times 1, summed under "bf16".
# Expected by many: fp32 masters, so fp32 sums: 319.
# Seen: 256 at stages 1, 2 and 3. With data_types.grad_accum_dtype fp32 stages 2 and 3 give 319; stage 1 gives 320, and
# its optimizer is another class, BF16_Optimizer: the sum is fp32 and is sent in bf16. With communication_data_type fp32
# as well, stage 1 gives 319 too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'deepspeed==0.19.8' 'torch==2.13.0' setuptools
cat >run.py <<'PY'
import sys
from importlib import import_module

import deepspeed
import torch

GRADIENTS = [256.0] + [1.0] * 63
SUMS = {"default": {}, "fp32 sums": {"data_types": {"grad_accum_dtype": "fp32"}}}
SUMS["fp32 sums and messages"] = SUMS["fp32 sums"] | {"communication_data_type": "fp32"}
import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # needs a compiler; gloo does without


def summed(stage: int, sums: dict) -> tuple[float, str]:
    model = torch.nn.Linear(1, 1, bias=False)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": len(GRADIENTS),
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": True},
        "gradient_clipping": 1e6,
        **sums,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.0, 0.0))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for gradient in GRADIENTS:
        loss = engine(torch.full((1, 1), gradient, dtype=torch.bfloat16)).sum()
        engine.backward(loss)
        engine.step()
    (state,) = optimizer.state.values()
    return float(state["exp_avg"].max()) * len(GRADIENTS), type(engine.optimizer).__name__


seen = {(name, stage): summed(stage, sums) for name, sums in SUMS.items() for stage in (1, 2, 3)}
for (name, stage), (total, kind) in seen.items():
    print(f"{name}, stage {stage}: {total:g} ({kind})")
expected = [256, 256, 256, 320, 319, 319, 319, 319, 319]
sys.exit([total for total, _ in seen.values()] != expected)
PY
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29533 DS_ACCELERATOR=cpu
venv/bin/python run.py 2>log | grep stage || { tail -n 5 log; exit 1; }
