"""From a recipe to a running, resumable run.

Each verb of the command line that needs a run is one function here. A failure is told once, by the rank that failed
first, and kept in ``outcome.json``: launchers swallow exit codes.
"""

import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.errors import UserError
from trainer.base.failures import own_rank, say, say_last, warn
from trainer.base.signals import Signals, StoppedEarly
from trainer.evaluate.ports import Engine
from trainer.recipe import LoadedRecipe, Recipe, load_recipe
from trainer.runs.build import assemble, build_language_model
from trainer.runs.folder import (
    BAD_INPUT,
    DONE,
    EXIT_CODES,
    FAILED,
    check_recipe_unchanged,
    failed_outcome,
    held,
    keep_recipe,
    note_refusal,
    settled_outcome,
    write_outcome,
)
from trainer.runs.resume import (
    newest_checkpoint,
    open_ledger,
    read_replay,
    scheduled_facts,
    segment_facts,
    starting_state,
)
from trainer.runs.start_and_finish import write_final_figures, write_finish, write_start
from trainer.runs.watchdog.watcher import STOPPED_EARLY, Watchdog
from trainer.tracking.journal import Journal, JournalWriter, SilentJournal, read
from trainer.tracking.schema import read_journal
from trainer.tracking.tracker import RunInfo
from trainer.tracking.trackers import following
from trainer.training.checkpoint import Checkpoint
from trainer.training.loop import train
from trainer.training.run import Outcome, Run, RunState

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.engine import TrainingEngine
    from trainer.tracking.terminal import TerminalProgress

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
    code = EXIT_CODES[outcome.state]
    if _is_main():
        write_outcome(folder, state=outcome.state, step=outcome.step, reason=outcome.reason, exit_code=code)
        if outcome.step:
            _tell(folder)
    return code


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
        job = _Job(loaded, data, folder, replay, stop_requested=signals.received, watchdog=watchdog, stack=stack)
        job.wait_for_the_ranks()
        model = build_language_model(recipe, data)
        if recipe.engine == "lightning":
            from trainer.lightning.fit import train_under_lightning

            return train_under_lightning(model, recipe.training, seed=recipe.seed, begin=job.begin, finish=job.finish)
        from trainer.engines import open_engine

        engine = open_engine(model, recipe.training, seed=recipe.seed)
        run, state = job.begin(engine)
        return job.finish(run, engine, *train(run, state, engine, recipe.training))


def _check_launch(recipe: Recipe) -> None:
    """Refuse a launch that could not train the recipe by its engine, before anything is prepared."""
    if recipe.engine == "lightning":
        from trainer.lightning.strategies import check_launch

        check_launch()
    else:
        from trainer.engines import check_engine

        check_engine(recipe.training)


class _Job:
    """What comes before and after the steps, whoever makes them. Every rank calls both, with its engine set up."""

    def __init__(
        self,
        loaded: LoadedRecipe,
        data: "PreparedData",
        folder: Path,
        replay: Path | None,
        *,
        stop_requested: Callable[[], bool],
        watchdog: Watchdog,
        stack: ExitStack,
    ) -> None:
        self._loaded, self._data, self._folder, self._replay = loaded, data, folder, replay
        self._stop_requested, self._watchdog, self._stack = stop_requested, watchdog, stack
        self._waiting = stack.enter_context(ExitStack())
        self._started_s = time.monotonic()

    def wait_for_the_ranks(self) -> None:
        """From here until ``begin`` the ranks come together: a signal ends this one wherever it waits."""
        self._waiting.enter_context(self._watchdog.leaving_on_a_signal())

    def begin(self, engine: "TrainingEngine") -> tuple[Run, RunState]:
        """Bring back the newest checkpoint, if there is one, and put the parts together."""
        loaded, recipe, data, folder = self._loaded, self._loaded.recipe, self._data, self._folder
        self._stack.enter_context(closing(engine))
        self._stack.enter_context(_until_the_main_rank_is_done(engine))
        self._watchdog.watch(engine.world_size, recipe.training.timeout_s, engine.broadcast)
        self._waiting.close()
        saved = newest_checkpoint(folder, engine, warn)
        replay = self._replay or _replayed_before(saved)
        segments = segment_facts(data, recipe.data)
        facts = read_replay(replay, recipe, segments) if replay else None
        ledger = open_ledger(
            folder,
            engine,
            saved,
            segments=segments,
            mixture=recipe.mixture,
            micro_batch=recipe.training.micro_batch,
            replay=facts,
        )
        if engine.is_main:
            keep_recipe(folder, recipe)
        state = dataclasses.replace(
            starting_state(recipe.control, recipe.mixture, ledger, saved), replay=str(replay) if replay else None
        )
        if saved is not None:
            engine.restore(saved.folder)
        journal = self._stack.enter_context(_journal(folder, recipe, self._progress(engine, state)))
        run = assemble(
            loaded,
            data,
            engine,
            ledger=ledger,
            journal=journal,
            folder=folder,
            state=state,
            ahead=scheduled_facts(segments, facts),
            replays=facts is not None,
            stop_requested=self._stop_requested,
        )
        self._stack.callback(run.stream.close)
        self._stack.enter_context(self._watchdog.reporting_errors())
        write_start(run, recipe, data, saved)
        self._started_s = time.monotonic()
        return run, dataclasses.replace(state, documents=run.reader.documents.tolist())

    def _progress(self, engine: Engine, state: RunState) -> "TerminalProgress | None":
        if not engine.is_main:
            return None
        from trainer.tracking.terminal import TerminalProgress

        bar = TerminalProgress(self._loaded.recipe.training.steps, discarded_steps=state.step - state.position)
        return self._stack.enter_context(bar)

    def finish(self, run: Run, engine: Engine, state: RunState, outcome: Outcome) -> Outcome:
        """Write the final figures, and journal how the run ended."""
        if outcome.state == "finished":
            write_final_figures(run, engine, self._loaded.recipe, self._data, state)
        write_finish(run, state, outcome, seconds=time.monotonic() - self._started_s)
        return outcome


# The parts


@contextmanager
def _until_the_main_rank_is_done(engine: Engine) -> Iterator[None]:
    """Keep every rank until the main rank has closed the journal and its trackers: a launcher that sees some go waits
    only so long for the last.
    """
    yield
    engine.broadcast(None)


@contextmanager
def _journal(folder: Path, recipe: Recipe, progress: "TerminalProgress | None") -> Iterator[JournalWriter]:
    """The journal with its views (terminal, trackers) on the main rank, a silent one elsewhere."""
    if progress is None:
        yield SilentJournal()
        return
    run = RunInfo(name=recipe.name, folder=folder, recipe=recipe.model_dump(mode="json"))
    with following(recipe.tracking, run, warn=warn) as views:
        journal = Journal(folder / "journal.jsonl", [progress.note, *views], warn=warn)
        try:
            yield journal
        finally:
            journal.close()


def _replayed_before(saved: Checkpoint | None) -> Path | None:
    """The run that was being replayed when the checkpoint was saved."""
    return Path(saved.state["replay"]) if saved is not None and saved.state["replay"] else None


def _tell(folder: Path) -> None:
    """The report and the summary table, from the run folder alone."""
    from rich.console import Console

    from trainer.report.html import write_report
    from trainer.tracking.terminal import summary_table

    try:
        write_report([folder], folder / "report.html")
    except OSError as error:  # a full disk must not turn a finished run into a failed one
        warn(f"report.html could not be written: {error}")
    Console().print(summary_table(read_journal(folder / "journal.jsonl")))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output


def _tell_preparing(what: str, documents: int) -> None:
    say(f"preparing data: {what}, {documents} documents")
