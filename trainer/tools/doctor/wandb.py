"""The account of W&B that the recipe needs; nothing is sent."""

import netrc
import os
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from trainer.tools.doctor.findings import Finding, State, Subject

WANDB_HOST = "api.wandb.ai"


def check_wandb(subject: Subject) -> Iterator[Finding]:
    """Whether the run in W&B that the recipe asks for (any, without a recipe) is available."""
    loaded = subject.loaded
    modes = (
        [
            tracker.mode
            for tracker in loaded.recipe.tracking.trackers
            if tracker.kind == "wandb" and tracker.mode != "disabled"
        ]
        if loaded
        else []
    )
    if loaded is not None and not modes:
        yield Finding("wandb", "ok", "off in the recipe")
        return
    mode = modes[0] if modes else None
    bad: State = "fail" if mode == "online" else "warn"
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        yield Finding("wandb", bad if mode else "ok", "not installed", "pip install wandb; the journal is kept anyway")
        return
    if mode == "offline":
        yield Finding("wandb", "ok", f"{version}, offline: files only")
    elif _has_key():
        yield Finding("wandb", "ok", f"{version}, logged in")
    else:
        yield Finding("wandb", bad, f"{version}, not logged in", "wandb login, or mode: offline in tracking.trackers")


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", f"https://{WANDB_HOST}").partition("://")[2].partition("/")[0]
    file = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(str(file)).authenticators(host) is not None
    return False
