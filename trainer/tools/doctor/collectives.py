"""Processes of this machine: whether two of them meet and add up a tensor, and whether there are ports to meet on.

``python -m trainer.tools.doctor.collectives BACKEND`` is what each of the two processes runs.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from trainer.tools.doctor.findings import Finding, Subject

MODULE = "trainer.tools.doctor.collectives"
COLLECTIVE_PATIENCE_S = 60.0
LAUNCH_PORT = 29500  # the default of accelerate and torchrun


def check_collectives(_subject: Subject) -> Iterator[Finding]:
    """Two processes of this machine meet and add up a tensor: over gloo, and over NCCL where there are two GPUs."""
    import torch

    backends = ["gloo", "nccl"] if torch.cuda.device_count() > 1 else ["gloo"]
    for backend in backends:
        variable = f"{backend.upper()}_SOCKET_IFNAME"
        started_s = time.monotonic()
        problem = _meeting_problem(backend)
        if problem is None:
            result = f"two processes added up a tensor in {time.monotonic() - started_s:.1f} s"
            yield Finding(backend, "ok", result)
        else:
            remedy = f"Is {socket.gethostname()} in /etc/hosts, and is a firewall in the way? Else name the network in "
            yield Finding(backend, "fail", problem, f"{remedy}{variable} (now: {os.environ.get(variable, 'not set')})")


def _meeting_problem(backend: str) -> str | None:
    """What went wrong when two processes met; None when nothing did."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", MODULE, backend]
    with tempfile.TemporaryFile() as output:
        started = [
            subprocess.Popen(
                words,
                env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output,
                stderr=output,
            )
            for rank in range(2)
        ]
        try:
            deadline_s = time.monotonic() + COLLECTIVE_PATIENCE_S
            codes = [process.wait(max(0.1, deadline_s - time.monotonic())) for process in started]
        except subprocess.TimeoutExpired:
            return f"two processes did not meet within {COLLECTIVE_PATIENCE_S:g} s"
        finally:
            for process in started:
                process.kill()
                process.wait()
        if any(codes):
            output.seek(0)
            last_words = output.read().decode(errors="replace").strip().splitlines()
            return last_words[-1] if last_words else f"a process ended with {codes}"
    return None


def meet(backend: str) -> None:
    """What each of the two processes does."""
    import torch

    rank = int(os.environ["RANK"])
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    torch.distributed.init_process_group(backend)
    number = torch.tensor(rank + 1.0, device=device)
    torch.distributed.all_reduce(number)
    assert number.item() == 3, f"1 + 2 = {number.item()}"
    torch.distributed.destroy_process_group()


def check_ports(_subject: Subject) -> Iterator[Finding]:
    """A port is available, and the launchers' default one is free."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
    except OSError as error:
        result = f"none is available: {error.strerror}"
        yield Finding("ports", "fail", result, "See `ss -s`, and net.ipv4.ip_local_port_range")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", LAUNCH_PORT))
        except OSError:
            remedy = "Launch with --main_process_port 0 (one node) or another number"
            yield Finding("ports", "warn", f"{LAUNCH_PORT}, the launchers' default, is in use", remedy)
            return
    yield Finding("ports", "ok", f"{LAUNCH_PORT}, the launchers' default, is free")


if __name__ == "__main__":
    meet(sys.argv[1])
