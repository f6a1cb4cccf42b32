"""Paths as a user writes them."""

from pathlib import Path

from trainer.base.errors import UserError


def expanded(path: Path | str) -> Path:
    """The path with `~` and `~user` replaced; ``UserError`` where the home folder of that user is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        remedy = "Write the path without ~"
        raise UserError("the path begins with a home folder that is not known", got=str(path), remedy=remedy) from None
