"""Collects the held-out documents of both parts and makes sure that they share no document.

`validation` is read by policy and guard, `test` only by the final figures; one document in both would make the final
figures partly those that decided. Two rows with the same words are the same document, whatever their ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from trainer.base.errors import DataError
from trainer.data.account import RowAccount, RowTally
from trainer.data.config import HELD_OUT_SEGMENTS, ContaminationConfig, DataConfig, HeldOutDataset
from trainer.data.decontamination import HeldOutIndex
from trainer.data.documents import BATCH_DOCUMENTS, Document, DocumentReader
from trainer.data.sampling import EvenSample
from trainer.data.shingles import exact_hashes

SAMPLE_DOCUMENTS, SAMPLE_CHARACTERS = 1024, 4000


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out documents, and where the rows of held-out data sets of their own went, by segment name.

    ``sample`` is training text of the real sources: what held-out documents have in common with it is form.
    ``left_validation_for_test`` counts the documents that left `validation` because `test` has them too.
    """

    validation: list[Document]
    test: list[Document]
    sample: list[str]
    left_validation_for_test: int
    accounts: dict[str, RowAccount]


def collect_held_out(reader: DocumentReader, config: DataConfig) -> HeldOut:
    """The documents of `validation` and `test`, held in memory: held-out data is the small part.

    They are taken from the first segment of a source; what the rule would take from later ones is trained on neither,
    so that the part is the same whatever joins the run.

    A document of `validation` that also occurs in `test` (equal words) leaves `validation`; between two data sets of
    the user's own it is an error, because each was meant to be whole. Raises UserError for an empty part.
    """
    rule = config.held_out
    parts: dict[str, list[Document]] = {"validation": [], "test": []}
    accounts: dict[str, RowAccount] = {}
    sample: EvenSample[str] = EvenSample(SAMPLE_DOCUMENTS)
    if isinstance(rule, HeldOutDataset):
        for part, name, source in zip(parts, HELD_OUT_SEGMENTS, (rule.validation, rule.test), strict=True):
            tally = RowTally()
            parts[part] = list(islice(reader.training(name, tally=tally), source.max_documents))
            tally.used = len(parts[part])
            accounts[name] = tally.account(reader.files(name))
    else:
        for document in reader.documents(rule.source):
            if document.part in parts:
                parts[document.part].append(document)
            else:
                sample.add(document.text[:SAMPLE_CHARACTERS])
    overlap = _in_both(parts["validation"], parts["test"])
    if overlap and isinstance(rule, HeldOutDataset):
        examples = [parts["validation"][place].id for place in sorted(overlap)[:3]]
        remedy = "Take them out of one of the two"
        raise DataError(
            f"validation and test must be disjoint, but share {len(overlap)} documents", got=examples, remedy=remedy
        )
    parts["validation"] = [document for place, document in enumerate(parts["validation"]) if place not in overlap]
    for part, documents in parts.items():
        if not documents:
            raise DataError(
                f"the held-out part `{part}` has no documents",
                remedy="Check data.held_out: its source, column and buckets",
            )
    return HeldOut(
        validation=parts["validation"],
        test=parts["test"],
        sample=[*sample.items, *_first_texts(reader, config)],
        left_validation_for_test=len(overlap),
        accounts=accounts,
    )


def _first_texts(reader: DocumentReader, config: DataConfig) -> list[str]:
    """The first training documents of the real sources that no held-out documents are taken from."""
    rule = config.held_out
    taken = None if isinstance(rule, HeldOutDataset) else rule.source
    others = [name for name, source in config.sources.items() if source.kind == "real" and name != taken]
    each = SAMPLE_DOCUMENTS // max(1, len(others))
    return [
        document.text[:SAMPLE_CHARACTERS]
        for name in others
        for document in islice(reader.training(name, record=False), each)
    ]


def chunks(texts: Sequence[str]) -> list[Sequence[str]]:
    """The texts in lists of a batch each."""
    return [texts[i : i + BATCH_DOCUMENTS] for i in range(0, len(texts), BATCH_DOCUMENTS)]


def index_of(held_out: HeldOut, rule: ContaminationConfig) -> HeldOutIndex:
    """The index that copies are found by; documents are numbered as in validation + test."""
    return HeldOutIndex(
        chunks(texts_of([*held_out.validation, *held_out.test])),
        rule.threshold,
        sample=chunks(held_out.sample),
        form_documents=rule.form_documents,
    )


def texts_of(documents: Sequence[Document]) -> list[str]:
    """Their texts."""
    return [document.text for document in documents]


def _in_both(validation: Sequence[Document], test: Sequence[Document]) -> set[int]:
    in_test = {value for texts in chunks(texts_of(test)) for value in exact_hashes(texts).tolist()}
    in_validation = [value for texts in chunks(texts_of(validation)) for value in exact_hashes(texts).tolist()]
    return {place for place, value in enumerate(in_validation) if value in in_test}
