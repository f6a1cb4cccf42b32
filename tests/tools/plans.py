"""Plans of recipe files, for the tests of their figures and of their data."""

from pathlib import Path

from trainer.recipe import load_recipe
from trainer.tools.plan.plan import Machine, plan_run


def planned(file: Path, *overrides: str, machine: Machine | None = None, **tokens: float):  # type: ignore[no-untyped-def]
    loaded = load_recipe(file, list(overrides), on_this_machine=False)
    return plan_run(loaded, machine or Machine(), tokens)
