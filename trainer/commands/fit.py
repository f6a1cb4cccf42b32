"""From a recipe to a running, resumable run; for the command and for a program.

A failure is reported once, by the rank that failed first, and kept in ``outcome.json``: launchers swallow exit codes.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import RunFailedError, UserError
from trainer.base.failures import in_words, own_rank, say, say_last, warn
from trainer.base.logs import is_command_line, logger
from trainer.base.signals import Signals, StoppedEarly
from trainer.data.account_text import account_lines, accounts_of, loss_warnings
from trainer.data.prior_value import value_lines, value_warnings
from trainer.model.precision import ONLY_EMULATED, SLOW_BF16, is_bf16_slow, resolved
from trainer.recipe import LoadedRecipe, Recipe, load_recipe
from trainer.runs.auto_shares import shares_in_words, with_starting_shares
from trainer.runs.build import build_language_model
from trainer.runs.folder import (
    BAD_INPUT,
    EXIT_CODES,
    FAILED,
    begun_recipe,
    check_recipe_unchanged,
    failed_outcome,
    locked_for_launch,
    note_refusal,
    settled_outcome,
    write_outcome,
)
from trainer.runs.session import Session
from trainer.runs.start_and_finish import write_ending
from trainer.runs.stopping import STOPPED_EARLY, signals_of
from trainer.runs.takedown import store_before
from trainer.runs.watchdog.watcher import Watchdog
from trainer.tools.plan.notices import repeats
from trainer.tools.plan.sources import source_plans
from trainer.tools.probe import probe_model
from trainer.tracking.schema import StartLine, read_journal
from trainer.training.checkpoint import has_checkpoints
from trainer.training.loop import train
from trainer.training.run import Outcome

if TYPE_CHECKING:
    from trainer.data.store import PreparedData

TELLING_S = 3.0


def fit(
    recipe: LoadedRecipe | Mapping[str, Any] | Path | str,
    overrides: list[str] | None = None,
    run: Path | str | None = None,
    ledger: Path | str | None = None,
) -> Outcome:
    """Trains the recipe in its run folder, or resumes there, and returns how the run ended.

    ``recipe`` is a file, the name of a shipped recipe, a mapping, or what ``load_recipe`` returned; ``overrides`` are
    values as after `--set`: `training.steps=200`. ``run`` is the run folder, `runs/<name>` if left out. ``ledger`` is
    the folder of a run whose decisions are replayed. A run that has ended before is not trained again. Raises
    ``UserError`` (its kinds are in ``trainer.base.errors``) for what the caller can fix and ``RunFailedError`` for any
    other failure; `outcome.json` says the same.
    """
    folder = None if run is None else Path(run)
    loaded = _load(recipe, overrides or [], folder)
    folder = folder or Path("runs") / loaded.recipe.name
    try:
        loaded = _with_precision(loaded, folder)
    except UserError as error:
        if _is_main():
            note_refusal(folder, str(error), BAD_INPUT)
        raise
    if (settled := settled_outcome(folder, loaded.recipe)) is not None:
        if _is_main():
            logger.info(f"{folder} is {settled['state']} ({settled['reason']}); see {folder / 'report.html'}")
            longer = "To train longer raise training.steps"
            resume = longer if settled["state"] == "finished" else "To resume remove its outcome.json"
            logger.info(f"{resume}; to train anew choose another --run folder")
        return Outcome(state=settled["state"], step=settled["step"], reason=settled["reason"])
    with locked_for_launch(folder) if _is_main() else nullcontext():  # the main rank locks it for all
        if _is_main():
            (folder / "outcome.json").unlink(missing_ok=True)
        return _to_its_outcome(loaded, folder, None if ledger is None else Path(ledger))


def exit_code_of(outcome: Outcome) -> int:
    """What a command ends with."""
    return EXIT_CODES[outcome.state]


def _is_main() -> bool:
    """Whether this process writes; known from the launcher, before there is an engine."""
    return own_rank() == 0


def _load(
    recipe: LoadedRecipe | Mapping[str, Any] | Path | str, overrides: list[str], folder: Path | None
) -> LoadedRecipe:
    try:
        if not isinstance(recipe, LoadedRecipe):
            return load_recipe(recipe, overrides)
        if overrides:
            remedy = "Give them to load_recipe"
            raise UserError("a loaded recipe takes no overrides", got=", ".join(overrides), remedy=remedy)
        return recipe
    except UserError as error:
        if folder is not None and _is_main():
            note_refusal(folder, str(error), BAD_INPUT)
        raise


def _with_precision(loaded: LoadedRecipe, folder: Path) -> LoadedRecipe:
    """With what `training.precision: auto` stands for on this machine; a run keeps it, wherever it resumes."""
    training = loaded.recipe.training
    begun = begun_recipe(folder) if training.precision == "auto" else None
    precision = resolved(training.precision if begun is None else begun.training.precision)
    if precision == "bf16" and is_bf16_slow() and _is_main():
        warn(SLOW_BF16 if begun is None else f"this run began with bf16: {ONLY_EMULATED}")
    if precision == training.precision:
        return loaded
    if _is_main():
        say(f"training.precision: auto is {precision} {'on this machine' if begun is None else 'as this run began'}")
    training = training.model_copy(update={"precision": precision})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"training": training}))


def _to_its_outcome(loaded: LoadedRecipe, folder: Path, replay: Path | None) -> Outcome:
    """Runs, and writes how it ended, whatever happens."""
    watchdog = Watchdog(folder)
    try:
        with watchdog, signals_of(folder) as signals:
            outcome = _fit(loaded, folder, replay, watchdog, signals)
    except UserError as error:
        _report_mistake(error, folder)
        raise RunFailedError(exit_code=BAD_INPUT) from error
    except StoppedEarly:
        outcome = Outcome(state="interrupted", step=0, reason=STOPPED_EARLY)
        if _is_main():
            say(STOPPED_EARLY)
    except Exception as error:
        watchdog.report_error(error)
        raise RunFailedError(exit_code=FAILED) from error
    if _is_main():
        write_ending(folder, outcome)
        if outcome.step and is_command_line():
            _show_summary(folder)
    return outcome


def _report_mistake(error: UserError, folder: Path) -> None:
    """Writes the mistake into the outcome; raises it again on the main rank, logs it on one that sees it alone."""
    if not _is_main() and _main_tells(folder):  # all ranks see most mistakes; some only this one
        return
    first = write_outcome(folder, state="failed", step=None, reason=str(error), exit_code=BAD_INPUT)
    if _is_main():
        raise error
    if first:  # the main rank may wait for this one, and would never say why
        say_last(f"error: rank {own_rank()} on {socket.gethostname()}: {error}")


def _main_tells(folder: Path) -> bool:
    """Whether the main rank has told the mistake within a few seconds."""
    deadline_s = time.monotonic() + TELLING_S
    while failed_outcome(folder) is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return failed_outcome(folder) is not None


def _fit(loaded: LoadedRecipe, folder: Path, replay: Path | None, watchdog: Watchdog, signals: Signals) -> Outcome:
    recipe, is_main = loaded.recipe, _is_main()
    with ExitStack() as stack:
        with signals.ending_at_once():  # it begins anew at the next start
            from trainer.data.prepare import prepare
            from trainer.data.whole import open_whole

            _check_launch(recipe)
            if is_main:
                check_recipe_unchanged(folder, recipe)
            before = store_before(folder)
            data = (
                open_whole(before)
                if before is not None
                else prepare(
                    recipe.data,
                    base=loaded.folder,
                    seed=recipe.seed,
                    is_main=is_main,
                    progress=_tell_preparing if is_main else None,
                    first=None if has_checkpoints(folder / "checkpoints") else lambda: _probe(loaded),
                )
            )
        recipe = with_starting_shares(recipe, data)
        if is_main:
            _tell_rows(replace(loaded, recipe=recipe), data)
            for text in data.notes():
                warn(text)
        session = Session(recipe, data, folder, replay, signals=signals, watchdog=watchdog, stack=stack)
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


def _probe(loaded: LoadedRecipe) -> None:
    """Refuse a model that is not what the recipe takes it for; the other ranks wait meanwhile. A run that resumes has
    been probed at its start.
    """
    say("probing the model")
    for note in probe_model(loaded, may_fetch=True):
        say(note)


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
    try:
        from rich.markup import escape

        from trainer.base.console import console
        from trainer.tracking.terminal import summary_table

        lines = list(read_journal(folder / "journal.jsonl"))
        table = summary_table(lines)
        first = next((line for line in lines if isinstance(line, StartLine)), None)
        for loss in loss_warnings(accounts_of(first.rows), first.store) if first else ():
            table.add_row("data", escape(loss))
        screen = console()
        screen.print(table)
        if (folder / "report.html").is_file():
            screen.print(f"report     {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    except Exception as error:  # noqa: BLE001 -- a view must not turn a finished run into a failed one
        warn(f"the summary could not be shown: {in_words(error)}. The journal has everything")


def _tell_rows(loaded: LoadedRecipe, data: "PreparedData") -> None:
    """Where every row went, and what of it was not asked for."""
    for line in account_lines(data.rows):
        say(f"data: {line}")
    if left := data.held_out["left_validation_for_test"]:
        say(f"data: {left} documents left validation, because test has them too")
    for line in value_lines(data.prior_values):
        say(f"data: {line}")
    if loaded.recipe.mixture.from_prior_values:
        say(f"data: starting shares by these values: {shares_in_words(loaded.recipe)}")
    warnings = [*loss_warnings(data.rows, data.folder), *value_warnings(data.prior_values)]
    if (found := data.machine_text) is not None:
        for line in found.lines():
            say(f"data: {line}")
        warnings = [*found.warnings(), *warnings]
    for warning in (*warnings, *repeats(source_plans(loaded, {}, data))):
        warn(warning)


def _tell_preparing(source: str, documents: int) -> None:
    say(f"preparing data: {source}, {documents} documents")
