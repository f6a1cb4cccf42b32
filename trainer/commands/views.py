"""What a recipe, or a finished or running run, looks like: each command that only reads is one function here."""

import json
from dataclasses import replace
from pathlib import Path

from trainer.base.failures import warn
from trainer.mixture.ledger import facts_of
from trainer.tracking.journal import read_numbered


def check(path: Path, overrides: list[str]) -> None:
    """Print what a user should know of a recipe. ``RecipeError`` with all that is wrong with it."""
    from trainer.base.errors import RecipeError
    from trainer.data.prior_value import value_lines, value_warnings
    from trainer.recipe import load_recipe
    from trainer.runs.auto_shares import with_starting_shares
    from trainer.tools.plan.data import machine_text_of, prepared_data
    from trainer.tools.plan.first_rows import missing_texts
    from trainer.tools.plan.notices import notices
    from trainer.tools.plan.sources import source_plans
    from trainer.tools.probe import probe_model

    loaded = load_recipe(path, overrides)
    if mistakes := list(missing_texts(loaded)):
        raise RecipeError(mistakes)
    for note in probe_model(loaded):
        _print(note)
    data = prepared_data(loaded)
    loaded = replace(loaded, recipe=with_starting_shares(loaded.recipe, data))
    if (found := machine_text_of(loaded, data)) is not None:
        for line in found.lines():
            _print(line)
        for warning in found.warnings():
            warn(warning)
    for notice in notices(loaded, source_plans(loaded, {}, data), data):
        warn(notice)
    values = {} if data is None else data.prior_values
    for line in value_lines(values):
        _print(line)
    for warning in value_warnings(values):
        warn(warning)
    _print(f"{path}: no mistakes ({loaded.recipe.name}, {len(loaded.recipe.data.sources)} sources)")


def evaluate(folder: Path, as_json: bool) -> None:
    """Print the held-out figures of the newest checkpoint."""
    from trainer.base.json_values import jsonable
    from trainer.tools.evaluate import held_out_figures, show_held_out

    figures = held_out_figures(folder, warn)
    _print(json.dumps(jsonable(figures)) if as_json else show_held_out(figures))


def audit(folder: Path, asked: int | str, as_json: bool) -> bool:
    """Print which samples a step used, or which steps used a sample; False where that is not what was trained on."""
    from trainer.tools.audit import hashes_agree, show_sample, show_step
    from trainer.tools.run_view import open_run

    run = open_run(folder)
    if isinstance(asked, str):
        if asked.startswith("pool:") and "pool" not in run.plan.sources:
            from trainer.tools.pool.rows import show_row

            _print(show_row(run, asked.removeprefix("pool:"), as_json=as_json))
            return True
        _print(show_sample(run, asked, as_json=as_json))
        return True
    _print(show_step(run, asked, as_json=as_json))
    return hashes_agree(run, asked)


def audit_files(folder: Path, as_json: bool) -> bool:
    """Print which files that the run rests on are what was written; whether all are."""
    from trainer.tools.run_files import check_files
    from trainer.tools.run_view import open_run

    findings = list(check_files(folder, open_run(folder).store))
    if as_json:
        _print(json.dumps([{"what": finding.what, "problem": finding.problem} for finding in findings]))
    else:
        for finding in findings:
            _print(f"{'ok      ' if finding.problem is None else 'DAMAGED '}{finding.what}")
            if finding.problem is not None:
                _print(f"        {finding.problem}")
    return all(finding.problem is None for finding in findings)


def explain(folder: Path, step: int | None) -> None:
    """Print why the shares of a step (of the last one, where it is None) were what they were."""
    from trainer.report.explain import explain as in_words
    from trainer.tracking.schema import read_journal

    ledger = folder / "ledger.jsonl"
    _print(in_words(read_journal(folder / "journal.jsonl"), facts_of(read_numbered(ledger), ledger), step))


def report(folders: list[Path], output: Path | None) -> None:
    """Write one HTML file about one or several runs."""
    from trainer.report.html import write_report

    output = output or folders[0] / "report.html"
    write_report(folders, output)
    _print(str(output))


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output
