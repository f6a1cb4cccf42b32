"""What a pool of generated rows holds, and what of it is not to be trained on."""

from pathlib import Path
from typing import Annotated

import typer

Place = Annotated[Path, typer.Argument(metavar="RECIPE|RUN|POOL", help="A recipe, a run folder, or a pool's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the pool's manifest.")]


def pool(
    place: Place,
    export: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Write its provenance instead: prov, prov-n or croissant.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for --export; printed if left out.")
    ] = None,
    quarantine: Annotated[
        int | None, typer.Option(metavar="N", help="Let generation N not be read any more; its rows are kept.")
    ] = None,
    release: Annotated[int | None, typer.Option(metavar="N", help="Let generation N be read again.")] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """List a pool: generation, generator, requests, accepted, tokens, cost, state."""
    from trainer.base.errors import UserError
    from trainer.tools.pool.listing import listing, listing_json
    from trainer.tools.pool.places import pools_of, the_pool

    if sum(value is not None for value in (export, quarantine, release)) > 1:
        raise UserError("pool does one thing", remedy="Give one of --export, --quarantine and --release")
    if export is not None:
        from trainer.tools.pool.exports import exported

        text = exported(the_pool(place), export)
        if output is None:
            typer.echo(text)
        else:
            output.write_text(text + "\n", encoding="utf-8")
        return
    if output is not None:
        raise UserError("--output has an effect only with --export", got=str(output))
    if quarantine is not None:
        the_pool(place).quarantine(quarantine, by="user", reason=reason or "no reason given")
    if release is not None:
        the_pool(place).release(release, by="user", reason=reason)
    for one in pools_of(place):
        for line in [listing_json(one)] if as_json else listing(one):
            typer.echo(line)


def takedown(
    place: Place,
    document: Annotated[
        str | None, typer.Option(metavar="SOURCE:ID", help="A document of a source, or a row of the pool by its id.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="All documents of a source.")] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", metavar="SPDX", help="All that comes under this license.")
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Take down all generated rows that derive from a document, a source or a license; of a run, list the steps that
    used them.
    """
    from trainer.synthesis.lineage import Origin
    from trainer.tools.pool.takedown import takedown as take

    done = take(place, Origin(document=document, source=source, license=license_name), reason)
    for line in [done.to_json()] if as_json else done.lines():
        typer.echo(line)
