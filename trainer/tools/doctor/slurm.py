"""SLURM: whether there is one that answers."""

import os
import shutil
import subprocess
from collections.abc import Iterator

from trainer.tools.doctor.findings import Finding, State, Subject


def check_slurm(_subject: Subject) -> Iterator[Finding]:
    """Whether there is a SLURM that answers."""
    if shutil.which("sbatch") is None:
        yield Finding("slurm", "ok", "not on this machine")
        return
    in_job = "SLURM_JOB_ID" in os.environ
    bad: State = "fail" if in_job else "warn"  # the programs alone are not a cluster
    try:
        answer = subprocess.run(["sinfo", "-h", "-o", "%P %a %D"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Finding("slurm", bad, f"sbatch is there, sinfo does not answer: {error}", "Ask who runs the cluster")
        return
    if answer.returncode:
        complaint = (answer.stderr.strip().splitlines() or [f"sinfo ended with {answer.returncode}"])[-1]
        yield Finding("slurm", bad, complaint, "Is slurmctld up, and munge? Ask who runs the cluster")
    else:
        partitions = ", ".join(" ".join(line.split()) for line in answer.stdout.splitlines())
        job = f"; inside job {os.environ['SLURM_JOB_ID']}" if in_job else ""
        yield Finding("slurm", "ok", f"partitions (state, nodes): {partitions}{job}")
