"""What comes before and after the steps of a recipe's run, whichever engine makes them."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.base.failures import in_words, warn
from trainer.base.signals import Signals
from trainer.evaluate.ports import Engine
from trainer.mixture.ledger import Fact
from trainer.recipe import Recipe
from trainer.runs.build import build_run, recipe_data, recipe_settings
from trainer.runs.folder import bound_recipe, keep_recipe
from trainer.runs.replay import read_replay
from trainer.runs.resume import newest_checkpoint, resume, saved_state, scheduled_facts, segment_facts
from trainer.runs.rounds.made_data import adopt_pool, license_of_made, with_made_segments
from trainer.runs.rounds.opening import begin_rounds, opener
from trainer.runs.start_and_finish import (
    prepared_sources,
    write_final_figures,
    write_finish,
    write_rate_jump,
    write_start,
)
from trainer.runs.takedown import later_retirements, take_out, with_replacements
from trainer.runs.watchdog.watcher import Watchdog
from trainer.tracking.journal import Journal, JournalWriter, SilentJournal
from trainer.tracking.record import JournalLine
from trainer.tracking.tracker import RunInfo
from trainer.tracking.trackers import following
from trainer.training import checkpoint
from trainer.training.facts import note_segments
from trainer.training.rate_jump import RateJump, jump_at
from trainer.training.run import Outcome, Run, RunState
from trainer.training.saver import BYTES_PER_PARAMETER

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.engine import TrainingEngine

View = Callable[[JournalLine], None]


class Session:
    """A recipe's run in its folder, from the prepared data to the end. Every rank calls ``begin`` once its engine is
    set up, and ``finish`` after the last step; what they open is closed with ``stack``.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: "PreparedData",
        folder: Path,
        replay: Path | None,
        *,
        signals: Signals,
        watchdog: Watchdog,
        stack: ExitStack,
    ) -> None:
        self._recipe, self._data, self._folder, self._replay = recipe, data, folder, replay
        self._signals, self._watchdog, self._stack = signals, watchdog, stack
        self._waiting = stack.enter_context(ExitStack())
        self._started_s = time.monotonic()

    def wait_for_the_ranks(self) -> None:
        """From here until ``begin`` the ranks come together: a signal ends this one wherever it waits."""
        self._waiting.enter_context(self._signals.leaving())

    def begin(self, engine: "TrainingEngine") -> tuple[Run, RunState]:
        """Restore the newest checkpoint, if there is one, and build the run."""
        recipe, folder = self._recipe, self._folder
        self._watch(engine)
        data = self._data = _that_of_the_main_rank(self._data, engine.broadcast)
        saved = newest_checkpoint(folder, engine, warn, keep=recipe.checkpoint.keep)
        _require_steps(saved, recipe.training.steps)
        replay = self._replay or _replayed_before(saved)
        segments = segment_facts(data, recipe.data, made=recipe.made_source)
        facts = read_replay(replay, recipe, segments) if replay else None
        resumed = resume(
            folder,
            engine,
            saved,
            control=recipe.control,
            mixture=recipe.mixture,
            micro_batch=recipe.training.micro_batch,
            segments=segments,
            replay=facts,
        )
        if replay is not None:
            if engine.is_main:
                adopt_pool(replay, folder)
            engine.broadcast(None)
        known = [*resumed.ledger.facts, *(fact for of_step in (facts or {}).values() for fact in of_step)]
        data = self._data = with_made_segments(
            data, folder, known, license_name=license_of_made(recipe), check=engine.is_main
        )
        taken: Sequence[Fact] = ()
        if facts is None:
            taken = take_out(data, folder, resumed.ledger, engine, seed=recipe.seed, step=resumed.state.step + 1)
        if taken:
            data = self._data = with_replacements(data, folder, resumed.ledger.facts, check=engine.is_main)
        jump = engine.broadcast(_rate_jump(folder, recipe, resumed.state) if engine.is_main else None)
        rate_change = jump.change if jump is not None else resumed.state.rate_change
        state = dataclasses.replace(resumed.state, replay=str(replay) if replay else None, rate_change=rate_change)
        if engine.is_main:
            keep_recipe(folder, recipe)
        if saved is not None:
            engine.restore(saved.folder)
        run = build_run(
            recipe_settings(recipe, replays=facts is not None, rate_change=rate_change),
            engine,
            recipe_data(
                recipe,
                data,
                engine,
                ledger=resumed.ledger,
                state=state,
                scheduled_facts=later_retirements(folder, resumed.ledger, scheduled_facts(segments, facts)),
                replays=facts is not None,
                open_rounds=opener(recipe, data, folder, engine, step=state.step) if facts is None else None,
            ),
            ledger=resumed.ledger,
            journal=self._open_journal(engine, state),
            folder=folder,
            stop_requested=self._signals.received,
        )
        self._stack.callback(run.data.stream.close)
        self._stack.enter_context(self._watchdog.reporting_errors())
        if engine.is_main:
            checkpoint.require_space(
                folder / "checkpoints", BYTES_PER_PARAMETER * engine.num_parameters, recipe.checkpoint.keep
            )
        write_start(run, saved, recipe_name=recipe.name, sources=prepared_sources(data), data=data)
        note_segments(run, taken)
        if jump is not None:
            write_rate_jump(run, state, jump, choice=recipe.training.rate_jump)
        begin_rounds(run, self._stack)
        self._started_s = time.monotonic()
        return run, dataclasses.replace(state, documents=run.data.evaluator.documents.tolist())

    def finish(self, run: Run, engine: Engine, state: RunState, outcome: Outcome) -> Outcome:
        """Write the final figures, and journal how the run ended."""
        if outcome.state == "finished":
            write_final_figures(run, engine, self._recipe, self._data, state)
        write_finish(run, state, outcome, seconds=time.monotonic() - self._started_s)
        return outcome

    def _watch(self, engine: "TrainingEngine") -> None:
        """From here on the watchdog knows all ranks."""
        self._stack.enter_context(closing(engine))
        self._stack.enter_context(_until_the_main_rank_is_done(engine))
        self._watchdog.watch(engine.world_size, self._recipe.training.timeout_s, engine.broadcast)
        self._waiting.close()

    def _open_journal(self, engine: Engine, state: RunState) -> JournalWriter:
        """The journal of the main rank, a silent one elsewhere."""
        if not engine.is_main:
            return SilentJournal()
        return self._stack.enter_context(_journal(self._folder, self._recipe, self._views(state)))

    def _views(self, state: RunState) -> list[View]:
        """The terminal's view of the journal; none where it cannot be opened."""
        try:
            from trainer.tracking.terminal import TerminalProgress

            bar = TerminalProgress(self._recipe.training.steps, discarded_steps=state.step - state.position)
            bar.__enter__()
        except Exception as error:  # noqa: BLE001 -- a view must not fail a run
            warn(f"no progress is shown: {in_words(error)}")
            return []
        self._stack.callback(_closed, bar.close)
        return [bar.note]


def _that_of_the_main_rank(data: "PreparedData", broadcast: Callable[[Any], Any]) -> "PreparedData":
    """(all) The prepared data that the main rank found whole, or has prepared again: this rank may have opened the
    damaged one before.
    """
    from trainer.data.store import open_prepared

    seal = broadcast(data.seal)
    if data.seal != seal:
        data = open_prepared(data.folder)
    if data.seal != seal:
        raise UserError(
            "the ranks see different prepared data: they must be on a disk that all share", got=str(data.folder)
        )
    return data


def _require_steps(saved: checkpoint.Checkpoint | None, num_steps: int) -> None:
    """``UserError`` where the schedule has come further than the recipe lets it."""
    num_done = 0 if saved is None else saved_state(saved).position
    if num_done > num_steps:
        raise UserError(
            f"{num_done} steps of this run are done, more than training.steps",
            got=num_steps,
            remedy="Raise it, or start a shorter run in another --run folder",
        )


@contextmanager
def _until_the_main_rank_is_done(engine: Engine) -> Iterator[None]:
    """Keep every rank until the main rank has closed the journal and its trackers: a launcher that sees some exit waits
    only so long for the last.
    """
    yield
    engine.broadcast(None)


def _closed(close: Callable[[], None]) -> None:
    """Close a view of the run."""
    try:
        close()
    except Exception as error:  # noqa: BLE001 -- a view must not fail a run
        warn(f"the progress could not be closed: {in_words(error)}")


def _rate_jump(folder: Path, recipe: Recipe, state: RunState) -> RateJump | None:
    """(main) The jump of the learning rate against the recipe that the folder was bound to before this launch."""
    if not state.position or not (folder / "recipe.yaml").is_file():
        return None
    before = bound_recipe(folder).training
    return jump_at(before, recipe.training, change=state.rate_change, position=state.position)


@contextmanager
def _journal(folder: Path, recipe: Recipe, shown: Sequence[View]) -> Iterator[JournalWriter]:
    """(main) The journal with its views: ``shown`` ones and trackers."""
    run = RunInfo(name=recipe.name, folder=folder, recipe=recipe.model_dump(mode="json"))
    with following(recipe.tracking, run, warn=warn) as views:
        journal = Journal(folder / "journal.jsonl", [*shown, *views], warn=warn)
        try:
            yield journal
        finally:
            journal.close()


def _replayed_before(saved: checkpoint.Checkpoint | None) -> Path | None:
    """The run that was being replayed when the checkpoint was saved."""
    replay = None if saved is None else saved.state.get("replay")
    return Path(replay) if isinstance(replay, str) else None
