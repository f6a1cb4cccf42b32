"""Faults put into real launches of two processes, many times each: what the run says, how fast it ends, what is lost.

`python -m tests.together.faults --times 5` (part of `make faults`) prints a line per fault and writes the table to
benchmarks/results/faults.json and faults.md; 1 when a cell misses. `--only NAME` runs single faults. Signals,
file systems and launchers are real; what no signal can do (an exception, a hang, a NaN, a clock) is put in by
``tests.together.faulty``. Faults that fill or write-protect a disk mount a small tmpfs, which takes root.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.together.fault_bench import (
    LAST_LINES,
    PROGRAM,
    SETS,
    STRIKE_STEP,
    TIMEOUT_S,
    Bench,
    Launch,
    MissedError,
    as_twin,
    expect,
    launch,
    launch_to_strike,
    open_bench,
    resumed,
)
from tests.together.launches import (
    by_step,
    lines,
    outcome,
    variables,
)
from trainer.training import checkpoint

DISK_BYTES = 8 << 20
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


# The faults


def a_rank_raises(bench: Bench) -> dict[str, float]:
    live = launch(bench, "raises", "raises")
    figures = live.wait_for_end()
    live.expect_cause(1, "the sample store of this rank does not answer")
    expect(figures["ended_s"] < 15, f"the others ended after {figures['ended_s']:.1f} s")
    return {**figures, **resumed(bench, live.run)}


def a_rank_is_killed(bench: Bench, file: str | None = None) -> dict[str, float]:
    live = launch_to_strike(bench, f"killed-{file}", file=file)
    live.strike(live.ranks()[1].pid, signal.SIGKILL)
    figures = live.wait_for_end()
    live.expect_cause(1, "died or was killed")
    expect(figures["ended_s"] < 15, f"the others ended after {figures['ended_s']:.1f} s")
    return {**figures, **resumed(bench, live.run)}


def a_rank_is_stopped(bench: Bench, file: str | None = None) -> dict[str, float]:
    live = launch_to_strike(bench, f"stopped-{file}", file=file)
    live.strike(live.ranks()[1].pid, signal.SIGSTOP)
    figures = live.wait_for_end()
    live.expect_cause(1, "is stopped by a signal")
    expect(figures["named_s"] <= TIMEOUT_S + 5, f"named after {figures['named_s']:.1f} s")
    return {**figures, **resumed(bench, live.run)}


def a_rank_hangs(bench: Bench) -> dict[str, float]:
    live = launch(bench, "hangs", "hangs")
    figures = live.wait_for_end()
    live.expect_cause(1, "made no progress", "trainer/data/loader.py")
    expect("faulty.py" in outcome(live.run)["traceback"], "the stack does not show the thread that hangs")
    stood_s = (live.run / "outcome.json").stat().st_mtime - (live.run / "journal.jsonl").stat().st_mtime
    expect(stood_s <= TIMEOUT_S + 5, f"named {stood_s:.1f} s after the last step")
    return {"ended_s": figures["ended_s"], "named_s": stood_s, **resumed(bench, live.run)}


def all_are_stopped_for_a_while(bench: Bench) -> dict[str, float]:
    live = launch_to_strike(bench, "paused")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in live.family:
            process.send_signal(number)
        time.sleep(TIMEOUT_S + 3 if number == signal.SIGSTOP else 0)
    live.struck_s = time.time()
    expect(live.live.wait().code == 0, f"a pause ended the run:\n{live.output()}")
    as_twin(bench, live.run)
    return {}


def ranks_disagree(bench: Bench) -> dict[str, float]:
    live = launch(bench, "disagree", "disagrees")
    figures = live.wait_for_end()
    saved_outcome = outcome(live.run)
    expect("hold different ledgers: rank 0 on" in saved_outcome["reason"], saved_outcome["reason"])
    expect("rank 1 on" in saved_outcome["reason"], saved_outcome["reason"])
    decided = lines(live.run, "decision")[-1]["step"]
    late = max(by_step(live.run, "batch_hash")) - decided
    expect(late <= 2, f"seen {late} steps after the decision")
    shutil.rmtree(live.run / "checkpoints" / f"step-{decided:08d}", ignore_errors=True)
    return {**figures, "steps_until_seen": late, **resumed(bench, live.run)}


def a_loss_is_nan_on_one_rank(bench: Bench) -> dict[str, float]:
    live = launch(bench, "nan", "nan")
    expect(live.live.wait().code == 0, f"one NaN ended the run:\n{live.output()}")
    nonfinite_lines = lines(live.run, "nonfinite")
    expect(
        [line["step"] for line in nonfinite_lines] == [STRIKE_STEP],
        f"seen at {[line['step'] for line in nonfinite_lines]}",
    )
    skipped = [step for step, updated in by_step(live.run, "updated").items() if not updated]
    expect(skipped == [STRIKE_STEP], f"left out: {skipped}")
    after = by_step(live.run, "loss")
    expect(all(loss == loss for step, loss in after.items() if step != STRIKE_STEP), "a weight became NaN")
    as_twin(bench, live.run)
    return {"steps_until_seen": 0}


def a_loss_jumps(bench: Bench) -> dict[str, float]:
    live = launch(bench, "spike", "spike", rank=None)
    expect(live.live.wait().code == 0, live.output())
    spike_lines = lines(live.run, "spike")
    expect(
        [line["step"] for line in spike_lines] == [STRIKE_STEP], f"spikes at {[line['step'] for line in spike_lines]}"
    )
    expect(live.output().count("against a median of") == 1, live.output())
    expect(not lines(bench.twin, "spike"), "the twin has a spike")
    as_twin(bench, live.run)
    return {"steps_until_seen": 0}


def the_clock_jumps(bench: Bench) -> dict[str, float]:
    live = launch(bench, "clock", "clock", rank=None)
    expect(live.live.wait().code == 0, f"a clock ended the run:\n{live.output()}")
    as_twin(bench, live.run)
    seconds = [line["seconds"] for line in lines(live.run) if "seconds" in line]
    expect(all(0 <= duration < 300 for duration in seconds), f"durations follow the wall clock: {seconds}")
    return {}


def the_disk_is_full(bench: Bench) -> dict[str, float]:
    run = bench.folder("full")
    with small_disk(run):
        live = launch_to_strike(bench, "full", run=run)
        live.struck_s = time.time()
        ballast = run / "ballast"
        fill(ballast)
        figures = live.wait_for_end()
        expect(live.live.code() != 0, "nothing was wrong")
        last = "\n".join(live.output().rstrip().splitlines()[-LAST_LINES:])
        expect("No space left" in last or "ENOSPC" in last or "could not be saved" in last, live.output())
        for folder in (run / "checkpoints").glob("step-*"):
            expect(checkpoint.damage(folder) is None, f"{folder.name}: {checkpoint.damage(folder)}")
        ballast.unlink()
        return {**figures, **resumed(bench, run)}


def the_run_folder_is_read_only(bench: Bench) -> dict[str, float]:
    run = bench.folder("read-only")
    with small_disk(run):
        subprocess.run(["mount", "-o", "remount,ro", str(run)], check=True)
        started_s = time.time()
        live = Launch(run, bench.place.launch(run, *SETS, processes=2), run.with_suffix(".at"), struck_s=started_s)
        figures = live.wait_for_end()
        last = "\n".join(live.output().rstrip().splitlines()[-LAST_LINES:])
        expect("cannot be written" in last, live.output())
        expect("choose another --run folder" in last, live.output())
        expect("trainer/commands/fit.py" not in live.output(), f"a stack trace for a user's mistake:\n{live.output()}")
        return figures


def a_second_launch_comes(bench: Bench, *, elsewhere: bool = False) -> dict[str, float]:
    name = "second-elsewhere" if elsewhere else "second"
    # `elsewhere` neither launch sees the other's lock, as on file systems that do not share them between hosts
    kind = "no-locks" if elsewhere else None
    sets = (*SETS, "training.steps=4000")
    live = launch(bench, name, kind, rank=None, sets=sets)
    live.wait_for_step(STRIKE_STEP)
    owner = (live.run / ".lock").read_text().splitlines()[0]
    started_s = time.time()
    second = _second(bench, live, sets, elsewhere=elsewhere)
    refused_s = time.time() - started_s
    expect(second.returncode == 2, f"the second launch ended with {second.returncode}:\n{second.stdout}")
    expect("is in use" in second.stdout, second.stdout)
    expect(owner in second.stdout, f"the owner {owner} is not named:\n{second.stdout}")
    live.live.send(signal.SIGTERM)
    live.struck_s = time.time()
    live.wait_for_end()
    expect(outcome(live.run)["state"] == "interrupted", f"the second launch disturbed the first:\n{live.output()}")
    steps = by_step(live.run, "batch_hash")
    expect(list(steps) == list(range(1, len(steps) + 1)), "steps are missing or doubled")
    return {"named_s": refused_s}


def _second(bench: Bench, live: Launch, sets: Sequence[str], *, elsewhere: bool) -> "subprocess.CompletedProcess[str]":
    fit = [
        "fit",
        str(bench.place.recipe),
        "--run",
        str(live.run),
        *(word for override in sets for word in ("--set", override)),
    ]
    words = [sys.executable, "-m", PROGRAM if elsewhere else "trainer", *fit]
    if elsewhere:
        words = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh", *words]
    given = {**os.environ, **variables(bench.place.folder / "cache"), "PYTHONPATH": str(Path.cwd())}
    given |= {"FAULT": json.dumps({"kind": "no-locks", "rank": None, "step": 0}), "FAULT_AT": str(live.at_file)}
    return subprocess.run(words, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)


def the_launcher_is_asked_to_stop(bench: Bench) -> dict[str, float]:
    return _launcher_ends(bench, "asked", signal.SIGTERM)


def the_launcher_is_killed(bench: Bench) -> dict[str, float]:
    return _launcher_ends(bench, "orphaned", signal.SIGKILL)


def _launcher_ends(bench: Bench, name: str, number: int) -> dict[str, float]:
    live = launch_to_strike(bench, name)
    live.strike(live.live.pid, number)
    figures = live.wait_for_end()
    saved_outcome = outcome(live.run)
    expect(
        (saved_outcome["state"], saved_outcome["exit_code"]) == ("interrupted", 75),
        f"the outcome is {saved_outcome}\n{live.output()}",
    )
    expect(figures["ended_s"] < 15, f"ended after {figures['ended_s']:.1f} s")
    figures |= resumed(bench, live.run)
    expect(figures["steps_lost"] == 0, "steps were lost although there was time to save")
    return figures


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A tmpfs of a few megabytes at the folder."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take every byte that is left."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


Fault = Callable[[Bench], dict[str, float]]
FAULTS: Mapping[str, tuple[str, Fault]] = {
    "rank-raises": ("the others end; cause, rank and host once, at the end and in outcome.json", a_rank_raises),
    "rank-killed": ("the same; a survivor's broken collective is not taken for the cause", a_rank_is_killed),
    "rank-stopped": (f"named with its stack {TIMEOUT_S} + 5 s later at most; no process is left", a_rank_is_stopped),
    "fsdp2-killed": ("the same under FSDP2", partial(a_rank_is_killed, file="fsdp2.yaml")),
    "zero2-stopped": ("the same under DeepSpeed ZeRO-2", partial(a_rank_is_stopped, file="zero2.yaml")),
    "rank-hangs": ("named by itself, with the stack of the thread that hangs", a_rank_hangs),
    "all-paused": ("a launch that is suspended and continued resumes training", all_are_stopped_for_a_while),
    "ledgers-differ": ("stopped within 2 steps, all digests named", ranks_disagree),
    "nan-on-one-rank": ("no rank updates, the run continues", a_loss_is_nan_on_one_rank),
    "loss-spike": ("journaled with its samples, warned of once", a_loss_jumps),
    "clock-jumps": ("nothing changes, durations are monotonic", the_clock_jumps),
    "disk-full": ("ends with the reason; the last checkpoint stays complete", the_disk_is_full),
    "read-only": ("refused with the remedy, no stack trace", the_run_folder_is_read_only),
    "second-launch": ("refused, the owner named; the first is undisturbed", a_second_launch_comes),
    "second-elsewhere": (
        "the same from another host without common locks, by heartbeats",
        partial(a_second_launch_comes, elsewhere=True),
    ),
    "launcher-sigterm": ("saved, 75, nothing lost", the_launcher_is_asked_to_stop),
    "launcher-killed": ("saved, 75, nothing lost, no process is left", the_launcher_is_killed),
}
NEED_ROOT = ("disk-full", "read-only", "second-elsewhere")


# The table


def main() -> int:
    """Run, print, write; 1 when a cell misses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=FAULTS, help="write nothing, run these")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the server that the processes are forked from
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(Path(folder))
        rows = [run_fault(bench, name, arguments.times) for name in arguments.only or FAULTS]
    if not arguments.only:
        write(rows)
    return int(any(row["passed"] < row["times"] for row in rows))


def run_fault(bench: Bench, name: str, times: int) -> dict[str, Any]:
    """The fault so many times; a row of the table."""
    promise, fault = FAULTS[name]
    figures: dict[str, list[float]] = {}
    passed, misses = 0, []
    for _ in range(times):
        try:
            for key, value in fault(bench).items():
                figures.setdefault(key, []).append(value)
            passed += 1
        except (MissedError, TimeoutError, subprocess.SubprocessError, OSError) as error:
            misses.append(f"{type(error).__name__}: {error}"[:500])
            print(f"MISSED {name}: {error}", flush=True)
    row = {"fault": name, "promise": promise, "times": times, "passed": passed, "figures": figures, "misses": misses}
    print(in_row(row), flush=True)
    return row


def in_row(row: Mapping[str, Any]) -> str:
    """A row of the markdown table: medians, and the worst in brackets."""
    cells = [row["fault"], row["promise"], f"{row['passed']} of {row['times']}"]
    for key in ("named_s", "ended_s", "steps_until_seen", "steps_lost"):
        values = row["figures"].get(key)
        cells.append(f"{median(values):.3g} ({max(values):.3g})" if values else "")
    return f"| {' | '.join(cells)} |"


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table for machines and for readers. Rows of other commands (``faults-*.json``, the same form) come after."""
    stored = [row for path in sorted(RESULTS.glob("faults-*.json")) for row in json.loads(path.read_text())["rows"]]
    about = {
        "command": f"python -m tests.together.faults --times {rows[0]['times']}",
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    (RESULTS / "faults.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    head = "| fault | promise | kept | named after, s | all ended after, s | steps until seen | steps lost |"
    caption = f"`{about['command']}`, {about['date']}, {about['cores']} cores, load {about['load']}; median (worst)."
    text = "\n".join(["# Faults", "", head, "| --- " * 7 + "|", *map(in_row, [*rows, *stored]), "", caption, ""])
    (RESULTS / "faults.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
