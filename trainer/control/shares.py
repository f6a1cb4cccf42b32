"""Taking sources out of a mixture: what they had goes to the rest."""

from collections.abc import Collection, Mapping
from math import fsum

from trainer.base.records import Kind
from trainer.mixture.shares import rounded


def without(shares: Mapping[str, int], gone: Collection[str], kinds: Mapping[str, Kind]) -> dict[str, int] | None:
    """``shares`` with the sources of ``gone`` at 0, what they had going to the rest of their kind in proportion.

    A kind with nothing left gives its part to the other kind. None when nothing at all would be left to train on.
    """
    taken = [name for name in gone if shares.get(name, 0) > 0]
    if not taken:
        return dict(shares)
    rest = {name: float(share) for name, share in shares.items() if name not in gone and share > 0}
    if not rest:
        return None
    of_kind = {
        kind: fsum(share for name, share in rest.items() if kinds[name] == kind) for kind in ("real", "synthetic")
    }
    freed = {kind: fsum(shares[name] for name in taken if kinds[name] == kind) for kind in ("real", "synthetic")}
    targets = dict.fromkeys(shares, 0.0)
    for name, share in rest.items():
        kind = kinds[name]
        other = "synthetic" if kind == "real" else "real"
        wanted = of_kind[kind] + freed[kind] + (freed[other] if of_kind[other] == 0 else 0.0)
        targets[name] = share / of_kind[kind] * wanted
    return rounded(targets)
