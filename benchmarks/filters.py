"""Documents a processor second of a chain of filters, against datatrove's own pipeline with the same decisions.

Both run on one core, on the same introductions of Wikipedia and machine-written texts, in many short turns. That the
decisions are the same, document by document with the reason, is checked on all documents before.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.figures import Result, alternated, figure, ratios
from experiments.wiki_smollm2 import introductions, machine_texts
from trainer.data.filters import FilterChain
from trainer.data.filters.config import DatatroveConfig

Filters = dict[str, dict[str, Any]]  # arguments by name
Verdicts = dict[int, str | None]  # reason to drop each document, None where it is kept

CHAIN: Filters = {
    "GopherRepetitionFilter": {},
    "GopherQualityFilter": {"min_doc_words": 30},
    "FineWebQualityFilter": {},
}
ALONE = "GopherQualityFilter"
NUM_DOCUMENTS = 600
EACH = 5  # every fifth document is in the turns that are timed


def run(rounds: int = 45) -> Result:
    """The chain of three filters, and one of them alone."""
    real = list(introductions().values())[: NUM_DOCUMENTS // 2]
    texts = [*real, *(row.text for row in machine_texts())][:NUM_DOCUMENTS]
    figures, details = [], {}
    for name, filters in (("three filters", CHAIN), (f"{ALONE} alone", {ALONE: CHAIN[ALONE]})):
        verdicts = _ours(texts, filters)  # also loads what both need, before anything is timed
        equal = verdicts == _theirs(texts, filters)
        rates = alternated(
            {
                "trainer": partial(_rate, _ours, texts[::EACH], filters),
                "datatrove": partial(_rate, _theirs, texts[::EACH], filters),
            },
            rounds,
        )
        quotients = ratios(rates["trainer"], rates["datatrove"])
        figures += [
            figure(f"documents per processor second of {name}, ours to datatrove's", quotients, "ratio", at_least=1),
            figure(f"equal decisions of {name}", [float(equal)], "ratio", at_least=1),
        ]
        dropped = sum(reason is not None for reason in verdicts.values())
        details[name] = {"documents_per_processor_s": rates, "dropped": dropped, "documents": len(texts)}
    return Result(title="Filters on one core", figures=figures, details=details)


def _rate(decide: Callable[[Sequence[str], Filters], Verdicts], texts: Sequence[str], filters: Filters) -> float:
    began_s = time.process_time()  # of this process alone: other work on the machine is not what is measured
    decide(texts, filters)
    return len(texts) / (time.process_time() - began_s)


def _ours(texts: Sequence[str], filters: Filters) -> Verdicts:
    chain = FilterChain(DatatroveConfig(name=name, **arguments) for name, arguments in filters.items())
    verdicts: Verdicts = {}
    for place, text in enumerate(texts):
        dropped = chain.dropped_by(text, {})
        verdicts[place] = None if dropped is None else dropped[1]
    return verdicts


def _theirs(texts: Sequence[str], filters: Filters) -> Verdicts:
    from datatrove.data import Document
    from datatrove.pipeline import filters as datatrove
    from datatrove.pipeline.base import PipelineStep

    verdicts: Verdicts = {}

    class Kept(PipelineStep):  # the place of a disk writer: what each filter dropped, with its reason
        name, type = "kept", "writer"

        def __enter__(self) -> "Kept":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, document: Document, rank: int = 0) -> None:
            verdicts[int(document.id)] = document.metadata["filter_reason"]

        def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Any:
            return data

    stream: Any = (Document(text=text, id=str(place)) for place, text in enumerate(texts))
    for name, arguments in filters.items():
        stream = getattr(datatrove, name)(**arguments, exclusion_writer=Kept()).run(stream)
    verdicts |= dict.fromkeys(int(document.id) for document in stream)
    return verdicts
