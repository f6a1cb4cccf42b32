"""The command line: argv to one call.

Heavy imports stay inside the commands, so that `--help` answers in a fraction of a second (torch alone takes 1.4 s).
Exit codes: 0 done, 2 bad recipe, arguments or data, 3 stopped by the guard, 75 stopped by a signal with a checkpoint
saved (the first Ctrl-C, SIGHUP, SIGTERM or SIGUSR1), 130 ended immediately by a second Ctrl-C (128 + the number of
another signal), 1 anything else.
"""

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import Overrides, RecipePath, RunFolder, finite
from trainer.commands.pool import pool, takedown
from trainer.commands.submit import submit

FAILED, BAD_INPUT, INTERRUPTED_BY_USER = 1, 2, 130
LAUNCHER_WAITS_S = 3.0  # in which the main process prints what all have seen

app = typer.Typer(
    name="trainer",
    help="Train a model on an exact mixture of real and synthetic data, steered by held-out real data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's markdown alone takes 0.2 s to import
    epilog=(
        "Exit codes: 0 done, 2 bad recipe, arguments or data, 3 stopped by the guard, "
        "75 stopped by a signal or the first Ctrl-C with a checkpoint saved (run it again to resume), "
        "130 ended immediately by a second Ctrl-C, 1 anything else."
    ),
)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from trainer import __version__

        typer.echo(f"trainer {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings and errors, but no progress.")] = False,
) -> None:
    """Train a model on an exact mixture of real and synthetic data, steered by held-out real data."""
    if quiet:
        from trainer.base.logs import be_quiet

        be_quiet()


@app.command()
def fit(
    recipe: RecipePath,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Run folder; runs/<recipe name> if left out.")
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", metavar="RUN", help="Replay the decisions of another run instead of making new ones."),
    ] = None,
) -> None:
    """Train; resumes automatically where the run folder has a checkpoint."""
    from trainer.base.errors import RunFolderError
    from trainer.commands.fit import exit_code_of
    from trainer.commands.fit import fit as train

    if run is not None and run.exists() and not run.is_dir():
        raise RunFolderError("--run is not a folder", got=str(run))
    raise typer.Exit(exit_code_of(train(recipe, overrides, run, ledger)))


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Report every mistake in a recipe in one go, and probe its model: weights, causality, length, ids."""
    from trainer.commands import views

    views.check(recipe, overrides or [])


@app.command()
def synthesize(
    recipe: RecipePath,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Generate with the model that this run has trained.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Make part I (from 0) of N only, such as one task of a SLURM array; with --generation."
        ),
    ] = None,
    generation: Annotated[
        int | None, typer.Option(min=1, max=9999, help="Which round; the unfinished one, or the next, if left out.")
    ] = None,
) -> None:
    """Make one round of synthetic rows: generate, filter, and add what passes to the pool; resumes if interrupted."""
    from trainer.commands.synthesize import synthesize as make

    make(recipe, overrides or [], run=run, shard=shard, generation=generation)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option("--world-size", min=1, help="Processes, usually one per GPU.")] = 1,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=finite, help="Measured training tokens per second and process: gives time and cost."
        ),
    ] = None,
    teraflops: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=finite, help="Sustained TFLOP/s per process, where no tokens per second were measured."
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, callback=finite, help="Price of one process (GPU) for an hour.")
    ] = None,
    free_disk_gb: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=finite, help="Free space where the run folder will lie; measured here if left out."
        ),
    ] = None,
    source_tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=N", help="Tokens of a source that is not prepared here; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run takes before it starts, and refuse the impossible."""
    from trainer.tools.plan.plan import Machine
    from trainer.tools.plan.sources import stated_tokens
    from trainer.tools.plan.table import show_plan

    machine = Machine(
        world_size=world_size,
        tokens_per_second=tokens_per_second,
        teraflops=teraflops,
        price_per_hour=price_per_hour,
        free_bytes=None if free_disk_gb is None else int(free_disk_gb * 1e9),
    )
    raise typer.Exit(show_plan(recipe, overrides or [], machine, stated_tokens(source_tokens or []), as_json=as_json))


@app.command()
def evaluate(run: RunFolder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Held-out figures of the newest checkpoint."""
    from trainer.commands import views

    views.evaluate(run, as_json)


@app.command()
def audit(
    run: RunFolder,
    step: Annotated[int | None, typer.Option(min=0, help="Which samples were in the batch of this step.")] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE:ID",
            help="In which steps this sample was used. A number is the sample's; a document is named by its id, "
            "one that looks like a number as SOURCE:id=1984. Of a segment that joined: SOURCE:SEGMENT:ID. Of a pool: "
            "pool:ID, with all that made it.",
        ),
    ] = None,
    files: Annotated[
        bool,
        typer.Option("--files", help="Whether every file that the run rests on is what was written: all are read."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which samples a step used, which steps used a sample, or whether all files are what was written; 1 where not."""
    from trainer.base.errors import UserError
    from trainer.commands import views

    question = step if sample is None else sample
    if (step is not None) + (sample is not None) + files != 1:
        remedy = "Give either --step N, --sample SOURCE:ID or --files"
        raise UserError("audit answers one question", remedy=remedy)
    is_sound = views.audit_files(run, as_json) if question is None else views.audit(run, question, as_json)
    raise typer.Exit(0 if is_sound else FAILED)


@app.command()
def explain(
    run: RunFolder,
    step: Annotated[int | None, typer.Option(min=0, help="The step to explain; the last one if left out.")] = None,
) -> None:
    """Why the shares were what they were: the decision and its evidence, in words."""
    from trainer.commands import views

    views.explain(run, step)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; RUN/report.html if left out.")
    ] = None,
) -> None:
    """Write one self-contained HTML file about one or several runs."""
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        from trainer.base.errors import UserError

        raise UserError("--output is not a file in a folder that exists", got=str(output))
    from trainer.commands import views

    views.report(folders, output)


app.command()(pool)
app.command()(takedown)
app.command()(submit)


@app.command()
def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="Also prepare its data and draw the first batch."),
    ] = None,
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Where the run is going to be: checks this disk.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check versions, devices, collectives, ports, memory, disk, W&B, SLURM: ok, warn or fail, with the remedy."""
    from trainer.recipe import load_recipe
    from trainer.tools.doctor.examine import examine
    from trainer.tools.doctor.findings import Subject

    loaded = None if recipe is None else load_recipe(recipe, overrides or [])
    raise typer.Exit(examine(Subject(loaded=loaded, folder=run), as_json=as_json))


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this recipe.")] = None,
    copy: Annotated[
        Path | None, typer.Option("--copy", metavar="DIR", help="Copy the recipe, or all of them, with their data.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a recipe.")] = False,
) -> None:
    """List, print or copy the shipped recipes."""
    import json

    from trainer.recipe import recipe_schema, shipped

    if schema:
        typer.echo(json.dumps(recipe_schema(), indent=2))
    elif copy is not None:
        for path in shipped.copy_recipes(name, copy):
            typer.echo(path)
    elif name is not None:
        typer.echo(shipped.shipped_path(name).read_text(encoding="utf-8"), nl=False)
    else:
        for recipe in shipped.shipped_recipes():
            typer.echo(f"{recipe.name:<22} {recipe.summary}")


def main() -> None:
    """Runs the command in argv; a user's mistake, an unusable file and Ctrl-C are reported without a stack trace."""
    from trainer.base.logs import log_to_stderr
    from trainer.base.terminal import open_door

    open_door()
    log_to_stderr()
    try:
        app()
    except SystemExit as done:
        if done.code == INTERRUPTED_BY_USER:  # typer turns Ctrl-C into this
            typer.echo("interrupted by Ctrl-C", err=True)
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {place}{error.strerror or error}", err=True)
        sys.exit(FAILED)
    except Exception as error:
        from trainer.base.errors import RunFailedError, UserError
        from trainer.base.failures import say_last

        if isinstance(error, RunFailedError):  # reported where it happened
            sys.exit(error.exit_code)
        if not isinstance(error, UserError):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the processes of a launch all see the same mistake
            say_last(f"error: {error}")
        else:
            time.sleep(LAUNCHER_WAITS_S)  # the launcher ends all as soon as one has ended
        sys.exit(BAD_INPUT)
