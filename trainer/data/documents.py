"""Turns rows into documents and assigns each one to a part: training, `validation`, `test`, or none.

A document belongs to a part by a hash of what it is, never by where it stands, so that adding, removing or reordering
rows moves no other document from held-out to training. Held-out documents are taken before a source is narrowed by
`sample`: scarce training data must not make the held-out data scarce too.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trainer.base.errors import DataError
from trainer.data.account import FileAccount, RowTally
from trainer.data.columns import ColumnCheck, read_options
from trainer.data.config import DataConfig, HeldOutByBucket, HeldOutByShare, filters_of
from trainer.data.files import account_of, found_files
from trainer.data.filters import FilterChain
from trainer.data.find import FoundFiles, is_indexed
from trainer.data.index import read_index
from trainer.data.keys import key_of, spelled
from trainer.data.pool_manifest import ID_COLUMN
from trainer.data.quarantine import Quarantine
from trainer.data.readers import Malformed, OpenableFile, ReadOptions, Row, read_rows
from trainer.data.source_config import SourceConfig
from trainer.data.unreadable import more_unreadable

logger = logging.getLogger(__name__)

Part = Literal["train", "validation", "test", "none"]

NO_SLICE = "(none)"
BATCH_DOCUMENTS = 1024
BATCH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A well-formed document: text, its UTF-8 size, and what is kept about it."""

    text: str
    num_bytes: int
    id: str
    slice: str
    file: str
    line: int
    part: Part
    provenance: Mapping[str, Any] = field(default_factory=dict)


def bucket_of(key: str, of: int) -> int:
    """int(sha256(key)) mod ``of``."""
    return int(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest(), 16) % of


def unit_hash(seed: int, text: str) -> float:
    """A number in [0, 1) that depends on seed and text only."""
    digest = hashlib.sha256(f"{seed}:{text.strip()}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") / 2.0**64


def defect_of(text: object) -> str | None:
    """Why a text cannot be used; None when it can."""
    if text is None:
        return "missing or null text"
    if not isinstance(text, str):
        return "text is not a string"
    if not text.strip():
        return "empty text"
    if "\x00" in text:
        return "NUL byte"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "bad UTF-8"
    return None


class DocumentReader:
    """Reads segments as documents; at the first complete pass over each, malformed rows go to the quarantine."""

    def __init__(self, config: DataConfig, *, seed: int, base: Path, cache: Path, quarantine: Quarantine) -> None:
        self.config, self._seed, self._base, self._cache, self._quarantine = config, seed, base, cache, quarantine
        self._found: dict[str, FoundFiles] = {}

    def files(self, name: str) -> FileAccount:
        """The files of segment ``name``, read and left out."""
        return account_of(self.config.every_segment[name], self._found_files(name))

    def _found_files(self, name: str) -> FoundFiles:
        """The files of segment ``name``, looked for once: every pass reads the same ones."""
        if name not in self._found:
            self._found[name] = found_files(self.config, name, self._base, self._cache)
        return self._found[name]

    def documents(self, name: str, *, record: bool = True, tally: RowTally | None = None) -> Iterator[Document]:
        """Every well-formed document of segment ``name`` (``segment_name``) that `where` and the filters keep, with its
        part. Rows that are not yielded, and held-out ones, are counted in ``tally``.

        ``record=False`` for a pass that may stop half-way: it leaves the quarantine alone. UserError at the end when
        the recipe names a column that no row had.
        """
        tally = RowTally() if tally is None else tally
        segment, is_first, num_rows = self.config.every_segment[name], record and not self._quarantine.knows(name), 0
        options, filters = read_options(self.config, name), FilterChain(filters_of(self.config, name))
        files, key_columns = self._found_files(name).files, self._key_columns(name, segment)
        is_own = not is_indexed(segment)
        rows = self._counted_rows(name, files, tally) if is_own else read_index(Path(files[0].path))
        check = ColumnCheck(name, segment, options)
        for row in islice(rows, segment.max_rows):
            tally.read += 1
            if isinstance(row, Row):
                check.add(row.columns)
                if not self._is_selected(name, segment, row, check, tally):
                    continue
            num_rows += 1
            document = self._document(name, segment, row, key_columns, tally) if isinstance(row, Row) else row
            if isinstance(document, Document):
                assert isinstance(row, Row)
                if self._is_kept(document, row, filters, tally):
                    yield document
                continue
            tally.add_malformed(document.reason)
            if is_first:
                self._quarantine.add(name, document)
        check.refuse_unknown(files if is_own else [])
        if tally.read and tally.not_selected == tally.read:
            raise check.nothing_selected(tally.read)
        if is_first:
            self._quarantine.close_source(name, num_rows, check.columns)
        self._note_keyless(name, segment, tally, is_first=is_first)

    def _is_selected(self, name: str, source: SourceConfig, row: Row, check: ColumnCheck, tally: RowTally) -> bool:
        """Whether `where` takes the row, and nothing has taken it down."""
        taken_down = self._found_files(name).taken_down
        if taken_down and row.columns.get(ID_COLUMN) in taken_down:
            tally.taken_down += 1
            return False
        if matches(row.columns, source.where):
            return True
        check.leave_out(row.columns, first=tally.not_selected == tally.read - 1)
        tally.not_selected += 1
        return False

    def _counted_rows(self, name: str, files: Sequence[OpenableFile], tally: RowTally) -> Iterator[Row | Malformed]:
        """All rows of a segment's files in order; notes the files that have none. UserError for all files that cannot
        be read, those of later segments too.
        """
        options = read_options(self.config, name)
        if self._found_files(name).of_pool:
            options = replace(options, columns=tuple(dict.fromkeys((*options.columns, ID_COLUMN))))
        for place, file in enumerate(files):
            rows = read_rows([file], options)
            try:
                first = next(rows, None)
                if first is None:
                    tally.files_without_rows.append(file.name)
                    continue
                yield first
                yield from rows
            except DataError as error:
                if several := more_unreadable(error, self._not_read_yet(name, files[place + 1 :])):
                    raise several from error
                raise

    def _not_read_yet(self, name: str, rest: Iterable[OpenableFile]) -> Iterator[tuple[OpenableFile, ReadOptions]]:
        """The ``rest`` of a segment's files, and those of segments that were not read to their end once."""
        for other, segment in self.config.every_segment.items():
            if self._quarantine.knows(other) or is_indexed(segment) or segment.max_rows is not None:
                continue
            files = rest if other == name else self._found_files(other).files
            yield from ((file, read_options(self.config, other)) for file in files)

    def training(self, name: str, *, record: bool = True, tally: RowTally | None = None) -> Iterator[Document]:
        """The segment's training documents, before decontamination."""
        documents = self.documents(name, record=record, tally=tally)
        return (document for document in documents if document.part == "train")

    def _is_kept(self, document: Document, row: Row, filters: FilterChain, tally: RowTally) -> bool:
        """Counts what does not become a training document; only training documents are filtered."""
        if document.part == "none":
            tally.not_sampled += 1
        elif document.part != "train":
            tally.held_out += 1
        elif dropped := filters.dropped_by(
            document.text, row.columns, lambda kind, why: tally.add_noted(kind, why, document.id, document.text)
        ):
            tally.add_filtered(*dropped, document.id, document.text)
            return False
        return True

    def _note_keyless(self, name: str, source: SourceConfig, tally: RowTally, *, is_first: bool) -> None:
        """Says how many rows had no key. Raises UserError where none had one."""
        if not tally.without_key:
            return
        columns = ", ".join(sorted(self._key_columns(name, source)))
        if tally.without_key == tally.read - tally.not_selected - tally.quarantined - tally.taken_down:
            problem = f"no row of source {name!r} has a key: every one is null, NaN or empty"
            raise DataError(problem, got=columns, remedy="Name a column with values, or hold out by share")
        if is_first:
            text = "source %r: %d of %d rows have no %s; each of them counts as a document of its own"
            logger.warning(text, name, tally.without_key, tally.read, columns)

    def _key_columns(self, name: str, source: SourceConfig) -> set[str]:
        """The columns whose values decide where a row belongs."""
        rule = self.config.held_out
        by = {rule.by} if isinstance(rule, HeldOutByBucket) and name.partition(":")[0] == rule.source else set()
        return by | ({source.sample.by} if source.sample else set())

    def _document(
        self, name: str, source: SourceConfig, row: Row, key_columns: Iterable[str], tally: RowTally
    ) -> Document | Malformed:
        columns = row.columns
        text = columns.get(source.text_column)
        if defect := defect_of(text):
            return Malformed(row.file, row.line, defect)
        assert isinstance(text, str)
        id_column = source.id_column or (ID_COLUMN if self._found_files(name).of_pool else None)
        identity = columns.get(id_column) if id_column else None
        identity = identity if isinstance(identity, str) and identity.strip() else spelled(identity)
        slice_value = spelled(columns.get(source.slice)) if source.slice else None
        keys = {column: key_of(row, column) for column in key_columns}
        tally.without_key += None in keys.values()
        # A row without a key is a document of its own: pooled, all of them would fall into one part.
        own = {column: text if key is None else key for column, key in keys.items()}
        return Document(
            text=text,
            num_bytes=len(text) if text.isascii() else len(text.encode("utf-8")),
            id=f"{row.file}:{row.line}" if identity is None else identity,
            slice="all" if source.slice is None else NO_SLICE if slice_value is None else slice_value,
            file=row.file,
            line=row.line,
            part=self._part(name, source, text, own),
            provenance={column: columns.get(column) for column in source.provenance},
        )

    def _part(self, name: str, source: SourceConfig, text: str, keys: Mapping[str, str]) -> Part:
        rule = self.config.held_out
        name = name.partition(":")[0]  # what the rule holds out is trained on from no segment of the source
        if isinstance(rule, HeldOutByBucket) and name == rule.source:
            bucket = bucket_of(keys[rule.by], rule.of)
            if bucket in rule.validation:
                return "validation"
            if bucket in rule.test:
                return "test"
        elif isinstance(rule, HeldOutByShare) and name == rule.source:
            place = unit_hash(self._seed, text)
            if place < rule.validation + rule.test:
                return "validation" if place < rule.validation else "test"
        sample = source.sample
        return "train" if sample is None or bucket_of(keys[sample.by], sample.of) in sample.buckets else "none"


def matches(columns: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether every filtered column has its value, or one of its values."""
    return all(
        columns.get(name) in (accepted if isinstance(accepted, tuple) else (accepted,))
        for name, accepted in where.items()
    )


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of about BATCH_BYTES of text, of BATCH_DOCUMENTS documents at most."""
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if len(batch) == BATCH_DOCUMENTS or num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
