"""The real-data budget of a run: epochs, effective tokens, the curve of their share, and what more would be
worth.

The same model as the policy `priced` steers by (``trainer.control.priced.repeats``,
``trainer.control.priced.spending_curve``), before anything is measured: with real data at the recipe's shares, and at
the most that the policy's budget allows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.control.priced.afford import most_real_epochs
from trainer.control.priced.config import PricedConfig
from trainer.control.priced.real_budget import concentrated
from trainer.control.priced.repeats import effective_tokens, net_repeat_value, unique_value
from trainer.control.priced.spending_curve import kernel, rest_of_run, spend

CURVE_PARTS = 10  # of the run, for which a share is shown


@dataclass(frozen=True, kw_only=True)
class RealDataPlan:
    """Real data over the whole run, all real sources together. Values are in fresh tokens.

    ``most_share``: the greatest real share that the policy's budget allows, in each tenth of the run, on average;
    None for policies without a budget.
    """

    unique_tokens: int
    drawn_tokens: int  # at the shares of the recipe
    epochs: float
    effective_tokens: float
    value_of_repeat: float  # of one more repeated token at the end
    value_of_new_token: float  # of one more different token, the tokens drawn staying the same
    most_epochs: float | None
    most_share: tuple[float, ...] | None


def real_budget(
    unique_tokens: int,
    drawn_tokens: int,
    total_tokens: int,
    *,
    policy: object,
    rates: Sequence[float],
    num_steps: int,
    capped: Sequence[tuple[int, float]] = (),
    ceiling: float = 1.0,
) -> RealDataPlan:
    """The budget of a run of ``num_steps`` that draws ``drawn_tokens`` of ``total_tokens`` from real data; ``capped``
    are the tokens of sources that mixture.max_epochs caps, and their epochs. ``ceiling`` is the greatest share that
    the policy's bounds leave to real data.
    """
    epochs = drawn_tokens / unique_tokens
    priced = policy if isinstance(policy, PricedConfig) else None
    most = None
    if priced is not None:
        planned_epochs = most_real_epochs(priced, scarcity=total_tokens / unique_tokens)
        most = planned_epochs - sum(tokens / unique_tokens * max(0.0, planned_epochs - cap) for tokens, cap in capped)
    return RealDataPlan(
        unique_tokens=unique_tokens,
        drawn_tokens=drawn_tokens,
        epochs=epochs,
        effective_tokens=effective_tokens(unique_tokens, drawn_tokens),
        value_of_repeat=net_repeat_value(epochs, total_tokens / unique_tokens),
        value_of_new_token=unique_value(epochs),
        most_epochs=most,
        most_share=None
        if priced is None or most is None
        else _most_share(priced, unique_tokens / total_tokens, most, rates, num_steps, ceiling),
    )


def _most_share(
    config: PricedConfig,
    unique_part: float,
    most_epochs: float,
    rates: Sequence[float],
    num_steps: int,
    ceiling: float,
) -> tuple[float, ...]:
    """By tenths of the run; real data that could fill the run is limited by its ceiling only."""
    rest = rest_of_run(rates, num_steps=num_steps, progress=0.0)
    part = min(ceiling, most_epochs * unique_part)
    curve = spend(
        rest,
        kernel(rest, config.advanced.curvature or 0.0),
        part * num_steps,
        concentration=0.0
        if config.advanced.curvature is None
        else concentrated(part / unique_part, config.advanced.concentration),
        floor=min(config.real_floor, part),
        ceiling=ceiling,
    )
    ends = np.concatenate([[0.0], np.cumsum(rest.steps)])
    spent = np.concatenate([[0.0], np.cumsum(rest.steps * curve.shares)])
    edges = np.linspace(0.0, num_steps, CURVE_PARTS + 1)
    shares = np.diff(np.interp(edges, ends, spent)) / np.diff(edges)
    return tuple(float(share) for share in shares)
