"""Assembly: from a recipe to a running, resumable run. The only place where the parts are built and put together.

Each verb of the command line that needs a run is one function here. A failure is told once, by the rank that failed
first, and kept in ``outcome.json``: launchers swallow exit codes.
"""

import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from trainer.account import write_final_figures, write_start
from trainer.checkpoint import Checkpoint
from trainer.control.steer import worth_from
from trainer.evaluate.heldout import Reader, fixed_samples, plan_steer
from trainer.evaluate.worth import TokenWorth, held_out_samples, sized, worth_times
from trainer.failure import own_rank, say_last
from trainer.loop import Engine, Outcome, Run, RunState, WorthPlan, train
from trainer.mixture.ledger import Fact
from trainer.mixture.plan import Cells, Plan
from trainer.monitor.journal import Journal, JournalWriter, SilentJournal, read
from trainer.recipe import LoadedRecipe, Recipe, load_recipe
from trainer.records import UserError
from trainer.resume import RecordedLedger, newest_checkpoint, open_ledger, read_replay, segment_facts, starting_state
from trainer.runfolder import (
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
    unlocked,
    write_outcome,
)
from trainer.watchdog import STOPPED_EARLY, Watchdog

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer.data.store import PreparedData
    from trainer.engines.accelerate import AccelerateEngine
    from trainer.monitor.progress import TerminalProgress

TELLING_S = 3.0


def fit(recipe_path: Path, overrides: list[str], folder: Path | None, replay: Path | None) -> int:
    """Train the recipe in its run folder, or go on with it; the exit code."""
    loaded = _load(recipe_path, overrides, folder)
    folder = folder or Path("runs") / loaded.recipe.name
    if (settled := settled_outcome(folder, loaded.recipe)) is not None:
        if _is_main():
            _say(f"{folder} is {settled['state']} ({settled['reason']}); see {folder / 'report.html'}")
            _say("To go on all the same remove its outcome.json; to train anew choose another --run folder", error=True)
        return EXIT_CODES[settled["state"]]
    with held(folder) if _is_main() else unlocked():
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
        watchdog.tell_error(error)
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
    from trainer.inspection import held_out_figures, show_held_out
    from trainer.monitor.journal import jsonable

    figures = held_out_figures(folder, _warn)
    _say(json.dumps(jsonable(figures)) if as_json else show_held_out(figures))
    return DONE


def audit(folder: Path, asked: int | str, as_json: bool) -> int:
    """Print which samples a step used, or which steps used a sample."""
    from trainer.inspection import open_run, show_sample, show_step

    run = open_run(folder)
    _say(show_step(run, asked, as_json=as_json) if isinstance(asked, int) else show_sample(run, asked, as_json=as_json))
    return DONE


def explain(folder: Path, step: int) -> int:
    """Print why the shares of a step were what they were."""
    from trainer.monitor.explain import explain as in_words

    _say(in_words(read(folder / "journal.jsonl"), read(folder / "ledger.jsonl"), step))
    return DONE


def report(folders: list[Path], output: Path | None) -> int:
    """Write one HTML file about one or several runs."""
    from trainer.monitor.report import write_report

    output = output or folders[0] / "report.html"
    write_report(folders, output)
    _say(str(output))
    return DONE


def _fit(loaded: LoadedRecipe, folder: Path, replay: Path | None, watchdog: Watchdog) -> Outcome:
    from trainer.data.prepare import prepare

    recipe = loaded.recipe
    _check_launch(recipe)
    is_main = _is_main()
    if is_main:
        check_recipe_unchanged(folder, recipe)
    note = _prepare_note if is_main else None
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        with signals.ending_at_once():  # it begins anew at the next start
            data = prepare(recipe.data, base=loaded.folder, seed=recipe.seed, is_main=is_main, progress=note)
        job = _Job(loaded, data, folder, replay, stop_asked=signals.received, watchdog=watchdog, stack=stack)
        job.wait_for_the_ranks()
        model = _build_model(recipe, data)
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
        from trainer.lightning.launch import check_launch

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
        stop_asked: Callable[[], bool],
        watchdog: Watchdog,
        stack: ExitStack,
    ) -> None:
        self._loaded, self._data, self._folder, self._replay = loaded, data, folder, replay
        self._stop_asked, self._watchdog, self._stack = stop_asked, watchdog, stack
        self._waiting = stack.enter_context(ExitStack())
        self._started_s = time.monotonic()

    def wait_for_the_ranks(self) -> None:
        """From here until ``begin`` the ranks come together: a signal ends this one wherever it waits."""
        self._waiting.enter_context(self._watchdog.leaving_on_a_signal())

    def begin(self, engine: "AccelerateEngine") -> tuple[Run, RunState]:
        """Bring back the newest checkpoint, if there is one, and put the parts together."""
        loaded, recipe, data, folder = self._loaded, self._loaded.recipe, self._data, self._folder
        self._stack.enter_context(closing(engine))
        self._stack.enter_context(_until_the_main_rank_is_done(engine))
        self._watchdog.watch(engine.world_size, recipe.training.timeout_s, engine.broadcast)
        self._waiting.close()
        saved = newest_checkpoint(folder, engine, _warn)
        replay = self._replay or _replayed_before(saved)
        facts = read_replay(replay, recipe, data) if replay else None
        ledger = open_ledger(
            folder,
            engine,
            saved,
            segments=segment_facts(data),
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
        run = _assemble(
            loaded,
            data,
            engine,
            ledger=ledger,
            journal=journal,
            folder=folder,
            state=state,
            replay=facts,
            stop_asked=self._stop_asked,
        )
        self._stack.callback(run.stream.close)
        self._stack.enter_context(self._watchdog.telling())
        write_start(run, recipe, data, saved)
        self._started_s = time.monotonic()
        return run, dataclasses.replace(state, documents=run.reader.documents.tolist())

    def _progress(self, engine: Engine, state: RunState) -> "TerminalProgress | None":
        from trainer.monitor.progress import TerminalProgress

        discarded = state.step - state.position
        bar = TerminalProgress(self._loaded.recipe.training.steps, discarded_steps=discarded)
        return self._stack.enter_context(bar) if engine.is_main else None

    def finish(self, run: Run, engine: Engine, state: RunState, outcome: Outcome) -> Outcome:
        """Write the final figures, and journal how the run ended."""
        if outcome.state == "finished":
            write_final_figures(run, engine, self._loaded.recipe, self._data, state)
        run.journal.write(
            "finish",
            state.step,
            state=outcome.state,
            reason=outcome.reason,
            seconds=time.monotonic() - self._started_s,
            tokens=state.tokens,
        )
        return outcome


# The parts


def _build_model(recipe: Recipe, data: "PreparedData") -> "PreTrainedModel":
    from trainer.model.build import build_model

    return build_model(
        recipe.model,
        vocabulary_size=data.vocabulary_size,
        end_of_document=data.end_of_document,
        sequence_length=data.sequence_length,
        seed=recipe.seed,
    )


@contextmanager
def _until_the_main_rank_is_done(engine: Engine) -> Iterator[None]:
    """Keep every rank until the main rank has closed the journal and its mirrors: a launcher that sees some go waits
    only so long for the last.
    """
    yield
    engine.broadcast(None)


@contextmanager
def _journal(folder: Path, recipe: Recipe, progress: "TerminalProgress | None") -> Iterator[JournalWriter]:
    """The journal with its views (terminal, W&B) on the main rank, a silent one elsewhere."""
    from trainer.monitor.wandb import WandbMirror

    if progress is None:
        yield SilentJournal()
        return
    mirror = WandbMirror(
        recipe.monitor.wandb, folder, name=recipe.name, recipe=recipe.model_dump(mode="json"), warn=_warn
    )
    journal = Journal(folder / "journal.jsonl", [progress.note, mirror.note])
    try:
        yield journal
    finally:
        journal.close()
        mirror.finish()


def _assemble(  # noqa: PLR0913 - the parts of a run, each made elsewhere
    loaded: LoadedRecipe,
    data: "PreparedData",
    engine: Engine,
    *,
    ledger: "RecordedLedger",
    journal: JournalWriter,
    folder: Path,
    state: RunState,
    replay: Mapping[int, Sequence[Fact]] | None,
    stop_asked: Callable[[], bool],
) -> Run:
    from trainer.data.stream import Stream

    recipe = loaded.recipe
    plan = Plan(recipe.seed, ledger)
    segments = {name: source.segments for name, source in data.sources.items()}
    interval_tokens = recipe.mixture.global_batch * data.sequence_length * recipe.evaluation.every_steps
    stream = Stream(
        plan,
        {(name, number): segment for name, parts in segments.items() for number, segment in enumerate(parts)},
        state=plan.state(state.step + 1),
        cells=Cells(rank=engine.rank, world_size=engine.world_size, micro_batch=recipe.training.micro_batch),
        sequence_length=data.sequence_length,
        padding=data.end_of_document,
        max_epochs={} if replay is not None else recipe.mixture.max_epochs,
        pin_memory=engine.device.type == "cuda",
    )
    reader = _reader(recipe, data, interval_tokens, state.documents)
    if engine.is_main and replay is None:
        _warn_of_a_blind_guard(recipe, len(reader.documents))
    return Run(
        seed=recipe.seed,
        num_steps=recipe.training.steps,
        rates=recipe.training.rates(),
        evaluation=recipe.evaluation,
        control=recipe.control,
        checkpoint=recipe.checkpoint,
        folder=folder,
        engine=engine,
        stream=stream,
        plan=plan,
        ledger=ledger,
        journal=journal,
        reader=reader,
        worth=None if replay is not None else worth_plan(recipe, data),
        replay=replay,
        stop_asked=stop_asked,
        ledger_offset=ledger.sync,
        warn=_warn if engine.is_main else _ignore,
    )


def _replayed_before(saved: Checkpoint | None) -> Path | None:
    """The run that was being replayed when the checkpoint was saved."""
    return Path(saved.state["replay"]) if saved is not None and saved.state["replay"] else None


def _warn_of_a_blind_guard(recipe: Recipe, num_documents: int) -> None:
    guard, readings = recipe.control.guard, (recipe.training.steps - 1) // recipe.evaluation.every_steps
    if guard.enabled and num_documents < guard.min_documents:
        _warn(f"the guard will not act: {num_documents} documents are read, it needs {guard.min_documents}")
    elif guard.enabled and readings < guard.min_readings:
        _warn(f"the guard will not act: the run has {readings} readings, it needs {guard.min_readings}")


def _reader(
    recipe: Recipe, data: "PreparedData", interval_tokens: int, documents_before: Sequence[int] | None
) -> Reader:
    """What is read at each reading; the documents that the run began with, however large its batches are now."""
    documents = plan_steer(
        data.steer,
        recipe.evaluation,
        interval_tokens=interval_tokens,
        seed=recipe.seed,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
    )
    segments = {name: source.segments for name, source in data.sources.items()}
    return Reader(
        part=data.steer,
        documents=documents if documents_before is None else np.array(documents_before, dtype=np.int64),
        samples=fixed_samples(segments, num_samples=recipe.evaluation.source_samples, seed=recipe.seed),
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        document_batch=recipe.evaluation.document_batch,
    )


def worth_plan(recipe: Recipe, data: "PreparedData") -> WorthPlan | None:
    """How much is measured for the worth of the sources, and when; None when nobody asks for it.

    What the budget of the whole run allows is spent on the few measurements that can still change something.
    """
    config, steps = recipe.evaluation.worth, recipe.training.steps
    times = worth_times(
        config, worth_from(recipe.control), num_steps=steps, reading_every_steps=recipe.evaluation.every_steps
    )
    if times is None:
        return None
    counts = sized(
        config,
        num_sources=len(data.sources),
        sequence_length=data.sequence_length,
        interval_tokens=recipe.mixture.global_batch * data.sequence_length * steps // times.count,
    )
    held_out_samples(  # a steer part that is too small is an error now, not at the first measurement
        data.steer,
        counts,
        step=0,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
    )
    segments = {name: source.segments for name, source in data.sources.items()}
    measure = TokenWorth(
        part=data.steer,
        sources=segments,
        counts=counts,
        seed=recipe.seed,
        sequence_length=data.sequence_length,
        end_of_document=data.end_of_document,
        batch_rows=recipe.evaluation.document_batch,
    )
    return WorthPlan(measure=measure, times=times)


def _tell(folder: Path) -> None:
    """The report and the summary table, from the run folder alone."""
    from rich.console import Console

    from trainer.monitor.progress import summary_table
    from trainer.monitor.report import write_report

    try:
        write_report([folder], folder / "report.html")
    except OSError as error:  # a full disk must not turn a finished run into a failed one
        _warn(f"report.html could not be written: {error}")
    Console().print(summary_table(read(folder / "journal.jsonl")))


# Signals


class StoppedEarly(BaseException):
    """A signal came before there was anything to save."""


class Signals:
    """SIGTERM and SIGUSR1 set a flag and nothing else: the step ends, the state is saved, the run exits with 75.

    Before the first step there is no step to end: there they break off what is going on.
    """

    def __init__(self) -> None:
        self._received, self._at_once, self._process = False, False, os.getpid()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if os.getpid() != self._process:  # a forked worker: its pool ends it so
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = True
        if self._at_once:
            raise StoppedEarly

    def received(self) -> bool:
        """Whether this process was asked to stop."""
        return self._received

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """Inside, a signal raises ``StoppedEarly``."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


def _say(text: str, *, error: bool = False) -> None:
    print(text, file=sys.stderr if error else sys.stdout, flush=True)


def _prepare_note(what: str, documents: int) -> None:
    _say(f"preparing data: {what}, {documents} documents", error=True)


def _warn(text: str) -> None:
    _say(f"warning: {text}", error=True)


def _ignore(_text: str) -> None:
    """Only the main rank warns."""
