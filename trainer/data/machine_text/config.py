"""What a recipe says of machine-written text in the sources that it calls real."""

from typing import Literal, Self

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.data.source_config import Rows, SourceConfig

SEGMENT = "machine_text"  # begins the names of references that are files of their own


class ReferenceRows(Rows):
    """Labeled text of its own: rows that are known to be written by people, or by a machine."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if problem := self.contradiction():
            raise ValueError(problem)
        return self


class MachineTextConfig(Config):
    """Before training, every source called real is checked for machine-written text, by two labeled references."""

    real: str | ReferenceRows = Field(
        description="text that people wrote: a real source, which is then not checked itself, or rows of its own"
    )
    machine: tuple[str | ReferenceRows, ...] = Field(
        min_length=1,
        description="text that machines wrote, each a synthetic source or rows of its own; the one that finds most is "
        "told",
    )
    max_share: float = Field(0.1, ge=0, le=1, description="share of machine-written documents that is let pass")
    action: Literal["refuse", "reclassify", "warn"] = Field(
        "refuse",
        description="where the interval of a source lies above max_share as a whole: stop; take the source for "
        "synthetic; or only say so",
    )
    documents: int = Field(2000, ge=100, le=50_000, description="documents that are looked at, of each source")
    dates: dict[str, str] = Field(
        default_factory=dict,
        description="by source the column, one of its `provenance`, with the date that tells its years apart",
    )

    @property
    def references(self) -> dict[str, SourceConfig]:
        """The references that are rows of their own, by the names of their segments."""
        own = {f"{SEGMENT}.real": ("real", self.real)}
        own |= {f"{SEGMENT}.machine.{number}": ("synthetic", rows) for number, rows in enumerate(self.machine)}
        return {
            name: SourceConfig.model_validate({**rows.model_dump(exclude_unset=True), "kind": kind})
            for name, (kind, rows) in own.items()
            if isinstance(rows, ReferenceRows)
        }

    @property
    def real_name(self) -> str:
        """The segment of the real reference."""
        return self.real if isinstance(self.real, str) else f"{SEGMENT}.real"

    @property
    def machine_names(self) -> tuple[str, ...]:
        """The segments of the machines' references."""
        return tuple(
            rows if isinstance(rows, str) else f"{SEGMENT}.machine.{number}" for number, rows in enumerate(self.machine)
        )

    def contradiction(self, sources: dict[str, SourceConfig]) -> str | None:
        """What does not fit the recipe's sources; None where all does."""
        names = [("real", self.real, "real"), *(("machine", rows, "synthetic") for rows in self.machine)]
        for key, name, kind in names:
            if isinstance(name, str) and (name not in sources or sources[name].kind != kind):
                fitting = [other for other, source in sources.items() if source.kind == kind]
                return f"machine_text.{key} names no {kind} source: got {name!r}, there are {fitting}"
        checked = [name for name, source in sources.items() if source.kind == "real" and name != self.real]
        if not checked:
            return "machine_text has no real source to check besides the reference: name rows of their own in `real`"
        for name, column in self.dates.items():
            if name not in checked:
                return f"machine_text.dates names no source that is checked: got {name!r}, there are {checked}"
            if column not in sources[name].provenance:
                return f"machine_text.dates: add {column!r} to the `provenance` of {name}"
        return None
