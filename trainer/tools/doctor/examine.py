"""All checks of the doctor, in one table. Each finding is ok, warn or fail, with the remedy.

A check looks at the real thing (two processes add up a tensor, a lock is taken, a file is written), because what a
configuration says and what a machine does are two things. Without a recipe they take seconds together; with one, its
data is read up to the first batch, and prepared where that has not been done.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from trainer.base.errors import UserError
from trainer.tools.doctor.collectives import check_collectives, check_ports
from trainer.tools.doctor.devices import check_devices, check_shared_memory
from trainer.tools.doctor.disk import check_disk
from trainer.tools.doctor.findings import Check, Finding, Subject
from trainer.tools.doctor.first_batch import check_first_batch
from trainer.tools.doctor.slurm import check_slurm
from trainer.tools.doctor.versions import check_versions
from trainer.tools.doctor.wandb import check_wandb

CHECKS: Mapping[str, Check] = {
    "versions": check_versions,
    "gpu": check_devices,
    "collectives": check_collectives,
    "ports": check_ports,
    "shared memory": check_shared_memory,
    "slurm": check_slurm,
    "disk": check_disk,
    "wandb": check_wandb,
    "data": check_first_batch,
}


def examine(subject: Subject, *, as_json: bool) -> int:
    """Print the findings as they come; 1 when one of them is a failure."""
    findings = []
    for finding in diagnose(subject):
        findings.append(finding)
        if not as_json:
            print(in_words(finding), flush=True)  # noqa: T201 - this is the output
    failed = sum(finding.state == "fail" for finding in findings)
    if as_json:
        result = {"failed": failed, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(result, indent=2))  # noqa: T201
    return int(failed > 0)


def diagnose(subject: Subject, checks: Mapping[str, Check] = CHECKS) -> Iterator[Finding]:
    """All findings, as they come. A check that breaks is a finding too."""
    for name, check in checks.items():
        try:
            yield from check(subject)
        except UserError as error:
            result = error.what if error.got is None else f"{error.what}: {error.got}"
            yield Finding(name, "fail", result, error.remedy or "")
        except Exception as error:  # noqa: BLE001 - the next check is of use all the same
            yield Finding(name, "fail", f"{type(error).__name__}: {error}", "A run would meet this too")


def in_words(finding: Finding) -> str:
    """One line, and a second one with the remedy."""
    remedy = f"\n      {'':<14}{finding.remedy}" if finding.remedy else ""
    return f"{finding.state:<4}  {finding.name:<14}{finding.result}{remedy}"
