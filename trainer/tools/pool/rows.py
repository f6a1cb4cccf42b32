"""What a pool tells of one of its rows, and in which steps a run used it."""

import json
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.synthesis.lineage import every_row
from trainer.synthesis.pool import Pool
from trainer.tools.pool.places import pools_of
from trainer.tools.pool.uses import steps_of
from trainer.tools.run_view import RunView

_SHOWN = 400


def show_row(run: RunView, name: str, *, as_json: bool) -> str:
    """Everything that is known of the pool's row ``name``, and the steps that used it or what it was stitched into."""
    pool, row = _found(run.folder, name)
    used = {name} | {
        other["id"] for other in every_row(pool, ("id", "parents")) if name in (other["parents"] or ())
    }  # a stitched row is drawn in place of its parts
    steps = {number: sorted(ids) for number, ids in _by_step(steps_of(run, used)).items()}
    facts = {"pool": str(pool.folder), **row, **_standing(pool, row)}
    if as_json:
        return json.dumps({"sample": f"pool:{name}", "row": facts, "steps": steps})
    lines = [f"pool:{name}: used in {len(steps)} of {run.last_step} steps"]
    lines += [f"  {column}: {_in_words(value)}" for column, value in facts.items() if value not in (None, [], {})]
    lines += [
        f"  used in step {step}" + (f" as part of {ids[0]}" if ids != [name] else "") for step, ids in steps.items()
    ]
    if run.prepared() is None:
        lines.append("  the prepared data are gone: the steps are not known")
    return "\n".join(lines)


def _found(folder: Path, name: str) -> tuple[Pool, dict[str, Any]]:
    pools = pools_of(folder)
    for pool in pools:
        for row in every_row(pool):
            if row["id"] == name:
                return pool, row
    places = ", ".join(str(pool.folder) for pool in pools)
    remedy = "The ids are in the column `id` of its rows; `trainer audit RUN --step N` shows those of a step"
    raise UserError(f"no row of the pool has this id ({places})", got=name, remedy=remedy)


def _standing(pool: Pool, row: dict[str, Any]) -> dict[str, Any]:
    """Whether the row is read, where it is not."""
    manifest = pool.manifest()
    facts: dict[str, Any] = {}
    if reason := manifest.quarantined.get(row["generation"]):
        facts["quarantined"] = reason
    if taken := [fact for fact in manifest.takedowns if row["id"] in fact.ids]:
        facts["taken_down"] = f"{taken[0].what}, {taken[0].at}"
    return facts


def _by_step(steps: dict[str, list[int]]) -> dict[int, list[str]]:
    by_step: dict[int, list[str]] = {}
    for name, used in steps.items():
        for step in used:
            by_step.setdefault(step, []).append(name)
    return dict(sorted(by_step.items()))


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:.4g}" for key, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
