"""What a line of the journal is: a frozen dataclass whose fields say what they hold, in which unit, and under which
name a tracker plots them. The lines themselves are in ``trainer.tracking.schema``.

The annotation is the one place where a figure is described: the names in W&B and TensorBoard, the columns of the report
and the reference in the documentation are made from it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trainer.base.errors import UserError
from trainer.base.json_values import jsonable, number


@dataclass(frozen=True)
class About:
    """What a field of a journal line holds.

    ``metric`` is the name under which trackers plot it; ``{}`` in it stands for the key of a mapping. For a mapping of
    records it is a metric for each attribute that is plotted. ``convert`` makes the plotted value of the recorded one.
    ``inline``: the record's own fields stand in the line, not under the field's name; ``metric`` is then put before the
    names of their metrics.
    """

    description: str
    unit: str = ""
    metric: str | Mapping[str, str] = ""
    convert: Callable[[Any], Any] | None = None
    inline: bool = False


@dataclass(frozen=True, kw_only=True)
class JournalLine:
    """A line of the journal: something that was measured, decided or done after ``step``."""

    kind: ClassVar[str]
    step: Annotated[int, About("the optimizer step after which this was measured, decided or done; 0 before any")]

    def to_line(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        return {"kind": self.kind, **_fields_as_json(self)}

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Self:
        """The record of a parsed line; ``UserError`` where a field is missing or holds something else."""
        values = {**line, **{name: line for name, about in fields_of(cls).items() if about.inline}}
        try:
            return _adapter(cls).validate_python(values)  # type: ignore[no-any-return, arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"a line of kind {cls.kind!r} at step {line.get('step')}: {field}: {first['msg'].lower()}",
                remedy="The journal was written by another version of this program: read it with that one",
            ) from None

    def metrics(self) -> dict[str, float]:
        """What trackers plot of it, by metric name; NaN where it was not measured."""
        return dict(_metrics(self))


def fields_of(record: type) -> dict[str, About]:
    """The fields of a record and what they hold, in the order in which they stand in the line."""
    return {name: about for name, (about, _) in _annotations(record).items()}


def types_of(record: type) -> dict[str, Any]:
    """The types of a record's fields."""
    return {name: kind for name, (_, kind) in _annotations(record).items()}


@cache
def _annotations(record: type) -> dict[str, tuple[About, Any]]:
    hints = get_type_hints(record, include_extras=True)
    names = [field.name for field in dataclasses.fields(record)]
    return {name: _annotation(record, name, hints[name]) for name in names}


def _annotation(record: type, name: str, hint: Any) -> tuple[About, Any]:
    if get_origin(hint) is Annotated:
        kind, *extras = get_args(hint)
        for extra in extras:
            if isinstance(extra, About):
                return extra, kind
    raise TypeError(f"{record.__name__}.{name} does not say what it holds: annotate it with About")


@cache
def _adapter(record: type) -> TypeAdapter[Any]:
    return TypeAdapter(record)


def _fields_as_json(record: JournalLine) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for name, about in fields_of(type(record)).items():
        value = jsonable(getattr(record, name))
        line |= value if about.inline else {name: value}
    return line


def _metrics(record: object) -> Iterator[tuple[str, float]]:
    for name, about in fields_of(type(record)).items():
        value = getattr(record, name)
        if about.inline:
            yield from ((f"{about.metric}{metric}", plotted) for metric, plotted in _metrics(value))
        else:
            yield from _plotted(value, about)


def _plotted(value: Any, about: About) -> Iterator[tuple[str, float]]:
    """The metrics of one field."""
    if not about.metric or value is None:
        return
    if about.convert is not None:
        value = about.convert(value)
    if isinstance(about.metric, Mapping):
        for key, record in value.items():
            for attribute, metric in about.metric.items():
                yield metric.format(key), number(getattr(record, attribute))
    elif isinstance(value, Mapping):
        for key, figure in value.items():
            yield about.metric.format(key), number(figure)
    else:
        yield about.metric, number(value)
