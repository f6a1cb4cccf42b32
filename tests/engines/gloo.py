"""Functions run by real gloo processes: started as a launcher would start them, forked from a server that has imported
torch and transformers once.
"""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sharing import free_port

PATIENCE_S = 120.0
# What `accelerate launch` leaves in the environment of each engine.
_ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
LAUNCHED = {
    "ddp": {"ACCELERATE_USE_CPU": "true"},
    "fsdp2": {
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    },
    "zero1": {**_ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"},
    "zero1_offload": {
        **_ZERO,
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
    },
    "zero2": {**_ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {**_ZERO, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


def on_ranks(
    function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any, engine: str = "ddp"
) -> list[Any]:
    """What ``function(*arguments)`` returns on each of so many ranks, launched for an engine; AssertionError with its
    trace if one fails. ``ddp`` on one rank is a process without a launcher.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.engines.engine", "transformers.models.llama.modeling_llama"])
    port = free_port()
    processes = []
    for rank in range(world_size):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **LAUNCHED[engine],
        }
        given = variables if world_size > 1 or engine != "ddp" else {}
        process = context.Process(target=_body, args=(function, arguments, given, str(folder / f"rank{rank}.pickle")))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
    results = []
    for rank in range(world_size):
        file = folder / f"rank{rank}.pickle"
        assert file.exists(), f"rank {rank} said nothing within {PATIENCE_S:g} s"
        result = pickle.loads(file.read_bytes())
        file.unlink()
        assert not isinstance(result, _Failed), f"rank {rank}:\n{result}"
        results.append(result)
    return results


class _Failed(str):
    """A traceback."""


def _body(function: Callable[..., Any], arguments: tuple[Any, ...], variables: dict[str, str], file: str) -> None:
    os.environ.update(variables)
    try:
        result = function(*arguments)
    except BaseException:  # noqa: BLE001 - shown by the test
        result = _Failed(traceback.format_exc())
    aside = Path(file + ".tmp")
    aside.write_bytes(pickle.dumps(result))
    aside.rename(file)
