"""Finds held-out documents that also occur in training text, whole or in part, without ever holding the training
text.

A held-out figure means nothing when its documents were trained on, and synthetic text is the likeliest carrier: a
generator recites. So the index is built from the held-out documents (few), and training documents (many) are streamed
past it in batches.

Exact: equal sequences of words, whatever their case, punctuation, and white space. Otherwise two documents are compared
by their *own* word 3-grams: those that fewer than ``form_documents`` different real documents have (held-out documents
and a sample of the training documents are counted). What more of them have is a form: a letter's wording, a log line's,
a license at the head of a file. Two letters of one form share nearly all of their text and nothing of their own, and
are two documents. With s shared own 3-grams, and a and h those of the training and of the held-out document, it is a

- near copy where ``s >= threshold max(a, h)``;
- copied part where only ``s >= threshold min(a, h)``: one of the two holds most of the other, be it an excerpt or a
  longer text;

and in both cases s is at least 11, as many as 13 words in a row have (the overlap that Brown et al. 2020 take for
contamination, arXiv:2005.14165, appendix C). Documents with fewer own 3-grams are found only where they are equal.

Three words, where datatrove takes five: short documents are the rule here, and one changed word costs three 3-grams,
but five 5-grams. Common 3-grams have no postings, so a pair costs its own 3-grams only, and the counts are exact:
nothing is missed by chance, as with MinHash.
"""

# N documents of a batch, D held-out documents, U distinct shingles of these

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer.data.shingles import Hashes, Ints, Shingles, shingle

MatchKind = Literal["exact", "near", "part"]

FORM_DOCUMENTS = 4
FEWEST_SHARED = 11
SAME_FORM_SHARE = 0.8
_TABLE_SLOTS_PER_SHINGLE = 16  # one in 16 foreign shingles looks known at first, and 16 bytes a shingle


@dataclass(frozen=True)
class Match:
    """Training document ``document`` (its place in the batch) is, or holds, or is part of, held-out document
    ``held_out``; ``shared`` of the own 3-grams of the longer (near) or the shorter (part) of the two are in both.
    """

    document: int
    held_out: int
    kind: MatchKind
    shared: float = 1.0


@dataclass(frozen=True)
class Matches:
    """What a batch has of the held-out documents, in the order of the texts.

    ``num_same_form`` counts the texts without a match whose 3-grams are mostly (80 %) held-out documents' too: two of
    one form. They are no copies.
    """

    copies: list[Match]
    num_same_form: int = 0


class HeldOutIndex:
    """Held-out documents, ready to be recognized in training text.

    ``chunks`` are lists of texts; held-out documents are numbered in that order. ``sample`` is real training text in
    such lists: what it has in common with held-out documents is counted as form. Memory: about 40 bytes a distinct
    shingle.
    """

    def __init__(
        self,
        chunks: Iterable[Sequence[str]],
        threshold: float = 0.6,
        *,
        sample: Iterable[Sequence[str]] = (),
        form_documents: int = FORM_DOCUMENTS,
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be in (0, 1], got {threshold}")
        self.threshold = threshold
        held_out = _joined([shingle(chunk) for chunk in chunks])
        self._sizes = np.diff(held_out.offsets)
        self.num_documents = len(self._sizes)
        self._exact_order = np.argsort(held_out.exact, kind="stable")
        self._exact_sorted = held_out.exact[self._exact_order]
        order = np.argsort(held_out.hashes, kind="stable")
        documents = np.repeat(np.arange(self.num_documents), self._sizes)[order]
        hashes = held_out.hashes[order]
        begins = np.ones(len(hashes), dtype=np.bool_)
        begins[1:] = hashes[1:] != hashes[:-1]
        self._hashes = hashes[begins]  # [U], sorted
        number = np.cumsum(begins) - 1  # of each posting's shingle
        self._table = np.zeros(1 << max(10, (len(hashes) * _TABLE_SLOTS_PER_SHINGLE - 1).bit_length()), dtype=np.bool_)
        self._slot_mask = np.uint64(len(self._table) - 1)
        self._table[hashes & self._slot_mask] = True
        in_documents = self._document_counts(held_out.exact, documents, number, sample)
        self._is_form = in_documents >= form_documents  # [U]
        own = ~self._is_form[number]
        self._own_sizes = np.bincount(documents[own], minlength=self.num_documents)  # [D]
        self._postings = documents[own]
        counts = np.where(self._is_form, 0, np.bincount(number, minlength=len(self._hashes)))
        self._posting_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def _document_counts(
        self, exact: Hashes, documents: Ints, number: Ints, sample: Iterable[Sequence[str]]
    ) -> NDArray[np.int64]:
        """[U] in how many different real documents each shingle stands; equal documents are one."""
        counts = np.bincount(number[_is_first(exact)[documents]], minlength=len(self._hashes))
        counted = exact
        for texts in sample:
            batch = shingle(texts)
            is_new = _is_first(batch.exact) & ~np.isin(batch.exact, counted)
            counted = np.concatenate([counted, batch.exact])
            _, places = self._known(batch, is_new)
            counts += np.bincount(places, minlength=len(self._hashes))
        return counts

    def _known(self, batch: Shingles, chosen: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """The shingles of the ``chosen`` texts that held-out documents have: the text of each, its place in U."""
        text_of = np.repeat(np.arange(len(chosen)), np.diff(batch.offsets))
        maybe = np.flatnonzero(self._table[batch.hashes & self._slot_mask] & chosen[text_of])
        hashes = batch.hashes[maybe]
        places = np.minimum(np.searchsorted(self._hashes, hashes), max(0, len(self._hashes) - 1))
        known = self._hashes[places] == hashes if len(self._hashes) else np.zeros(0, dtype=np.bool_)
        return text_of[maybe[known]], places[known]

    def match(self, texts: Sequence[str]) -> Matches:
        """The texts that are copies of held-out documents, each with the one that it has most of."""
        if not texts or not self.num_documents:
            return Matches([])
        batch = shingle(texts)
        place = np.searchsorted(self._exact_sorted, batch.exact)
        place[place == len(self._exact_sorted)] = 0
        is_exact = self._exact_sorted[place] == batch.exact
        matches = [Match(int(i), int(self._exact_order[place[i]]), "exact") for i in np.flatnonzero(is_exact)]
        texts_of, places = self._known(batch, ~is_exact)
        sizes = np.diff(batch.offsets)
        copies = self._copies(sizes, texts_of, places)
        same_form = np.bincount(texts_of, minlength=len(sizes)) >= np.maximum(1, SAME_FORM_SHARE * sizes)
        same_form[[match.document for match in copies]] = False
        copies = sorted([*matches, *copies], key=lambda match: match.document)
        return Matches(copies, int(np.count_nonzero(same_form)))

    def _copies(self, sizes: Ints, texts: Ints, places: Ints) -> list[Match]:
        """The matches that are not exact, from the known shingles of N texts of ``sizes``."""
        is_form = self._is_form[places]
        own_sizes = sizes - np.bincount(texts[is_form], minlength=len(sizes))
        texts, places = texts[~is_form], places[~is_form]
        enough = np.bincount(texts, minlength=len(sizes)) >= FEWEST_SHARED
        texts, places = texts[enough[texts]], places[enough[texts]]
        text, held_out, shared = self._pairs(texts, places)
        own = np.stack([own_sizes[text], self._own_sizes[held_out]])
        near_share, part_share = shared / own.max(0), shared / own.min(0)  # a pair has at least one own 3-gram
        copies = np.flatnonzero((part_share >= self.threshold) & (shared >= FEWEST_SHARED))
        best: dict[int, Match] = {}
        for pair in copies[np.argsort(-shared[copies], kind="stable")]:
            is_near = near_share[pair] >= self.threshold
            share = near_share[pair] if is_near else part_share[pair]
            kind: MatchKind = "near" if is_near else "part"
            best.setdefault(int(text[pair]), Match(int(text[pair]), int(held_out[pair]), kind, float(share)))
        return list(best.values())

    def _pairs(self, texts: Ints, places: Ints) -> tuple[Ints, Ints, Ints]:
        """(text, held-out document, own shingles that both have) of every pair that has any."""
        starts = self._posting_offsets[places]
        counts = self._posting_offsets[places + 1] - starts
        before = np.cumsum(counts) - counts
        postings = np.repeat(starts - before, counts) + np.arange(counts.sum())
        keys = np.repeat(texts, counts) * self.num_documents + self._postings[postings]
        pairs, shared = np.unique(keys, return_counts=True)
        return pairs // self.num_documents, pairs % self.num_documents, shared


def _is_first(values: Hashes) -> NDArray[np.bool_]:
    """Whether each value is the first of its kind."""
    is_first = np.zeros(len(values), dtype=np.bool_)
    is_first[np.unique(values, return_index=True)[1]] = True
    return is_first


def _joined(parts: Sequence[Shingles]) -> Shingles:
    """The shingles of all parts as of one batch."""
    nothing: list[Hashes] = [np.zeros(0, np.uint64)]
    counts = [np.zeros(0, np.int64), *(np.diff(part.offsets) for part in parts)]
    return Shingles(
        np.concatenate([part.hashes for part in parts] or nothing),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))]),
        np.concatenate([part.exact for part in parts] or nothing),
    )
