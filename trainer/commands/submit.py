"""The command `trainer submit`: its options, which become one request to SLURM."""

from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.options import Overrides


def submit(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of a shipped recipe.")
    ] = None,
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="DIR", help="Run folder, which all nodes see; runs/<recipe name> if left out."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="RUN", help="Replay the decisions of another run.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    gpus_per_node: Annotated[
        int, typer.Option(min=0, help="GPUs, and so processes, on each node; 0 for a cluster without GPUs.")
    ] = 1,
    processes_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes on each node where there are no GPUs; 1 if left out.")
    ] = None,
    cpus_per_process: Annotated[int, typer.Option(min=1, help="CPU cores of each process.")] = 4,
    memory: Annotated[str | None, typer.Option(help="Memory of each node, such as 200G; 0 is all of it.")] = None,
    limit: Annotated[
        str | None, typer.Option("--time", help="Time limit of each start, such as 24:00:00 or 2-12 (days-hours).")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that pays.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that the nodes must have.")] = None,
    dependency: Annotated[
        str | None, typer.Option(help="Jobs to wait for, such as afterok:123; see `man sbatch`.")
    ] = None,
    array: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2",
            help="Train one run for each value, such as seed=1-5, each in a run folder DIR/0, DIR/1 ...; given again, "
            "one run for each combination.",
        ),
    ] = None,
    at_once: Annotated[int | None, typer.Option(min=1, help="Runs of --array that train at the same time.")] = None,
    container: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Container: an image for the plugin pyxis, or a .sif file for apptainer."),
    ] = None,
    mounts: Annotated[
        list[str] | None,
        typer.Option(
            "--mount", metavar="HERE:THERE", help="A folder that the container sees; this folder if left out."
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="A variable for the job, written into the script."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="An option of sbatch, as --sbatch=--exclusive."),
    ] = None,
    launch_file: Annotated[
        Path | None, typer.Option(help="A launch file of accelerate (launch/accelerate/*.yaml); plain DDP if left out.")
    ] = None,
    warn_before: Annotated[
        int,
        typer.Option(min=1, help="Seconds from the warning to the end: one step and a checkpoint must fit."),
    ] = 300,
    idle_restarts: Annotated[
        int, typer.Option(min=0, help="Restarts in a row without a new checkpoint after which the job gives up.")
    ] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the batch script, and do nothing.")] = False,
    status: Annotated[
        Path | None, typer.Option("--status", metavar="RUN", help="Show what has become of a run that was submitted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print --status as JSON.")] = False,
) -> None:
    """Train as a batch job of SLURM, requeued and resumed automatically; or show its --status."""
    from trainer.base.errors import UserError
    from trainer.tools import slurm

    if (recipe is None) == (status is None):
        raise UserError("submit takes one thing", remedy="Give either a RECIPE to submit or --status RUN")
    if status is not None:
        raise typer.Exit(slurm.show_status(status, as_json=as_json))
    request = slurm.Request(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        processes_per_node=processes_per_node,
        cpus_per_process=cpus_per_process,
        memory=memory,
        time=limit,
        partition=partition,
        account=account,
        qos=qos,
        constraint=constraint,
        dependency=dependency,
        container=container,
        container_mounts=tuple(mounts or ()),
        environment=tuple(environment or ()),
        options=tuple(options or ()),
        launch_file=launch_file,
        warn_s=warn_before,
        idle_restarts=idle_restarts,
        sweep=tuple(array or ()),
        at_once=at_once,
    )
    assert recipe is not None
    raise typer.Exit(slurm.submit(recipe, overrides or [], run, ledger, request, dry_run=dry_run))
