"""Where every file and every row of a segment went: read, used, or left out for which reason. The counts add up.

Files: ``seen = read + skipped``. Rows:
``read = used + held_out + quarantined + not_selected + not_sampled + filtered + contaminated + beyond_limit
+ no_tokens + taken_down``
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

EXAMPLES_PER_REASON = 3
COPY_KINDS = ("exact", "near", "part")
QUARANTINE = "quarantine.jsonl"  # in a store: its malformed rows, each with place and reason
_ID_CHARACTERS = 50
_KIND_WORDS = {"near": "is nearly", "part": "shares a part with"}
EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class SkippedFiles:
    """The files of a segment that were seen and not read for one reason, with the first few of their paths."""

    reason: str
    num_files: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileAccount:
    """The files of one segment by what became of them. ``without_rows`` of those read gave no row at all."""

    read: int
    num_bytes: int  # of the files read, as they lie on the disk
    without_rows: int = 0
    examples_without_rows: tuple[str, ...] = ()  # the first few names of them
    skipped: tuple[SkippedFiles, ...] = ()

    @property
    def seen(self) -> int:
        """Files read and files skipped."""
        return self.read + sum(files.num_files for files in self.skipped)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``asdict`` gave."""
        skipped = tuple(SkippedFiles(**{**files, "examples": tuple(files["examples"])}) for files in record["skipped"])
        return cls(**{**record, "skipped": skipped, "examples_without_rows": tuple(record["examples_without_rows"])})


@dataclass
class FileTally:
    """Counts the files that a search for data saw and left out. Reasons name the rule, not the file."""

    _skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        """Counts a file that is not read."""
        self._skipped.setdefault(reason, []).append(path)

    @property
    def skipped(self) -> tuple[SkippedFiles, ...]:
        """What was left out so far; the largest counts first."""
        by_count = sorted(self._skipped.items(), key=lambda item: -len(item[1]))
        return tuple(
            SkippedFiles(reason=reason, num_files=len(paths), examples=tuple(paths[:EXAMPLES_PER_REASON]))
            for reason, paths in by_count
        )


def _short(text: str) -> str:
    return text if len(text) <= _ID_CHARACTERS else f"{text[:_ID_CHARACTERS]}..."


@dataclass(frozen=True)
class Copy:
    """A training document that is a copy of a held-out one: both ids, how (exact, near, part), how much of it, and how
    it begins.
    """

    id: str
    held_out: str
    kind: str
    shared: float
    text: str

    def in_words(self) -> str:
        """Who is a copy of whom: "a17 is b3: It was a dark", or with how much is the other's."""
        if self.kind == "exact":
            pair = f"{_short(self.id)} is {_short(self.held_out)}"
        else:
            pair = f"{_short(self.id)} {_KIND_WORDS[self.kind]} {_short(self.held_out)} ({self.shared:.0%})"
        return f"{pair}: {_short(self.text)}"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The documents of a segment dropped as copies of held-out ones, by kind, with the first few of each.

    ``same_form`` documents were kept: most of their words are held-out documents' too, but only the words of a form.
    """

    exact: int = 0
    near: int = 0
    part: int = 0
    same_form: int = 0
    examples: tuple[Copy, ...] = ()

    @property
    def dropped(self) -> int:
        """All that is not kept."""
        return self.exact + self.near + self.part

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``asdict`` gave."""
        return cls(**{**record, "examples": tuple(Copy(**example) for example in record["examples"])})


@dataclass(frozen=True, kw_only=True)
class FilteredRow:
    """One example of what a filter dropped: the document's id and the beginning of its text."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class FilteredRows:
    """The rows of a segment that the filter ``filter`` dropped (or only counted) for one reason, with the first few."""

    filter: str
    reason: str
    num_rows: int
    examples: tuple[FilteredRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RowAccount:
    """The files and rows of one segment by what became of them."""

    files: FileAccount
    read: int
    used: int  # training documents
    held_out: int  # in the parts validation or test, whether or not they stayed there
    quarantined: int  # malformed
    not_selected: int  # by `where`
    not_sampled: int  # by `sample`
    contaminated: int  # copies of held-out documents
    beyond_limit: int  # after `max_documents`
    no_tokens: int = 0  # the tokenizer can spell nothing of the text
    taken_down: int = 0  # of a pool, by `trainer takedown`
    malformed: Mapping[str, int] = field(default_factory=dict)  # the quarantined ones by reason, the largest first
    copies: Copies = Copies()  # the contaminated ones by kind
    without_key: int = 0  # of all those above: no value in the column that decides where they belong
    filters: tuple[FilteredRows, ...] = ()
    noted: tuple[FilteredRows, ...] = ()  # counted by a filter that drops nothing; a row may stand in several
    spelled: Mapping[str, int] = field(default_factory=dict)  # special tokens: used rows whose text spells them
    special_tokens: str = "text"  # what their spelling means: text or parse

    @property
    def filtered(self) -> int:
        """Rows that a filter dropped."""
        return sum(rows.num_rows for rows in self.filters)

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that are not used, by reason; filters as ``filter KIND: REASON``."""
        names = (
            "held_out", "quarantined", "not_selected", "not_sampled", "contaminated", "beyond_limit", "no_tokens",
            "taken_down",
        )  # fmt: skip
        counts = {name: getattr(self, name) for name in names}
        return counts | {f"filter {rows.filter}: {rows.reason}": rows.num_rows for rows in self.filters}

    def to_json(self) -> dict[str, Any]:
        """As a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        filtered = {
            name: tuple(
                FilteredRows(**{**rows, "examples": tuple(FilteredRow(**example) for example in rows["examples"])})
                for rows in record[name]
            )
            for name in ("filters", "noted")
        }
        files, copies = FileAccount.from_json(record["files"]), Copies.from_json(record["copies"])
        return cls(**{**record, "files": files, "copies": copies, **filtered})


class FilterTally:
    """Counts rows by filter and reason, and keeps the first few of each."""

    def __init__(self) -> None:
        self._examples: dict[tuple[str, str], list[FilteredRow]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str, reason: str, document_id: str, text: str) -> None:
        """Counts a row."""
        self._counts[kind, reason] += 1
        examples = self._examples.setdefault((kind, reason), [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(FilteredRow(id=document_id, text=text[:EXAMPLE_CHARACTERS]))

    def rows(self) -> tuple[FilteredRows, ...]:
        """The counts so far, the largest first."""
        return tuple(
            FilteredRows(filter=kind, reason=reason, num_rows=count, examples=tuple(self._examples[kind, reason]))
            for (kind, reason), count in self._counts.most_common()
        )


@dataclass
class RowTally:
    """Counts the rows of one pass over a segment, and the files that gave none."""

    files_without_rows: list[str] = field(default_factory=list)

    read: int = 0
    used: int = 0
    held_out: int = 0
    not_selected: int = 0
    not_sampled: int = 0
    beyond_limit: int = 0
    no_tokens: int = 0
    taken_down: int = 0
    spelled: Counter[str] = field(default_factory=Counter)
    special_tokens: str = "text"
    same_form: int = 0
    _malformed: Counter[str] = field(default_factory=Counter)
    _copies: Counter[str] = field(default_factory=Counter)
    _copy_examples: list[Copy] = field(default_factory=list)
    without_key: int = 0
    _filtered: FilterTally = field(default_factory=FilterTally)
    _noted: FilterTally = field(default_factory=FilterTally)

    @property
    def quarantined(self) -> int:
        """Malformed rows."""
        return self._malformed.total()

    def add_malformed(self, reason: str) -> None:
        """Counts a row that goes to the quarantine."""
        self._malformed[reason] += 1

    def add_copy(self, copy: Copy) -> None:
        """Counts a document that is dropped as a copy of a held-out one."""
        self._copies[copy.kind] += 1
        if self._copies[copy.kind] <= EXAMPLES_PER_REASON:
            self._copy_examples.append(copy)

    def add_filtered(self, kind: str, reason: str, document_id: str, text: str) -> None:
        """Counts a row that a filter dropped."""
        self._filtered.add(kind, reason, document_id, text)

    def add_noted(self, kind: str, reason: str, document_id: str, text: str) -> None:
        """Counts a row that a filter has something to say of, and that is kept."""
        self._noted.add(kind, reason, document_id, text)

    def account(self, files: FileAccount) -> RowAccount:
        """The counts so far; largest filter counts first. ``files`` are those that the rows came from."""
        copies = Copies(**self._copies, same_form=self.same_form, examples=tuple(self._copy_examples))
        return RowAccount(
            files=replace(
                files,
                without_rows=len(self.files_without_rows),
                examples_without_rows=tuple(self.files_without_rows[:EXAMPLES_PER_REASON]),
            ),
            read=self.read,
            used=self.used,
            held_out=self.held_out,
            quarantined=self.quarantined,
            not_selected=self.not_selected,
            not_sampled=self.not_sampled,
            contaminated=copies.dropped,
            beyond_limit=self.beyond_limit,
            no_tokens=self.no_tokens,
            taken_down=self.taken_down,
            malformed=dict(self._malformed.most_common()),
            copies=copies,
            without_key=self.without_key,
            filters=self._filtered.rows(),
            noted=self._noted.rows(),
            spelled=dict(self.spelled.most_common()),
            special_tokens=self.special_tokens,
        )
