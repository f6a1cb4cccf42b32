"""The text laboratory: how well each rule does on real text, against the best share that one would have to know.

A scenario is a set of sources, an arm a rule for their shares, a cell both with one seed: an ordinary run. All cells of
a scenario train on equally many tokens. The best static share is chosen by the loss on ``validation`` documents and
scored on ``test`` documents; the regret of an arm is its test loss less that, paired by seed, with Student's 95 %
interval. A scenario counts only where the choice matters: its static sweep must spread five times as far as seeds do.

``python -m experiments.text [--run] [--jobs 2] [--only PREFIX] [--again]``: without ``--run`` the table of the stored
cells; ``--again`` runs one of them again and compares. Exit 1 where a cell is missing or does not come out again.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.cells import ROOT, result, run, run_missing
from experiments.scenarios import cells
from experiments.text_table import table

RECIPE = Path(__file__).with_name("text.yaml")
RUNS = Path(os.environ.get("TEXT_LAB_RUNS", ROOT / "runs" / "text-lab"))
RESULTS = Path(__file__).parent / "results" / "text.json"
SAME = 1e-3  # nats per token by which a cell that is run again may differ


def again(stored: Mapping[str, Any], seed: int | None) -> bool:
    """Run a stored cell a second time; whether it comes out the same."""
    name = random.Random(seed).choice(sorted(stored))
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "again", cells()[name], RECIPE)
        cell = result(Path(folder) / "again")
    loss = None if cell is None else cell["test_nats_per_token"]
    before = stored[name]["test_nats_per_token"]
    print(f"{name} again: {loss}, stored {before} (commit {stored[name]['commit']})")
    return loss is not None and abs(loss - before) <= SAME


def main() -> int:
    """Run what was requested, store, and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the cells that are missing")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="run only cells whose name starts so (several: with commas)")
    parser.add_argument("--again", action="store_true", help="run one stored cell again and compare")
    parser.add_argument("--pick", type=int, help="seed by which --again picks its cell")
    arguments = parser.parse_args()
    plan = cells()
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if arguments.run:
        wanted = {
            name: plan[name]
            for name in plan
            if name.startswith(tuple(arguments.only.split(","))) and name not in stored
        }
        run_missing(wanted, RUNS, RECIPE, jobs=arguments.jobs)
        stored |= {name: figures for name in plan if (figures := result(RUNS / name)) is not None}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    print("\n".join(table(stored)))
    missing = sorted(plan.keys() - stored.keys())
    print(f"\n{len(plan) - len(missing)} of {len(plan)} cells are stored")
    if missing:
        print(f"missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    same = again(stored, arguments.pick) if arguments.again and stored else True
    return int(bool(missing) or not same)


if __name__ == "__main__":
    sys.exit(main())
