"""What is known of a recipe's data before a run: from the prepared store where there is one, else by counting what is
small enough to be read at once.
"""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from trainer.base.errors import UserError
from trainer.data.account import FileAccount, RowAccount
from trainer.data.account_text import account_lines, files_in_words, loss_warnings
from trainer.data.config import HELD_OUT_SEGMENTS, DataConfig, HeldOutDataset
from trainer.data.documents import DocumentReader
from trainer.data.files import file_account
from trainer.data.find import is_indexed
from trainer.data.fingerprint import cache_folder, stamp_key
from trainer.data.machine_text.account import MachineTextAccount
from trainer.data.machine_text.check import check_machine_text
from trainer.data.prior_value import PriorValue, value_lines, value_warnings
from trainer.data.quarantine import Quarantine
from trainer.data.store import PreparedData
from trainer.data.waiting import known_store
from trainer.evaluate.measurements import plan_measurements
from trainer.recipe import LoadedRecipe
from trainer.runs.build import held_out_text, measured_run, planned_validation

COUNTED_BYTES = 16_000_000  # read in about half a second


@dataclass(frozen=True, kw_only=True)
class HeldOutPlan:
    """Documents of the held-out parts, as they were prepared, or counted: then those in both parts stand in both."""

    validation: int
    test: int
    known_by: Literal["prepared", "counted"]


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """The files of each segment that lie here, its rows where they were prepared, and the held-out documents.

    ``refusals`` are what a run would refuse: it stops at them after hours of preparation.
    """

    files: Mapping[str, FileAccount]
    rows: Mapping[str, RowAccount]
    held_out: HeldOutPlan | None
    prior_values: Mapping[str, PriorValue] = field(default_factory=dict)  # once the data are prepared
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    machine_text: tuple[str, ...] = ()  # what was found of it in sources called real

    def lines(self) -> list[str]:
        """Where the rows of each segment went and what they are worth, or the files that they will come from, and what
        was found of machine-written text.
        """
        if self.rows:
            return [*account_lines(self.rows), *value_lines(self.prior_values), *self.machine_text]
        uncounted = "rows are counted at preparation"
        files = [f"{name}: {files_in_words(files)}; {uncounted}" for name, files in self.files.items()]
        return [*files, *self.machine_text]


def prepared_data(loaded: LoadedRecipe) -> PreparedData | None:
    """The recipe's data if they were prepared on this machine before."""
    config, base = loaded.recipe.data, loaded.folder
    cache = cache_folder(config, base)
    try:
        key = stamp_key(config, seed=loaded.recipe.seed, base=base, cache=cache)
    except UserError:
        return None  # files that are not here cannot have been prepared here
    return known_store(cache, key)


def data_plan(loaded: LoadedRecipe, data: PreparedData | None, *, fewest_validation_documents: int) -> DataPlan:
    """What is known of the data; ``fewest_validation_documents`` are those that trial steps need."""
    config = loaded.recipe.data
    if data is not None:
        found = data.machine_text
        held_out = HeldOutPlan(validation=len(data.validation.ids), test=len(data.test.ids), known_by="prepared")
        return DataPlan(
            files={name: account.files for name, account in data.rows.items()},
            rows=data.rows,
            held_out=held_out,
            prior_values=data.prior_values,
            warnings=(
                *(found.warnings() if found else ()),
                *loss_warnings(data.rows, data.folder),
                *value_warnings(data.prior_values),
            ),
            machine_text=tuple(found.lines()) if found else (),
            refusals=tuple(_refused_of_prepared(loaded, data)),
        )
    files = _files(config, loaded.folder)
    try:
        counted = _counted(loaded, files)
    except UserError as error:  # what the run would refuse, too
        return DataPlan(files=files, rows={}, held_out=None, refusals=(str(error),))
    refusals = () if counted is None else tuple(_refused_of_counted(loaded, counted, fewest_validation_documents))
    try:
        found = machine_text_of(loaded, None)
    except UserError as error:
        return DataPlan(files=files, rows={}, held_out=counted, refusals=(*refusals, str(error)))
    return DataPlan(
        files=files,
        rows={},
        held_out=counted,
        warnings=tuple(found.warnings()) if found else (),
        refusals=refusals,
        machine_text=tuple(found.lines()) if found else (),
    )


def machine_text_of(loaded: LoadedRecipe, data: PreparedData | None) -> MachineTextAccount | None:
    """What is known of machine-written text in sources called real: from the prepared data, else looked for where the
    files are small. ``UserError`` where a source is refused.
    """
    config, base = loaded.recipe.data, loaded.folder
    if data is not None:
        return data.machine_text
    if config.machine_text is None:
        return None
    files = _files(config, base)
    if len(files) < len(config.every_segment) or sum(file.num_bytes for file in files.values()) > COUNTED_BYTES:
        return None
    with closing(Quarantine(Path(os.devnull), config.max_quarantined_share)) as quarantine:
        cache = cache_folder(config, base)
        reader = DocumentReader(config, seed=loaded.recipe.seed, base=base, cache=cache, quarantine=quarantine)
        return check_machine_text(config, reader, seed=loaded.recipe.seed)


def _refused_of_prepared(loaded: LoadedRecipe, data: PreparedData) -> list[str]:
    """What a run refuses of held-out documents, asked as the run asks it."""
    recipe = loaded.recipe
    try:
        planned_validation(recipe, data)
        run = measured_run(recipe, sequence_length=data.sequence_length, data=data)
        plan_measurements(run, text=held_out_text(recipe, data, data.validation), sources=data.segments)
    except UserError as error:
        return [str(error)]
    return []


def _refused_of_counted(loaded: LoadedRecipe, counted: HeldOutPlan, fewest: int) -> list[str]:
    wanted = loaded.recipe.evaluation.validation_documents
    empty = [part for part in ("validation", "test") if not getattr(counted, part)]
    if empty:
        remedy = "Check data.held_out: its source, column and buckets"
        return [f"the held-out part `{part}` has no documents. {remedy}" for part in empty]
    if wanted is not None and wanted > counted.validation:
        what = "evaluation.validation_documents is more than the held-out validation part has"
        return [f"{what} (got {wanted}). It has {counted.validation}"]
    if fewest > counted.validation:
        return [
            f"the validation part is too small to measure source values: it has {counted.validation} documents, trial "
            f"steps need at least {fewest:,}. Hold out more documents, lower "
            "evaluation.source_value.max_compute_share, or use policy constant"
        ]
    return []


def _files(config: DataConfig, base: Path) -> dict[str, FileAccount]:
    """Those of the segments that are read from local files that are here."""
    files: dict[str, FileAccount] = {}
    for name, segment in config.every_segment.items():
        if is_indexed(segment):
            continue
        try:
            files[name] = file_account(config, name, base, cache_folder(config, base))
        except UserError:
            continue  # a plan may be made elsewhere
    return files


def _counted(loaded: LoadedRecipe, files: Mapping[str, FileAccount]) -> HeldOutPlan | None:
    """The held-out documents, read from their files where these are small; None where they are not."""
    config, base = loaded.recipe.data, loaded.folder
    rule = config.held_out
    names = HELD_OUT_SEGMENTS if isinstance(rule, HeldOutDataset) else (rule.source,)
    if any(name not in files for name in names) or sum(files[name].num_bytes for name in names) > COUNTED_BYTES:
        return None
    quarantine = Quarantine(Path(os.devnull), config.max_quarantined_share)
    cache = cache_folder(config, base)
    reader = DocumentReader(config, seed=loaded.recipe.seed, base=base, cache=cache, quarantine=quarantine)
    try:
        if isinstance(rule, HeldOutDataset):
            limits = (rule.validation.max_documents, rule.test.max_documents)
            counts = [
                sum(1 for _ in islice(reader.training(name, record=False), limit))
                for name, limit in zip(names, limits, strict=True)
            ]
        else:
            parts = [document.part for document in reader.documents(rule.source, record=False)]
            counts = [parts.count("validation"), parts.count("test")]
    finally:
        quarantine.close()
    return HeldOutPlan(validation=counts[0], test=counts[1], known_by="counted")
