"""The prepared store: token samples and held-out documents in memory-mapped files, and who stands in which sample.

A sample is a row of T token ids in one flat file, so a batch is one gather without Python per token. Ids are uint16
where the vocabulary fits. Which documents lie in a sample is a binary search in the documents' start offsets: 8 bytes
a document, nothing per sample. Everything known of a document is a JSON line found by its own offset, so no list grows
with the data.
"""

# n samples, T tokens of a sample, D documents

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from trainer.base.errors import DataError
from trainer.base.records import Kind
from trainer.data.account import RowAccount
from trainer.data.machine_text.account import MachineTextAccount
from trainer.data.mapped import MappedRows, Tokens
from trainer.data.prior_value import PriorValue
from trainer.data.store_files import DamagedStoreError, StoredFile, read_checked, wrong_size
from trainer.data.teacher_columns import TeacherColumns
from trainer.data.tokenizer_account import TokenizerAccount

STORE_FORMAT = 10
MANIFEST = "store.json"  # what is in the store, and size and SHA-256 of every other file
COMPLETE = "complete"  # which preparation it was, and the SHA-256 of that and the manifest; written last
_FROM_THE_STORE = ("folder", "sequence_length", "begin_tokens")  # of a segment: no manifest says them again
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DocumentRef:
    """Document number ``document`` of its source, whose tokens ``start`` to ``end`` (its end-of-document token
    included) lie in the sample.
    """

    document: int
    id: str
    start: int
    end: int


@dataclass(frozen=True)
class PreparedSegment:
    """The samples of one segment. ``num_tokens`` counts an end-of-document token per document, ``num_bytes`` the UTF-8
    text.
    """

    folder: Path
    num_samples: int
    sequence_length: int
    fingerprint: str
    num_documents: int
    num_bytes: int
    num_tokens: int
    largest_id: int
    slice_tokens: dict[str, int]
    begin_tokens: int = 0  # that each document begins with before its text

    def to_json(self) -> dict[str, Any]:
        """What a manifest says of it; the rest follows from the store that it is in."""
        return {name: value for name, value in asdict(self).items() if name not in _FROM_THE_STORE}

    @cached_property
    def _tokens(self) -> MappedRows:
        return MappedRows(self.folder / "tokens.npy")

    @cached_property
    def _token_offsets(self) -> NDArray[Any]:
        offsets: NDArray[Any] = np.load(self.folder / "token_offsets.npy", mmap_mode="r")
        return offsets

    @cached_property
    def _line_offsets(self) -> NDArray[Any]:
        offsets: NDArray[Any] = np.load(self.folder / "line_offsets.npy", mmap_mode="r")
        return offsets

    def gather(self, samples: Ints) -> Tokens:
        """Token ids [n, T], as narrow as they are stored: whoever puts them somewhere widens them in passing."""
        return self._tokens.gather(samples)

    @cached_property
    def teacher(self) -> TeacherColumns | None:
        """What a teacher expects after each token; None where none has read the segment."""
        return TeacherColumns.of(self.folder)

    def valid_tokens(self, samples: Ints) -> Ints:
        """[n] tokens that are text: T, less in a source's last sample, whose tail is filled with the end-of-document
        id.
        """
        tokens_left = self.num_tokens - np.asarray(samples, dtype=np.int64) * self.sequence_length
        return np.minimum(tokens_left, self.sequence_length)

    def document_span(self, document: int) -> tuple[int, int]:
        """First and end token of a document in the segment's token stream, its end-of-document token included."""
        return int(self._token_offsets[document]), int(self._token_offsets[document + 1])

    def documents(self, sample: int) -> list[DocumentRef]:
        """The documents that have tokens in the sample, in order."""
        if not 0 <= sample < self.num_samples:
            raise IndexError(f"sample must be in 0..{self.num_samples - 1}, got {sample}")
        first = sample * self.sequence_length
        last = min(first + self.sequence_length, self.num_tokens)
        low = int(np.searchsorted(self._token_offsets, first, side="right")) - 1
        high = int(np.searchsorted(self._token_offsets, last, side="left"))
        refs = []
        for document in range(low, high):
            start, end = self.document_span(document)
            refs.append(
                DocumentRef(
                    document, str(self.describe(document)["id"]), max(start, first) - first, min(end, last) - first
                )
            )
        return refs

    def describe(self, document: int) -> dict[str, Any]:
        """What is kept about a document: id, slice, file, line, and the provenance columns."""
        start, end = int(self._line_offsets[document]), int(self._line_offsets[document + 1])
        with (self.folder / "documents.jsonl").open("rb") as stream:
            stream.seek(start)
            described: dict[str, Any] = json.loads(stream.read(end - start))
        return described

    def document_ids(self) -> Iterator[str]:
        """The id of each document, in order, in one pass over the file."""
        with (self.folder / "documents.jsonl").open("rb") as lines:
            for line in lines:
                yield str(json.loads(line)["id"])

    def samples_of(self, document: int) -> range:
        """The samples that hold a token of the document."""
        start, end = self.document_span(document)
        return range(start // self.sequence_length, (end - 1) // self.sequence_length + 1)

    def token_stream(self) -> Tokens:
        """All ids, documents one after the other, mapped from the disk."""
        return self._tokens.array.reshape(-1)[: self.num_tokens]

    def token_spans(self) -> Ints:
        """Where each document begins in the stream, and last where the last one ends."""
        return np.asarray(self._token_offsets, dtype=np.int64)

    def document_tokens(self, document: int) -> Ints:
        """All ids of a document's text, wherever its samples end, without what begins and ends every document."""
        start, end = self.document_span(document)
        return np.asarray(self._tokens.array.reshape(-1)[start + self.begin_tokens : end - 1], dtype=np.int64)


@dataclass(frozen=True)
class PreparedSource:
    """A source's segments, and what the recipe says of it."""

    name: str
    kind: Kind
    license: str
    segments: tuple[PreparedSegment, ...]


@dataclass(frozen=True)
class HeldOutPart:
    """D held-out documents: ``tokens[offsets[i]:offsets[i + 1]]`` are document i's ids, with the begin-of-document id
    where there is one, without separators.

    ``num_bytes[D]`` UTF-8 bytes, all 0 where the tokenizer loses text, ``slice_of[D]`` an index into ``slices`` (those
    that occur, sorted), ``ids`` the documents' names, ``largest_id`` of all tokens.
    """

    tokens: NDArray[Any]
    largest_id: int
    offsets: Ints
    num_bytes: Ints
    slice_of: Ints
    slices: tuple[str, ...]
    ids: list[str]

    def document_tokens(self, document: int) -> Ints:
        """The ids of one document."""
        return np.asarray(self.tokens[self.offsets[document] : self.offsets[document + 1]], dtype=np.int64)


@dataclass(frozen=True)
class PreparedData:
    """A complete store: sources in the recipe's order, the two held-out parts, the tokenizer, and what became
    of the rows.

    ``rows``: where every file and row of each segment went, segments named by ``segment_name``; ``quarantine``: {file,
    sources: {segment: {rows, quarantined, reasons: {reason: count}}}}; ``held_out``: {left_validation_for_test:
    documents of `validation` dropped because `test` has them too}; ``prior_values``: of synthetic segments, and of real
    sources where there are several, as far as there is enough text to say; ``machine_text``: what was found of it.
    """

    folder: Path
    seal: str  # what stands in its last file: which preparation it was
    files: Mapping[str, StoredFile]
    fingerprint: str
    sources: dict[str, PreparedSource]
    validation: HeldOutPart
    test: HeldOutPart
    tokenizer_folder: Path
    vocabulary_size: int
    end_of_document: int
    begin_of_document: int | None
    sequence_length: int
    tokenizer: TokenizerAccount
    rows: dict[str, RowAccount]
    quarantine: dict[str, Any]
    held_out: dict[str, Any]
    prior_values: dict[str, PriorValue]
    machine_text: MachineTextAccount | None = None

    @property
    def segments(self) -> dict[str, tuple[PreparedSegment, ...]]:
        """The segments of each source."""
        return {name: source.segments for name, source in self.sources.items()}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))

    def notes(self) -> list[str]:
        """What a user should be told of what the tokenizer does to the text."""
        notes = self.tokenizer.notes()
        for name, account in self.rows.items():
            if account.no_tokens:
                notes.append(f"source {name}: {account.no_tokens} documents have no tokens and are dropped")
            if account.spelled:
                spelled = ", ".join(f"{token} ({count})" for token, count in list(account.spelled.items())[:5])
                taken = {"parse": "the tokens"}.get(account.special_tokens, "text, for its special_tokens is text")
                notes.append(f"source {name}: documents that spell special tokens, taken as {taken}: {spelled}")
        return notes

    def decode(self, token_ids: Ints | list[int]) -> str:
        """The text of token ids; special tokens are left out. Lossless for byte-level tokenizers."""
        return str(self._tokenizer.decode([int(token) for token in token_ids], skip_special_tokens=True))

    def token(self, token_id: int) -> str | None:
        """The token of an id, special ones too; None where the tokenizer has none."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token

    def document_texts(self, source: str, sample: int, segment: int = 0) -> list[str]:
        """The whole texts of the documents that have tokens in a sample (they may continue in neighboring samples)."""
        part = self.sources[source].segments[segment]
        return [self.decode(part.document_tokens(ref.document)) for ref in part.documents(sample)]


def segment_folder(folder: Path, source: int, segment: int) -> Path:
    """Where a store keeps a segment of its ``source``-th source."""
    return folder / f"source-{source}" / f"segment-{segment}"


def is_complete(folder: Path) -> bool:
    """Whether a store was written to its end. Raises UserError where this user may not look into it."""
    try:
        return (folder / COMPLETE).is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error


def seal_of(manifest: bytes, preparation: str) -> str:
    """What a store's last file says; ``preparation``, a text without spaces, tells one from every other."""
    return f"{preparation} {hashlib.sha256(preparation.encode() + manifest).hexdigest()}\n"


def open_prepared(folder: Path, *, check_sizes: bool = True) -> PreparedData:
    """Opens a complete store: memory maps and a manifest, in milliseconds whatever its size.

    All files must have their sizes (one process of a machine looks for all), and what is read whole its hash. Raises
    ``DamagedStoreError`` where they have not, UserError for a folder that is no such store.
    """
    if not is_complete(folder):
        raise DataError("not a complete prepared store", got=str(folder), remedy="Prepare the recipe's data again")
    try:
        seal = (folder / COMPLETE).read_text(encoding="utf-8", errors="replace")
        data = _opened(folder, _manifest(folder, seal), seal, check_sizes=check_sizes)
        if (folder / COMPLETE).read_text(encoding="utf-8", errors="replace") == seal:
            return data
    except OSError as error:
        raise _unreadable(folder, error) from error
    return open_prepared(folder, check_sizes=check_sizes)  # it was replaced meanwhile


def _unreadable(folder: Path, error: OSError) -> DataError:
    remedy = "Have it made readable, or name another folder in data.cache"
    return DataError(
        f"the prepared data cannot be read: {error.strerror}", file=error.filename or folder, remedy=remedy
    )


def _manifest(folder: Path, seal: str) -> dict[str, Any]:
    """The manifest, if it is the one that was written, of a store whose files have their sizes."""
    content = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
    manifest: Any = _parsed(content)
    is_sealed = seal == seal_of(content, seal.partition(" ")[0])
    if isinstance(manifest, dict) and manifest.get("format") != STORE_FORMAT and (is_sealed or not seal):
        raise DataError(
            f"a prepared store has format {manifest.get('format')}, this version reads {STORE_FORMAT}",
            file=folder,
            remedy="Delete it; it is prepared anew at the next start",
        )
    if not (folder / MANIFEST).is_file():
        raise DamagedStoreError(folder, f"{MANIFEST} is missing")
    if not is_sealed:
        problem = f"{MANIFEST} does not match its SHA-256 in {COMPLETE}: one of the two is not what was written"
        raise DamagedStoreError(folder, problem)
    return dict(manifest)


def _parsed(text: bytes) -> Any:
    """None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _opened(folder: Path, manifest: dict[str, Any], seal: str, *, check_sizes: bool) -> PreparedData:
    files = {name: StoredFile.from_json(saved) for name, saved in manifest["files"].items()}
    if check_sizes and (problem := wrong_size(folder, files)):
        raise DamagedStoreError(folder, problem)
    begin = manifest["begin_of_document"]
    sources = {}
    for number, facts in enumerate(manifest["sources"]):
        segments = tuple(
            PreparedSegment(
                folder=segment_folder(folder, number, place),
                sequence_length=manifest["sequence_length"],
                begin_tokens=0 if begin is None else 1,
                **segment,
            )
            for place, segment in enumerate(facts["segments"])
        )
        sources[facts["name"]] = PreparedSource(facts["name"], facts["kind"], facts["license"], segments)
    return PreparedData(
        folder=folder,
        seal=seal,
        files=files,
        fingerprint=manifest["fingerprint"],
        sources=sources,
        validation=_open_part(folder, "validation", manifest, files),
        test=_open_part(folder, "test", manifest, files),
        tokenizer_folder=folder / "tokenizer",
        vocabulary_size=manifest["vocabulary_size"],
        end_of_document=manifest["end_of_document"],
        begin_of_document=begin,
        tokenizer=TokenizerAccount.from_json(manifest["tokenizer"]),
        sequence_length=manifest["sequence_length"],
        rows={name: RowAccount.from_json(record) for name, record in manifest["rows"].items()},
        quarantine=manifest["quarantine"],
        held_out=manifest["held_out"],
        prior_values={name: PriorValue.from_json(saved) for name, saved in manifest["prior_values"].items()},
        machine_text=MachineTextAccount.from_json(found) if (found := manifest["machine_text"]) else None,
    )


def _open_part(folder: Path, part: str, manifest: Mapping[str, Any], files: Mapping[str, StoredFile]) -> HeldOutPart:
    """The part; where text is lost its bytes count as none, so that nothing is given per byte."""

    def column(name: str) -> NDArray[Any]:
        loaded: NDArray[Any] = np.load(io.BytesIO(read_checked(folder, f"{part}/{name}.npy", files)))
        return loaded

    has_bytes = TokenizerAccount.from_json(manifest["tokenizer"]).is_lossless
    num_bytes = column("num_bytes")
    names = json.loads(read_checked(folder, f"{part}/names.json", files))
    try:
        tokens = np.load(folder / part / "tokens.npy", mmap_mode="r")
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise DamagedStoreError(folder, f"{part}/tokens.npy is not what was written ({error})") from None
    return HeldOutPart(
        tokens=tokens,
        largest_id=manifest["largest_ids"][part],
        offsets=column("offsets"),
        num_bytes=num_bytes if has_bytes else np.zeros_like(num_bytes),
        slice_of=column("slice_of"),
        slices=tuple(names["slices"]),
        ids=names["ids"],
    )
