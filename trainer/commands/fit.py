"""From a recipe to a running, resumable run.

Each verb of the command line that needs a run is one function here. A failure is told once, by the rank that failed
first, and kept in ``outcome.json``: launchers swallow exit codes.
"""

import json
import socket
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.base.failures import own_rank, say, say_last, warn
from trainer.base.signals import Signals, StoppedEarly
from trainer.recipe import LoadedRecipe, Recipe, load_recipe
from trainer.runs.build import build_language_model
from trainer.runs.folder import (
    BAD_INPUT,
    DONE,
    EXIT_CODES,
    FAILED,
    check_recipe_unchanged,
    failed_outcome,
    held,
    note_refusal,
    settled_outcome,
    write_outcome,
)
from trainer.runs.session import Session
from trainer.runs.start_and_finish import write_ending
from trainer.runs.watchdog.watcher import STOPPED_EARLY, Watchdog
from trainer.tracking.journal import read
from trainer.tracking.schema import read_journal
from trainer.training.loop import train
from trainer.training.run import Outcome

if TYPE_CHECKING:
    pass

TELLING_S = 3.0


def fit(recipe_path: Path, overrides: list[str], folder: Path | None, replay: Path | None) -> int:
    """Train the recipe in its run folder, or go on with it; the exit code."""
    loaded = _load(recipe_path, overrides, folder)
    folder = folder or Path("runs") / loaded.recipe.name
    if (settled := settled_outcome(folder, loaded.recipe)) is not None:
        if _is_main():
            _print(f"{folder} is {settled['state']} ({settled['reason']}); see {folder / 'report.html'}")
            say("To go on all the same remove its outcome.json; to train anew choose another --run folder")
        return EXIT_CODES[settled["state"]]
    with held(folder) if _is_main() else nullcontext():  # the main rank holds it for all
        if _is_main():
            (folder / "outcome.json").unlink(missing_ok=True)
        return _to_its_outcome(loaded, folder, replay)


def _is_main() -> bool:
    """Whether this process writes; known from the launcher, before there is an engine."""
    return own_rank() == 0


def _load(recipe_path: Path, overrides: list[str], folder: Path | None) -> LoadedRecipe:
    try:
        return load_recipe(recipe_path, overrides)
    except UserError as error:
        if folder is not None and _is_main():
            note_refusal(folder, str(error), BAD_INPUT)
        raise


def _to_its_outcome(loaded: LoadedRecipe, folder: Path, replay: Path | None) -> int:
    """Run, and write how it ended, whatever happens; the exit code."""
    watchdog = Watchdog(folder)
    try:
        with watchdog:
            outcome = _fit(loaded, folder, replay, watchdog)
    except UserError as error:
        if not _is_main() and _main_tells(folder):  # all ranks see most mistakes; some only this one
            return BAD_INPUT
        first = write_outcome(folder, state="failed", step=None, reason=str(error), exit_code=BAD_INPUT)
        if _is_main():
            raise
        if first:  # the main rank may wait for this one, and would never say why
            say_last(f"error: rank {own_rank()} on {socket.gethostname()}: {error}")
        return BAD_INPUT
    except StoppedEarly:
        outcome = Outcome(state="interrupted", step=0, reason=STOPPED_EARLY)
    except Exception as error:  # noqa: BLE001 - whatever it is, outcome.json must tell it
        watchdog.report_error(error)
        return FAILED
    if _is_main():
        write_ending(folder, outcome)
        if outcome.step:
            _show_summary(folder)
    return EXIT_CODES[outcome.state]


def _main_tells(folder: Path) -> bool:
    """Whether the main rank has told the mistake within a few seconds."""
    deadline_s = time.monotonic() + TELLING_S
    while failed_outcome(folder) is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return failed_outcome(folder) is not None


def evaluate(folder: Path, as_json: bool) -> int:
    """Print the held-out figures of the newest checkpoint."""
    from trainer.base.json_values import jsonable
    from trainer.tools.audit import held_out_figures, show_held_out

    figures = held_out_figures(folder, warn)
    _print(json.dumps(jsonable(figures)) if as_json else show_held_out(figures))
    return DONE


def audit(folder: Path, asked: int | str, as_json: bool) -> int:
    """Print which samples a step used, or which steps used a sample."""
    from trainer.tools.audit import open_run, show_sample, show_step

    run = open_run(folder)
    if isinstance(asked, int):
        _print(show_step(run, asked, as_json=as_json))
    else:
        _print(show_sample(run, asked, as_json=as_json))
    return DONE


def explain(folder: Path, step: int) -> int:
    """Print why the shares of a step were what they were."""
    from trainer.report.explain import explain as in_words

    _print(in_words(read(folder / "journal.jsonl"), read(folder / "ledger.jsonl"), step))
    return DONE


def report(folders: list[Path], output: Path | None) -> int:
    """Write one HTML file about one or several runs."""
    from trainer.report.html import write_report

    output = output or folders[0] / "report.html"
    write_report(folders, output)
    _print(str(output))
    return DONE


def _fit(loaded: LoadedRecipe, folder: Path, replay: Path | None, watchdog: Watchdog) -> Outcome:
    from trainer.data.prepare import prepare

    recipe = loaded.recipe
    _check_launch(recipe)
    is_main = _is_main()
    if is_main:
        check_recipe_unchanged(folder, recipe)
    note = _tell_preparing if is_main else None
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        with signals.ending_at_once():  # it begins anew at the next start
            data = prepare(recipe.data, base=loaded.folder, seed=recipe.seed, is_main=is_main, progress=note)
        session = Session(recipe, data, folder, replay, stop_requested=signals.received, watchdog=watchdog, stack=stack)
        session.wait_for_the_ranks()
        model = build_language_model(recipe, data)
        if recipe.engine == "lightning":
            from trainer.lightning.fit import train_under_lightning

            return train_under_lightning(
                model, recipe.training, seed=recipe.seed, begin=session.begin, finish=session.finish
            )
        from trainer.engines import open_engine

        engine = open_engine(model, recipe.training, seed=recipe.seed)
        run, state = session.begin(engine)
        return session.finish(run, engine, *train(run, state, engine, recipe.training))


def _check_launch(recipe: Recipe) -> None:
    """Refuse a launch that could not train the recipe by its engine, before anything is prepared."""
    if recipe.engine == "lightning":
        from trainer.lightning.strategies import check_launch

        check_launch()
    else:
        from trainer.engines import check_engine

        check_engine(recipe.training)


def _show_summary(folder: Path) -> None:
    """Print the summary table, from the journal alone."""
    from rich.console import Console

    from trainer.tracking.terminal import summary_table

    Console().print(summary_table(read_journal(folder / "journal.jsonl")))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output


def _tell_preparing(what: str, documents: int) -> None:
    say(f"preparing data: {what}, {documents} documents")
