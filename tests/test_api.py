"""The Python API: what a program of a user's own can do with the package."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trainer
from trainer.base.errors import RecipeError, RunFailedError, RunFolderError, RunLockedError, UserError
from trainer.data.prepare import prepare
from trainer.runs.folder import locked

ROOT = Path(__file__).resolve().parent.parent
BYTES_BELOW_A_CHECKPOINT = 16_384  # of the tiny recipe; above its journal of four steps and its outcome

PROGRAM = """
import json, sys
import trainer

assert not {"torch", "pydantic", "numpy"} & set(sys.modules), "import trainer must cost nothing"
loaded = trainer.load_recipe(sys.argv[1], ["training.steps=4", "evaluation.every_steps=2"])
outcome = trainer.fit(loaded, run=sys.argv[2])
again = trainer.fit(sys.argv[1], ["training.steps=4", "evaluation.every_steps=2"], run=sys.argv[2])
assert again == outcome
run = trainer.open_run(sys.argv[2])
assert run.outcome == outcome
history = run.history()
columns = sorted(name for name in history if name.partition("/")[0] in ("step", "share", "tokens"))
json.dump({
    "state": outcome.state, "step": outcome.step, "steps": history["step"].tolist(), "columns": columns,
    "decisions": len(run.decisions()), "batch": len(run.batch(3)), "name": run.recipe.name,
}, open(sys.argv[3], "w"))
"""

TYPED = """
import trainer

outcome = trainer.fit({"extends": "quickstart"}, ["training.steps=4"])
state: str = outcome.state
shares: dict[str, float] = trainer.load_recipe("quickstart").recipe.mixture.shares
steps: int = trainer.open_run("runs/quickstart").last_step
"""


def test_a_program_trains_and_reads_its_run_and_sees_warnings_only(tiny_recipe: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, "-c", PROGRAM, str(tiny_recipe), str(tmp_path / "run"), str(result)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    others = "[transformers]"  # it warns about the sample texts
    (warning,) = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(others)]
    assert warning.startswith("the guard will not judge held-out loss: 8 documents are evaluated, it needs 30")
    assert json.loads(result.read_text()) == {
        "state": "finished",
        "step": 4,
        "steps": [1, 2, 3, 4],
        "columns": [
            *(f"share/{source}/{what}" for source in ("bad", "good", "real") for what in ("drawn", "target")),
            "step",
            "tokens/step",
        ],
        "decisions": 1,
        "batch": 8,
        "name": "tiny",
    }


def test_a_mistake_is_a_typed_exception_and_never_an_exit(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Did you mean 'steps'"):
        trainer.fit(tiny_recipe, ["training.stepz=3"], run=tmp_path / "run")
    with pytest.raises(UserError, match="no such recipe"):
        trainer.load_recipe("quikstart")
    with pytest.raises(RunFolderError, match="not a run folder"):
        trainer.open_run(tmp_path / "nowhere")
    (tmp_path / "held").mkdir()
    with locked(tmp_path / "held"), pytest.raises(RunLockedError, match="is in use"):
        trainer.fit(tiny_recipe, run=tmp_path / "held")


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """A limit of the system on what this process writes into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_run_that_fails_raises_what_failed_as_the_cause(tiny_recipe: Path, tmp_path: Path) -> None:
    loaded = trainer.load_recipe(tiny_recipe)
    prepare(loaded.recipe.data, seed=loaded.recipe.seed, base=loaded.folder)
    with files_of_at_most(BYTES_BELOW_A_CHECKPOINT), pytest.raises(RunFailedError) as caught:
        trainer.fit(loaded, run=tmp_path / "run")
    assert isinstance(caught.value.__cause__, OSError)
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["state"] == "failed"


def test_a_typed_program_is_checked_against_our_types(tmp_path: Path) -> None:
    assert (ROOT / "trainer" / "py.typed").is_file()
    program = tmp_path / "program.py"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", str(program)]
    command += ["--cache-dir", str(tmp_path / "cache"), "--ignore-missing-imports"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}

    def errors_in(text: str) -> str:
        program.write_text(text)
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
        return "\n".join(line for line in process.stdout.splitlines() if line.startswith("program.py"))

    assert errors_in(TYPED) == ""
    wrong = TYPED + "number: int = outcome.state\ntrainer.nothing()\n"
    assert "Incompatible types" in (report := errors_in(wrong))
    assert "has no attribute" in report


def test_the_version_is_printed() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "trainer", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert process.stdout == f"trainer {trainer.__version__}\n"
