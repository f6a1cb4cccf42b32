"""The command line: argv to one call.

Heavy imports stay inside the commands, so that `--help` answers in a fraction of a second (torch alone takes 1.4 s).
Exit codes: 0 done, 2 bad recipe, arguments or data, 3 stopped by the guard, 75 stopped by a signal with a checkpoint
saved, 130 broken off by Ctrl-C, 1 anything else.
"""

import math
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

FAILED, BAD_INPUT, BROKEN_OFF = 1, 2, 130
TELLING_S = 3.0

app = typer.Typer(
    name="trainer",
    help="Train a model on an exact mixture of real and synthetic data, steered by held-out real data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich's markdown alone takes 0.2 s to import
    epilog=(
        "Exit codes: 0 done, 2 bad recipe, arguments or data, 3 stopped by the guard, "
        "75 stopped by a signal with a checkpoint saved (ask again to go on), 130 broken off by Ctrl-C, "
        "1 anything else."
    ),
)


def _finite(number: float | None) -> float | None:
    """Refuses what a bound lets through: `nan`, and `inf`."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped recipe.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Replace a value of the recipe; may be given again.")
]


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
    """Train; goes on by itself where the run folder holds a checkpoint."""
    if run is not None and run.exists() and not run.is_dir():
        from trainer.records import UserError

        raise UserError("--run is no folder", got=str(run))
    from trainer import run as runs

    raise typer.Exit(runs.fit(_recipe_path(recipe), overrides or [], run, ledger))


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Report every mistake in a recipe at once."""
    from trainer.recipe import load_recipe

    loaded = load_recipe(_recipe_path(recipe), overrides or [])
    typer.echo(f"{recipe}: no mistakes ({loaded.recipe.name}, {len(loaded.recipe.data.sources)} sources)")


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    world_size: Annotated[int, typer.Option("--world-size", min=1, help="Processes, usually one per GPU.")] = 1,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=_finite, help="Measured training tokens per second and process: gives time and cost."
        ),
    ] = None,
    teraflops: Annotated[
        float | None,
        typer.Option(
            min=0.001, callback=_finite, help="Sustained TFLOP/s per process, where no tokens per second were measured."
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, callback=_finite, help="Price of one process (GPU) for an hour.")
    ] = None,
    free_disk_gb: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=_finite, help="Free space where the run folder will lie; measured here if left out."
        ),
    ] = None,
    source_tokens: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE=N", help="Tokens of a source that is not prepared here; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run takes before it is paid for, and refuse the impossible."""
    from trainer.planning import Machine
    from trainer.planning.table import show_plan

    machine = Machine(
        world_size=world_size,
        tokens_per_second=tokens_per_second,
        teraflops=teraflops,
        price_per_hour=price_per_hour,
        free_bytes=None if free_disk_gb is None else int(free_disk_gb * 1e9),
    )
    stated = _stated_tokens(source_tokens or [])
    raise typer.Exit(show_plan(_recipe_path(recipe), overrides or [], machine, stated, as_json=as_json))


@app.command()
def evaluate(run: RunFolder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Held-out figures of the newest checkpoint."""
    from trainer import run as runs

    raise typer.Exit(runs.evaluate(run, as_json))


@app.command()
def audit(
    run: RunFolder,
    step: Annotated[int | None, typer.Option(min=0, help="Which samples were in the batch of this step.")] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE:ID",
            help="In which steps this sample was used. A number is the sample's; a document is named by its id, "
            "one that looks like a number as SOURCE:id=1984.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Which samples a step used, or which steps used a sample."""
    from trainer import run as runs
    from trainer.records import UserError

    asked = step if sample is None else sample
    if asked is None or (step is not None and sample is not None):
        raise UserError("audit answers one question", remedy="Give either --step N or --sample SOURCE:ID")
    raise typer.Exit(runs.audit(run, asked, as_json))


@app.command()
def explain(run: RunFolder, step: Annotated[int, typer.Option(min=0, help="The step to explain.")]) -> None:
    """Why the shares were what they were: the decision and its evidence, in words."""
    from trainer import run as runs

    raise typer.Exit(runs.explain(run, step))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file; RUN/report.html if left out.")
    ] = None,
) -> None:
    """Write one self-contained HTML file about one or several runs."""
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        from trainer.records import UserError

        raise UserError("--output is no file in a folder that exists", got=str(output))
    from trainer import run as runs

    raise typer.Exit(runs.report(folders, output))


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
            typer.echo(f"{recipe.name:<12} {recipe.summary}")


def _recipe_path(given: Path) -> Path:
    """The recipe's file: as given, or the shipped recipe of that name."""
    if given.exists() or given.suffix or len(given.parts) > 1:
        return given
    from trainer.recipe.shipped import shipped_path

    return shipped_path(given.name)


def _stated_tokens(stated: list[str]) -> dict[str, float]:
    """`SOURCE=N`, where N may be written as 5e11."""
    from trainer.records import UserError

    tokens = {}
    for one in stated:
        name, _, number = one.partition("=")
        try:
            tokens[name] = float(number)
        except ValueError:
            tokens[name] = math.nan
        if not 0 < tokens[name] < math.inf:
            raise UserError(
                "--source-tokens is not of the form SOURCE=N, N a number above 0",
                got=one,
                remedy="For example: wikipedia=5e9",
            )
    return tokens


def main() -> None:
    """Runs the command in argv; a user's mistake, an unusable file and Ctrl-C are told without a stack trace."""
    try:
        app()
    except SystemExit as done:
        if done.code == BROKEN_OFF:  # typer turns Ctrl-C into this
            typer.echo("broken off by Ctrl-C", err=True)
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {place}{error.strerror or error}", err=True)
        sys.exit(FAILED)
    except Exception as error:
        from trainer.failure import say_last
        from trainer.records import UserError  # brings numpy and pydantic: 0.2 s that --help need not pay

        if not isinstance(error, UserError):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # the processes of a launch all see the same mistake
            say_last(f"error: {error}")
        else:
            time.sleep(TELLING_S)  # the launcher ends all as soon as one has ended
        sys.exit(BAD_INPUT)
