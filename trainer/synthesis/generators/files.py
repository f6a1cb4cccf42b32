"""Rows that another engine wrote, as the answers of a generator.

Generation at scale runs on engines that exist (datatrove, NeMo Data Designer, Curator, a script). Their rows are taken
in by a mapping of columns, with their lineage, and then are what any answer is: counted, graded, filtered, held against
held-out data. A row is named by its file's content and its place there.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainer.base.errors import DataError
from trainer.data.documents import defect_of
from trainer.data.find import content_hash, local_files
from trainer.data.keys import spelled
from trainer.data.readers import OpenableFile, ReadOptions, Row, read_rows
from trainer.data.source_config import Rows
from trainer.synthesis.generators.config import FileColumns, FilesConfig
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request

_ITEM = "item"
_CUT_OFF = ("length", "max_tokens", "max_new_tokens", "False", "false")


@dataclass(frozen=True, kw_only=True)
class TakenRow:
    """A row of a file: what answers, and what it tells of itself in place of what a request would."""

    id: str
    file: str  # the first 16 hex digits of its sha256
    completion: Completion
    prompt: str
    prompt_name: str
    source_id: str | None
    slice: str | None
    lineage: Mapping[str, Any]  # columns of the pool


class Files:
    """Reads the rows of the files, and gives as answers those that were taken."""

    def __init__(self, config: FilesConfig) -> None:
        self.config = config
        self._completions: dict[str, Completion] = {}

    def identity(self) -> Identity:
        """The model that the recipe names."""
        return Identity(name=self.config.written_by, weights=self.config.weights, license=self.config.license)

    def take(self, count: int, before: Mapping[str, int]) -> list[TakenRow]:
        """The next ``count`` rows, after the first ``before[file]`` of each file. ``UserError`` where a file cannot be
        read or has no column that the mapping names.
        """
        taken: list[TakenRow] = []
        for file in local_files(Rows(path=self.config.path, format=self.config.format), Path()):
            if len(taken) == count:
                break
            digest = content_hash(file.path)[:16]
            for number, row in enumerate(self._rows(file, digest)):
                if len(taken) == count:
                    break
                if number >= before.get(digest, 0):
                    taken.append(row)
        self._completions = {row.id: row.completion for row in taken}
        return taken

    def refuse(self, name: str, reason: str) -> None:
        """The row is dropped for ``reason``, and counted under it."""
        self._completions[name] = replace(self._completions[name], finish_reason="unusable", error=reason)

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """The rows that ``take`` gave, in order."""
        return (self._completions[request.id] for request in requests if request.id not in done)

    def _rows(self, file: OpenableFile, digest: str) -> Iterator[TakenRow]:
        columns = self.config.columns
        text = columns.text or columns.messages or "text"
        places = list(dict.fromkeys([text, *(place for place in columns.model_dump().values() if place is not None)]))
        within = [place for place in places if self.config.each is None or place.split(".")[0] != _ITEM]
        names = list(dict.fromkeys(place.split(".")[0] for place in (self.config.each, *within) if place is not None))
        options = ReadOptions(text_column=names[0], columns=tuple(names), format=self.config.format)
        missing = dict.fromkeys(places, True)
        number = 0
        for row in read_rows([file], options):
            items = [row.reason] if not isinstance(row, Row) else self._items(row)
            for item in items:
                if isinstance(item, Mapping):
                    for place in [place for place, is_missing in missing.items() if is_missing]:
                        missing[place] = at(item, place) is None
                yield self._taken(item, digest, number)
                number += 1
        if lacking := sorted(place for place, is_missing in missing.items() if is_missing and number):
            remedy = "Fix synthesis.generator.columns: a place is a column, or `column.key` inside one"
            raise DataError("no row has what the mapping names", got=", ".join(lacking), remedy=remedy, file=file.path)

    def _items(self, row: Row) -> list[Any]:
        if self.config.each is None:
            return [row.columns]
        items = at(row.columns, self.config.each)
        if not isinstance(items, Sequence) or isinstance(items, str):
            return [f"no list at {self.config.each}"]
        return [{**row.columns, _ITEM: item} for item in items]

    def _taken(self, item: Mapping[str, Any] | str, digest: str, number: int) -> TakenRow:
        name = hashlib.sha256(f"{digest}:{number}".encode()).hexdigest()[:32]
        columns = self.config.columns
        values = {} if isinstance(item, str) else values_of(columns, item)
        text = values.get("text")
        defect = item if isinstance(item, str) else defect_of(text)
        text = text if defect is None and isinstance(text, str) else ""
        prompt = values.get("prompt")
        prompt = prompt if isinstance(prompt, str) else ""
        prompt_tokens, completion_tokens = values.get("prompt_tokens"), values.get("completion_tokens")
        is_told = isinstance(prompt_tokens, int) and isinstance(completion_tokens, int)
        completion = Completion(
            request_id=name,
            text=text,
            finish_reason="unusable" if defect else _finish_reason(values.get("finish_reason")),
            prompt_tokens=_whole(prompt_tokens, len(prompt) // 4),
            completion_tokens=_whole(completion_tokens, len(text) // 4),
            counted="told" if is_told else "estimated",
            seconds=0.0,
            error=defect,
        )
        return TakenRow(
            id=name,
            file=digest,
            completion=completion,
            prompt=prompt,
            prompt_name=spelled(values.get("prompt_name")) or "files",
            source_id=spelled(values.get("source_id")),
            slice=spelled(values.get("slice")),
            lineage=self._lineage(values),
        )

    def _lineage(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a request would tell: null where the engine did not say it."""
        told: dict[str, Any] = {
            "temperature": _number(values.get("temperature")),
            "top_p": _number(values.get("top_p")),
            "max_new_tokens": _whole(values.get("max_new_tokens"), None),
            "seed": _whole(values.get("seed"), None),
        }
        if isinstance(generator := values.get("generator"), str):
            told["generator"] = generator
        if isinstance(license_ := values.get("license"), str):
            told["license"] = license_
        if (messages := values.get("messages")) is not None:
            told["messages"] = messages
        return told


def at(row: Mapping[str, Any], place: str) -> Any:
    """The value at a place as `metadata.usage.prompt_tokens`; None where there is none."""
    value: Any = row
    for key in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, Sequence) and not isinstance(value, str) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def values_of(columns: FileColumns, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the row has at the places of the mapping."""
    values = {name: at(row, place) for name, place in columns.model_dump().items() if place is not None}
    if columns.messages is not None:
        values["messages"] = _messages(values["messages"])
    if columns.text is None:
        answers = [message["content"] for message in values.get("messages") or [] if message["role"] == "assistant"]
        values["text"] = (answers[-1] if answers else None) if columns.messages is not None else row.get("text")
    return values


def _messages(value: Any) -> list[dict[str, str]] | None:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    messages = [message for message in value if isinstance(message, Mapping)]
    return [{"role": str(message.get("role")), "content": str(message.get("content"))} for message in messages]


def _finish_reason(value: Any) -> Literal["stop", "length"]:
    return "length" if str(value) in _CUT_OFF else "stop"


def _whole(value: Any, default: Any) -> Any:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def files(config: FilesConfig) -> Generator:
    """The generator of kind ``files``."""
    return Files(config)
