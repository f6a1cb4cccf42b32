"""What a benchmark reports: figures with their target and spread, the machine, and a table of them all."""

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil

Measured = TypeVar("Measured")
RESULTS = Path(__file__).with_name("results")
PACKAGES = ("numpy", "torch", "transformers", "accelerate", "datasets", "pyarrow", "grain")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value, the range it was seen in over ``rounds``, and the target it is held against (None: for the reader)."""

    name: str
    value: float
    unit: str
    low: float
    high: float
    rounds: int
    target: str | None = None
    is_met: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one benchmark. ``details`` holds what stands behind them: rates of every variant, settings."""

    title: str
    figures: Sequence[Figure]
    details: Mapping[str, Any] = field(default_factory=dict)


def figure(
    name: str, values: Sequence[float], unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Figure:
    """The median of the rounds' values with their range, held against a bound."""
    value = median(values)
    target, is_met = None, None
    if at_least is not None:
        target, is_met = f">= {at_least:g}", value >= at_least
    if at_most is not None:
        target, is_met = f"<= {at_most:g}", value <= at_most
    return Figure(
        name=name,
        value=value,
        unit=unit,
        low=min(values),
        high=max(values),
        rounds=len(values),
        target=target,
        is_met=is_met,
    )


def alternated(measures: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """``rounds`` turns of every measure, one after the other, the order turned round every time."""
    values: dict[str, list[Measured]] = {name: [] for name in measures}
    names = list(measures)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            values[name].append(measures[name]())
    return values


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """One ratio per round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def record(name: str, result: Result) -> dict[str, Any]:
    """The result as it is written: with the machine, versions, date and the command that repeats it."""
    return {
        "name": name,
        "command": f"python -m benchmarks {name}",
        **surroundings(),
        **asdict(result),
    }


def surroundings() -> dict[str, Any]:
    """Date, machine and versions, as every result names them."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "load_average": round(psutil.getloadavg()[0], 1),
            "device": _device(),
        },
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }


def write(records: Sequence[Mapping[str, Any]], folder: Path = RESULTS) -> str:
    """Writes one JSON file per record and the table of all records of the folder; returns the table of these."""
    folder.mkdir(exist_ok=True)
    for record in records:
        (folder / f"{record['name']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    records_before = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    every = [record for record in records_before if "figures" in record]
    (folder / "README.md").write_text("# Measurements\n\n" + table(every) + "\n" + _machines(every), encoding="utf-8")
    return table(records)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A markdown table, one row per figure."""
    rows = ["| benchmark | figure | median | range | rounds | target | |", f"|{' --- |' * 7}"]
    for record in records:
        for row in record["figures"]:
            mark = {True: "met", False: "**missed**", None: ""}[row["is_met"]]
            unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
            spread = f"{_short(row['low'])} to {_short(row['high'])}" if row["rounds"] > 1 else ""
            rows.append(
                f"| {record['name']} | {row['name']} | {_short(row['value'])}{unit} | {spread} | {row['rounds']} "
                f"| {row['target'] or ''} | {mark} |"
            )
    return "\n".join(rows) + "\n"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for record in records:
        machine = record["machine"]
        lines.append(
            f"- {record['name']}: {record['title']}. `{record['command']}`, {record['date'][:10]}, {machine['cpu']}, "
            f"{machine['cores']} cores, load {machine['load_average']}, {machine['device']}."
        )
    return "\n".join(lines) + "\n"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or sys.platform


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
