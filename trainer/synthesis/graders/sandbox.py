"""Runs Python code that a model wrote, where it can do no harm, or refuses to run it at all.

The code runs in namespaces of its own (Linux: user, network, processes, IPC), so there is no network, not even the
loopback, and no other process to be seen; under Landlock, so no file can be read but Python's own, and none written but
in an empty folder that is removed; and under limits of time, memory, file sizes and processes. What remains: it can use
a processor for its time, and kernel bugs. Run a round that executes code as a user of its own where that matters.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which

from trainer.base.errors import UserError

_INSIDE = Path(__file__).with_name("sandbox_inside.py")
_UNSHARE = (
    "--user", "--map-root-user", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--",
)  # fmt: skip
_PROBE = """
import socket
for reach in (lambda: open('/etc/passwd'), lambda: socket.socket(socket.AF_UNIX)):
    try:
        reach(); print('open')
    except PermissionError:
        print('closed')
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the code ended. ``exit_code`` 0: well; None: it was stopped at its time limit."""

    exit_code: int | None
    output: str  # the end of what it printed


def run(code: str, *, time_limit_s: float, memory_mib: int) -> Outcome:
    """Runs the code, once ``require`` has found that it can be kept in."""
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as output:
        program = Path(folder) / "program.py"
        program.write_text(code, encoding="utf-8", errors="backslashreplace")
        readable = [str(path) for path in _readable()]
        unshare = which("unshare")
        if unshare is None:
            raise FileNotFoundError("unshare")
        process = subprocess.Popen(
            [unshare, *_UNSHARE, sys.executable, "-I", "-S", str(_INSIDE), folder, str(memory_mib),
             str(int(time_limit_s) + 1), str(program), *readable],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={"LANG": "C.UTF-8"},
            start_new_session=True,
        )  # fmt: skip
        try:
            exit_code: int | None = process.wait(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # unshare, and with it all that is in its namespace
            process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
        return Outcome(exit_code=exit_code, output=output.read().decode(errors="replace"))


def _readable() -> Sequence[Path]:
    """Python itself and the libraries of the system."""
    python = {Path(sys.executable).resolve().parent, Path(sys.base_prefix), Path(sys.prefix)}
    return [*sorted(python), *map(Path, ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"))]


@cache
def why_not() -> str | None:
    """Why code cannot be kept in on this machine; None where it can."""
    if sys.platform != "linux":
        return "it needs Linux"
    try:
        outcome = run(_PROBE, time_limit_s=30.0, memory_mib=512)
    except FileNotFoundError:
        return "the command unshare is missing (package util-linux)"
    if outcome.exit_code != 0:
        last = outcome.output.strip().splitlines()[-1:] or ["no output"]
        return f"user namespaces, Landlock or seccomp are not available here: {last[0]}"
    return None if outcome.output.split() == ["closed", "closed"] else "files or sockets can be opened in it"


def require() -> None:
    """Raises ``UserError`` where code cannot be kept in."""
    reason = why_not()
    if reason is not None:
        remedy = (
            "Use Linux 5.13 or later with user namespaces (not every container allows them), or leave the grader out"
        )
        raise UserError("code is run only where it can be kept in, and here it cannot", got=reason, remedy=remedy)
