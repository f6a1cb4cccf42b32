"""Train a model on an exact mixture of real and synthetic data, steered by held-out real data during the run.

The Python API, each name imported when it is first used, so that ``import trainer`` costs nothing: ``fit`` trains a
recipe, ``load_recipe`` reads and checks one, ``open_run`` reads a run folder. Errors are in ``trainer.base.errors``;
messages go to the logger "trainer", of which a program sees the warnings until it adds a handler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.commands.fit import fit as fit
    from trainer.recipe import load_recipe as load_recipe
    from trainer.tools.run_view import open_run as open_run

__version__ = "0.1.0"
__all__ = ["__version__", "fit", "load_recipe", "open_run"]

_HOMES = {"fit": "trainer.commands.fit", "load_recipe": "trainer.recipe", "open_run": "trainer.tools.run_view"}


if not TYPE_CHECKING:  # a type checker must not take it for permission to use any name

    def __getattr__(name: str) -> Any:
        """The name, imported on first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
