"""Writes a store: split, decontaminate, tokenize, pack, one source after the other."""

import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.errors import DataError, UserError
from trainer.data.account import COPY_KINDS, EXAMPLE_CHARACTERS, QUARANTINE, Copy, RowAccount, RowTally
from trainer.data.config import ContaminationConfig, DataConfig, HeldOutDataset, segment_name
from trainer.data.decontamination import HeldOutIndex, Match
from trainer.data.documents import Document, DocumentReader, batches
from trainer.data.held_out_split import chunks, collect_held_out, index_of, texts_of
from trainer.data.machine_text.check import check_machine_text, reclassified
from trainer.data.packing import SegmentWriter, write_part
from trainer.data.prior_value import PriorValue
from trainer.data.prior_value.prepared import segment_values, with_end
from trainer.data.quarantine import TOLERATED_ROWS, Quarantine
from trainer.data.source_config import SourceConfig
from trainer.data.store import MANIFEST, STORE_FORMAT, PreparedSegment, segment_folder
from trainer.data.store_files import files_in
from trainer.data.teacher import open_teacher
from trainer.data.teacher_columns import write_columns
from trainer.data.tokenizer import (
    Encoder,
    TokenizerFacts,
    build_tokenizer,
    encode_in_worker,
    spelling_of,
    start_worker,
)
from trainer.data.tokenizer_account import TokenizerAccount, refuse_loss, round_trip
from trainer.data.tokenizer_template import asks_for_begin

if TYPE_CHECKING:
    from trainer.model.teacher import Teacher

Progress = Callable[[str, int], None]  # what is being done, documents done so far
Encoded = tuple[NDArray[Any], NDArray[np.int64]]


@dataclass(frozen=True)
class _Tools:
    """What every source is packed with."""

    index: HeldOutIndex
    held_out_ids: list[str]
    tokenizer: TokenizerFacts
    encoder: Encoder
    spelling: re.Pattern[str] | None  # of its special tokens
    teacher: "Teacher | None"


class StoreWriter:
    """One preparation, from files to a complete folder."""

    def __init__(self, config: DataConfig, *, seed: int, base: Path, cache: Path, folder: Path, note: Progress) -> None:
        self.config, self.seed, self.base, self.folder, self.note = config, seed, base, folder, note
        self.quarantine = Quarantine(folder / QUARANTINE, config.max_quarantined_share)
        self.reader = DocumentReader(config, seed=seed, base=base, cache=cache, quarantine=self.quarantine)
        self.accounts: dict[str, RowAccount] = {}

    def write(self, fingerprint: str, inputs: dict[str, Any]) -> None:
        """Writes everything. On any error the quarantine is kept next to the stores."""
        try:
            held_out = collect_held_out(self.reader, self.config)
            validation, test = held_out.validation, held_out.test
            self.accounts |= held_out.accounts
            self.note("held-out documents", len(validation) + len(test))
            index = index_of(held_out, self.config.contamination)
            machine_text = check_machine_text(self.config, self.reader, seed=self.seed)
            self.config = self.reader.config = reclassified(self.config, machine_text)
            ids = [document.id for document in (*validation, *test)]
            tokenizer = build_tokenizer(
                self.config.tokenizer, self._tokenizer_texts(index), self.folder / "tokenizer", self.base
            )
            teacher = open_teacher(self.config, tokenizer, self.base)
            # first, so that a tokenizer that cannot spell the text is refused before all of it is prepared
            encoder = Encoder.load(tokenizer)
            account, largest_ids = self._write_held_out(tokenizer, encoder, {"validation": validation, "test": test})
            tools = _Tools(index, ids, tokenizer, encoder, spelling_of(tokenizer.folder), teacher)
            sources = [self._write_source(number, name, tools) for number, name in enumerate(self.config.sources)]
            if teacher is not None:
                teacher.close()
        except UserError:
            self.quarantine.keep()
            raise
        finally:
            self.quarantine.close()
        manifest = {
            "format": STORE_FORMAT,
            "fingerprint": fingerprint,
            "sequence_length": self.config.sequence_length,
            "vocabulary_size": tokenizer.vocabulary_size,
            "end_of_document": tokenizer.end_of_document,
            "begin_of_document": tokenizer.begin_of_document,
            "tokenizer": account.to_json(),
            "largest_ids": largest_ids,
            "sources": sources,
            "rows": {name: account.to_json() for name, account in self.accounts.items()},
            "quarantine": {"file": QUARANTINE, "sources": self.quarantine.counts()},
            "machine_text": None if machine_text is None else machine_text.to_json(),
            "held_out": {"left_validation_for_test": held_out.left_validation_for_test},
            "prior_values": {name: value.to_json() for name, value in self._prior_values(tokenizer, sources).items()},
            "inputs": inputs,
            "files": {name: file.to_json() for name, file in files_in(self.folder).items()},
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    def _prior_values(self, facts: TokenizerFacts, sources: list[dict[str, Any]]) -> dict[str, PriorValue]:
        """What the segments that were written are worth."""
        length = self.config.sequence_length
        segments = {
            source["name"]: {
                segment_name(source["name"], place): PreparedSegment(
                    folder=segment_folder(self.folder, number, place), sequence_length=length, **segment
                )
                for place, segment in enumerate(source["segments"])
            }
            for number, source in enumerate(sources)
        }
        ids, offsets = (np.load(self.folder / "validation" / f"{name}.npy") for name in ("tokens", "offsets"))
        kinds = {name: source.kind for name, source in self.config.sources.items()}
        validation = with_end(ids, offsets.tolist(), facts.end_of_document)
        return segment_values(kinds, segments, validation, self.folder / "tokenizer", note=self.note)

    def _write_held_out(
        self, facts: TokenizerFacts, encoder: Encoder, parts: dict[str, list[Document]]
    ) -> tuple[TokenizerAccount, dict[str, int]]:
        """Writes the held-out parts, of the documents that have tokens. What the tokenizer loses, and the largest id of
        each part.
        """
        texts, decoded, largest_ids = list[str](), list[str](), dict[str, int]()
        for part, documents in parts.items():
            ids, lengths = _encode_chunks(encoder, documents, parse=self._is_parsed(part))
            texts += [document.text for document in documents]
            decoded += encoder.decode(ids, lengths)
            kept = [document for document, length in zip(documents, lengths.tolist(), strict=True) if length]
            begun, lengths = _begun(ids, lengths[lengths > 0], facts.begin_of_document)
            if not kept:
                remedy = "Take a tokenizer that can spell it"
                raise DataError(f"the tokenizer can spell no document of the held-out part `{part}`", remedy=remedy)
            write_part(self.folder / part, kept, begun, lengths)
            largest_ids[part] = int(begun.max())
        begin = None if facts.begin_of_document is None else encoder.literal.id_to_token(facts.begin_of_document)
        account = round_trip(
            texts,
            decoded,
            begin_of_document=begin,
            template=facts.template,
            add_bos_token=asks_for_begin(facts.folder),
        )
        refuse_loss(account, self.config.tokenizer.max_lost_share)
        return account, largest_ids

    def _is_parsed(self, part: str) -> bool:
        """Whether what spells a special token in a held-out part is taken as the token."""
        rule = self.config.held_out
        source = getattr(rule, part) if isinstance(rule, HeldOutDataset) else self.config.sources[rule.source]
        return bool(source.special_tokens == "parse")

    def _tokenizer_texts(self, index: HeldOutIndex) -> Iterator[list[str]]:
        """Real training text, spread evenly over the first segments of the real sources where there is more than the
        tokenizer needs.
        """
        real = {name: source for name, source in self.config.sources.items() if source.kind == "real"}
        budget = self.config.tokenizer.max_training_bytes
        stride = max(1, sum(self.reader.files(name).num_bytes for name in real) // budget)
        for name, source in real.items():
            documents_left = source.max_documents or sys.maxsize
            for number, batch in enumerate(batches(self.reader.training(name, record=False))):
                if documents_left <= 0 or budget <= 0:
                    break
                if number % stride == 0:
                    clean, _, _ = _without_held_out(batch[:documents_left], index)
                    budget -= sum(document.num_bytes for document in clean)
                    yield [document.text for document in clean]
                documents_left -= len(batch)

    def _write_source(self, number: int, name: str, tools: _Tools) -> dict[str, Any]:
        source = self.config.sources[name]
        segments = [
            self._write_segment(segment_folder(self.folder, number, place), segment_name(name, place), segment, tools)
            for place, segment in enumerate(source.segments)
        ]
        return {"name": name, "kind": source.kind, "license": source.license, "segments": segments}

    def _write_segment(self, folder: Path, name: str, source: SourceConfig, tools: _Tools) -> dict[str, Any]:
        tally = RowTally(special_tokens=source.special_tokens)
        facts, parse = tools.tokenizer, source.special_tokens == "parse"
        begin_tokens = 0 if facts.begin_of_document is None else 1
        writer = SegmentWriter(
            folder, self.config.sequence_length, facts.end_of_document, facts.dtype, begin_tokens=begin_tokens
        )
        clean = self._clean_batches(name, source.max_documents, tools, tally)
        for batch, (ids, lengths) in self._tokenized(clean, tools, parse=parse):
            kept = [document for document, length in zip(batch, lengths.tolist(), strict=True) if length]
            tally.no_tokens += len(batch) - len(kept)
            tally.used -= len(batch) - len(kept)
            if tools.spelling is not None:
                for document in kept:
                    tally.spelled.update(set(tools.spelling.findall(document.text)))
            writer.append(kept, ids, lengths[lengths > 0])
            self.note(f"prepare {name}", tally.used)
        segment, account = writer.close(), tally.account(self.reader.files(name))
        _check_copies(name, source, account, self.config.contamination)
        if not account.used:
            dropped = ", ".join(f"{reason}: {count}" for reason, count in account.dropped.items() if count)
            remedy = "Check its `where`, `sample`, `filters`, `text_column`, and data.held_out"
            problem = f"source {name!r} has no training documents"
            raise DataError(problem, got=f"of {account.read} rows, {dropped or 'none dropped'}", remedy=remedy)
        self.accounts[name] = account
        if tools.teacher is not None and self.config.taught(name):
            self._teach(name, segment, tools.teacher)
        return segment.to_json()

    def _teach(self, name: str, segment: PreparedSegment, teacher: "Teacher") -> None:
        assert self.config.teacher is not None
        note = partial(self.note, f"teacher reads {name}")
        write_columns(segment, teacher, batch=self.config.teacher.batch, note=note)

    def _clean_batches(self, name: str, limit: int | None, tools: _Tools, tally: RowTally) -> Iterator[list[Document]]:
        """Training batches without held-out documents, up to ``limit`` documents."""
        documents_left = sys.maxsize if limit is None else limit
        for batch in batches(self.reader.training(name, tally=tally)):
            if not documents_left:  # the source is only read to its end, for its malformed rows
                tally.beyond_limit += len(batch)
                continue
            clean, matches, num_same_form = _without_held_out(batch, tools.index)
            for match in matches:
                document, held_out = batch[match.document], tools.held_out_ids[match.held_out]
                text = " ".join(document.text[:EXAMPLE_CHARACTERS].split())
                tally.add_copy(Copy(document.id, held_out, match.kind, round(match.shared, 3), text))
            tally.same_form += num_same_form
            used = clean[:documents_left]
            tally.beyond_limit += len(clean) - len(used)
            tally.used += len(used)
            documents_left -= len(used)
            yield used

    def _tokenized(
        self, stream: Iterator[list[Document]], tools: _Tools, *, parse: bool
    ) -> Iterator[tuple[list[Document], Encoded]]:
        """Each batch with its ids, in order; later batches are read and matched while earlier ones are tokenized."""
        workers = self.config.num_proc
        executor: Executor
        encode: Callable[..., Encoded]
        if workers == 1:
            executor, encode = ThreadPoolExecutor(1), tools.encoder.encode_documents
        else:
            # spawn: a forked copy of the tokenizer's threads would hang
            context = get_context("spawn")
            facts = (tools.tokenizer,)
            executor = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=facts)
            encode = encode_in_worker
        waiting: deque[tuple[list[Document], Future[Encoded]]] = deque()
        with executor:
            for batch in stream:
                waiting.append((batch, executor.submit(encode, [document.text for document in batch], parse=parse)))
                if len(waiting) > 2 * workers:
                    first, encoded = waiting.popleft()
                    yield first, encoded.result()
            while waiting:
                first, encoded = waiting.popleft()
                yield first, encoded.result()


def _check_copies(name: str, source: SourceConfig, account: RowAccount, rule: ContaminationConfig) -> None:
    """Raises UserError where the recipe wants no copies at all, or a real source loses more to those that are not exact
    than it allows: never for ten documents or fewer, unless the limit is 0.
    """
    copies, documents = account.copies, account.used + account.beyond_limit + account.contaminated
    counts = ", ".join(f"{getattr(copies, kind)} {kind}" for kind in COPY_KINDS)
    what = f"{copies.dropped} of {documents} documents of source {name!r} are copies of held-out documents ({counts})"
    examples = [copy.in_words() for copy in copies.examples]
    if rule.action == "fatal" and copies.dropped:
        remedy = "Take them out of the source, or write `contamination: {action: drop}`"
        raise DataError(what, got=examples, remedy=remedy)
    num_lost, allowed = copies.near + copies.part, rule.max_lost_share * documents
    if source.kind == "real" and num_lost > (max(TOLERATED_ROWS, allowed) if rule.max_lost_share else 0):
        raise DataError(
            f"{what}: real data lost above data.contamination.max_lost_share ({rule.max_lost_share:g})",
            got=examples,
            remedy="Choose: take the copies out of the source; hold out by a column that copies have in common "
            "(data.held_out: {kind: bucket, by: COLUMN}); raise data.contamination.threshold "
            f"({rule.threshold:g}), or lower data.contamination.form_documents ({rule.form_documents}), where they are "
            "no copies; or accept the loss and raise data.contamination.max_lost_share",
        )


def _without_held_out(batch: list[Document], index: HeldOutIndex) -> tuple[list[Document], list[Match], int]:
    """The documents that are no copies, the matches of the others, and how many of the first have a form only."""
    found = index.match(texts_of(batch))
    copies = {match.document for match in found.copies}
    return [document for place, document in enumerate(batch) if place not in copies], found.copies, found.num_same_form


def _begun(ids: NDArray[Any], lengths: NDArray[np.int64], begin: int | None) -> Encoded:
    """The ids of documents with the begin-of-document id before each, if there is one."""
    if begin is None:
        return ids, lengths
    return np.insert(ids, np.cumsum(lengths) - lengths, begin), lengths + 1


def _encode_chunks(encoder: Encoder, documents: list[Document], *, parse: bool) -> Encoded:
    encoded = [encoder.encode(texts, parse=parse) for texts in chunks(texts_of(documents))]
    return np.concatenate([ids for ids, _ in encoded]), np.concatenate([lengths for _, lengths in encoded])
