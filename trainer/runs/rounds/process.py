"""The process of a round, as the main rank sees it: started, looked at, ended."""

import os
import subprocess
import sys
from pathlib import Path

from trainer.runs.rounds.files import RoundFiles

# What a launcher tells the ranks of a run: this process is none of them.
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_", "FSDP_", "PL_")


class RoundProcess:
    """One stage of a round in a process of its own, without the run's devices."""

    def __init__(self, files: RoundFiles, store: Path, stage: str, generation: int, step: int) -> None:
        self._log = files.log(generation)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "trainer.runs.rounds.worker", str(files.run.resolve()), str(store.resolve())]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, stage, str(generation), str(step), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for the run, which ends this one itself
            )

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def problem(self) -> str | None:
        """Why it failed; None where it ended well."""
        code = self._process.wait()
        if code == 0:
            return None
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}: {lines[-1] if lines and code > 0 else f'see {self._log}'}"

    def end(self) -> None:
        """Kills it: what it has made so far is on the disk."""
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in _OF_A_RANK and not name.startswith(_PREFIXES)
    }
    return kept | {"CUDA_VISIBLE_DEVICES": ""}  # the devices are the run's
