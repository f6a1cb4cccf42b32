"""From counts to samples: which sample of its segment each slot of a batch holds."""

# G samples of the global batch, S segments that ever joined

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.base.records import IntArray
from trainer.mixture.advance import State, padded
from trainer.mixture.permutation import permute, round_keys
from trainer.mixture.timeline import Roster


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The global batch of a step, sorted by source: slot ``first_slot + i`` holds ``sample[i]`` of ``segment[i]`` of
    ``source[i]``. All [G].
    """

    step: int
    first_slot: int
    source: IntArray
    segment: IntArray
    epoch: IntArray
    sample: IntArray


def batches_of(seed: int, roster: Roster, states: Sequence[State], drawn: Sequence[IntArray]) -> list[Batch]:
    """The batches that ``states`` stand before, of ``drawn[i]`` samples [S] each. They share the calls to numpy, which
    is what small batches cost.
    """
    runs = _runs(roster, states, drawn)
    index, epoch, first_place, length = (np.array(column, dtype=np.int64) for column in zip(*runs, strict=True))
    run_of_slot = np.repeat(np.arange(len(runs)), length)
    within = np.arange(len(run_of_slot)) - np.repeat(np.cumsum(length) - length, length)
    drawn_from = [roster.segments[run[0]] for run in runs]
    keys = np.stack(
        [round_keys(seed, s.source, s.segment, run[1]) for s, run in zip(drawn_from, runs, strict=True)], axis=1
    )
    columns = {
        "source": roster.source_of[index][run_of_slot],
        "segment": roster.numbers[index][run_of_slot],
        "epoch": epoch[run_of_slot],
        "sample": permute(first_place[run_of_slot] + within, roster.sizes[index][run_of_slot], keys[:, run_of_slot]),
    }
    ends = np.cumsum([int(counts.sum()) for counts in drawn]).tolist()
    return [
        Batch(step=state.step, first_slot=state.slot, **{name: values[start:end] for name, values in columns.items()})
        for state, start, end in zip(states, [0, *ends], ends, strict=False)
    ]


def _runs(roster: Roster, states: Sequence[State], drawn: Sequence[IntArray]) -> list[tuple[int, int, int, int]]:
    """Runs of neighboring places of one epoch of one segment: (segment index, epoch, first place, length), sorted by
    source in each batch.
    """
    runs: list[tuple[int, int, int, int]] = []
    source_of = roster.source_of.tolist()
    for state, counts in zip(states, drawn, strict=True):
        cursors = padded(state, roster).cursors
        for index in sorted(np.flatnonzero(counts).tolist(), key=source_of.__getitem__):
            size, cursor, samples_left = int(roster.sizes[index]), int(cursors[index]), int(counts[index])
            while samples_left:
                epoch, place = divmod(cursor, size)
                length = min(samples_left, size - place)
                runs.append((index, epoch, place, length))
                cursor, samples_left = cursor + length, samples_left - length
    return runs
