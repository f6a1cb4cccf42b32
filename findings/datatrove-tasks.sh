#!/usr/bin/env bash
# datatrove 0.10.1: completion is remembered by the number of the task, not by the files it read. A job that was
# interrupted and is run again with another number of tasks skips the finished numbers, which now stand for other files.
# Expected by many: the number of tasks is a matter of the machine and may change between two runs.
# Seen: 8 files of 10 documents; two tasks of 8 finish, then all 4 of 4 are run: 60 of 80 documents are in the output and
# the job is complete. Two tasks of 4, then all of 8: 100 documents, 20 of them twice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check 'datatrove[io]==0.10.1'
cat >run.py <<'PY'
import gzip
import json
import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter


def run(folder: Path, tasks: int, local_tasks: int = -1) -> None:
    pipeline = [
        JsonlReader(str(folder / "in")),
        JsonlWriter(str(folder / "out"), output_filename=f"{tasks}-" + "${rank}.jsonl.gz"),
    ]
    LocalPipelineExecutor(
        pipeline, tasks=tasks, workers=1, local_tasks=local_tasks, logging_dir=str(folder / "log")
    ).run()


def documents(first: int, then: int) -> tuple[int, int]:
    """Documents in the output and different ones: two tasks of ``first`` finish, then all of ``then`` are run."""
    folder = Path(f"{first}-{then}")
    (folder / "in").mkdir(parents=True)
    for file in range(8):
        with gzip.open(folder / "in" / f"{file}.jsonl.gz", "wt") as stream:
            stream.writelines(json.dumps({"id": f"{file}/{n}", "text": f"document {n}"}) + "\n" for n in range(10))
    run(folder, first, local_tasks=2)
    run(folder, then)
    ids = [json.loads(line)["id"] for path in (folder / "out").iterdir() for line in gzip.open(path, "rt")]
    return len(ids), len(set(ids))


if __name__ == "__main__":
    same, fewer, more = documents(4, 4), documents(8, 4), documents(4, 8)
    print("80 documents; (in the output, different ones):", {"4 then 4": same, "8 then 4": fewer, "4 then 8": more})
    sys.exit((same, fewer, more) != ((80, 80), (60, 60), (100, 80)))
PY
venv/bin/python run.py 2>log || { tail -n 5 log; exit 1; }
