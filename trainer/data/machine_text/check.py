"""Checks the sources called real for machine-written text, before anything of them is tokenized."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trainer.base.errors import DataError
from trainer.data.config import DataConfig, HeldOutDataset, segment_name
from trainer.data.documents import Document, DocumentReader
from trainer.data.machine_text.account import (
    EXAMPLE_CHARACTERS,
    MachineTextAccount,
    SourceFinding,
    SuspiciousDocument,
    Verdict,
    in_words,
)
from trainer.data.machine_text.config import MachineTextConfig
from trainer.data.machine_text.count import FEWEST_DOCUMENTS, LEAST_SEPARATION, Labeled, estimate
from trainer.data.machine_text.texts import FEWEST_TOKENS, ScoredText, score_texts
from trainer.data.sampling import EvenSample

LEVEL = 0.95
NUM_SUSPICIOUS = 3
FEWEST_OF_A_YEAR = 30
_YEAR = re.compile(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)")


def check_machine_text(config: DataConfig, reader: DocumentReader, *, seed: int) -> MachineTextAccount | None:
    """What is found, and what becomes of each source; None where the recipe does not ask.

    ``DataError`` where the references cannot do it, and where a source is refused.
    """
    rule = config.machine_text
    if rule is None:
        return None
    texts = {name: _sampled(reader, name, rule.documents) for name in _checked(config, rule)}
    real = [document.text for document in _sampled(reader, rule.real_name, rule.documents)]
    separation: dict[str, float] = {}
    findings: dict[str, SourceFinding] = {}
    level = 1 - (1 - LEVEL) / len(rule.machine_names)  # the largest of several is told
    for reference in rule.machine_names:
        machine = [document.text for document in _sampled(reader, reference, rule.documents)]
        labeled, scored = _scored(rule, reference, real, machine, texts, seed=seed)
        separation[reference] = round(labeled.separation, 4)
        if not labeled.can_tell:
            continue
        for name, text in scored.items():
            finding = _finding(
                reference, labeled, text, texts[name], rule.dates.get(name.partition(":")[0]), seed, level
            )
            if name not in findings or finding.estimate.share > findings[name].estimate.share:
                findings[name] = finding
    if not findings:
        _refuse_alike(rule, separation)
    judged = {
        name: replace(finding, verdict=_verdict(config, rule, name, finding)) for name, finding in findings.items()
    }
    return MachineTextAccount(real=rule.real_name, separation=separation, max_share=rule.max_share, sources=judged)


def reclassified(config: DataConfig, account: MachineTextAccount | None) -> DataConfig:
    """The configuration in which the sources that the check takes for synthetic are."""
    names = {
        name.partition(":")[0]
        for name, finding in (account.sources.items() if account else ())
        if finding.verdict == "reclassified"
    }
    if not names:
        return config
    sources = {
        name: source.model_copy(update={"kind": "synthetic"}) if name in names else source
        for name, source in config.sources.items()
    }
    return config.model_copy(update={"sources": sources})


def _checked(config: DataConfig, rule: MachineTextConfig) -> list[str]:
    return [
        segment_name(name, number)
        for name, source in config.sources.items()
        if source.kind == "real" and name != rule.real_name
        for number in range(len(source.segments))
    ]


def _sampled(reader: DocumentReader, name: str, num: int) -> list[Document]:
    sample: EvenSample[Document] = EvenSample(num)
    for document in reader.training(name, record=False):
        sample.add(document)
    return sample.items


def _scored(
    rule: MachineTextConfig,
    reference: str,
    real: Sequence[str],
    machine: Sequence[str],
    texts: Mapping[str, Sequence[Document]],
    *,
    seed: int,
) -> tuple[Labeled, dict[str, ScoredText]]:
    plain = {name: [document.text for document in documents] for name, documents in texts.items()}
    try:
        return score_texts(real, machine, plain, seed=seed)
    except ValueError as error:
        raise DataError(
            f"data.machine_text: the references {rule.real_name!r} and {reference!r} are too small: {error}",
            remedy=f"Name labeled text of at least {FEWEST_DOCUMENTS} documents of {FEWEST_TOKENS} tokens (some 40 "
            "words), better a thousand",
        ) from error


def _finding(
    reference: str,
    labeled: Labeled,
    text: ScoredText,
    documents: Sequence[Document],
    date_column: str | None,
    seed: int,
    level: float,
) -> SourceFinding:
    judged = [documents[place] for place in text.places]
    worst = np.argsort(-text.scores, kind="stable")[:NUM_SUSPICIOUS]
    years = np.array([_year(document, date_column) for document in judged]) if date_column else np.zeros(0, dtype="U4")
    by_date = {
        str(year): estimate(labeled, text.hits[years == year], seed=seed, level=level)
        for year in np.unique(years)
        if year and (years == year).sum() >= FEWEST_OF_A_YEAR
    }
    return SourceFinding(
        reference=reference,
        estimate=estimate(labeled, text.hits, seed=seed, level=level),
        num_short=len(documents) - len(judged),
        by_date=by_date,
        suspicious=tuple(
            SuspiciousDocument(
                id=judged[place].id,
                score=round(float(text.scores[place]), 3),
                text=" ".join(judged[place].text[:EXAMPLE_CHARACTERS].split()),
            )
            for place in worst
        ),
    )


def _year(document: Document, column: str) -> str:
    found = _YEAR.search(str(document.provenance.get(column)))
    return found[0] if found else ""


def _verdict(config: DataConfig, rule: MachineTextConfig, name: str, finding: SourceFinding) -> Verdict:
    if finding.estimate.low <= rule.max_share:
        return "kept"
    if rule.action == "warn":
        return "warned"
    held_out = None if isinstance(config.held_out, HeldOutDataset) else config.held_out.source
    if rule.action == "reclassify" and name.partition(":")[0] != held_out:
        return "reclassified"
    remedy = f"Clean it, write `kind: synthetic`, or allow more in data.machine_text.max_share ({rule.max_share:g})"
    if rule.action == "reclassify":
        remedy = f"Held-out documents are taken from it, and have to be real. {remedy}"
    raise DataError(
        f"source {name!r} is called real, but {in_words(finding)}",
        got=[f"{document.id}: {document.text}" for document in finding.suspicious],
        remedy=remedy,
    )


def _refuse_alike(rule: MachineTextConfig, separation: Mapping[str, float]) -> None:
    told = ", ".join(f"{name} {value:.2f}" for name, value in separation.items())
    raise DataError(
        "data.machine_text: machine-written and real reference cannot be told apart by their word sequences",
        got=f"TPR - FPR of {told}; it has to be above {LEAST_SEPARATION:g} by two standard errors",
        remedy=f"Name other labeled text in place of {rule.real_name!r} or {', '.join(rule.machine_names)}, or remove "
        "data.machine_text",
    )
