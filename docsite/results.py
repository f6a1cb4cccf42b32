"""Tables of the pages under results/, from the figures that are stored beside the programs that measure them."""

import json
from collections.abc import Callable, Mapping
from statistics import mean, median
from typing import Any

from benchmarks import figures, study
from docsite.pages import ROOT, table
from experiments import filters, machine_text, self_learning_table, text_table
from tests.cases import table as cases

STORED = {"benchmarks": ROOT / "benchmarks" / "results", "experiments": ROOT / "experiments" / "results"}
CHANGES = {
    "step": "step of 3 SD",
    "tail": "tail loss alone",
    "ramp": "slow rise",
    "slice": "one slice alone",
    "gap": "gap",
}
LAB_COLUMNS = {
    "E9 5% real": "SGD, 5 % real",
    "E9 10% real": "SGD, 10 % real",
    "E9 25% real": "SGD, 25 % real",
    "E10 tokens 25% real": "tokens by generations, 25 % real",
    "E8 quadratic": "SGD, no budget",
}
LAB_ARMS = {
    "odm rule=exp3": "odm, EXP3",
    "aioli ema=None": "aioli, no average",
    "priced estimators=['alignment', 'dither'] advanced={'curvature': 1.0} real_epochs=1.0 real_floor=0.001": (
        "priced, given `curvature`"
    ),
}


def _stored(room: str, name: str) -> Any:
    return json.loads((STORED[room] / f"{name}.json").read_text(encoding="utf-8"))


def _study() -> str:
    return study.table(_stored("benchmarks", "study"))


def _guard() -> str:
    """False alarms and delays of the guard, one row per kind of evaluations."""
    cells = {cell["row"]: cell for cell in _stored("experiments", "guard")["cells"] if cell["method"] == "guard"}
    rows = []
    for noise in (name for name, cell in cells.items() if "false_alarms" in cell):
        delays = [cells.get(f"{change}, {noise}") for change in CHANGES]
        shown = ["" if cell is None else f"{cell['median']:.0f}, {cell['p90']:.0f}" for cell in delays]
        rows.append([noise, f"{100 * cells[noise]['false_alarms']:.2f} %", *shown])
    return table(["evaluations", "false alarms in 200", *CHANGES.values()], rows)


def _lab() -> str:
    """Final excess over the optimum, one row per policy."""
    environments = [_stored("experiments", "lab")["environments"][name] for name in LAB_COLUMNS]
    rows = [
        ["(the optimum itself)", *(f"{found['optimum']:.3g}" for found in environments)],
        ["best constant share", *(f"{found['best_static'] - found['optimum']:.3g}" for found in environments)],
    ]
    for arm in environments[0]["excess"]:
        over = [mean(found["excess"][arm]) - found["optimum"] for found in environments]
        rows.append([LAB_ARMS.get(arm, arm), *(f"{value:.3g}" for value in over)])
    return table(["policy", *LAB_COLUMNS.values()], rows)


def _part(part: Callable[[Mapping[str, Any]], list[str]]) -> Callable[[], str]:
    def made() -> str:
        rows = [row for row in part(_stored("experiments", "text")) if row]
        return "\n".join(row for row in rows if row.startswith("|"))

    return made


def _self_learning() -> str:
    return "\n".join(self_learning_table.table(_stored("experiments", "self_learning")))


def _machine_text() -> str:
    return "\n".join(machine_text.table(_stored("experiments", "machine_text")))


def _filters() -> str:
    return "\n".join(filters.tables(_stored("experiments", "filters")))


def _filters_speed() -> str:
    return figures.table([_stored("benchmarks", "filters")])


def _benchmarks() -> str:
    names = ("loader", "step", "planner", "resume", "overhead")
    return figures.table([_stored("benchmarks", name) for name in names])


def _parity() -> str:
    """One row per launch."""
    stored = _stored("benchmarks", "parity")
    rows = []
    for launch, found in stored["launches"].items():
        equal = found["equal_batch_hash"]
        rows.append(
            [
                launch,
                str(found["processes"]),
                f"{equal} of {stored['steps']}",
                "equal" if found["same_decisions"] else "**differ**",
                f"{found['loss_difference']:.1e}",
                f"{found['statistic_difference']:.1e}",
                f"{found['step_time']:.2f}",
            ]
        )
    head = ["launch", "processes", "batch hash equal", "decisions", "loss: largest relative difference"]
    return table([*head, "statistic: largest difference", "step time / plain"], rows)


def _parity_bf16() -> str:
    """One row per engine."""
    stored = _stored("benchmarks", "parity-bf16-32")
    rows = [
        [
            launch,
            f"{found['equal_batch_hash']} of {stored['steps']}",
            "equal" if found["same_decisions"] else "**differ**",
            f"{found['loss_difference']:.1e}",
            f"{found['norm_difference']:.1e}",
            f"{found['statistic_difference']:.1e}",
        ]
        for launch, found in stored["launches"].items()
    ]
    head = ["launch", "batch hash equal", "decisions", "loss: largest relative difference"]
    return table([*head, "first gradient norm: relative difference", "statistic: largest difference"], rows)


def _faults() -> str:
    """One row per fault: medians, the worst in brackets."""
    rows = []
    for row in _stored("benchmarks", "faults")["rows"]:
        cells = [row["fault"], row["promise"], f"{row['passed']} of {row['times']}"]
        for key in ("named_s", "ended_s", "steps_until_seen", "steps_lost"):
            values = row["figures"].get(key)
            cells.append(f"{median(values):.3g} ({max(values):.3g})" if values else "")
        rows.append(cells)
    head = [
        "fault",
        "promise",
        "kept",
        "cause named after, s",
        "all ended after, s",
        "steps until noticed",
        "steps lost",
    ]
    return table(head, rows)


BLOCKS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "results/mixture.md": {"study": _study},
    "results/guard.md": {"guard": _guard},
    "results/policies.md": {
        "lab": _lab,
        "overview": _part(text_table._overview),
        "rules": _part(text_table._rules),
        "repeated": _part(text_table._repeated),
        "sums": _part(text_table._sums),
    },
    "results/self-learning.md": {"self-learning": _self_learning},
    "results/filters.md": {"filters": _filters, "speed": _filters_speed},
    "results/machine-text.md": {"machine-text": _machine_text},
    "results/loader.md": {"benchmarks": _benchmarks},
    "results/parity.md": {"parity": _parity, "parity-bf16": _parity_bf16},
    "results/faults.md": {"faults": _faults, "cases": cases.table},
}
