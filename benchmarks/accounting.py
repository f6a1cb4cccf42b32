"""What the account of files and rows costs: preparing a corpus without defects, now and at another commit.

    git worktree add /tmp/before COMMIT && python -m benchmarks accounting --before /tmp/before

100,000 documents in 200 files of five formats. The two states take turns, each preparation in a process of its own with
an empty cache; seconds of the processor, so that other work on the machine costs neither of them.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.corpus import data_section, write_corpus
from benchmarks.figures import Figure, Result, alternated, figure, ratios

ROOT = Path(__file__).parents[1]
MOST = 1.03  # times as long
PREPARATION = """
import json, resource, sys
from pathlib import Path
import datasets, tokenizers
from trainer.data.config import DataConfig
from trainer.data.prepare import prepare

config = DataConfig.model_validate(json.loads(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF)
prepare(config, seed=0, base=Path(sys.argv[2]))
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
"""


def prepare_s(code: Path, folder: Path) -> float:
    """Seconds of the processor that the code of a worktree takes to prepare the corpus."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        section = json.dumps(data_section() | {"cache": cache})
        command = [sys.executable, "-c", PREPARATION, section, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(code)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=code, env=environment)
    return float(done.stdout.splitlines()[-1])


def run(rounds: int = 5, *, before: Path, num_documents: int = 100_000, num_files: int = 200) -> Result:
    """The two states take turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, num_documents, num_files)
        states = {"now": ROOT, "before": before.resolve()}
        times = alternated({state: partial(prepare_s, code, folder) for state, code in states.items()}, rounds)
    figures: list[Figure] = [
        figure("preparation now over before", ratios(times["now"], times["before"]), "ratio", at_most=MOST),
        figure("preparation now", times["now"], "s of CPU"),
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=before, check=True, capture_output=True, text=True
    )
    details = {"documents": num_documents, "files": num_files, "before": commit.stdout.strip(), "seconds": times}
    return Result(title="Accounting for every file and row", figures=figures, details=details)
