"""The folders of a run: whether they take files and locks, and have room."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from trainer.tools.doctor.findings import Finding, Subject

LEAST_FREE, TIGHT_FREE = 1 << 30, 20 << 30  # bytes for checkpoints, prepared data


def check_disk(subject: Subject) -> Iterator[Finding]:
    """The run folder and the data cache, where they are going to be."""
    yield from check_folders(_folders(subject))


def check_folders(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Each folder, or where it is going to be, takes files and locks and has room."""
    for name, place in places.items():
        nearest = place.absolute()
        while not nearest.exists():
            nearest = nearest.parent
        try:
            with tempfile.TemporaryFile(dir=nearest) as file:
                has_locks = _lock(file.fileno())
        except OSError as error:
            remedy = "Make it writable, or name another with --run, data.cache or $HYBRID_TRAINER_CACHE"
            yield Finding(name, "fail", f"{nearest} cannot be written: {error.strerror}", remedy)
            continue
        free = shutil.disk_usage(nearest).free
        result = f"{free / 2**30:.0f} GiB free in {nearest}"
        if free < LEAST_FREE:
            yield Finding(name, "fail", result, "Free some space: a checkpoint takes 12 bytes per parameter")
        elif not has_locks:
            yield Finding(name, "warn", f"{result}; no file locks", "Make sure that no two launches use one run folder")
        elif free < TIGHT_FREE:
            yield Finding(name, "warn", result, "trainer plan RECIPE says what a run takes")
        else:
            yield Finding(name, "ok", result)


def _lock(descriptor: int) -> bool:
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _folders(subject: Subject) -> dict[str, Path]:
    from trainer.data.fingerprint import cache_folder, default_cache

    if subject.loaded is None:
        return {"run folder": subject.folder or Path("runs"), "data cache": default_cache()}
    recipe = subject.loaded.recipe
    cache = cache_folder(recipe.data, subject.loaded.folder)
    return {"run folder": subject.folder or Path("runs") / recipe.name, "data cache": cache}
