"""Packages that only some filters need: imported when such a filter is made."""

from importlib import import_module
from typing import Any

from trainer.base.errors import UserError


def required(module: str, filter_name: str) -> Any:
    """The module; ``UserError`` with what to install where it is not there."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"the filter {filter_name!r} needs the package {package!r}, which cannot be imported: {error}",
            remedy="pip install 'hybrid-trainer[filters]'",
        ) from error
