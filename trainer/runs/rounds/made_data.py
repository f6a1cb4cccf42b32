"""The prepared data of a run together with the segments that its rounds have made."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.base.atomic import replace_folder
from trainer.base.errors import RunFolderError, UserError
from trainer.base.failures import in_words
from trainer.evaluate.ports import Devices
from trainer.mixture.ledger import Fact, Segment, made_sources
from trainer.runs.rounds.files import RoundFiles
from trainer.runs.takedown import replacement_folder, with_replacements

if TYPE_CHECKING:
    from trainer.data.store import PreparedData, PreparedSegment
    from trainer.recipe import Recipe


def license_of_made(recipe: "Recipe") -> str:
    """The license that the rows come under which the run makes, as far as the recipe says it."""
    return "unknown" if recipe.synthesis is None else str(getattr(recipe.synthesis.generator, "license", "unknown"))


def with_made_segments(
    data: "PreparedData", run: Path, facts: Iterable[Fact], *, license_name: str, check: bool = True
) -> "PreparedData":
    """``data`` with the sources that the run in folder ``run`` makes, and of their segments those that have joined.

    Of other sources also the segments that joined in the place of others, after a takedown.
    ``UserError`` where one of them is not in the run's pool, or not what was written.
    """
    from trainer.data.made_segment import open_made_segment
    from trainer.data.store import PreparedSource

    facts, files = list(facts), RoundFiles(run)
    data = with_replacements(data, run, facts, check=check)
    sources = dict(data.sources)
    for name, kind in made_sources(facts).items():
        generations, segments = files.generations(), []
        for fact in dict.fromkeys(fact for fact in facts if isinstance(fact, Segment)):
            if fact.source == name:
                folder, generation = replacement_folder(run, fact.fingerprint), generations.get(fact.fingerprint)
                if folder is None and generation is not None:
                    folder = files.segment(generation)
                if folder is None:
                    raise RunFolderError(
                        f"segment {fact.segment} of source {name} is not in the run's pool",
                        got=f"no generation has fingerprint {fact.fingerprint[:12]}",
                        file=files.pool,
                        remedy="Bring the folder back from a backup, or start a new run in another --run folder",
                    )
                segments.append(open_made_segment(folder, data, check=check))
        sources[name] = PreparedSource(name, kind, license_name, tuple(segments))
    return replace(data, sources=sources)


def adopt_pool(replayed: Path, run: Path) -> None:
    """(main) Copies what a replayed run has made into the folder of the run that replays it."""
    theirs, own = RoundFiles(replayed), RoundFiles(run)
    for generation in theirs.generations().values():
        made, folder = theirs.made(generation), own.segment(generation)
        assert made is not None
        if own.made(generation) is None:
            aside = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(theirs.segment(generation), aside)
            replace_folder(aside, folder)
            own.write_made(made)


def opened_everywhere(
    devices: Devices, folder: Path, data: "PreparedData", fingerprint: str
) -> "tuple[PreparedSegment | None, str]":
    """(all) The segment in ``folder``, where every rank sees the same one; else None, and what is wrong."""
    from trainer.data.made_segment import open_made_segment

    segment, problem = None, None
    try:
        segment = open_made_segment(folder, data, check=devices.is_main)
        if segment.fingerprint != fingerprint:
            problem = f"rank {devices.rank} sees another segment in {folder}"
    except (UserError, OSError) as error:
        problem = in_words(error)
    problems = [told for told in devices.gather(problem) if told is not None]
    return (None, str(problems[0])) if problems else (segment, "")
