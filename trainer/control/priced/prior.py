"""What a source is assumed to be worth before the run has measured it, and the shares that this asks for.

Prepared data say it of each source by n-gram counts (``Horizon.prior_values``); where they do not, all synthetic
sources are assumed to be alike. It decides the first shares, how often real data are repeated, and counts beside what
the run measures; where the two differ beyond their errors, that is told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, hypot, inf
from typing import Any, Self

from trainer.base.records import Observation
from trainer.control.priced.config import PRIOR_SYNTHETIC_VALUE, PricedConfig
from trainer.control.priced.estimates import Estimate
from trainer.control.priced.real_budget import drawn_of_real, scarcity_of
from trainer.control.priced.repeats import epochs_until, net_repeat_value
from trainer.control.priced.state import PricedState, Shares
from trainer.mixture.shares import within

PRIOR_ERROR = 0.2  # of a value that no text says: a guess at how far sources of a kind differ
TEXT_ERROR = 0.1  # of real data, where sources were held against them: what no text of theirs is surer of
LEAST_VALUE = 0.05  # of a source where shares are filled: it gives others at most 47 epochs
DISAGREES_Z = 2.0  # errors of prior and measurement together


def source_priors(config: PricedConfig, observation: Observation) -> dict[str, Estimate]:
    """The value of each drawn source in fresh real tokens, before anything is measured."""
    drawn = [name for name, share in observation.shares.items() if share > 0]
    return {name: _prior_of(config, observation, name) for name in drawn}


def said_by_text(config: PricedConfig, observation: Observation) -> dict[str, Estimate]:
    """The priors of synthetic sources of which prepared data say their value."""
    priors = source_priors(config, observation)
    return {name: priors[name] for name in priors if _is_said_by_text(config, observation, name)}


def _is_said_by_text(config: PricedConfig, observation: Observation, name: str) -> bool:
    known = observation.horizon.prior_values
    return config.prior_synthetic_value is None and observation.kinds[name] == "synthetic" and name in known


def _prior_of(config: PricedConfig, observation: Observation, name: str) -> Estimate:
    known = observation.horizon.prior_values.get(name)
    if known is not None and (observation.kinds[name] == "real" or config.prior_synthetic_value is None):
        return Estimate(value=known.value, standard_error=known.standard_error)
    if observation.kinds[name] == "real":
        is_unit = any(_is_said_by_text(config, observation, other) for other in observation.shares)
        return Estimate(value=1.0, standard_error=TEXT_ERROR if is_unit else PRIOR_ERROR)
    return assumed(config)


def assumed(config: PricedConfig) -> Estimate:
    """The value of a synthetic source of which no text says it."""
    value = PRIOR_SYNTHETIC_VALUE if config.prior_synthetic_value is None else config.prior_synthetic_value
    return Estimate(value=value, standard_error=PRIOR_ERROR)


def synthetic_prior(config: PricedConfig, observation: Observation, mix: Shares) -> Estimate:
    """The value of a synthetic token as they are mixed, in fresh real tokens."""
    priors = source_priors(config, observation)
    parts = {name: share for name, share in mix.items() if name in priors and share > 0}
    total = fsum(parts.values())
    if not total:
        return assumed(config)
    return Estimate(
        value=fsum(share * priors[name].value for name, share in parts.items()) / total,
        standard_error=fsum(share * priors[name].standard_error for name, share in parts.items()) / total,
    )


def begun(config: PricedConfig, state: PricedState, observation: Observation, ceilings: Shares) -> PricedState:
    """The state with the shares that the priors ask for, where prepared data say the value of a synthetic source: the
    mixture that later ones are drawn to, instead of the one that the recipe starts with.
    """
    if state.num_evaluations or not said_by_text(config, observation):
        return state
    priors = source_priors(config, observation)
    samples = (1 - observation.progress) * observation.horizon.num_steps * observation.horizon.global_batch
    sizes = {name: float(observation.horizon.num_samples.get(name, 0)) for name in priors}
    values = {name: prior.value for name, prior in priors.items()}
    asked = water_filled(values, sizes, samples, max_epochs=observation.horizon.max_epochs)
    least = {name: max(state.floors[name], 1e-6) for name in asked}
    shares = within({name: max(share, 1e-9) for name, share in asked.items()}, least, ceilings, total=1.0)
    base = {**dict.fromkeys(state.base, 0.0), **shares}
    synthetic = {name: share for name, share in base.items() if observation.kinds[name] == "synthetic"}
    total = fsum(synthetic.values())
    mix = {name: share / total for name, share in synthetic.items()} if total else dict(state.synthetic_mix)
    return replace(state, base=base, start=base, targets=base, synthetic_mix=mix)


def water_filled(
    values: Mapping[str, float], unique: Mapping[str, float], total: float, *, max_epochs: Mapping[str, float]
) -> dict[str, float]:
    """Shares of ``total`` samples at which one more of each source that is drawn is worth the same.

    w_k v(E_k) = price, v what a repeat is worth (``net_repeat_value``): n_k(price) = 0 where the value w_k is below it,
    else U_k E_k(price / w_k); the source at whose value the sum jumps over ``total`` gets what is left.
    """
    values = {name: max(value, LEAST_VALUE) for name, value in values.items() if unique[name] > 0}

    def drawn(price: float) -> dict[str, float]:
        return {
            name: unique[name] * min(epochs_until(price / value, total / unique[name]), max_epochs.get(name, inf))
            if value >= price
            else 0.0
            for name, value in values.items()
        }

    low, high = 1e-6, max(values.values(), default=1.0)
    for _ in range(60):
        price = (low * high) ** 0.5
        low, high = (price, high) if fsum(drawn(price).values()) > total else (low, price)
    fewer, more = drawn(high * 1.000001), drawn(low)
    jump = {name: more[name] - fewer[name] for name in values}
    missing, span = total - fsum(fewer.values()), fsum(jump.values())
    part = min(max(missing / span, 0.0), 1.0) if span > 0 else 0.0
    samples = {name: fewer[name] + part * jump[name] for name in values}
    all_of_them = fsum(samples.values()) or 1.0
    return {name: samples.get(name, 0.0) / all_of_them for name in unique}


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """Of one source: what n-grams said of its value and what training says, in fresh real tokens."""

    prior: Estimate
    measured: Estimate

    def to_json(self) -> dict[str, Any]:
        """Both estimates, for the journal."""
        return {"prior": self.prior.to_json(), "measured": self.measured.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The disagreement of which ``value`` is the ``to_json``."""
        return cls(prior=Estimate.from_json(value["prior"]), measured=Estimate.from_json(value["measured"]))

    def in_words(self, name: str) -> str:
        """A sentence that says what that may mean."""
        prior, measured = self.prior.value, self.measured.value
        why = "text that is fluent in pieces only" if measured < prior else "text that teaches more than its phrases"
        said = f"training says {measured:.2f} ± {self.measured.standard_error:.2f}"
        return f"n-grams said {prior:.2f} of a fresh real token for {name}, {said}: {why}."


def disagreements(config: PricedConfig, state: PricedState, observation: Observation) -> dict[str, Disagreement]:
    """The sources of whose value trial steps say something else than prepared data did, beyond both errors."""
    if state.unit is None:
        return {}
    measured = _measured_values(state, observation)
    said = said_by_text(config, observation)
    return {
        name: Disagreement(prior=said[name], measured=value)
        for name, value in measured.items()
        if name in said
        and abs(value.value - said[name].value) > DISAGREES_Z * hypot(value.standard_error, said[name].standard_error)
    }


def _measured_values(state: PricedState, observation: Observation) -> dict[str, Estimate]:
    """Values in fresh real tokens by trial steps alone: the advantage over real data, worth ``net_repeat_value``
    after the epochs that they were measured at.
    """
    by_trial_steps = {
        name: estimates["source_value"] for name, estimates in state.estimates.items() if "source_value" in estimates
    }
    kinds = observation.kinds
    real = [name for name in by_trial_steps if kinds[name] == "real" and state.base.get(name, 0.0) > 0]
    if not real or state.unit is None or not state.unit > 0:
        return {}
    weight = fsum(state.base[name] for name in real)
    shrunk = (len(by_trial_steps) - 1) / len(by_trial_steps)  # of an advantage over the others, that is one over all
    of_real = fsum(state.base[name] * by_trial_steps[name].value for name in real) / weight
    error = fsum(state.base[name] * by_trial_steps[name].standard_error for name in real) / weight
    drawn = drawn_of_real(observation, state.drawn)
    now = net_repeat_value(state.measured_after_epochs, scarcity_of(observation, drawn.unique))
    return {
        name: Estimate(
            value=now + shrunk * (estimate.value - of_real) / state.unit,
            standard_error=shrunk * hypot(estimate.standard_error, error) / state.unit,
        )
        for name, estimate in by_trial_steps.items()
        if kinds[name] == "synthetic"
    }


def disagreements_in_words(found: Mapping[str, Disagreement]) -> Sequence[str]:
    """A sentence each."""
    return [each.in_words(name) for name, each in found.items()]
