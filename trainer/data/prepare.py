"""Prepares a recipe's data once: split, decontaminate, tokenize, pack, store; every later run opens the store.

The store is keyed by a fingerprint of the files' content and of every setting that changes a byte of it, so a changed
file is never mistaken for the old one, and five seeds share one store. It is written aside and renamed when whole: a
preparation that is killed leaves no store, only a folder that the next one removes. Training text is streamed (read,
matched against the held-out documents, tokenized, appended), so memory holds a few batches and the held-out documents,
whatever the size of the sources.
"""

import json
import os
import shutil
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.base.errors import UserError
from trainer.data.config import DataConfig, SourceConfig, segment_name
from trainer.data.decontamination import HeldOutIndex, Match
from trainer.data.documents import Document, Reader, batches, files_of
from trainer.data.files import index_file, is_indexed, write_index
from trainer.data.fingerprint import CACHE_VARIABLE, cache_folder, content_fingerprint, stamp_key
from trainer.data.held_out_split import chunks, collect_held_out
from trainer.data.packing import SegmentWriter, write_part
from trainer.data.quarantine import Quarantine
from trainer.data.store import (
    COMPLETE,
    MANIFEST,
    STORE_FORMAT,
    PreparedData,
    is_complete,
    open_prepared,
    segment_folder,
)
from trainer.data.tokenizer import Encoder, TokenizerFacts, build_tokenizer, encode_in_worker, start_worker
from trainer.data.waiting import Announcement, await_store

Progress = Callable[[str, int], None]  # what is being done, documents done so far
Encoded = tuple[NDArray[Any], NDArray[np.int64]]

__all__ = ["PreparedData", "Progress", "open_prepared", "prepare"]

_EXAMPLES = 3


def prepare(
    config: DataConfig,
    *,
    seed: int,
    base: Path = Path(),
    is_main: bool = True,
    progress: Progress | None = None,
    patience_s: float = 120.0,
) -> PreparedData:
    """The prepared data of a recipe in folder ``base``; from the store where it is there already.

    Only the main process prepares. The others wait for its store, and raise UserError when it failed or has given no
    sign of life for ``patience_s`` seconds. ``progress(what, documents)`` is called now and then.
    """
    base, cache = base.resolve(), cache_folder(config, base)
    _make_cache(cache)
    key = stamp_key(config, seed=seed, base=base, cache=cache)
    if not is_main:
        return open_prepared(await_store(cache, key, patience_s))
    with Announcement(cache, key) as announcement:
        if (known := announcement.known_store()) is None:
            known = _prepared_folder(
                config, seed=seed, base=base, cache=cache, note=progress or (lambda what, documents: None)
            )
            announcement.point_to(known)
    return open_prepared(known)


def _make_cache(cache: Path) -> None:
    """Makes the folder of the prepared stores. Raises UserError where it cannot be."""
    try:
        for folder in (cache, cache / "runs", cache / "stores"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(cache, "made", error) from error


def _require_writable(cache: Path) -> None:
    """Raises UserError where nothing can be written. What others have prepared can be used from there all the same."""
    try:
        with tempfile.TemporaryFile(dir=cache / "stores"):
            pass
    except OSError as error:
        raise _unusable(cache, "written to", error) from error


def _unusable(cache: Path, done: str, error: OSError) -> UserError:
    remedy = f"Name a folder that can be written in data.cache, or in ${CACHE_VARIABLE}"
    return UserError(f"the folder of prepared data cannot be {done}: {error.strerror}", got=str(cache), remedy=remedy)


def _prepared_folder(config: DataConfig, *, seed: int, base: Path, cache: Path, note: Progress) -> Path:
    _require_writable(cache)
    for name, segment in config.every_segment.items():
        if is_indexed(segment) and not (index := index_file(segment, base, cache)).exists():
            write_index(segment, base, index, lambda documents, name=name: note(f"index {name}", documents))  # type: ignore[misc]
    fingerprint, inputs = content_fingerprint(config, seed=seed, base=base, cache=cache)
    folder = cache / "stores" / fingerprint[:32]
    if is_complete(folder):
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # stores appear whole: one without its marker was half deleted
    remove_abandoned(folder)
    aside = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        _Preparation(config, seed=seed, base=base, cache=cache, folder=aside, note=note).write(fingerprint, inputs)
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already when all went well
    return folder


def remove_abandoned(folder: Path) -> None:
    """Removes what processes of this machine that are no longer alive left of this store."""
    for left in folder.parent.glob(f"{folder.name}.*.tmp"):
        host, pid = left.name.removesuffix(".tmp").removeprefix(f"{folder.name}.").rsplit(".", 1)
        if host == socket.gethostname() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _publish(aside: Path, folder: Path) -> None:
    for file in aside.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    (aside / COMPLETE).touch()
    try:
        aside.rename(folder)
    except OSError:
        if not is_complete(folder):
            raise  # anything but another run that finished the same store first


@dataclass(frozen=True)
class _Tools:
    """What every source is packed with."""

    index: HeldOutIndex
    held_out_ids: list[str]
    tokenizer: TokenizerFacts


class _Preparation:
    """One preparation, from files to a complete folder."""

    def __init__(self, config: DataConfig, *, seed: int, base: Path, cache: Path, folder: Path, note: Progress) -> None:
        self.config, self.base, self.folder, self.note = config, base, folder, note
        self._source_bytes = {
            name: sum(file.stat().st_size for file in files_of(source, base, cache))
            for name, source in config.sources.items()
        }
        self.quarantine = Quarantine(folder / "quarantine.jsonl", config.max_quarantined_share)
        self.reader = Reader(config, seed=seed, base=base, cache=cache, quarantine=self.quarantine)
        self.found: dict[str, dict[str, int]] = {}

    def write(self, fingerprint: str, inputs: dict[str, Any]) -> None:
        """Writes everything. On any error the quarantine is kept beside the stores."""
        try:
            validation, test, facts = collect_held_out(self.reader, self.config)
            self.note("held-out documents", len(validation) + len(test))
            index = HeldOutIndex([*chunks(validation), *chunks(test)], self.config.contamination.threshold)
            # chunks() restarts at `test`, so documents are numbered as in validation + test.
            ids = [document.id for document in (*validation, *test)]
            tokenizer = build_tokenizer(
                self.config.tokenizer, self._tokenizer_texts(index), self.folder / "tokenizer", self.base
            )
            tools = _Tools(index, ids, tokenizer)
            sources = [self._write_source(number, name, tools) for number, name in enumerate(self.config.sources)]
            encoder = Encoder.load(tokenizer)
            for part, documents in (("validation", validation), ("test", test)):
                write_part(self.folder / part, documents, *_encode_chunks(encoder, documents))
        except UserError:
            self.quarantine.keep()
            raise
        finally:
            self.quarantine.close()
        self._write_manifest(fingerprint, inputs, tokenizer, sources, facts)

    def _tokenizer_texts(self, index: HeldOutIndex) -> Iterator[list[str]]:
        """Real training text, spread evenly over the first segments of the real sources where there is more than the
        tokenizer needs.
        """
        real = {name: source for name, source in self.config.sources.items() if source.kind == "real"}
        budget = self.config.tokenizer.max_training_bytes
        stride = max(1, sum(self._source_bytes[name] for name in real) // budget)
        for name, source in real.items():
            left = source.max_documents or sys.maxsize
            for number, batch in enumerate(batches(self.reader.training(name, source, record=False))):
                if left <= 0 or budget <= 0:
                    break
                if number % stride == 0:
                    clean, _ = _without_held_out(batch[:left], index)
                    budget -= sum(document.num_bytes for document in clean)
                    yield [document.text for document in clean]
                left -= len(batch)

    def _write_source(self, number: int, name: str, tools: _Tools) -> dict[str, Any]:
        source = self.config.sources[name]
        segments = [
            self._write_segment(segment_folder(self.folder, number, place), segment_name(name, place), segment, tools)
            for place, segment in enumerate(source.segments)
        ]
        return {"name": name, "kind": source.kind, "license": source.license, "segments": segments}

    def _write_segment(self, folder: Path, name: str, source: SourceConfig, tools: _Tools) -> dict[str, Any]:
        contaminated, end = _Contaminated(name), tools.tokenizer.end_of_document
        writer = SegmentWriter(folder, self.config.sequence_length, end, tools.tokenizer.dtype)
        num_documents = 0
        clean = self._clean_batches(name, source, tools.index, contaminated)
        for batch, (ids, lengths) in self._tokenized(clean, tools.tokenizer):
            writer.append(batch, ids, lengths)
            num_documents += len(batch)
            self.note(f"prepare {name}", num_documents)
        segment = writer.close()
        if self.config.contamination.action == "fatal":
            contaminated.refuse(tools.held_out_ids)
        if not num_documents:
            found = f"{contaminated.num_found} held-out documents and no other"
            remedy = "Check its `where`, `sample`, `text_column`, and data.held_out"
            raise UserError(f"source {name!r} has no training documents", got=found, remedy=remedy)
        self.found[name] = {**contaminated.counts, "dropped": contaminated.num_found}
        return {key: value for key, value in asdict(segment).items() if key not in ("folder", "sequence_length")}

    def _clean_batches(
        self, name: str, source: SourceConfig, index: HeldOutIndex, contaminated: "_Contaminated"
    ) -> Iterator[list[Document]]:
        """Training batches without held-out documents, up to ``max_documents``."""
        left = source.max_documents or sys.maxsize
        for batch in batches(self.reader.training(name, source)):
            if left:  # else the source is only read on, for its malformed rows
                clean, matches = _without_held_out(batch, index)
                contaminated.add(batch, matches)
                yield clean[:left]
                left -= len(clean[:left])

    def _tokenized(
        self, stream: Iterator[list[Document]], tokenizer: TokenizerFacts
    ) -> Iterator[tuple[list[Document], Encoded]]:
        """Each batch with its ids, in order; reading and matching go on while the batches before are tokenized."""
        workers = self.config.num_proc
        executor: Executor
        encode: Callable[[list[str]], Encoded]
        if workers == 1:
            executor, encode = ThreadPoolExecutor(1), Encoder.load(tokenizer).encode_documents
        else:
            # spawn: a forked copy of the tokenizer's threads would hang
            context = get_context("spawn")
            executor = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(tokenizer,))
            encode = encode_in_worker
        waiting: deque[tuple[list[Document], Future[Encoded]]] = deque()
        with executor:
            for batch in stream:
                waiting.append((batch, executor.submit(encode, [document.text for document in batch])))
                if len(waiting) > 2 * workers:
                    first, encoded = waiting.popleft()
                    yield first, encoded.result()
            while waiting:
                first, encoded = waiting.popleft()
                yield first, encoded.result()

    def _write_manifest(
        self,
        fingerprint: str,
        inputs: dict[str, Any],
        tokenizer: TokenizerFacts,
        sources: list[dict[str, Any]],
        facts: dict[str, Any],
    ) -> None:
        manifest = {
            "format": STORE_FORMAT,
            "fingerprint": fingerprint,
            "sequence_length": self.config.sequence_length,
            "vocabulary_size": tokenizer.vocabulary_size,
            "end_of_document": tokenizer.end_of_document,
            "sources": sources,
            "quarantine": {"file": "quarantine.jsonl", "sources": self.quarantine.counts()},
            "contamination": self.found,
            "held_out": facts,
            "inputs": inputs,
        }
        (self.folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


class _Contaminated:
    """The training documents of one segment that are held-out documents: how many, and the first few."""

    def __init__(self, source: str) -> None:
        self.source, self.counts = source, {"exact": 0, "near": 0}
        self._examples: list[tuple[str, int]] = []

    @property
    def num_found(self) -> int:
        """Exact and near ones."""
        return sum(self.counts.values())

    def add(self, batch: list[Document], matches: list[Match]) -> None:
        """Counts the matches of a batch."""
        for match in matches:
            self.counts[match.kind] += 1
            if len(self._examples) < _EXAMPLES:
                self._examples.append((batch[match.document].id, match.held_out))

    def refuse(self, held_out_ids: list[str]) -> None:
        """Raises UserError if there is any."""
        if self.num_found:
            exact, near = self.counts["exact"], self.counts["near"]
            raise UserError(
                f"{self.num_found} documents of source {self.source!r} are held out ({exact} exactly, {near} nearly)",
                got=[f"{document} is {held_out_ids[held_out]}" for document, held_out in self._examples],
                remedy="Take them out of the source, or say `contamination: {action: drop}`",
            )


def _without_held_out(batch: list[Document], index: HeldOutIndex) -> tuple[list[Document], list[Match]]:
    matches = index.match([document.text for document in batch])
    found = {match.document for match in matches}
    return [document for place, document in enumerate(batch) if place not in found], matches


def _encode_chunks(encoder: Encoder, documents: list[Document]) -> Encoded:
    encoded = [encoder.encode(texts) for texts in chunks(documents)]
    return np.concatenate([ids for ids, _ in encoded]), np.concatenate([lengths for _, lengths in encoded])
