"""The rounds of a run: begun at their steps, made beside the training, joined from an exact step on all ranks.

The main rank alone looks at processes and files; what it finds it broadcasts as facts, as it does with decisions, so
that the batch of a step stays a function of seed, ledger and step. Nothing that goes wrong in a round ends the run: it
is told, and the round is tried again at its next time.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.base.records import Decision
from trainer.control.state import ControlState
from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Segment
from trainer.runs.rounds.files import RoundFiles, RoundState
from trainer.runs.rounds.joining import begun_round, joining_facts
from trainer.runs.rounds.made_data import opened_everywhere
from trainer.runs.rounds.own_texts import OwnTexts, polled
from trainer.runs.rounds.process import RoundProcess
from trainer.runs.rounds.quarantine import review
from trainer.runs.rounds.telling import RoundTeller
from trainer.runs.rounds.withdrawn import Withdrawn, withdrawal_facts, withdrawn
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.pool import Pool
from trainer.training import facts
from trainer.training.run import Run, RunState

if TYPE_CHECKING:
    from trainer.data.store import PreparedData, PreparedSegment
    from trainer.engines.engine import TrainingEngine

AddSegment = Callable[[str, int, "PreparedSegment"], None]


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What the main rank tells the others of a segment that joins."""

    generation: int
    facts: Sequence[Fact]


class RunRounds:
    """The rounds of one launch of a run, on each rank. ``states`` are the rounds that had begun before, as the main
    rank found them; ``add_segment`` makes a segment known to whatever draws or measures it.
    """

    def __init__(
        self,
        config: SynthesisConfig,
        engine: "TrainingEngine",
        data: "PreparedData",
        folder: Path,
        *,
        states: Sequence[RoundState],
        step: int,
        add_segment: AddSegment,
    ) -> None:
        self._config, self._engine, self._data = config, engine, data
        self._files, self._add_segment = RoundFiles(folder), add_segment
        self._recorded = {state.joins_from - 1 for state in states if state.joins_from is not None}
        self._states = {state.generation: state for state in states}
        self._active = self._unfinished(step)
        self._process: RoundProcess | None = None
        self._own = OwnTexts(config, engine, data, self._files)
        self._tell = RoundTeller(self._source)
        self._paused_from_s: float | None = None

    @property
    def _source(self) -> str:
        assert self._config.source is not None
        return self._config.source

    @property
    def _is_own(self) -> bool:
        return isinstance(self._config.generator, RunConfig)

    @property
    def _waits(self) -> bool:
        return self._is_own if self._config.wait is None else self._config.wait

    def _unfinished(self, step: int) -> RoundState | None:
        """The newest round that had begun by ``step`` and has neither joined nor settled by then."""
        begun = [state for state in self._states.values() if state.step <= step]
        newest = max(begun, key=lambda state: state.generation, default=None)
        if newest is None or newest.settled is not None:
            return None
        return newest if newest.joins_from is None or newest.joins_from > step + 1 else None

    def resume(self, run: Run) -> None:
        """(all) Go on with the round that a killed launch left, and plan the next."""
        active = self._active
        if active is not None:
            self._together(run, active.generation, lambda: self._start(active))
        self._plan_ahead(after=run.data.stream.state.step - 1)

    def close(self) -> None:
        """End what still works beside the training; it resumes with the run."""
        if self._process is not None:
            self._process.end()
        self._own.close()

    def reviewed(
        self, run: Run, state: RunState, before: ControlState, after: ControlState, decision: Decision
    ) -> tuple[ControlState, Decision, Sequence[Fact]]:
        """(main) Quarantine of the newest generations instead of a cut of the source that the run makes. The cut stands
        where the run's own files cannot be read.
        """
        if decision.action == "rollback" and self._is_own and self._active is not None:
            self._drop_active("the model that wrote it was rolled back")
        try:
            quarantine, generations = review(
                run.data.plan, self._files, self._states, self._source, before, after, decision, state.last_healthy_step
            )
        except (OSError, UserError) as error:
            run.io.warn(f"the guard's decision on {self._source} is about all its generations: {in_words(error)}")
            return after, decision, ()
        if quarantine is None:
            return after, decision, ()
        for item in generations:
            self._quarantine(run, item, step=state.step)
        return quarantine.control, quarantine.decision, quarantine.facts(self._source)

    def _drop_active(self, reason: str) -> None:
        """(main) The round that is being made brings nothing."""
        assert self._active is not None
        if self._process is not None:
            self._process.end()
        self._settle(replace(self._active, settled=reason))
        self._process = self._active = None

    def _quarantine(self, run: Run, item: Withdrawn, *, step: int) -> None:
        """(main) Write it into the round's state, the pool's manifest and the journal."""
        try:
            self._settle(replace(self._states[item.generation], quarantined=item.reason))
            Pool(self._files.pool).quarantine(item.generation, by="guard", reason=item.reason)
        except (OSError, UserError) as error:
            run.io.warn(f"generation {item.generation} is drawn no more; its pool does not say so: {in_words(error)}")
        self._tell.quarantined(run, item, step=step)

    # What is due

    def is_due(self, step: int) -> bool:
        """Whether a round is to begin after ``step``, or one joins there that a killed launch let join there."""
        return self._config.is_due(step) or step in self._recorded

    def after_step(self, run: Run, state: RunState, *, last: bool) -> None:
        """(all) Let join what is ready, and begin what is due."""
        self._withdraw(run, state.step)
        self._take(run, state)
        if last or self._is_cut(state):
            return
        self._paused_from_s = time.monotonic() if self._waits else None
        if (self._begin(run, state.step) or self._config.is_due(state.step)) and self._waits:
            self._wait(run)
            self._take(run, state)
        self._paused_from_s = None

    def _withdraw(self, run: Run, step: int) -> None:
        """(all) Let retire what a user took out of the pool."""
        plan, name = run.data.plan, self._source
        taken: list[Withdrawn] = self._together(run, None, lambda: withdrawn(plan, self._files, name, step)) or []
        if taken:
            facts.take(run, withdrawal_facts(plan, taken, name, step))
        for item in taken if self._engine.is_main else ():
            self._tell.quarantined(run, item, step=step)

    def _is_cut(self, state: RunState) -> bool:
        """Whether the guard has cut the source: nothing is made for it any more."""
        return self._source in state.control.get("cut", ())

    def _is_due_now(self, run: Run, step: int) -> bool:
        """(main) Whether a round begins now: by step, or because the pool is empty or was drawn more often than the
        recipe lets it.
        """
        if self._config.is_due(step):
            return True
        limit, plan = self._config.refill_epochs, run.data.plan
        if limit is None or step < (self._config.first or 0):
            return False
        if self._active is not None:  # once more, where it failed
            return self._process is None and self._files.made(self._active.generation) is None
        if not lookups.live_segments(plan, step + 1)[self._source]:
            return True
        return lookups.epochs(plan, run.data.stream.state)[self._source] > limit

    # Beginning

    def _begin(self, run: Run, step: int) -> bool:
        """(all) Begin a round, or one that failed once more; whether there is one now that was not there before."""
        state: RoundState | None = self._together(run, None, lambda: self._chosen(run, step))
        if state is None:
            return False
        self._tell.began()
        if self._engine.is_main:
            how = "" if state.step == step else f", begun after step {state.step}, once more"
            self._tell.line(run, state.generation, "begun", f"after step {step}{how}", step=step)
        if self._is_own and not self._texts(run, state, step):
            return False
        return self._together(run, state.generation, lambda: self._start(state)) is not None

    def _chosen(self, run: Run, step: int) -> RoundState | None:
        """(main) The round that begins now, or begins once more; None where none is due, or one is being made."""
        if not self._is_due_now(run, step):
            return None
        if self._active is not None:
            is_made = self._files.made(self._active.generation) is not None
            return None if is_made or self._process is not None else self._active
        generation = self._next_generation(step)
        known = self._states.get(generation)
        if known is not None and known.step == step:
            return known  # of a killed launch, which came this far
        if known is not None:
            Pool(self._files.pool).responses_file(generation, 0, 1).unlink(missing_ok=True)
        return begun_round(run.data.plan, run.data.stream.state, self._config, self._data, generation, step)

    def _start(self, state: RoundState) -> bool:
        """(main) Start the process that makes the round, unless a killed launch had made it."""
        self._settle(state)
        self._active = state
        if self._files.made(state.generation) is None:
            self._process = RoundProcess(self._files, self._data.folder, "make", state.generation, state.step)
        return True

    # The run's own model

    def _texts(self, run: Run, state: RoundState, step: int) -> bool:
        """(all) Have the ranks write the texts of a round; whether all are there."""
        if self._together(run, state.generation, lambda: self._is_published(state.generation)):
            return True
        began_s = time.monotonic()
        try:
            num = self._own.write(state)
        except (OSError, UserError) as error:
            self._failed(run, state.generation, in_words(error))
            return False
        if self._engine.is_main:
            seconds = time.monotonic() - began_s
            reason = f"{num} texts in {seconds:.1f} s"
            self._tell.line(run, state.generation, "written", reason, step=step, paused_seconds=seconds)
        return True

    def _is_published(self, generation: int) -> bool:
        return any(record.generation == generation for record in Pool(self._files.pool).records())

    def _plan_ahead(self, *, after: int) -> None:
        """(main) Have the next requests to the run's own model planned while training goes on."""
        if self._engine.is_main and self._is_own and self._active is None:
            step = self._config.next_due(after)
            if step is not None:
                with suppress(OSError):  # then it is planned, or told, when it is due
                    self._own.plan(RoundState(generation=self._next_generation(step), step=step))

    def _next_generation(self, step: int) -> int:
        """(main) The number of the round that begins after ``step``."""
        return max((state.generation for state in self._states.values() if state.step < step), default=0) + 1

    # Waiting and joining

    def _wait(self, run: Run) -> None:
        """(all) Until the round is over, well or not, or the run is asked to stop."""

        def poll() -> str | None:
            is_over = self._process is None or not self._process.is_running() or run.io.stop_requested()
            return "over" if is_over else None

        polled(self._engine, poll)

    def _take(self, run: Run, state: RunState) -> None:
        """(all) Let the segment of a round that is over be drawn from the next step on."""
        step = state.step
        joining: Joining | None = self._together(run, None, lambda: self._over(run, state))
        if joining is None:
            return
        segment = next(fact for fact in joining.facts if isinstance(fact, Segment))
        prepared, problem = opened_everywhere(
            self._engine, self._files.segment(joining.generation), self._data, segment.fingerprint
        )
        if prepared is None:
            self._failed(run, joining.generation, problem)
            self._together(run, joining.generation, self._unjoined)
            return
        self._add_segment(segment.source, segment.segment, prepared)
        facts.take(run, joining.facts)
        if self._engine.is_main:
            reason = f"drawn from step {step + 1} on, as segment {segment.segment} of {segment.source}"
            self._tell.line(
                run,
                joining.generation,
                "joined",
                reason,
                step=step,
                segment=segment.segment,
                num_samples=segment.num_samples,
                paused_seconds=0.0 if self._paused_from_s is None else time.monotonic() - self._paused_from_s,
            )
        self._active = None
        self._plan_ahead(after=step)

    def _unjoined(self) -> None:
        """(main) The round did not join at the step that was written: a resume must not take it for joined."""
        assert self._active is not None
        self._settle(self._active)

    def _over(self, run: Run, state: RunState) -> Joining | None:
        """(main) What joins now. Tells what a round has come to that is over and brings nothing.

        While the guard has frozen the shares nothing joins.
        """
        active, step = self._active, state.step
        if active is None or (self._process is not None and self._process.is_running()):
            return None
        if active.joins_from is not None and active.joins_from > step + 1:
            return None  # a killed launch let it join there
        if state.control.get("guard", {}).get("freeze_left"):
            return None
        problem = None
        if self._process is not None:
            problem, self._process = self._process.problem(), None
        made = self._files.made(active.generation)
        if made is None:
            if problem is not None:
                self._tell.failed(run, active.generation, problem, step=step)
                if self._is_own:  # planned anew: recipe, or what was taken down, may have changed since
                    self._files.asked(active.generation, active.step).unlink(missing_ok=True)
            return None
        self._tell.ended(run, made, step)
        settled = made.record.get("quarantined") or made.reason or "no row passed"
        settled = settled if made.fingerprint is None else "the guard has cut the source"
        if made.fingerprint is None or self._is_cut(state):
            self._settle(replace(active, settled=settled))
            self._active = None
            self._plan_ahead(after=step)
            return None
        self._settle(replace(active, joins_from=step + 1))  # before it happens: a resume lets it join at that step
        return Joining(generation=active.generation, facts=joining_facts(run.data.plan, self._config, made, step))

    # What the main rank alone does

    def _together(self, run: Run, generation: int | None, work: Callable[[], Any]) -> Any:
        """(all) What comes of the main rank's work; a failure of files or processes there is one of the round."""
        result: tuple[Any, str | None] = (None, None)
        if self._engine.is_main:
            try:
                result = work(), None
            except (OSError, UserError) as error:
                result = None, in_words(error)
        value, problem = self._engine.broadcast(result)
        if problem is not None:
            self._failed(run, generation or 0, problem)
        return value

    def _failed(self, run: Run, generation: int, problem: str) -> None:
        """(all) A round failed; it is tried again at its next time."""
        if self._engine.is_main:
            self._tell.failed(run, generation, problem, step=run.data.stream.state.step - 1)

    def _settle(self, state: RoundState) -> None:
        self._files.write_state(state)
        self._states[state.generation] = state
