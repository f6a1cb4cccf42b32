"""`trainer doctor`: what stands between this machine and a run, before the run finds out. Each line: ok, warn or fail.

A check looks at the real thing (two processes add up a tensor, a lock is taken, a file is written), because what a
configuration says and what a machine does are two things. ``CHECKS`` need no recipe and take seconds together;
``RECIPE_CHECKS`` read its data up to the first batch, and prepare them where that has not been done.
"""

import fcntl
import json
import netrc
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.recipe import LoadedRecipe

State = Literal["ok", "warn", "fail"]
PACKAGE = "hybrid-trainer"
COLLECTIVE_PATIENCE_S = 60.0
LAUNCH_PORT = 29500  # the default of accelerate and torchrun
LEAST_SHARED_MEMORY = 1 << 30  # bytes; NCCL and loaders fail in odd ways in the 64 MiB of a plain container
LEAST_FREE, TIGHT_FREE = 1 << 30, 20 << 30  # bytes for checkpoints, prepared data
WANDB_HOST = "api.wandb.ai"
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """What a check found; ``remedy`` says what to do about a warn or a fail."""

    name: str
    state: State
    found: str
    remedy: str = ""


def doctor(loaded: "LoadedRecipe | None", folder: Path | None, *, as_json: bool) -> int:
    """Check machine and recipe and print the findings; 1 when one fails. ``folder``: where the run is going to be."""
    findings = []
    for finding in diagnose(loaded, folder):
        findings.append(finding)
        if not as_json:
            print(in_words(finding), flush=True)  # noqa: T201 - this is the output
    failed = sum(finding.state == "fail" for finding in findings)
    if as_json:
        told = {"failed": failed, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(told, indent=2))  # noqa: T201
    return int(failed > 0)


def diagnose(loaded: "LoadedRecipe | None", folder: Path | None) -> Iterator[Finding]:
    """All findings, as they are found. A check that breaks is a finding too."""
    for name, check in CHECKS.items():
        yield from _guarded(name, check)
    yield from _guarded("disk", lambda: check_disk(_places(loaded, folder)))
    yield from _guarded("wandb", lambda: check_wandb(loaded))
    if loaded is not None:
        yield from _guarded("data", lambda: check_first_batch(loaded))


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except UserError as error:
        found = error.what if error.got is None else f"{error.what}: {error.got}"
        yield Finding(name, "fail", found, error.remedy or "")
    except Exception as error:  # noqa: BLE001 - the next check is of use all the same
        yield Finding(name, "fail", f"{type(error).__name__}: {error}", "This is what a run would meet too")


def in_words(finding: Finding) -> str:
    """One line, and a second one with the remedy."""
    remedy = f"\n      {'':<14}{finding.remedy}" if finding.remedy else ""
    return f"{finding.state:<4}  {finding.name:<14}{finding.found}{remedy}"


# Versions


def check_versions() -> Iterator[Finding]:
    """Every requirement of the package is there in a version that it allows; those not tested with are named."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    try:
        requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or []]
    except metadata.PackageNotFoundError:
        yield Finding("versions", "fail", f"{PACKAGE} is not installed", "pip install -c constraints.txt -e '.[all]'")
        return
    tested, same = _tested_versions(), 0
    for need in requirements:
        is_needed = need.marker is None or need.marker.evaluate({"extra": ""})
        try:
            installed = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            if is_needed:
                yield Finding(need.name, "fail", "not installed", f"pip install '{need.name}{need.specifier}'")
            continue
        public = Version(installed).public  # 2.13.0+cpu is 2.13.0
        if not need.specifier.contains(public, prereleases=True):
            found, remedy = f"{installed}, needed is {need.specifier}", f"pip install '{need.name}{need.specifier}'"
            yield Finding(need.name, "fail" if is_needed else "warn", found, remedy)
        elif tested.get(need.name.lower(), public) != public:
            remedy = "Nothing, while it works; else install with -c constraints.txt"
            yield Finding(need.name, "warn", f"{installed}, tested with {tested[need.name.lower()]}", remedy)
        else:
            same += 1
    system = f"Python {platform.python_version()}, {platform.system()} {platform.release()}"
    yield Finding("versions", "ok", f"{same} packages as tested; {system}")


def _tested_versions() -> dict[str, str]:
    from trainer.recipe.shipped import constraints_file

    pins = [line.split("==") for line in constraints_file().read_text().splitlines() if "==" in line and line[0] != "#"]
    return {name.lower(): version.strip() for name, version in pins}


# Devices and processes


def check_devices() -> Iterator[Finding]:
    """GPUs do arithmetic; a machine with GPUs has a torch that sees them."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
            found = f"the machine has NVIDIA devices, torch {torch.__version__} sees none"
            yield Finding("gpu", "fail", found, "Install a CUDA build of torch, or a driver as new as it asks for")
        else:
            yield Finding("gpu", "warn", f"none; {os.cpu_count()} CPU cores", "Fine for small models: training is slow")
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        ones = torch.ones(256, 256, device=f"cuda:{number}")
        is_right = bool((ones @ ones == 256).all())
        free, total = torch.cuda.mem_get_info(number)
        found = f"{about.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, torch {torch.__version__}"
        name = f"gpu {number}"
        if not is_right:
            yield Finding(name, "fail", f"{found}: it computes wrongly", "Take it out of CUDA_VISIBLE_DEVICES")
        elif free < total / 2:
            yield Finding(name, "warn", found, "Another process uses it: see nvidia-smi")
        elif not torch.cuda.is_bf16_supported():
            yield Finding(name, "warn", f"{found}; no bf16", "Set training.precision: fp32")
        else:
            yield Finding(name, "ok", found)


def check_collectives() -> Iterator[Finding]:
    """Two processes of this machine meet and add up a tensor: over gloo, and over NCCL where there are two GPUs."""
    import torch

    backends = ["gloo", "nccl"] if torch.cuda.device_count() > 1 else ["gloo"]
    for backend in backends:
        variable = f"{backend.upper()}_SOCKET_IFNAME"
        started_s = time.monotonic()
        problem = _met(backend)
        if problem is None:
            found = f"two processes added up a tensor in {time.monotonic() - started_s:.1f} s"
            yield Finding(backend, "ok", found)
        else:
            remedy = f"Is {socket.gethostname()} in /etc/hosts, and is a firewall in the way? Else name the network in "
            yield Finding(backend, "fail", problem, f"{remedy}{variable} (now: {os.environ.get(variable, 'not set')})")


def _met(backend: str) -> str | None:
    """What went wrong when two processes met; None when nothing did."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", f"from trainer.tools.doctor import meet; meet({backend!r})"]
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
            said = output.read().decode(errors="replace").strip().splitlines()
            return said[-1] if said else f"a process ended with {codes}"
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


def check_ports() -> Iterator[Finding]:
    """A port can be had, and the launchers' default one is free."""
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
    except OSError as error:
        found = f"none can be had: {error.strerror}"
        yield Finding("ports", "fail", found, "See `ss -s`, and net.ipv4.ip_local_port_range")
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


def check_shared_memory() -> Iterator[Finding]:
    """/dev/shm is there and large enough."""
    if not SHARED_MEMORY.is_dir():
        yield Finding("shared memory", "warn", f"there is no {SHARED_MEMORY}", "Mount a tmpfs there")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{free / 2**30:.1f} GiB free in {SHARED_MEMORY}"
    if free < LEAST_SHARED_MEMORY:
        yield Finding("shared memory", "warn", found, "In a container: docker run --shm-size=8g, or --ipc=host")
    else:
        yield Finding("shared memory", "ok", found)


def check_slurm() -> Iterator[Finding]:
    """Whether there is a SLURM that answers."""
    if shutil.which("sbatch") is None:
        yield Finding("slurm", "ok", "not on this machine")
        return
    in_job = "SLURM_JOB_ID" in os.environ
    bad: State = "fail" if in_job else "warn"  # the programs alone are no cluster
    try:
        asked = subprocess.run(["sinfo", "-h", "-o", "%P %a %D"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("slurm", bad, f"sbatch is there, sinfo does not answer: {error}", "Ask who runs the cluster")
        return
    if asked.returncode:
        said = (asked.stderr.strip().splitlines() or [f"sinfo ended with {asked.returncode}"])[-1]
        yield Finding("slurm", bad, said, "Is slurmctld up, and munge? Ask who runs the cluster")
    else:
        partitions = ", ".join(" ".join(line.split()) for line in asked.stdout.splitlines())
        job = f"; inside job {os.environ['SLURM_JOB_ID']}" if in_job else ""
        yield Finding("slurm", "ok", f"partitions (state, nodes): {partitions}{job}")


# Folders and accounts


def _places(loaded: "LoadedRecipe | None", folder: Path | None) -> Mapping[str, Path]:
    from trainer.data.fingerprint import cache_folder, default_cache

    if loaded is None:
        return {"run folder": folder or Path("runs"), "data cache": default_cache()}
    cache = cache_folder(loaded.recipe.data, loaded.folder)
    return {"run folder": folder or Path("runs") / loaded.recipe.name, "data cache": cache}


def check_disk(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Each folder, or where it is going to be, takes files and locks and has room."""
    for name, place in places.items():
        nearest = place.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        try:
            with tempfile.TemporaryFile(dir=nearest) as file:
                has_locks = _lock(file.fileno())
        except OSError as error:
            remedy = "Make it writable, or name another with --run, data.cache or $HYBRID_TRAINER_CACHE"
            yield Finding(name, "fail", f"{nearest} cannot be written: {error.strerror}", remedy)
            continue
        free = shutil.disk_usage(nearest).free
        found = f"{free / 2**30:.0f} GiB free in {nearest}"
        if free < LEAST_FREE:
            yield Finding(name, "fail", found, "Free some space: a checkpoint takes 12 bytes per parameter")
        elif not has_locks:
            yield Finding(name, "warn", f"{found}; no file locks", "See to it that no two launches use one run folder")
        elif free < TIGHT_FREE:
            yield Finding(name, "warn", found, "trainer plan RECIPE says what a run takes")
        else:
            yield Finding(name, "ok", found)


def _lock(descriptor: int) -> bool:
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def check_wandb(loaded: "LoadedRecipe | None") -> Iterator[Finding]:
    """Whether the run in W&B that the recipe asks for (any, without a recipe) can be had."""
    modes = [tracker.mode for tracker in loaded.recipe.tracking.trackers if tracker.kind == "wandb"] if loaded else []
    if loaded is not None and not modes:
        yield Finding("wandb", "ok", "off in the recipe")
        return
    mode = modes[0] if modes else None
    bad: State = "fail" if mode == "online" else "warn"
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        yield Finding("wandb", bad if mode else "ok", "not installed", "pip install wandb; the journal is kept anyway")
        return
    if mode == "offline":
        yield Finding("wandb", "ok", f"{version}, offline: files only")
    elif _has_key():
        yield Finding("wandb", "ok", f"{version}, logged in")
    else:
        yield Finding("wandb", bad, f"{version}, not logged in", "wandb login, or mode: offline in tracking.trackers")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", f"https://{WANDB_HOST}").partition("://")[2].partition("/")[0]
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(str(file)).authenticators(host) is not None
    return False


# The recipe


def check_first_batch(loaded: "LoadedRecipe") -> Iterator[Finding]:
    """The data can be prepared, and the first batch is drawn from every source that has a share."""
    from trainer.data.prepare import prepare

    def note(what: str, documents: int) -> None:
        sys.stderr.write(f"preparing data: {what}, {documents} documents\n")

    recipe = loaded.recipe
    data = prepare(recipe.data, base=loaded.folder, seed=recipe.seed, progress=note)
    sizes = {name: sum(segment.num_samples for segment in source.segments) for name, source in data.sources.items()}
    found = ", ".join(f"{name} {size:,} samples" for name, size in sizes.items())
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        remedy = f"Nothing is left of {', '.join(empty)}: see what was quarantined or held out"
        yield Finding("data", "fail", found, remedy)
        return
    yield Finding("data", "ok", found)
    counts, text = _first_batch(loaded, data)
    drawn = ", ".join(f"{name} {count}" for name, count in counts.items())
    yield Finding("first batch", "ok", f"{drawn}; {text!r} ...")


def _first_batch(loaded: "LoadedRecipe", data: "PreparedData") -> tuple[dict[str, int], str]:
    """Samples by source, and how the first one begins."""
    import numpy as np

    from trainer.data.loader import Stream
    from trainer.mixture.ledger import Ledger
    from trainer.mixture.partition import RankPartition
    from trainer.mixture.plan import Plan
    from trainer.runs.resume import segment_facts, starting_facts

    recipe = loaded.recipe
    shares = recipe.mixture.shares_in_millionths()
    segments = segment_facts(data, recipe.data)[1]
    plan = Plan(recipe.seed, Ledger([*segments, *starting_facts(recipe.mixture.global_batch, shares)]))
    stream = Stream(
        plan,
        {(name, n): part for name, source in data.sources.items() for n, part in enumerate(source.segments)},
        state=plan.state(1),
        partition=RankPartition(rank=0, world_size=1, micro_batch=recipe.training.micro_batch),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
    )
    try:
        batch = stream.next()
    finally:
        stream.close()
    counts = np.bincount(batch.plan.source, minlength=len(plan.sources)).tolist()
    first: list[int] = batch.micro_batches[0].input_ids[0, :16].tolist()
    return dict(zip(plan.sources, counts, strict=True)), data.decode(first)


CHECKS: Mapping[str, Callable[[], Iterable[Finding]]] = {
    "versions": check_versions,
    "gpu": check_devices,
    "collectives": check_collectives,
    "ports": check_ports,
    "shared memory": check_shared_memory,
    "slurm": check_slurm,
}
