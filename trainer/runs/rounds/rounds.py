"""The rounds of a run: begun at their steps, made beside the training, joined from an exact step on all ranks.

The main rank alone looks at processes and files; what it finds it broadcasts as facts, as it does with decisions, so
that the batch of a step stays a function of seed, ledger and step. Nothing that goes wrong in a round ends the run: it
is told, and the round is tried again at its next time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.base.failures import in_words
from trainer.base.heartbeat import beat
from trainer.mixture import lookups
from trainer.mixture.ledger import Fact, Retire, Segment, Shares
from trainer.runs.rounds.files import Made, RoundFiles, RoundState
from trainer.runs.rounds.own_model import write_own_texts
from trainer.runs.rounds.process import RoundProcess
from trainer.runs.rounds.shares import with_made_source
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.pool import Pool
from trainer.tracking.round_line import RoundLine
from trainer.training import facts
from trainer.training.run import Run, RunState

if TYPE_CHECKING:
    from trainer.data.store import PreparedData, PreparedSegment
    from trainer.engines.engine import TrainingEngine

POLL_S = 0.2

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
        self._planning: RoundProcess | None = None
        self._began_s = time.monotonic()
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
        self._plan_ahead(run, after=run.data.stream.state.step - 1)

    def close(self) -> None:
        """End what still works beside the training; it resumes with the run."""
        for process in (self._process, self._planning):
            if process is not None:
                process.end()

    # What is due

    def is_due(self, step: int) -> bool:
        """Whether a round is to begin after ``step``, or one joins there that a killed launch let join there."""
        return self._config.is_due(step) or step in self._recorded

    def after_step(self, run: Run, state: RunState, *, last: bool) -> None:
        """(all) Let join what is ready, and begin what is due."""
        self._take(run, state)
        if last or self._is_cut(state):
            return
        self._paused_from_s = time.monotonic() if self._waits else None
        if self._begin(run, state.step) and self._waits:
            self._wait(run)
            self._take(run, state)
        self._paused_from_s = None

    def _is_cut(self, state: RunState) -> bool:
        """Whether the guard has cut the source: nothing is made for it any more."""
        return self._source in state.control.get("cut", ())

    def _is_due_now(self, run: Run, step: int) -> bool:
        """(main) Whether a round begins now: by step, or because the pool was drawn more often than it may be."""
        if self._config.is_due(step):
            return True
        limit = self._config.refill_epochs
        if limit is None or self._active is not None:
            return False
        return lookups.epochs(run.data.plan, run.data.stream.state).get(self._source, 0.0) > limit

    # Beginning

    def _begin(self, run: Run, step: int) -> bool:
        """(all) Begin a round, or one that failed once more; whether there is one now that was not there before."""
        state: RoundState | None = self._together(run, None, lambda: self._chosen(run, step))
        if state is None:
            return False
        self._began_s = time.monotonic()
        if self._engine.is_main:
            how = "" if state.step == step else f", begun after step {state.step}, once more"
            self._write(run, state.generation, "begun", f"after step {step}{how}", step=step)
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
        generation = max((state.generation for state in self._states.values() if state.step < step), default=0) + 1
        known = self._states.get(generation)
        if known is not None and known.step == step:
            return known  # of a killed launch, which came this far
        if known is not None:
            Pool(self._files.pool).responses_file(generation, 0, 1).unlink(missing_ok=True)
        return RoundState(generation=generation, step=step)

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
        is_made = self._engine.broadcast(self._engine.is_main and self._is_published(state.generation))
        if is_made:
            return True
        began_s = time.monotonic()
        asked = self._files.asked(state.generation, state.step)
        if not self._planned(run, state):
            return False
        config = self._config.generator
        assert isinstance(config, RunConfig)
        try:
            num = write_own_texts(self._engine, self._data, config, Pool(self._files.pool), state.generation, asked)
        except (OSError, UserError) as error:
            self._failed(run, state.generation, in_words(error))
            return False
        if self._engine.is_main:
            seconds = time.monotonic() - began_s
            self._write(
                run, state.generation, "written", f"{num} texts in {seconds:.1f} s", step=step, paused_seconds=seconds
            )
        return True

    def _is_published(self, generation: int) -> bool:
        return any(record.generation == generation for record in Pool(self._files.pool).records())

    def _plan_ahead(self, run: Run, *, after: int) -> None:
        """(main) Have the next requests to the run's own model planned while training goes on."""
        every = self._config.every
        if not self._engine.is_main or not self._is_own or every is None or self._active is not None:
            return
        until = after + every + (self._config.first or 0) + 2
        step = next(step for step in range(after + 1, until) if self._config.is_due(step))
        begun = [state.generation for state in self._states.values() if state.step < step]
        self._plan(max(begun, default=0) + 1, step)

    def _plan(self, generation: int, step: int) -> None:
        if not self._files.asked(generation, step).is_file():
            self._planning = RoundProcess(self._files, self._data.folder, "plan", generation, step)

    def _planned(self, run: Run, state: RoundState) -> bool:
        """(all) Wait for the requests of a round; whether they are there."""
        asked = self._files.asked(state.generation, state.step)

        def poll() -> str | None:
            if asked.is_file():
                return "there"
            if self._planning is None:
                self._plan(state.generation, state.step)
            assert self._planning is not None
            if self._planning.is_running():
                return None
            problem, self._planning = self._planning.problem(), None
            return problem or "there"

        answer = self._polled(poll)
        if answer != "there":
            self._failed(run, state.generation, f"its requests could not be planned: {answer}")
            return False
        if self._engine.is_main and self._planning is not None:
            self._planning.problem()  # it has written its file and ends
            self._planning = None
        return True

    # Waiting and joining

    def _polled(self, poll: Callable[[], str | None]) -> str:
        """(all) What ``poll`` answers on the main rank in the end; all ranks beat meanwhile."""
        while True:
            beat("waiting for a round")
            answer: str | None = self._engine.broadcast(poll() if self._engine.is_main else None)
            if answer is not None:
                return answer
            time.sleep(POLL_S)

    def _wait(self, run: Run) -> None:
        """(all) Until the round is over, well or not, or the run is asked to stop."""

        def poll() -> str | None:
            is_over = self._process is None or not self._process.is_running() or run.io.stop_requested()
            return "over" if is_over else None

        self._polled(poll)

    def _take(self, run: Run, state: RunState) -> None:
        """(all) Let the segment of a round that is over be drawn from the next step on."""
        step = state.step
        joining: Joining | None = self._together(run, None, lambda: self._over(run, state))
        if joining is None:
            return
        segment = next(fact for fact in joining.facts if isinstance(fact, Segment))
        problem = self._opened(segment, joining.generation)
        if problem is not None:
            self._failed(run, joining.generation, problem)
            return
        facts.take(run, joining.facts)
        if self._engine.is_main:
            reason = f"drawn from step {step + 1} on, as segment {segment.segment} of {segment.source}"
            self._write(
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
        self._plan_ahead(run, after=step)

    def _opened(self, fact: Segment, generation: int) -> str | None:
        """(all) Open the segment everywhere; what is wrong where one rank cannot."""
        from trainer.data.made_segment import open_made_segment

        segment, problem = None, None
        try:
            folder = self._files.segment(generation)
            segment = open_made_segment(folder, self._data, check=self._engine.is_main)
            if segment.fingerprint != fact.fingerprint:
                problem = f"rank {self._engine.rank} sees another segment in {folder}"
        except (UserError, OSError) as error:
            problem = in_words(error)
        problems = [told for told in self._engine.gather(problem) if told is not None]
        if problems or segment is None:
            return str(problems[0])
        self._add_segment(fact.source, fact.segment, segment)
        return None

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
                self._told_failed(run, active.generation, problem, step=step)
            return None
        self._write_ended(run, made, step)
        settled = made.record.get("quarantined") or "no row passed"
        settled = settled if made.fingerprint is None else "the guard has cut the source"
        if made.fingerprint is None or self._is_cut(state):
            self._settle(replace(active, settled=settled))
            self._active = None
            self._plan_ahead(run, after=step)
            return None
        self._settle(replace(active, joins_from=step + 1))  # before it happens: a resume lets it join at that step
        return Joining(generation=active.generation, facts=self._joining_facts(run, made, step))

    def _joining_facts(self, run: Run, made: Made, step: int) -> list[Fact]:
        plan, name = run.data.plan, self._source
        number = sum(segment.source == name for segment in plan.segments)
        live = lookups.live_segments(plan, step + 1)[name]
        assert made.fingerprint is not None
        taken: list[Fact] = [
            Segment(
                step=step + 1,
                source=name,
                kind="synthetic",
                segment=number,
                num_samples=made.num_samples,
                fingerprint=made.fingerprint,
            )
        ]
        if self._config.keep_generations is not None:
            retired = live[: max(0, len(live) + 1 - self._config.keep_generations)]
            taken += [Retire(step=step + 1, source=name, segment=old) for old in retired]
        shares = plan.shares(step + 1)
        if not shares[name]:
            kinds = dict(zip(plan.sources, plan.kinds, strict=True))
            given = with_made_source(shares, kinds, name, share=self._config.share, real_floor=self._config.real_floor)
            if given != shares:
                reason = f"generation {made.generation} joins; real data keep {self._config.real_floor:g} at least"
                taken.append(Shares(step=step + 1, shares=given, reason=reason))
        return taken

    # Telling

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
            self._told_failed(run, generation, problem, step=run.data.stream.state.step - 1)

    def _told_failed(self, run: Run, generation: int, problem: str, *, step: int) -> None:
        run.io.warn(f"generation {generation} failed: {problem}. Training goes on; it is tried again at its next time")
        self._write(run, generation, "failed", problem, step=step)

    def _settle(self, state: RoundState) -> None:
        self._files.write_state(state)
        self._states[state.generation] = state

    def _write_ended(self, run: Run, made: Made, step: int) -> None:
        record = made.record
        reason = f"{record['accepted']} of {record['requests']} rows passed, {made.num_samples} samples"
        self._write(run, made.generation, "ended", made.reason or reason, step=step, record=record)

    def _write(self, run: Run, generation: int, state: str, reason: str, *, step: int, **more: Any) -> None:
        """(main) A line of the journal."""
        seconds = time.monotonic() - self._began_s
        run.io.journal.write(
            RoundLine(
                step=step,
                generation=generation,
                state=state,
                source=self._source,
                reason=reason,
                seconds=seconds,
                **more,
            )
        )
