"""How the rounds of a run are opened with it, and closed."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.recipe import Recipe
from trainer.runs.build import AddSegment
from trainer.runs.rounds.files import RoundFiles
from trainer.runs.rounds.rounds import RunRounds
from trainer.training.run import Run

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.engine import TrainingEngine


def opener(
    recipe: Recipe, data: "PreparedData", folder: Path, engine: "TrainingEngine", *, step: int
) -> Callable[[AddSegment], RunRounds] | None:
    """(all) What opens the rounds of a recipe's run that stands after ``step``; None where it makes none."""
    config = recipe.synthesis
    if config is None or not config.is_looping:
        return None
    states = engine.broadcast(RoundFiles(folder).states() if engine.is_main else None)
    return lambda add_segment: RunRounds(
        config, engine, data, folder, states=states, step=step, add_segment=add_segment
    )


def begin_rounds(run: Run, stack: ExitStack) -> None:
    """(all) Go on with what a killed launch left; what works beside the training ends with ``stack``."""
    rounds = run.data.rounds
    if isinstance(rounds, RunRounds):
        stack.callback(rounds.close)
        rounds.resume(run)
