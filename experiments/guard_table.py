"""The guard's calibration: false alarms and delays on simulated evaluations, compared with common drift detectors.

    python -m experiments.guard_table [--streams 2000] [--out experiments/results/guard.json]

False alarms are counted over 200 evaluations from the first one on, jitter and expectation estimated in the stream, one
test at each; delays from the first damaged evaluation, the 101st, to the alarm. The others get the same ones in nats
per token: the detectors of ``river`` as they come, and the paired test over documents, one at each evaluation.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import river
from river.drift import ADWIN, KSWIN, PageHinkley

from experiments.cells import commit
from experiments.streams import NEVER, Streams, damaged, delays, first_alarms, healthy
from trainer.base.records import FloatArray, IntArray
from trainer.control.guard.config import GuardConfig

RESULTS = Path(__file__).parent / "results" / "guard.json"
SEED = 2026
NUM_EVALUATIONS = 200
CHANGE_AT = 100
AFTER = 60  # evaluations after a change
RIVER_STREAMS = 200  # a stream at a time
DOCUMENT_ERROR = 0.06 / math.sqrt(2000)  # of a paired difference over 2,000 documents, nats per token

Fall = Callable[[FloatArray, FloatArray], FloatArray]
Method = Callable[[Streams], IntArray]


def _by_rate(area: FloatArray, rate: FloatArray) -> FloatArray:
    return -0.15 * (1 - rate)


def _power_law(area: FloatArray, rate: FloatArray) -> FloatArray:
    return 0.6 * area**-0.4 - 0.1 * (1 - rate)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: what the evaluations are like, and what happens to them (None: nothing)."""

    name: str
    noise: str
    schedule: str = "constant"
    fall: Fall | None = None
    change: str | None = None

    def streams(self, num_streams: int) -> Streams:
        """``num_streams`` of them, the same for every method."""
        num = NUM_EVALUATIONS if self.change is None else CHANGE_AT + AFTER
        rng = np.random.default_rng([SEED, *self.name.encode()])
        streams = healthy(self.noise, rng, num_streams, num, schedule=self.schedule, fall=self.fall)
        return streams if self.change is None else damaged(streams, self.change, CHANGE_AT)


ROWS = [
    Row(name="white", noise="white"),
    Row(name="Student t5", noise="t5"),
    Row(name="AR(1) 0.5", noise="ar"),
    Row(name="cosine decay", noise="white", schedule="cosine", fall=_by_rate),
    Row(name="cosine decay on a power law", noise="white", schedule="cosine", fall=_power_law),
    Row(name="linear decay on a power law", noise="white", schedule="linear", fall=_power_law),
    Row(name="decay of the last fifth", noise="white", schedule="wsd", fall=_by_rate),
    Row(name="cosine decay, AR(1) 0.5", noise="ar", schedule="cosine", fall=_by_rate),
    *(
        Row(name=f"{change}, {label}", noise=noise, change=change)
        for change in ("step", "ramp", "tail", "slice", "gap")
        for label, noise in (("white", "white"), ("Student t5", "t5"), ("AR(1) 0.5", "ar"))
    ),
]


def guard(streams: Streams) -> IntArray:
    """The whole guard at its defaults."""
    return first_alarms(streams, GuardConfig())


def _river(make: Callable[[], Any]) -> Method:
    def first(streams: Streams) -> IntArray:
        first_alarm = np.full(len(streams.mean), NEVER)
        for number, values in enumerate(streams.mean):
            detector = make()
            for t, value in enumerate(values):
                detector.update(float(value))
                if detector.drift_detected:
                    first_alarm[number] = t
                    break
        return first_alarm

    return first


def naive(streams: Streams) -> IntArray:
    """Paired test against the first ten evaluations at 5 %, one-sided, the documents its only error."""
    z = (streams.mean[:, 10:] - streams.mean[:, :10].mean(axis=1, keepdims=True)) / DOCUMENT_ERROR
    above = z > 1.645
    return np.where(above.any(axis=1), above.argmax(axis=1) + 10, NEVER)


METHODS: dict[str, tuple[Method, int | None]] = {  # and on how many streams at most
    "guard": (guard, None),
    "river ADWIN": (_river(ADWIN), RIVER_STREAMS),
    "river PageHinkley": (_river(PageHinkley), RIVER_STREAMS),
    "river KSWIN": (_river(lambda: KSWIN(seed=SEED)), RIVER_STREAMS),
    "paired test": (naive, None),
}


def measured(row: Row, method: str, num_streams: int) -> dict[str, Any]:
    """One cell: false alarms with their standard error, or delays of the streams not alarmed before the change."""
    run, most = METHODS[method]
    wanted = num_streams if row.change is None else num_streams // 4  # a median needs fewer than a rare event
    first = run(row.streams(min(wanted, most or wanted)))
    cell: dict[str, Any] = {"row": row.name, "method": method, "streams": len(first)}
    if row.change is None:
        share = float((first < NEVER).mean())
        return cell | {"false_alarms": share, "standard_error": math.sqrt(share * (1 - share) / len(first))}
    delay = delays(first, CHANGE_AT)
    cell["alarmed_before"] = float((first < CHANGE_AT).mean())
    cell["detected"] = float((delay < AFTER + 1).mean()) if len(delay) else None
    for name, part in (("median", 0.5), ("p90", 0.9)):
        at = float(np.quantile(delay, part)) if len(delay) else math.inf
        cell[name] = at if at <= AFTER else None  # None: not within ``AFTER`` evaluations
    return cell


def table(num_streams: int) -> Iterator[dict[str, Any]]:
    """All cells, as they come."""
    for row in ROWS:
        for method in METHODS:
            yield measured(row, method, num_streams)


def in_words(cell: dict[str, Any]) -> str:
    """A line for the terminal."""
    head = f"{cell['row']:30} {cell['method']:18}"
    if "false_alarms" in cell:
        return f"{head} false alarms per 200 {100 * cell['false_alarms']:6.2f} ± {100 * cell['standard_error']:.2f} %"
    median, p90 = (f"{cell[name]:.0f}" if cell[name] is not None else f">{AFTER}" for name in ("median", "p90"))
    before = 100 * cell["alarmed_before"]
    return f"{head} delay median {median:>4}, p90 {p90:>4}; alarmed before the change {before:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000, help="healthy streams of a row; a quarter with a change")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    cells = []
    for cell in table(arguments.streams):
        print(in_words(cell), flush=True)
        cells.append(cell)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    head = {"commit": commit(), "seed": SEED, "numpy": np.__version__, "river": river.__version__}
    arguments.out.write_text(json.dumps(head | {"cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
