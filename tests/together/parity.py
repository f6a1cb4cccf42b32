"""One recipe under every engine and launch, on CPU processes: the same samples, the same decisions, losses within 1e-4.

`python -m tests.together.parity` trains recipes/parity.yaml to its end once for each, in run folders that are kept and
resumed when run again, and prints a table; 1 when one of them is not the run that a single process makes. The
launch files themselves are what is started.

`--precision bf16 --micro-batches 32` does the same in bf16, shorter and with a smaller model, with 32 micro-batches of
one sample on each of two processes (64 on one). DDP, FSDP2 and ZeRO round in different places there: losses must be
within 1e-3, and decisions equal but for the figures in their reasons.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import figures
from tests.sharing import free_port
from tests.together.launches import Ended, Place, by_step, lines, outcome

ROOT = Path(__file__).parents[2]
RELATIVE = {"fp32": 1e-4, "bf16": 1e-3}  # of losses
LEAST_CHANGES = {"fp32": 2, "bf16": 1}  # of shares, or equal decisions would say little
PATIENCE_S = 1800.0
# Of many micro-batches: a step costs as many forwards as there are.
SMALL = [
    "training.steps=25",
    "data.sequence_length=64",
    "model.config={hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2, num_attention_heads: 2}",
]
ON_CPU = {"ACCELERATE_USE_CPU": "true"}
# Launch file: processes, and what goes before the command where there is no GPU. DeepSpeed must not be told of CPUs.
LAUNCH_FILES: dict[str, tuple[int, dict[str, str]]] = {
    "cpu": (1, ON_CPU),
    "one_gpu": (1, ON_CPU),
    "cpu_processes": (2, ON_CPU),
    "ddp": (2, ON_CPU),
    "fsdp2": (2, ON_CPU),
    "zero1": (2, {}),
    "zero2": (2, {}),
    "zero3": (2, {}),
    "zero2_offload": (2, {}),
    "zero3_offload": (2, {}),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One launch: of a launch file under Accelerate, or of a strategy under Lightning."""

    processes: int
    launch_file: str | None = None
    strategy: str | None = None  # of Lightning; "single" without a launcher


CELLS: dict[str, Cell] = {
    **{name: Cell(processes=processes, launch_file=name) for name, (processes, _) in LAUNCH_FILES.items()},
    "ddp, 3 processes": Cell(processes=3, launch_file="ddp"),
    "ddp, 4 processes": Cell(processes=4, launch_file="ddp"),
    "fsdp2, 3 processes": Cell(processes=3, launch_file="fsdp2"),
    "zero3, 3 processes": Cell(processes=3, launch_file="zero3"),
    "lightning": Cell(processes=1, strategy="single"),
    "lightning ddp": Cell(processes=2, strategy="ddp"),
    "lightning model_parallel": Cell(processes=2, strategy="model_parallel"),
    "lightning deepspeed_stage_1": Cell(processes=2, strategy="deepspeed_stage_1"),
    "lightning deepspeed_stage_2": Cell(processes=2, strategy="deepspeed_stage_2"),
    "lightning deepspeed_stage_3": Cell(processes=2, strategy="deepspeed_stage_3"),
}
# Of many micro-batches: each engine once, on two processes.
ENGINES = (
    *("ddp", "fsdp2", "zero1", "zero2", "zero3"),
    *(name for name in CELLS if name.startswith("lightning")),
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A run next to the one of a single process. ``statistic_difference`` is the largest difference of a statistic that
    a decision rests on from the same one of that run, as source value; ``norm_difference`` is that of the gradient of
    the first step, relative; ``step_time`` is a ratio of medians.
    """

    processes: int
    steps: int
    equal_batch_hash: int
    same_decisions: bool
    loss_difference: float
    norm_difference: float
    statistic_difference: float
    step_time: float

    def is_parity(self, steps: int, relative: float) -> bool:
        return self.steps == self.equal_batch_hash == steps and self.loss_difference < relative and self.same_decisions


def launch(place: Place, name: str, run: Path, *sets: str, processes: int | None = None) -> Ended:
    """`accelerate launch --config_file launch/accelerate/NAME.yaml ... -m trainer fit`, to its end; started from the
    root, to which the paths in the files are relative.
    """
    usual, variables = LAUNCH_FILES[name]
    file = Path("launch") / "accelerate" / f"{name}.yaml"
    options = ["--config_file", str(file), "--num_processes", str(processes or usual)]
    return place.launch(run, *sets, options=options, extra={**variables, "CUDA_VISIBLE_DEVICES": ""}).wait(PATIENCE_S)


def launch_lightning(place: Place, strategy: str, run: Path, *sets: str, processes: int) -> Ended:
    """`torchrun -m -- trainer fit --set engine=lightning`; one process needs no launcher. On CPUs Lightning refuses
    DeepSpeed, and is let through.
    """
    fit = ["fit", str(place.recipe), "--run", str(run), "--set", "engine=lightning", *words_of(sets)]
    if strategy == "single":
        return place.process([sys.executable, "-m", "trainer", *fit], {}).wait(PATIENCE_S)
    where = ["--nproc_per_node", str(processes), "--master_port", str(free_port())]
    module = "tests.lightning.zero_on_cpus" if strategy.startswith("deepspeed") else "trainer"
    words = [sys.executable, "-m", "torch.distributed.run", *where, "-m", "--", module, *fit]
    return place.process(words, {"PL_TRAINER_STRATEGY": strategy, "CUDA_VISIBLE_DEVICES": ""}).wait(PATIENCE_S)


def compare(run: Path, alone: Path, *, with_reasons: bool = True) -> Compared:
    """The journal of a run compared with that of another."""
    batch_hash, expected_batch_hash = by_step(run, "batch_hash"), by_step(alone, "batch_hash")
    losses, expected = by_step(run, "loss"), by_step(alone, "loss")
    norm, expected_norm = by_step(run, "grad_norm")[1], by_step(alone, "grad_norm")[1]
    own, other = dict(_statistics(run)), dict(_statistics(alone))
    return Compared(
        processes=lines(run, "start")[-1]["world_size"],
        steps=len(batch_hash),
        equal_batch_hash=sum(batch_hash.get(step) == value for step, value in expected_batch_hash.items()),
        same_decisions=_decided(run, with_reasons) == _decided(alone, with_reasons),
        loss_difference=max((abs(losses[step] / expected[step] - 1) for step in losses), default=float("inf")),
        norm_difference=abs(norm / expected_norm - 1),
        statistic_difference=max((abs(own[key] - other[key]) for key in own.keys() & other.keys()), default=0.0),
        step_time=median(by_step(run, "seconds").values()) / median(by_step(alone, "seconds").values()),
    )


def _decided(run: Path, with_reasons: bool) -> list[Any]:
    keys = ("step", "action", "shares", "reason")[: 4 if with_reasons else 3]
    return [[line[key] for key in keys] for line in lines(run, "decision")]


def _statistics(run: Path) -> Iterator[tuple[tuple[int, str], float]]:
    """By step and source, how far its advantage was from the threshold (below 0: share was cut)."""
    for line in lines(run, "decision"):
        policy = line["evidence"].get("policy", {})
        for source, score in policy.get("sources", {}).items():
            behind = score["advantage"] + policy["z"] * score["advantage_standard_error"] + policy["margin"]
            yield (line["step"], source), behind


def nearest_threshold(run: Path) -> float:
    """The smallest distance of a statistic from its threshold, in worth."""
    return min((abs(behind) for _, behind in _statistics(run)), default=float("inf"))


def run_alone(place: Place, sets: Sequence[str]) -> Path:
    """The run of a single process, by plain `trainer fit`."""
    alone = place.folder / "alone"
    if _is_finished(alone):
        return alone
    fit = ["fit", str(place.recipe), "--run", str(alone), *words_of(sets)]
    ended = place.process([sys.executable, "-m", "trainer", *fit], {})
    assert (result := ended.wait(PATIENCE_S)).code == 0, result.output
    return alone


def words_of(sets: Sequence[str]) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


def run_cell(place: Place, name: str, alone: Path, sets: Sequence[str]) -> Compared | str:
    """One cell, or the last words of a launch that failed."""
    cell, run = CELLS[name], place.folder / name.replace(", ", "-").replace(" ", "-")
    with_reasons = not sets
    if _is_finished(run):
        return compare(run, alone, with_reasons=with_reasons)
    if cell.launch_file:
        ended = launch(place, cell.launch_file, run, *sets, processes=cell.processes)
    else:
        assert cell.strategy
        ended = launch_lightning(place, cell.strategy, run, *sets, processes=cell.processes)
    return compare(run, alone, with_reasons=with_reasons) if ended.code == 0 else ended.output[-3000:]


def _is_finished(run: Path) -> bool:
    return (run / "outcome.json").is_file() and outcome(run)["state"] == "finished"


def table(cells: Mapping[str, Compared | str], steps: int, relative: float) -> str:
    """Markdown, a row for each launch."""
    rows = [
        "| launch | processes | `batch_hash` equal | decisions | loss: largest relative difference "
        "| first gradient norm: relative difference | statistic: largest difference | step time / plain | |",
        f"|{' --- |' * 9}",
    ]
    for name, cell in cells.items():
        if isinstance(cell, str):
            rows.append(f"| {name} | | | | | | | | **failed** |")
            continue
        decisions = "equal" if cell.same_decisions else "differ"
        mark = "met" if cell.is_parity(steps, relative) else "**missed**"
        rows.append(
            f"| {name} | {cell.processes} | {cell.equal_batch_hash} of {steps} | {decisions} "
            f"| {cell.loss_difference:.1e} | {cell.norm_difference:.1e} | {cell.statistic_difference:.1e} "
            f"| {cell.step_time:.2f} | {mark} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "parity.yaml")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "parity", help="where the run folders are kept")
    parser.add_argument("--precision", choices=RELATIVE, default="fp32")
    parser.add_argument("--micro-batches", type=int, help="of one sample, on each of two processes; the recipe's else")
    parser.add_argument("names", nargs="*", metavar="LAUNCH", help=f"of {'; '.join(CELLS)}; all if none is given")
    options = parser.parse_args(arguments)
    names: Iterable[str] = options.names or (ENGINES if options.micro_batches else CELLS)
    if unknown := sorted(set(names) - set(CELLS)):
        parser.error(f"unknown: {'; '.join(unknown)}")
    sets, mode = _mode(options.precision, options.micro_batches)
    relative = RELATIVE[options.precision]
    folder = (options.folder / "-".join(mode)).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    place = Place(folder, options.recipe.resolve())
    alone = run_alone(place, sets)
    cells: dict[str, Compared | str] = {}
    for name in names:
        cells[name] = cell = run_cell(place, name, alone, sets)
        print(f"{name}: {cell}" if isinstance(cell, Compared) else f"{name}: failed\n{cell}", flush=True)
    steps, moves = len(by_step(alone, "batch_hash")), sum(line["action"] == "move" for line in lines(alone, "decision"))
    nearest = nearest_threshold(alone)
    print(f"\n{table(cells, steps, relative)}\n")
    print(f"{moves} changes of share; no statistic was nearer to its threshold than {nearest:.1e}")
    if not options.names:
        result = {
            "command": _command(options.precision, options.micro_batches),
            **figures.surroundings(),
            "steps": steps,
            "changes_of_share": moves,
            "nearest_threshold": nearest,
            "relative": relative,
            "launches": {name: cell if isinstance(cell, str) else vars(cell) for name, cell in cells.items()},
        }
        (figures.RESULTS / f"{'-'.join(['parity', *mode])}.json").write_text(json.dumps(result, indent=1) + "\n")
    met = [isinstance(cell, Compared) and cell.is_parity(steps, relative) for cell in cells.values()]
    return int(moves < LEAST_CHANGES[options.precision] or not all(met))


def _mode(precision: str, micro_batches: int | None) -> tuple[list[str], list[str]]:
    """What is set besides the recipe, and what the mode is called in file names: nothing for the recipe as it is."""
    sets = [] if precision == "fp32" else [f"training.precision={precision}"]
    name = [] if precision == "fp32" else [precision]
    if micro_batches is None:
        return sets, name
    sets += [*SMALL, "training.micro_batch=1", f"mixture.global_batch={2 * micro_batches}"]
    return sets, [*name, str(micro_batches)]


def _command(precision: str, micro_batches: int | None) -> str:
    words = ["python -m tests.together.parity"]
    words += [] if precision == "fp32" else [f"--precision {precision}"]
    return " ".join(words + ([f"--micro-batches {micro_batches}"] if micro_batches else []))


if __name__ == "__main__":
    sys.exit(main())
