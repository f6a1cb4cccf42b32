"""The process that makes a round beside the training: ``python -m trainer.runs.rounds.worker RUN STORE STAGE ...``.

It has the recipe, the prepared data and the pool of the run, and none of its devices. It runs at low priority, ends
with the run that started it, and whatever happens to it the run goes on.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from trainer.base.atomic import write_text
from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.recipe import Recipe, load_recipe
from trainer.runs.rounds.files import Made, RoundFiles
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators import GENERATORS, Generator
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.generators.run_model import RunModel

PRIORITY = 10  # of nice: training comes first
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
POLL_S = 0.5


def main(arguments: list[str]) -> int:
    """Makes one stage of a round: ``plan`` (the requests alone) or ``make``. Says what is wrong in its last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("stage", choices=("plan", "make"))
    parser.add_argument("generation", type=int)
    parser.add_argument("step", type=int)
    parser.add_argument("parent", type=int)
    given = parser.parse_args(arguments)
    _end_with(given.parent)
    os.nice(PRIORITY)
    try:
        recipe = load_recipe(given.run / "recipe.yaml", [], on_this_machine=False).recipe
        stage = _plan if given.stage == "plan" else _make
        stage(recipe, RoundFiles(given.run), given.store, given.generation, given.step)
    except (UserError, OSError) as error:
        _log(in_words(error))
        return 2
    return 0


def _end_with(parent: int) -> None:
    """From here on this process ends when ``parent`` does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def own_config(recipe: Recipe, files: RoundFiles) -> SynthesisConfig:
    """The recipe's synthesis, with the run's own pool."""
    assert recipe.synthesis is not None
    return recipe.synthesis.model_copy(update={"pool": files.pool.resolve()})


def _generator(recipe: Recipe, config: SynthesisConfig, step: int) -> Generator:
    if isinstance(config.generator, RunConfig):
        return RunModel(config.generator, name=recipe.name, weights=f"step-{step:08d}")
    return GENERATORS.resolve(config.generator.kind)(config.generator)


def _plan(recipe: Recipe, files: RoundFiles, store: Path, generation: int, step: int) -> None:
    """Writes the requests of a round that the run's own model answers."""
    from trainer.synthesis.requests import Asked, PromptRow, chosen, plan_round, set_aside
    from trainer.synthesis.round import with_training_rows

    config, seed = own_config(recipe, files), recipe.seed
    identity = _generator(recipe, config, step).identity()

    def plan(training: Iterator[PromptRow]) -> list[Asked]:
        _, prompts = set_aside(config, chosen(config, training, seed, generation), seed, generation)
        return plan_round(config, prompts, identity, seed=seed, generation=generation)

    asked, _, _ = with_training_rows(config, recipe.data, plan, seed=seed, base=files.run)
    write_text(files.asked(generation, step), json.dumps([asdict(item.request) for item in asked]))


def _make(recipe: Recipe, files: RoundFiles, store: Path, generation: int, step: int) -> None:
    """Makes the round, or what is missing of it, and the segment of its rows."""
    from trainer.data.made_segment import write_made_segment
    from trainer.data.store import open_prepared
    from trainer.runs.rounds.documents import documents_of
    from trainer.synthesis.context import Shard
    from trainer.synthesis.pool import Pool
    from trainer.synthesis.round import run_round

    config = own_config(recipe, files)
    pool = Pool(files.pool.resolve())
    record = next((record for record in pool.records() if record.generation == generation), None)
    if record is None:
        record = run_round(
            config,
            recipe.data,
            Shard(generation=generation),
            seed=recipe.seed,
            base=files.run,
            progress=_say,
            generator=_generator(recipe, config, step),
        )
    segment = None
    if record.accepted and record.quarantined is None:
        documents = documents_of(pool, generation)
        segment = write_made_segment(files.segment(generation), documents, open_prepared(store, check_sizes=False))
    files.write_made(
        Made(
            generation=generation,
            record=record.to_json(),
            fingerprint=None if segment is None else segment.fingerprint,
            num_samples=0 if segment is None else segment.num_samples,
        )
    )


def _say(done: int, total: int) -> None:
    if done in (0, total) or done % 100 == 0:
        _log(f"{done} of {total} texts")


def _log(text: str) -> None:
    """A line of the round's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
