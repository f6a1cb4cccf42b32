"""The trackers that a recipe asks for, following one run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from trainer.base import failures
from trainer.tracking.config import TRACKERS, TrackingConfig, WandbConfig
from trainer.tracking.record import JournalLine
from trainer.tracking.tracker import BackgroundTracker, RunInfo, Tracker


@contextmanager
def following(
    config: TrackingConfig, run: RunInfo, *, warn: Callable[[str], None] = failures.warn
) -> Iterator[list[Callable[[JournalLine], None]]]:
    """Views for the journal of the main rank, one for each tracker; all are closed when the block ends."""
    with ExitStack() as stack:
        views: list[Callable[[JournalLine], None]] = []
        for settings in config.trackers:
            if isinstance(settings, WandbConfig) and settings.mode == "disabled":
                continue
            try:
                tracker = BackgroundTracker(settings.kind, partial(_new_tracker, settings), run, warn=warn)
            except RuntimeError as error:  # no more threads
                warn(f"tracker {settings.kind} is switched off for this run: {failures.in_words(error)}")
                continue
            stack.callback(tracker.close)
            views.append(tracker.note)
        yield views


def _new_tracker(settings: object) -> Tracker:
    kind: str = settings.kind  # type: ignore[attr-defined]
    return TRACKERS.resolve(kind)(settings)
