"""The plan: the batches of a run as a function of (seed, ledger, step).

The ledger says what is in force (``timeline``), a state says how much has been drawn and what is behind (``advance``),
and nothing else is looked at. Which sample of a segment comes next is a keyed permutation (``draw``).
"""

from bisect import bisect_right
from operator import attrgetter

from trainer.base.records import IntArray, Kind
from trainer.mixture.advance import MissingSamplesError, State, advance, initial_state, snapshot_of, state_of
from trainer.mixture.draw import Batch, batches_of
from trainer.mixture.ledger import Ledger, Segment, Snapshot
from trainer.mixture.timeline import Terms, Timeline

SNAPSHOT_EVERY_STEPS = 1_000


class Plan:
    """Draws any batch of a run, in any order. Reads the ledger again when it has grown."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.seed = seed
        self.timeline = Timeline(ledger)

    @property
    def ledger(self) -> Ledger:
        """The facts that govern the run."""
        return self.timeline.ledger

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources that the ledger names, in the order in which they joined."""
        return self.timeline.roster.sources

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kind of each source."""
        return self.timeline.roster.kinds

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments that the ledger names, in the order in which they joined."""
        return self.timeline.roster.segments

    def terms(self, step: int) -> Terms:
        """What governs batch ``step``."""
        return self.timeline.terms(step)

    def global_batch(self, step: int) -> int:
        """Samples of the global batch of ``step``."""
        return self.terms(step).global_batch

    def shares(self, step: int) -> dict[str, int]:
        """Shares in force for batch ``step``, millionths by source."""
        terms = self.terms(step)
        return dict(zip(terms.roster.sources, terms.shares.tolist(), strict=True))

    def start(self) -> State:
        """The state before the first batch."""
        return initial_state(self.timeline.roster)

    def state(self, step: int) -> State:
        """The state before batch ``step``: the last snapshot, and at most SNAPSHOT_EVERY_STEPS batches counted (not
        drawn) from there.
        """
        snapshots = self.timeline.snapshots
        index = bisect_right(snapshots, step, key=attrgetter("step")) - 1
        state = state_of(snapshots[index], self.timeline.roster) if index >= 0 else self.start()
        while state.step < step:
            state = self.counted(state)[0]
        return state

    def counted(self, state: State) -> tuple[State, IntArray]:
        """The state after the batch that ``state`` stands before, and the samples it draws from each segment [S]."""
        return advance(state, self.terms(state.step))

    def batch(self, step: int) -> Batch:
        """The global batch of ``step``; any step, in any order."""
        return self.draw(self.state(step))[0]

    def draw(self, state: State) -> tuple[Batch, State]:
        """The batch that ``state`` stands before, and the state after it."""
        return self.draw_ahead(state, 1)[0]

    def draw_ahead(self, state: State, steps: int) -> list[tuple[Batch, State]]:
        """The next ``steps`` batches, each with the state after it, as ``draw`` gives them one by one; fewer, but at
        least one, where a later one lacks samples.
        """
        states, drawn = [state], list[IntArray]()
        while len(drawn) < steps:
            try:
                state, counts = self.counted(states[-1])
            except MissingSamplesError:
                if not drawn:
                    raise
                break
            states.append(state)
            drawn.append(counts)
        batches = batches_of(self.seed, self.timeline.roster, states[:-1], drawn)
        return list(zip(batches, states[1:], strict=True))

    def snapshot(self, state: State) -> Snapshot:
        """The state as a ledger fact."""
        return snapshot_of(state, self.timeline.roster)
