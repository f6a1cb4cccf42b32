"""Shows a plan: a table for people, JSON for programs, refusals and warnings as text."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from trainer.base.console import console
from trainer.base.formatting import share_figure
from trainer.base.records import SHARE_ONE
from trainer.recipe import load_recipe
from trainer.tools.plan.plan import Machine, RunPlan, plan_run
from trainer.tools.plan.real_budget import RealDataPlan
from trainer.tools.plan.sources import SourcePlan
from trainer.tools.probe import is_worth_probing, probe_model

REFUSED = 2
_ABOUT = {"prepared": "", "stated": "", "estimate": "~", "unknown": "?"}


def show_plan(
    recipe: Path, overrides: list[str], machine: Machine, source_tokens: Mapping[str, float], *, as_json: bool
) -> int:
    """Prints the plan of a recipe; the exit code is 2 when the run cannot work."""
    loaded = load_recipe(recipe, overrides, on_this_machine=False)
    if is_worth_probing(loaded.recipe.model):
        for note in probe_model(loaded):
            print(f"note: {note}", file=sys.stderr)  # noqa: T201
    plan = plan_run(loaded, machine, source_tokens)
    if as_json:
        print(json.dumps(asdict(plan), indent=2))  # noqa: T201 - this is the output
    else:
        screen = console()
        screen.print(source_table(plan))
        screen.print(run_table(plan))
        for line in plan.data.lines():
            screen.print(f"data: {line}", markup=False, highlight=False, soft_wrap=True)
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    for refusal in plan.refusals:
        print(f"error: {refusal}", file=sys.stderr)  # noqa: T201
    return REFUSED if plan.refusals else 0


def source_table(plan: RunPlan) -> Table:
    """Samples, tokens and epochs of each source, and the value per token after its repeats.

    Nothing is cut: where a terminal is narrow, figures wrap before names do.
    """
    title = f"{plan.name}: {plan.steps:,} steps of {plan.global_batch:,} samples"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("source", overflow="fold", min_width=max(len(source.name) for source in plan.sources))
    table.add_column("kind", overflow="fold")
    for column in ("share", "samples", "tokens", "available\nsamples", "epochs", "value\nper token", "cap"):
        table.add_column(column, justify="right", overflow="fold")
    for source in plan.sources:
        table.add_row(*_source_row(source))
    return table


def _source_row(source: SourcePlan) -> list[str]:
    about, count = _ABOUT[source.known_by], source.available_samples
    available = "?" if count is None else f"{about}{_count(count)}"
    epochs = "?" if source.epochs is None else f"{about}{_short(source.epochs)}"
    is_sized = source.effective_tokens is not None and source.tokens > 0
    value_per_token = f"{(source.effective_tokens or 0.0) / source.tokens:.2f}" if is_sized else "?"
    cap = "" if source.max_epochs is None else f"{source.max_epochs:g}"
    return [
        source.name,
        source.kind,
        share_figure(round(source.mean_share * SHARE_ONE)),
        _count(source.samples),
        _short(source.tokens),
        available,
        epochs,
        value_per_token,
        cap,
    ]


def run_table(plan: RunPlan) -> Table:
    """Model, memory, disk, time and cost."""
    memory, disk = plan.memory, plan.disk
    table = Table(show_header=False)
    table.add_column("what")
    table.add_column("figure")
    table.add_row("parameters", _short(plan.num_parameters))
    table.add_row("precision", plan.precision)
    table.add_row("tokens", _short(plan.tokens))
    partition = f"{plan.world_size:,} x {plan.accumulation} micro-batches of up to {plan.micro_batch} samples"
    table.add_row("batch", f"{plan.global_batch:,} samples on {partition}")
    if plan.real is not None:
        _add_real_rows(table, plan.real)
    states = _bytes(memory.weights + memory.gradients + memory.optimizer)
    about = f"(states {states}, activations ~{_bytes(memory.activations)})"
    table.add_row("memory per rank", f"{_bytes(memory.total)} {about}")
    if plan.world_size > 1:
        table.add_row("  with sharded states", f"{_bytes(memory.total_sharded)} (ZeRO-3 or FSDP2)")
    table.add_row(
        "checkpoints", f"{disk.checkpoints_written} of {_bytes(disk.checkpoint)}, {disk.checkpoints_kept} kept"
    )
    table.add_row("disk", f"{_bytes(disk.peak)} at most, {_bytes(disk.free)} free")
    table.add_row("compute", f"{plan.flops:.3g} floating-point operations")
    for kind, tokens in plan.measurements.items():
        percent = f"{100 * tokens / plan.tokens:.1f} % of the training compute"
        table.add_row(f"  {kind.replace('_', ' ')}", f"{_short(tokens)} tokens, {percent}")
    if plan.max_evaluation_share is None:
        table.add_row("  evaluation", f"{plan.validation_documents:,} documents each time, as the recipe says")
    else:
        table.add_row("  evaluation", f"at most {100 * plan.max_evaluation_share:g} % of the training compute")
    held_out = plan.data.held_out
    if held_out is not None:
        about = f"{held_out.validation:,} validation, {held_out.test:,} test ({held_out.known_by})"
        table.add_row("held-out documents", about)
    if plan.fewest_validation_documents:
        needed = f"at least {plan.fewest_validation_documents:,} in the validation part, for trial steps"
        table.add_row("held-out documents" if held_out is None else "  needed", needed)
    unknown = "unknown: give --tokens-per-second or --teraflops"
    table.add_row("time", unknown if plan.seconds is None else _duration(plan.seconds))
    if plan.cost is not None:
        table.add_row("cost", f"{plan.cost:,.2f} (in the currency of --price-per-hour)")
    return table


def _add_real_rows(table: Table, real: RealDataPlan) -> None:
    equivalent = f"equivalent to {_short(real.effective_tokens)} unique tokens"
    table.add_row("real tokens", f"{_short(real.drawn_tokens)} in {real.epochs:.3g} epochs, {equivalent}")
    table.add_row(
        "  value of one more", f"unique token {real.value_of_new_token:.2f}, repeat {real.value_of_repeat:.2f}"
    )
    if real.most_share is not None:
        curve = " ".join(f"{share:.2f}" for share in real.most_share)
        table.add_row("  largest real share", f"{curve}")
        table.add_row("", f"by tenths of the run, for {real.most_epochs:g} epochs in all")


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"


def _count(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else _short(number)


def _bytes(number: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.1f} kB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{value} {unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if value]
    return " ".join(parts[:2]) or "0 s"
