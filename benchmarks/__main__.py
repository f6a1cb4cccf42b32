"""`python -m benchmarks [NAME ...]`: runs the benchmarks named (all, when none is) and writes their results."""

import argparse
import os
from importlib import import_module
from pathlib import Path

NAMES = ("planner", "resume", "overhead", "loader", "step", "copies", "filters", "probes", "endpoint")
AGAINST_ANOTHER_STATE = ("accounting",)  # only by name: it needs the code of another commit


def main() -> None:
    """Parses the command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two threads would wait for each other
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="measurements, as ratios")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--before", metavar="FOLDER", help="for `accounting`: a worktree of the commit to compare with")
    parser.add_argument("--rounds", type=int, help="turns of each measure (default: the benchmark's own)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {*NAMES, *AGAINST_ANOTHER_STATE})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if (arguments.before is None) != (not set(arguments.names) & set(AGAINST_ANOTHER_STATE)):
        parser.error("`accounting` and --before go together")
    from benchmarks import figures

    for name in arguments.names or NAMES:
        module = import_module(f"benchmarks.{name}")
        settings = {} if arguments.rounds is None else {"rounds": arguments.rounds}
        if name in AGAINST_ANOTHER_STATE:
            settings["before"] = Path(arguments.before)
        result = module.run(**settings)
        print(figures.write([figures.record(name, result)]), flush=True)


if __name__ == "__main__":
    main()
