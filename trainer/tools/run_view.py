"""A run, read back from its folder: recipe, decisions, history, and what each batch held."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.base.errors import UserError
from trainer.base.records import FloatArray
from trainer.mixture.draw import Batch
from trainer.mixture.ledger import Ledger, Topology, facts_of
from trainer.mixture.partition import RankPartition
from trainer.mixture.plan import Plan
from trainer.recipe import Recipe, load_recipe
from trainer.runs.folder import read_outcome, require_run
from trainer.runs.rounds.made_data import license_of_made, with_made_segments
from trainer.tracking.journal import read_numbered
from trainer.tracking.schema import DecisionLine, StartLine, StepLine, read_journal
from trainer.training.run import Outcome

if TYPE_CHECKING:
    from trainer.data.store import PreparedData


@dataclass(frozen=True)
class Slot:
    """One sample of a batch: its slot, and which sample it is."""

    slot: int
    source: str
    segment: int
    epoch: int
    sample: int
    rank: int


@dataclass(frozen=True)
class RunView:
    """A run as its folder records it, whether it ended, crashed or is still training.

    ``plan`` is the mixture with everything decided so far, ``batch_hash`` by step as journaled, ``store`` the folder
    of the prepared data.
    """

    folder: Path
    recipe: Recipe
    plan: Plan
    topologies: tuple[Topology, ...]
    last_step: int
    batch_hash: dict[int, int]
    store: Path | None

    def prepared(self) -> "PreparedData | None":
        """The prepared data; None where they are gone. ``DamagedStoreError`` where they are not what was written."""
        return self._prepared

    @cached_property
    def _prepared(self) -> "PreparedData | None":
        """Hashed once, however many questions follow."""
        from trainer.data.store import is_complete
        from trainer.data.whole import open_whole

        if self.store is None or not is_complete(self.store):
            return None
        facts, license_name = self.plan.ledger.facts, license_of_made(self.recipe)
        return with_made_segments(open_whole(self.store), self.folder, facts, license_name=license_name)

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended; None while it is training, or where it was killed."""
        saved = read_outcome(self.folder)
        if saved is None:
            return None
        return Outcome(state=saved["state"], step=saved["step"] or 0, reason=saved["reason"])

    def history(self) -> dict[str, FloatArray]:
        """Every metric of steps and evaluations by its name, [N] over the steps in ``step``; NaN where not measured.

        The names are those in W&B and in the journal reference: loss/train, loss/held_out, share/SOURCE/target, ...
        """
        from trainer.report.history import columns

        return columns(self.folder)

    def decisions(self) -> list[DecisionLine]:
        """Every decision of policy and guard, in order, with its evidence."""
        return [line for line in read_journal(self.folder / "journal.jsonl") if isinstance(line, DecisionLine)]

    def batch(self, step: int) -> list[Slot]:
        """The samples of a step's batch, in slot order. UserError where the run has no such step."""
        if not 1 <= step <= self.last_step:
            raise UserError(f"{self.folder} has steps 1 to {self.last_step}", got=step)
        batch = self.plan.batch(step)
        columns = (batch.source, batch.segment, batch.epoch, batch.sample, _ranks(self.topologies, batch))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            Slot(batch.first_slot + i, self.plan.sources[source], segment, epoch, sample, rank)
            for i, (source, segment, epoch, sample, rank) in enumerate(rows)
        ]


def open_run(folder: Path | str) -> RunView:
    """Reads a run folder; ``RunFolderError`` when it is not one."""
    folder = Path(folder)
    require_run(folder)
    recipe = load_recipe(folder / "recipe.yaml", [], on_this_machine=False).recipe
    facts = facts_of(read_numbered(folder / "ledger.jsonl"), folder / "ledger.jsonl")
    plan = Plan(recipe.seed, Ledger(facts))
    batch_hash, store = {}, None
    for line in read_journal(folder / "journal.jsonl"):
        if isinstance(line, StepLine):
            batch_hash[line.step] = int(line.batch_hash)
        elif isinstance(line, StartLine) and line.store is not None:
            store = Path(line.store)
    return RunView(
        folder=folder,
        recipe=recipe,
        plan=plan,
        topologies=tuple(fact for fact in facts if isinstance(fact, Topology)),
        last_step=max(batch_hash, default=0),
        batch_hash=batch_hash,
        store=store,
    )


def _ranks(topologies: tuple[Topology, ...], batch: Batch) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Which rank trained on each slot, under the topology in force."""
    topology = [fact for fact in topologies if fact.step <= batch.step][-1]
    ranks = np.zeros(len(batch.source), dtype=np.int64)
    for rank in range(topology.world_size):
        for positions in RankPartition(
            rank=rank, world_size=topology.world_size, micro_batch=topology.micro_batch
        ).positions(len(ranks)):
            ranks[positions] = rank
    return ranks
