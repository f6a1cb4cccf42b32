"""A real SLURM of two nodes on this machine (``mini-cluster`` next to this file), and runs in it.

Nodes are slurmd daemons with host names, addresses and process trees of their own; preemption, time limits and a node's
crash are SLURM's own, only the machine below is shared.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.together.launches import Ended, Place, lines

MINI_CLUSTER = Path(__file__).with_name("mini-cluster")
PATIENCE_S = 300.0
START_S = 300.0  # the first start installs SLURM
TWO_NODES = ["--nodes", "2", "--gpus-per-node", "0", "--cpus-per-process", "1"]


CANNOT = 77  # mini-cluster's exit code where there can be no cluster


class NoClusterError(RuntimeError):
    """This machine cannot have a cluster: not root, no namespaces, or SLURM cannot be installed."""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; ``folder`` holds its configuration and logs."""

    folder: Path

    @property
    def variables(self) -> dict[str, str]:
        """What SLURM's commands, and a job's processes, must have in their environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": str(Path.cwd())}

    def ask(self, *words: str) -> str:
        """The output of one of SLURM's commands."""
        process = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, **self.variables}, stdin=subprocess.DEVNULL
        )
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {process.stderr}")
        return process.stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job, such as RUNNING; also after its end."""
        return self.shown(job)["JobState"]

    def shown(self, job: str) -> dict[str, str]:
        """What the controller knows of a job."""
        text = self.ask("scontrol", "show", "job", "-o", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def crash(self, node: str) -> None:
        """Cut the power of a node."""
        _mini_cluster("crash", str(self.folder), node)

    def revive(self, node: str) -> None:
        """Start a crashed node again."""
        _mini_cluster("revive", str(self.folder), node)

    def submit(
        self,
        place: Place,
        run: Path,
        *sets: str,
        more: Sequence[str] = (),
        nodes: Sequence[str] = TWO_NODES,
        limit: str = "1:00:00",
    ) -> Ended:
        """`trainer submit`, and how that ended."""
        words = [word for override in sets for word in ("--set", override)]
        command = place.command(
            *("submit", str(place.recipe), "--run", str(run), *nodes, "--time", limit, *words, *more),
            extra=self.variables,
        )
        return command.wait()

    def wait(self, job: str, *, until: Callable[[], bool] | None = None, patience_s: float = PATIENCE_S) -> str:
        """The state of a job once it has ended, or once ``until`` holds. AssertionError when it ends before that."""
        deadline = time.monotonic() + patience_s
        while until is None or not until():
            state = self.state(job)
            if state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"):
                assert until is None, f"job {job} is {state} before what was waited for"
                return state
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is still {state} after {patience_s:g} s: {self.shown(job)}")
            time.sleep(0.2)
        return self.state(job)


def submitted(ended: Ended) -> str:
    """The job that `trainer submit` has printed."""
    assert ended.code == 0, ended.output
    return ended.output.split("job ", 1)[1].split()[0]


def events(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What the jobs of a run have told."""
    path = run / "slurm" / "events.jsonl"
    events_so_far = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [event for event in events_so_far if kind is None or event["event"] == kind]


def step_of(run: Path) -> int:
    """The newest step in a run's journal."""
    return max((line["step"] for line in lines(run, "step")), default=0)


def said(run: Path) -> str:
    """All that the job and its nodes have printed."""
    files = [*sorted((run / "slurm").glob("*.out")), *sorted((run / "slurm").glob("*/node-*.log"))]
    return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster for as long as the body runs. NoClusterError where there can be none."""
    folder = Path(tempfile.mkdtemp(prefix="mini-slurm.", dir="/tmp"))  # unix sockets: a short path
    try:
        _mini_cluster("start", str(folder), patience_s=START_S)
        yield Cluster(folder)
    finally:
        if (folder / "slurm.conf").exists():
            _mini_cluster("stop", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _mini_cluster(*words: str, patience_s: float = PATIENCE_S) -> None:
    process = subprocess.run(
        ["bash", str(MINI_CLUSTER), *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=patience_s,
        env={**os.environ, "MINI_ACCT": "0", "MINI_CPUS": "4"},
    )
    if process.returncode == CANNOT:
        raise NoClusterError(process.stderr.strip())
    if process.returncode != 0:
        raise RuntimeError(f"mini-cluster {words[0]}: {process.stderr.strip()}")
