"""A segment that is made while a run goes on: tokenized as the run's data are, in a folder of its own.

It is written aside and renamed when whole, and its manifest has the hash of every file, as in a prepared store.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.base.atomic import replace_folder, sync_tree
from trainer.data.documents import Document, batches
from trainer.data.packing import SegmentWriter
from trainer.data.store import PreparedData, PreparedSegment
from trainer.data.store_files import DamagedStoreError, StoredFile, files_in, wrong_content, wrong_size
from trainer.data.tokenizer import Encoder, TokenizerFacts

MANIFEST, SAMPLES = "segment.json", "samples"


def write_made_segment(folder: Path, documents: Iterable[Document], data: PreparedData) -> PreparedSegment | None:
    """Writes the documents as a segment that can join ``data``; None, and nothing written, where they have no token."""
    return _sealed(folder, data, lambda aside: _packed(aside, documents, data))


def write_segment_without(
    folder: Path, segment: PreparedSegment, taken_down: Collection[int], data: PreparedData
) -> PreparedSegment | None:
    """Writes a segment of ``data`` anew without some of its documents; the tokens of the others are copied. None, and
    nothing written, where none is left.
    """
    return _sealed(folder, data, lambda aside: _copied(aside, segment, frozenset(taken_down), data))


def _sealed(folder: Path, data: PreparedData, pack: Callable[[Path], PreparedSegment]) -> PreparedSegment | None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        segment = pack(aside / SAMPLES)
        if not segment.num_tokens:
            return None
        files = {name: file.to_json() for name, file in files_in(aside / SAMPLES).items()}
        manifest = {"prepared": data.fingerprint, "segment": segment.to_json(), "files": files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        sync_tree(aside)
        replace_folder(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return open_made_segment(folder, data)


def _writer(folder: Path, data: PreparedData) -> tuple[SegmentWriter, TokenizerFacts]:
    facts = TokenizerFacts(data.tokenizer_folder, data.vocabulary_size, data.end_of_document, data.begin_of_document)
    begin_tokens = 0 if facts.begin_of_document is None else 1
    writer = SegmentWriter(folder, data.sequence_length, facts.end_of_document, facts.dtype, begin_tokens=begin_tokens)
    return writer, facts


def _copied(folder: Path, segment: PreparedSegment, left_out: frozenset[int], data: PreparedData) -> PreparedSegment:
    writer, _ = _writer(folder, data)
    stream, spans = segment.token_stream(), segment.token_spans()
    for number in range(segment.num_documents):
        if number in left_out:
            continue
        described = segment.describe(number)
        own = {name: described.pop(name) for name in ("id", "slice", "file", "line")}
        num_bytes = len(data.decode(segment.document_tokens(number)).encode("utf-8", "replace"))
        document = Document(text="", num_bytes=num_bytes, part="train", provenance=described, **own)
        ids = np.asarray(stream[spans[number] : spans[number + 1]])
        writer.append([document], ids, np.array([len(ids)], dtype=np.int64))
    return writer.close()


def _packed(folder: Path, documents: Iterable[Document], data: PreparedData) -> PreparedSegment:
    writer, facts = _writer(folder, data)
    encoder = Encoder.load(facts)
    for batch in batches(documents):
        ids, lengths = encoder.encode_documents([document.text for document in batch])
        kept = [document for document, length in zip(batch, lengths.tolist(), strict=True) if length]
        writer.append(kept, ids, lengths[lengths > 0])
    return writer.close()


def open_made_segment(folder: Path, data: PreparedData, *, check: bool = True) -> PreparedSegment:
    """Opens what ``write_made_segment`` wrote. ``DamagedStoreError`` where it is not what was written; every byte is
    looked at where ``check``.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: StoredFile.from_json(saved) for name, saved in manifest["files"].items()}
        segment = PreparedSegment(
            folder=folder / SAMPLES,
            sequence_length=data.sequence_length,
            begin_tokens=0 if data.begin_of_document is None else 1,
            **manifest["segment"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedStoreError(folder, f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if problem := (wrong_content if check else wrong_size)(folder / SAMPLES, files):
        raise DamagedStoreError(folder, problem)
    return segment
