"""In which steps of a run rows of a pool were used."""

from collections.abc import Collection

from trainer.data.store import PreparedData
from trainer.tools.audit import uses_of
from trainer.tools.run_view import RunView

_FEW = 64  # samples: searched one by one; more of them: in every batch
Sample = tuple[str, int, int]  # source, segment, number


def steps_of(run: RunView, ids: Collection[str]) -> dict[str, list[int]]:
    """The steps that used each of these documents, by its id; those that were never drawn are not in it. None of them
    is known where the prepared data are gone.
    """
    data = run.prepared()
    samples = {} if data is None else samples_of(data, frozenset(ids))
    steps: dict[str, set[int]] = {}
    for sample, step in _uses(run, samples):
        for name in samples[sample]:
            steps.setdefault(name, set()).add(step)
    return {name: sorted(used) for name, used in sorted(steps.items())}


def samples_of(data: PreparedData, ids: Collection[str]) -> dict[Sample, list[str]]:
    """The samples that hold a token of these documents, with the ids of those in each."""
    samples: dict[Sample, list[str]] = {}
    for source, facts in data.sources.items():
        for number, segment in enumerate(facts.segments):
            for document, name in enumerate(segment.document_ids()):
                if name in ids:
                    for sample in segment.samples_of(document):
                        samples.setdefault((source, number, sample), []).append(name)
    return samples


def _uses(run: RunView, samples: Collection[Sample]) -> list[tuple[Sample, int]]:
    planned = {(segment.source, segment.segment) for segment in run.plan.segments}
    wanted = {sample for sample in samples if sample[:2] in planned}
    if len(wanted) <= _FEW:
        return [
            (sample, step)
            for sample in sorted(wanted)
            for step, _ in uses_of(run, sample[0], sample[2], segment=sample[1])
            if step <= run.last_step
        ]
    return [
        (sample, step)
        for step in range(1, run.last_step + 1)
        for sample in {(slot.source, slot.segment, slot.sample) for slot in run.batch(step)} & wanted
    ]
