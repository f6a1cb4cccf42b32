"""The values of prepared segments: bounded samples of the tokens that lie on the disk, against the validation part."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trainer.base.records import IntArray, Kind
from trainer.data.prior_value.counts import Documents
from trainer.data.prior_value.record import PriorValue
from trainer.data.prior_value.rule import SAMPLE_TOKENS, RealText
from trainer.data.store import PreparedSegment

SEED = 0  # runs of any seed share a store
RUNS = 500  # of consecutive documents that a sample is taken in: a disk is not read token by token
LONGEST = 50_000  # tokens of a document in such a run
SPACES = ("Ġ", "▁", " ")  # what the tokens that begin a word begin with
CONTINUES = "##"  # what the others begin with, in vocabularies of the WordPiece kind
LEAST_STARTS = 0.02  # of a vocabulary, that must begin words for words to be told


def segment_values(
    kinds: Mapping[str, Kind],
    segments: Mapping[str, Mapping[str, PreparedSegment]],
    validation: Documents,
    tokenizer: Path,
    *,
    note: Callable[[str, int], None],
) -> dict[str, PriorValue]:
    """The value of each synthetic segment by its name, against all real text that a run begins with; of each real
    source too where there are several. What there is too little text of to say is left out.

    ``segments``: of each source by name, the first one first; ``validation``: documents with their end.
    """
    real = {name: next(iter(parts.values())) for name, parts in segments.items() if kinds[name] == "real"}
    made = [part for name, parts in segments.items() if kinds[name] == "synthetic" for part in parts.items()]
    if not real or (not made and len(real) < 2):
        return {}
    total = sum(segment.num_tokens for segment in real.values())
    samples = {
        name: sampled(segment, max(1, round(SAMPLE_TOKENS * segment.num_tokens / max(total, SAMPLE_TOKENS))))
        for name, segment in real.items()
    }
    text = RealText(
        [doc for docs in samples.values() for doc in docs], validation, SEED, word_starts=word_starts(tokenizer)
    )
    values = {}
    if len(real) > 1:
        first = 0
        for name, documents in samples.items():
            values[name] = text.value_of_part(range(first, first + len(documents)))
            first += len(documents)
    for name, segment in made:
        note(f"value of {name}", segment.num_documents)
        values[name] = text.value_of(sampled(segment, text.sample_tokens))
    return {name: value for name, value in values.items() if value is not None}


def sampled(segment: PreparedSegment, most_tokens: int) -> Documents:
    """Documents of a segment, about ``most_tokens`` tokens: all of them, or runs of documents spread evenly over it."""
    spans, tokens = segment.token_spans(), segment.token_stream()
    if segment.num_tokens <= most_tokens:
        return [tokens[start:end] for start, end in zip(spans[:-1].tolist(), spans[1:].tolist(), strict=True)]
    each = max(1, most_tokens // RUNS)
    begins = np.searchsorted(spans, np.linspace(0, segment.num_tokens - each, RUNS).astype(np.int64))
    ends = np.searchsorted(spans, spans[np.minimum(begins, len(spans) - 2)] + each)
    chosen = np.unique(np.concatenate([np.arange(b, max(e, b + 1)) for b, e in zip(begins, ends, strict=True)]))
    chosen = chosen[chosen < len(spans) - 1]
    lengths = np.minimum(spans[chosen + 1] - spans[chosen], LONGEST)
    starts = spans[chosen].tolist()
    return _within([np.array(tokens[s : s + n]) for s, n in zip(starts, lengths.tolist(), strict=True)], most_tokens)


def word_starts(tokenizer: Path) -> NDArray[np.bool_] | None:
    """Which ids of a tokenizer's folder begin a word; None where the vocabulary does not say."""
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab()
    starts = np.zeros(max(vocabulary.values(), default=0) + 1, dtype=bool)
    has_marks = sum(token.startswith(CONTINUES) for token in vocabulary) > LEAST_STARTS * len(vocabulary)
    for token, number in vocabulary.items():
        starts[number] = not token.startswith(CONTINUES) if has_marks else token.startswith(SPACES)
    return starts if starts.mean() >= LEAST_STARTS else None


def with_end(tokens: IntArray, offsets: Sequence[int], end: int) -> Documents:
    """Held-out documents as training documents are: with the end-of-document token."""
    return [np.append(tokens[start:stop], end) for start, stop in itertools.pairwise(offsets)]


def _within(documents: Documents, most_tokens: int) -> Documents:
    """Documents evenly left out, so that at most so many tokens stay."""
    total = sum(len(document) for document in documents)
    if total <= most_tokens:
        return documents
    kept, reached = [], 0.0
    for document in documents:  # long documents make a run longer than it was meant to be
        reached += most_tokens / total
        if reached >= 1:
            kept.append(document)
            reached -= 1
    return kept
