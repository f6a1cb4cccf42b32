"""One recipe under every launch file, on CPU processes: the same samples, the same decisions, losses within 1e-4.

`python -m tests.together.parity` trains recipes/parity.yaml to its end once for each and prints a table; 1 when one of
them is not the run that a single process makes. The launch files themselves are what is started.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.together.launches import Ended, Place, by_step, lines

ROOT = Path(__file__).parents[2]
RELATIVE = 1e-4
ON_CPU = {"ACCELERATE_USE_CPU": "true"}
# Launch file: processes, and what goes before the command where there is no GPU. DeepSpeed must not be told of CPUs.
LAUNCH_FILES: dict[str, tuple[int, dict[str, str]]] = {
    "cpu": (1, ON_CPU),
    "cpu_processes": (2, ON_CPU),
    "ddp": (2, ON_CPU),
    "fsdp2": (2, ON_CPU),
    "zero1": (2, {}),
    "zero2": (2, {}),
    "zero3": (2, {}),
    "zero2_offload": (2, {}),
    "zero3_offload": (2, {}),
}


@dataclass(frozen=True)
class Compared:
    """A run beside the one of a single process: its processes, steps done, steps with equal ``fed``, the largest
    relative difference of a loss, and whether it took the same decisions.
    """

    processes: int
    steps: int
    equal_fed: int
    loss_difference: float
    same_decisions: bool

    def is_parity(self, steps: int) -> bool:
        return self.steps == self.equal_fed == steps and self.loss_difference < RELATIVE and self.same_decisions


def launch(place: Place, name: str, run: Path, *sets: str) -> Ended:
    """`accelerate launch --config_file launch/accelerate/NAME.yaml ... -m trainer fit`, to its end; started from the
    root, to which the paths in the files are relative.
    """
    processes, variables = LAUNCH_FILES[name]
    file = Path("launch") / "accelerate" / f"{name}.yaml"
    options = ["--config_file", str(file), "--num_processes", str(processes)]
    return place.launch(run, *sets, options=options, extra={**variables, "CUDA_VISIBLE_DEVICES": ""}).wait(600.0)


def compare(run: Path, alone: Path) -> Compared:
    """The journal of a run beside that of another."""
    fed, expected_fed = by_step(run, "fed"), by_step(alone, "fed")
    losses, expected = by_step(run, "loss"), by_step(alone, "loss")
    return Compared(
        processes=lines(run, "start")[-1]["world_size"],
        steps=len(fed),
        equal_fed=sum(fed.get(step) == value for step, value in expected_fed.items()),
        loss_difference=max((abs(losses[step] / expected[step] - 1) for step in losses), default=float("inf")),
        same_decisions=_decided(run) == _decided(alone),
    )


def _decided(run: Path) -> list[Any]:
    return [(line["step"], line["action"], line["shares"], line["reason"]) for line in lines(run, "decision")]


def table(place: Place, names: Iterable[str], *sets: str) -> dict[str, Compared]:
    """Every launch file beside plain `trainer fit`, each run once. AssertionError with its words when one fails."""
    alone = place.folder / "alone"
    words = [sys.executable, "-m", "trainer", "fit", str(place.recipe), "--run", str(alone)]
    ended = place.process([*words, *(word for one in sets for word in ("--set", one))], {}).wait(600.0)
    assert ended.code == 0, ended.output
    found = {}
    for name in names:
        ended = launch(place, name, place.folder / name, *sets)
        assert ended.code == 0, f"{name}:\n{ended.output[-6000:]}"
        found[name] = compare(place.folder / name, alone)
        print(f"{name:>16}  {found[name]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "parity.yaml")
    parser.add_argument("names", nargs="*", help=f"launch files: {', '.join(LAUNCH_FILES)}; all if none is given")
    asked = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        found = table(Place(Path(folder), asked.recipe), asked.names or LAUNCH_FILES)
        steps = len(by_step(Path(folder) / "alone", "fed"))
    return int(not all(compared.is_parity(steps) for compared in found.values()))


if __name__ == "__main__":
    sys.exit(main())
