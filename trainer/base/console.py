"""A console of `rich` behind the door to the terminal; apart from it, since a command starts faster without `rich`."""

import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trainer.base.terminal import direct, printable


class PrintableConsole(Console):
    """A console whose own control codes reach the terminal and whose texts are printed escaped."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed, escaped after they are laid out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def console(*, quiet: bool = False) -> Console:
    """The console of this process's stdout."""
    return PrintableConsole(file=direct(sys.stdout), quiet=quiet)
