"""How far from the best possible every policy ends in every environment; run as ``python -m experiments``.

Prints a table and stores each cell, with its seeds and the commit, in results/lab.json; then runs one stored cell again
and compares. Exits with 1 when a cell is missing or does not come out the same. ``--check`` does the last part alone.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.cells import commit
from experiments.environments import ENVIRONMENTS, Environment
from experiments.world import steered
from trainer.control import ControlConfig
from trainer.control.policies import POLICIES

RESULTS = Path(__file__).parent / "results" / "lab.json"
SEEDS = (1, 2, 3)
# Of policies that have no default, or more than one form. Priced is also shown with what can be known of the worlds of
# steps: their curvature, and that real data may be drawn once.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "odm": [{}, {"rule": "exp3"}],
    "doremi": [{"fit_until": 0.3}],
    "aioli": [{}, {"ema": None}],
    "priced": [
        {},
        {
            "estimators": ["alignment", "dither"],
            "advanced": {"curvature": 1.0},
            "real_epochs": 1.0,
            "real_floor": 0.001,
        },
    ],
    "schedule": [],  # a drawn curve: what anneal and the optimum already are
}


def arms() -> dict[str, dict[str, Any]]:
    """Settings of every policy in the table of policies, by the name they are shown under."""
    settings_by_name = {}
    for kind in POLICIES.builtin:
        for settings in SETTINGS.get(kind, [{}]):
            shown = [f"{key}={value}" for key, value in settings.items()] if len(SETTINGS.get(kind, [])) > 1 else []
            settings_by_name[" ".join([kind, *shown])] = {"kind": kind, **settings}
    return settings_by_name


def cell(environment: Environment, policy: dict[str, Any], seed: int) -> float:
    """Final excess of one run, the guard off: it is the policies that are compared."""
    world = environment.world(seed=seed)
    steered(world, ControlConfig.model_validate({"policy": policy, "guard": {"enabled": False}}))
    return world.excess


def measured() -> dict[str, Any]:
    """All cells, and where they come from."""
    started, environments = time.perf_counter(), {}
    for environment in ENVIRONMENTS:
        excess = {name: [cell(environment, policy, seed) for seed in SEEDS] for name, policy in arms().items()}
        environments[environment.name] = {
            "optimum": environment.optimum,
            "best_static": environment.best_static,
            "excess": excess,
        }
        print(f"{environment.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return {"commit": commit(), "seeds": list(SEEDS), "environments": environments}


def table_of(results: dict[str, Any]) -> Table:
    """Excess over the optimum, mean over seeds and its standard error, policies down and environments across."""
    seeds = ", ".join(map(str, results["seeds"]))
    title = f"Final excess loss over the optimum (seeds {seeds}; commit {results['commit'][:10]})"
    table = Table(title=title, title_justify="left")
    table.add_column("policy")
    for name in results["environments"]:
        table.add_column(name, justify="right")
    environments = results["environments"].values()
    optima = [environment["optimum"] for environment in environments]
    table.add_row("(optimum itself)", *(f"{optimum:.3g}" for optimum in optima))
    best = [environment["best_static"] - environment["optimum"] for environment in environments]
    table.add_row("best static", *(f"{excess:.3g}" for excess in best), end_section=True)
    for policy in arms():
        excesses = [environment["excess"].get(policy) for environment in environments]
        table.add_row(policy, *(_shown(excess, optimum) for excess, optimum in zip(excesses, optima, strict=True)))
    return table


def _shown(excess: list[float] | None, optimum: float) -> str:
    if not excess:
        return "missing"
    over = np.array(excess) - optimum
    error = over.std(ddof=1) / np.sqrt(len(over)) if len(over) > 1 else 0.0
    return f"{over.mean():.3g} ± {error:.1g}" if error > 1e-3 * abs(over.mean()) else f"{over.mean():.3g}"


def problems_of(results: dict[str, Any]) -> list[str]:
    """What is missing from the stored cells, and whether one of them, drawn at random, comes out again."""
    missing = [
        f"{environment.name}, {policy}: missing from {RESULTS.name}"
        for environment in ENVIRONMENTS
        for policy in arms()
        if len(results["environments"].get(environment.name, {}).get("excess", {}).get(policy, [])) != len(SEEDS)
    ]
    if missing:
        return missing
    environment, (name, policy) = random.choice(ENVIRONMENTS), random.choice(list(arms().items()))
    index = random.randrange(len(SEEDS))
    stored, again = (
        results["environments"][environment.name]["excess"][name][index],
        cell(environment, policy, SEEDS[index]),
    )
    print(f"again: {environment.name}, {name}, seed {SEEDS[index]}: {again:.6g} (stored {stored:.6g})")
    same = bool(np.isclose(stored, again, rtol=1e-6, atol=1e-12))
    return [] if same else [f"{environment.name}, {name}: came out as {again}, is stored as {stored}"]


def main() -> int:
    """Measure, show, store, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only look whether the stored cells are complete and true")
    if not parser.parse_args().check:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    Console(width=20 + 16 * (1 + len(ENVIRONMENTS))).print(table_of(results))
    problems = problems_of(results)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
