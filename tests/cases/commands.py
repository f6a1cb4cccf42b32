"""The real command in a folder of a case: what it is given, and what can be asked of it afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.tracking.schema import read_journal

CASES = Path(__file__).parent / "folders"
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that was printed, with line breaks and runs of spaces as one space: tables and wrapped lines too."""
        return " ".join((self.stdout + "\n" + self.stderr).split())

    def succeeded(self) -> bool:
        """Whether it ended with 0."""
        assert "Traceback" not in self.text, self.stderr
        assert self.exit_code in (0, 2), self
        return self.exit_code == 0

    def refused(self, *words: str) -> None:
        """Asserts a refusal in words: exit code 2, no stack trace, one message that holds ``words``."""
        assert "Traceback" not in self.text, self.stderr
        assert self.exit_code == 2, self
        for word in words:
            assert word in self.text, f"{word!r} is not in: {self.text}"

    def told(self, *words: str) -> None:
        """Asserts success, and that ``words`` were printed."""
        assert self.succeeded(), self
        for word in words:
            assert word in self.text, f"{word!r} is not in: {self.text}"


class WarmCommands:
    """Commands in processes whose imports are done; see ``tests.cases.warm``."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.cases.warm"]
        root = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": root}
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=root, env=environment
        )

    def run(
        self,
        arguments: list[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        streams: Path,
        file_bytes: int | None = None,
    ) -> Ended:
        """Runs `trainer ARGUMENTS` to its end in ``folder``; ``streams`` is a folder for what it prints."""
        pid = self.begin(arguments, folder=folder, environment=environment, streams=streams, file_bytes=file_bytes)
        killer = threading.Timer(TIMEOUT_S, os.killpg, (pid, signal.SIGKILL))
        killer.start()
        try:
            exit_code = self.wait()
        finally:
            killer.cancel()
        out, err = streams / "stdout", streams / "stderr"
        return Ended(exit_code, out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace"))

    def begin(
        self,
        arguments: list[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        streams: Path,
        file_bytes: int | None = None,
    ) -> int:
        """Starts `trainer ARGUMENTS`, in a process group of its own; ``wait`` for it before the next. No file that it
        writes may grow beyond ``file_bytes``.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        out, err = streams / "stdout", streams / "stderr"
        out.write_bytes(b"")
        err.write_bytes(b"")
        request = {
            "argv": arguments, "folder": str(folder), "environment": dict(environment), "file_bytes": file_bytes,
        }  # fmt: skip
        self._server.stdin.write(json.dumps(request | {"stdout": str(out), "stderr": str(err)}) + "\n")
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """The exit code of the command that was begun, at its end."""
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """Ends the process that forks."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


class Case:
    """A copy of a case's folder, with a cache and run folders of its own."""

    def __init__(self, warm: WarmCommands, home: Path) -> None:
        self._warm, self.home = warm, home
        self.folder = home / "case"
        self.environment = {"HYBRID_TRAINER_CACHE": str(home / "cache")}

    def take(self, name: str) -> "Case":
        """Copies the folder of case ``name``, and makes the links that it asks for."""
        self.folder = self.home / name
        shutil.copytree(CASES / name, self.folder)
        if (self.folder / "make.sh").exists():
            subprocess.run(["sh", "make.sh"], cwd=self.folder, check=True)
        return self

    def edit(self, old: str, new: str) -> "Case":
        """Replaces a piece of the recipe that occurs once."""
        recipe = self.folder / "recipe.yaml"
        text = recipe.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        recipe.write_text(text.replace(old, new))
        return self

    def run(self, *arguments: str | Path, folder: Path | None = None, **environment: str) -> Ended:
        """Runs `trainer ARGUMENTS` in ``folder``, by default the case's."""
        return self._warm.run(
            [str(argument) for argument in arguments],
            folder=folder or self.folder,
            environment=self.environment | environment,
            streams=self.home,
        )

    def check(self, *arguments: str) -> Ended:
        """`trainer check recipe.yaml`."""
        return self.run("check", "recipe.yaml", *arguments)

    def plan(self, *arguments: str) -> Ended:
        """`trainer plan recipe.yaml`."""
        return self.run("plan", "recipe.yaml", *arguments)

    def fit(self, *arguments: str, run: str = "run") -> Ended:
        """`trainer fit recipe.yaml --run RUN`."""
        return self.run("fit", "recipe.yaml", *arguments, "--run", self.home / run)

    def cold(self, command: str, *arguments: str | Path, **environment: str) -> Ended:
        """The same with an interpreter of its own, for what is decided when Python starts."""
        argv = [sys.executable, "-m", "trainer", command, "recipe.yaml", *map(str, arguments)]
        ended = subprocess.run(
            argv,
            cwd=self.folder,
            env=os.environ | self.environment | environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
        return Ended(ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace"))

    def journal(self, run: str = "run") -> list[Any]:
        """The records of the run's journal."""
        return list(read_journal(self.home / run / "journal.jsonl"))

    def store(self) -> Path:
        """The one prepared store of the cache."""
        (store,) = (file.parent for file in (self.home / "cache" / "stores").glob("*/store.json"))
        return store

    def manifest(self) -> dict[str, Any]:
        """What the store says of itself."""
        manifest: dict[str, Any] = json.loads((self.store() / "store.json").read_text())
        return manifest

    def rows(self, source: str = "real") -> dict[str, Any]:
        """The account of a source's rows in the prepared store: read, used, and dropped by reason."""
        rows: dict[str, Any] = self.manifest()["rows"][source]
        return rows

    def is_prepared(self) -> bool:
        """Whether a whole store was made."""
        return any((self.home / "cache" / "stores").glob("*/store.json"))

    def training_tokens(self) -> "np.ndarray[Any, Any]":
        """The ids of all training tokens of all sources, as they lie in the store."""
        files = sorted(self.store().glob("source-*/segment-*/tokens.npy"))
        return np.concatenate([np.load(file) for file in files])

    def held_out_tokens(self) -> "np.ndarray[Any, Any]":
        """The ids of all held-out tokens."""
        return np.concatenate([np.load(self.store() / part / "tokens.npy") for part in ("validation", "test")])
