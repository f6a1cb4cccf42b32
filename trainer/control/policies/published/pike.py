"""Alignment with variance: share to sources whose gradient points along that of held-out real text, less their noise.

PiKE (arXiv 2502.06244) raises source k by the squared norm of its gradient and lowers it by the variance of it:

    pi_k <- pi_k exp(zeta_1 |g_k|^2 - (zeta_2 / 2B) sigma_k^2) / Z

which minimizes a bound on the loss of all sources after the next step of B samples. What counts here is held-out real
text, so the inner product <g_R, g_k> stands in place of the squared norm, as in DoGE (2310.15393) and DGA (2410.02498);
the variance, which these two leave out, is what a batch on noisy real text costs. By the descent lemma with curvature h
and learning rate eta, zeta_2 = eta h zeta_1: where none is given it follows the learning rate of the schedule with h =
1, so that noise matters less as the rate falls. The optimizer scales gradients in units of its own, so both terms are
divided by the mean over the shares of their sizes, S = sum_j pi_j (|<g_R, g_j>| + (zeta_2 / zeta_1) sigma_j^2 / 2B),
which makes zeta_1 the most that a source of average size moves in ln pi at one evaluation (DoGE divides by the mean
norm). One update is made at each evaluation with a measurement.

It takes the next step for the goal: greedy on held-out real loss, it spends scarce real data early.
"""

from collections.abc import Mapping
from math import exp, fsum, inf, isfinite
from typing import Literal

from pydantic import Field

from trainer.base.records import SHARE_ONE, GradientAlignment, Kind, Observation, Proposal
from trainer.control.bounds import Bounds, Share, check_bounds, drawn, kept_within, normalized
from trainer.control.policies.protocol import Needs, NoState, unexplained


class PikeConfig(Bounds):
    """Share by the alignment of gradients with held-out real text, corrected for their variance."""

    kind: Literal["pike"]
    zeta_1: float = Field(default=0.1, gt=0, description="step size: weight of the alignment")
    zeta_2: float | None = Field(
        default=None, ge=0, description="weight of the variance; null: zeta_1 times the learning rate now"
    )
    warm_up: float = Field(default=0.0, ge=0, lt=1, description="progress before which no alignment is measured")
    floor: Share = Field(
        default=0.01, description="least share of a source that has no floor by name, so that it can still be measured"
    )


kind = "pike"
Config = PikeConfig
State = NoState
explain = unexplained


def begin(config: PikeConfig, shares: Mapping[str, int], kinds: Mapping[str, Kind]) -> NoState:
    """Nothing to remember; ``UserError`` for bounds on unknown sources or against the start."""
    check_bounds(config, shares)
    return NoState()


def needs(config: PikeConfig, max_epochs: float = inf) -> Needs:
    """Alignments, after the warm-up."""
    return Needs(gradient_alignment_from=config.warm_up)


def propose(config: PikeConfig, state: NoState, observation: Observation) -> tuple[NoState, Proposal]:
    """Shares after the alignments of this evaluation; those in force when not every source has one that counts."""
    names = drawn(observation.shares)
    alignments = {
        name: observation.gradient_alignment[name]
        for name in names
        if _usable(observation.gradient_alignment.get(name))
    }
    if observation.progress < config.warm_up or len(alignments) < len(names):
        missing = [name for name in names if name not in alignments]
        reason = f"No alignment was measured for {', '.join(missing)}." if missing else "It is too early."
        return state, Proposal(shares=dict(observation.shares), reason=reason)
    zeta_2 = (
        config.zeta_1 * observation.horizon.rate_at(observation.progress) if config.zeta_2 is None else config.zeta_2
    )
    noise = {
        name: zeta_2 / config.zeta_1 * alignment.variance / (2 * observation.horizon.global_batch)
        for name, alignment in alignments.items()
    }
    size = fsum(
        observation.shares[name] / SHARE_ONE * (abs(alignment.inner_product) + noise[name])
        for name, alignment in alignments.items()
    )
    if size <= 0:
        return state, Proposal(shares=dict(observation.shares), reason="No gradient points anywhere.")
    values = {name: (alignment.inner_product - noise[name]) / size for name, alignment in alignments.items()}
    highest = max(values.values())  # taken off all alike, so that nothing overflows
    weights = normalized(
        {name: observation.shares[name] * exp(config.zeta_1 * (values[name] - highest)) for name in names}
    )
    evidence = {
        "sources": {
            name: {
                "inner_product": alignment.inner_product,
                "standard_error": alignment.standard_error,
                "noise": noise[name],
                "value": values[name],
                "weight": weights[name],
            }
            for name, alignment in alignments.items()
        },
        "zeta_2": zeta_2,
    }
    reason = f"The gradient of {max(values, key=values.__getitem__)} helps most on held-out real text, noise counted."
    shares = kept_within(config, weights, observation.shares, least=config.floor)
    return state, Proposal(shares=shares, reason=reason, evidence=evidence)


def _usable(alignment: GradientAlignment | None) -> bool:
    if alignment is None or alignment.num_samples <= 0:
        return False
    return isfinite(alignment.inner_product) and isfinite(alignment.variance)
