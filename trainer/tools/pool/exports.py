"""A pool's provenance in the formats of others."""

from collections.abc import Callable, Mapping

from trainer.base.errors import UserError
from trainer.synthesis.pool import Pool
from trainer.tools.pool.croissant import croissant
from trainer.tools.pool.prov import prov_json, prov_n

FORMATS: Mapping[str, Callable[[Pool], str]] = {"prov": prov_json, "prov-n": prov_n, "croissant": croissant}


def exported(pool: Pool, name: str) -> str:
    """The pool in one of ``FORMATS``, checked by that format's own tool. ``UserError`` where it is none."""
    if name not in FORMATS:
        raise UserError("there is no such format", got=name, remedy=f"Choose one of {', '.join(FORMATS)}")
    return FORMATS[name](pool)


def missing_package(package: str) -> UserError:
    """What to say where a package of the extra is not installed."""
    return UserError(f"the export needs the package {package}", remedy="pip install 'hybrid-trainer[provenance]'")
