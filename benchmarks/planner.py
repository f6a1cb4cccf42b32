"""Planning alone: time of a batch, memory against the size of the data, and a very large job's batch and cell."""

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import numpy as np

from benchmarks.figures import Figure, Result, figure
from benchmarks.segments import starting_facts
from trainer.mixture.ledger import Ledger
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan

TURNS = 40
SMALL, LARGE = 10**4, 10**12  # samples of a segment


def plan_of(*, num_sources: int, global_batch: int, num_samples: int) -> Plan:
    """A plan over sources of nearly equal shares."""
    names = [f"source-{number}" for number in range(num_sources)]
    shares = dict.fromkeys(names, (1000 // num_sources) / 1000)
    shares[names[0]] = 1 - sum(shares[name] for name in names[1:])
    return Plan(0, Ledger(starting_facts(dict.fromkeys(names, num_samples), shares, global_batch)))


def run(rounds: int = 7) -> Result:
    """Medians of ``TURNS`` batches each; every round plans other batches."""
    # A run frees buffers of many megabytes all the time, which makes malloc keep its memory. In a process that never
    # did, it is given back and faulted in again at every batch: a third of the time of a batch, by chance of the heap.
    np.ones(3 << 20)
    plan = plan_of(num_sources=64, global_batch=4096, num_samples=LARGE)
    huge = plan_of(num_sources=1000, global_batch=65_536, num_samples=LARGE)
    cells = [RankPartition(rank=rank, world_size=16_384, micro_batch=4) for rank in (0, 9_999)]
    batch_ms, huge_ms, cell_us = [], [], []
    for _ in range(rounds):
        batch_ms.append(1e3 * _draw_s(plan, TURNS))
        huge_ms.append(1e3 * _draw_s(huge, 5))
        cell_us.append(1e6 * _median_s(lambda: [cell.positions(65_536) for cell in cells], TURNS) / len(cells))
    peaks = {size: peak_bytes(size) for size in (SMALL, LARGE)}
    return Result(
        title="planner, in milliseconds of this machine",
        figures=[
            figure("4,096 slots over 64 sources of 10^12 samples: one batch", batch_ms, "ms", at_most=1.0),
            figure("65,536 slots over 1,000 sources, 16,384 ranks: one batch", huge_ms, "ms"),
            figure("65,536 slots, 16,384 ranks: one rank's cell", cell_us, "us"),
            Figure(
                name="peak memory at 10^12 over that at 10^4 samples a segment",
                value=peaks[LARGE] / peaks[SMALL],
                unit="ratio",
                low=peaks[LARGE] / peaks[SMALL],
                high=peaks[LARGE] / peaks[SMALL],
                rounds=1,
                target="<= 1.05",
                is_met=peaks[LARGE] <= 1.05 * peaks[SMALL],
            ),
        ],
        details={"peak_bytes_by_samples": peaks, "turns": TURNS},
    )


def _draw_s(plan: Plan, turns: int) -> float:
    state = plan.start()
    times = []
    for _ in range(turns):
        started_s = time.perf_counter()
        _, state = plan.draw(state)
        times.append(time.perf_counter() - started_s)
    return median(times)


def _median_s(call: Callable[[], object], turns: int) -> float:
    times = []
    for _ in range(turns):
        started_s = time.perf_counter()
        call()
        times.append(time.perf_counter() - started_s)
    return median(times)


def peak_bytes(num_samples: int) -> int:
    """Most memory that Python and numpy hold while ten batches are planned, from an empty plan on."""
    tracemalloc.start()
    try:
        plan = plan_of(num_sources=64, global_batch=4096, num_samples=num_samples)
        state = plan.start()
        for _ in range(10):
            _, state = plan.draw(state)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
