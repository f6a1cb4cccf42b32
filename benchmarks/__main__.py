"""`python -m benchmarks [NAME ...]`: runs the benchmarks named (all, when none is) and writes their results."""

import argparse
import os
from importlib import import_module

NAMES = ("planner", "resume", "overhead", "loader", "step", "copies", "probes")


def main() -> None:
    """Parses the command line."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: two threads would wait for each other
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="measurements, as ratios")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all when none is given")
    parser.add_argument("--rounds", type=int, help="turns of each measure (default: the benchmark's own)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    from benchmarks import figures

    for name in arguments.names or NAMES:
        module = import_module(f"benchmarks.{name}")
        result = module.run() if arguments.rounds is None else module.run(rounds=arguments.rounds)
        print(figures.write([figures.record(name, result)]), flush=True)


if __name__ == "__main__":
    main()
