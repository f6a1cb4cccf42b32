"""The tables of the text laboratory: every scenario with its sweep and its arms, and what they say together."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Any

from numpy import quantile
from scipy.stats import t as student

from experiments.cells import spread
from experiments.scenarios import SCENARIOS, SEEDS, TURNING, TURNS_BAD_AT

MATTERS = 5.0  # seed-to-seed standard deviations that the static sweep must spread over


def table(stored: Mapping[str, Any]) -> list[str]:
    """Every scenario, its sweep and its arms; then what they say together."""
    rows = []
    for name, scenario in SCENARIOS.items():
        rows += ["", f"**{name}**: {scenario.says}. {_choice(_statics(stored, name))}", ""]
        rows += ["| arm | seeds | test loss, nats per token | regret | in % | worst slice | real epochs | guard |"]
        rows += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        best = _best(_statics(stored, name))
        for arm, seeds in scenario.seeds().items():
            by_seed = _by_seed(stored, f"{name}/{arm}", seeds)
            if not by_seed:
                continue
            cells = [
                spread(_losses(by_seed)),
                "chosen" if arm == best else interval(_regrets(stored, name, arm)),
                _percent(stored, name, arm),
                f"{mean(cell['worst_slice']['bits_per_byte'] for cell in by_seed.values()):.3f}",
                _epochs(by_seed),
                _guarded(by_seed),
            ]
            rows.append(f"| {arm} | {len(by_seed)} | {' | '.join(cells)} |")
    return [*rows, *_overview(stored), *_rules(stored), *_sums(stored), *_repeated(stored), *_poisoned(stored)]


def _regrets(stored: Mapping[str, Any], name: str, arm: str, seeds: Collection[int] = SEEDS) -> list[float]:
    """Report loss of an arm less that of the static share chosen in its scenario, for those of ``seeds`` that both
    have."""
    statics = _statics(stored, name)
    best = _best(statics)
    by_seed = _by_seed(stored, f"{name}/{arm}", SCENARIOS[name].seeds()[arm])
    return [
        cell["test_nats_per_token"] - statics[best][seed]["test_nats_per_token"]
        for seed, cell in by_seed.items()
        if best is not None and seed in statics[best] and seed in seeds
    ]


def _percent(stored: Mapping[str, Any], name: str, arm: str) -> str:
    """The mean regret of an arm over the loss of the static share that was chosen."""
    statics, regrets = _statics(stored, name), _regrets(stored, name, arm)
    best = _best(statics)
    return f"{100 * mean(regrets) / mean(_losses(statics[best])):+.2f}" if best is not None and regrets else ""


def _epochs(by_seed: Mapping[int, Any]) -> str:
    """Of real data, on average over the seeds."""
    return f"{mean(cell['epochs']['real'] for cell in by_seed.values()):.1f}"


def _guarded(by_seed: Mapping[int, Any]) -> str:
    """How often the guard did what, over the seeds."""
    acts = Counter(move["action"] for cell in by_seed.values() for move in cell["moves"] if move["action"] != "move")
    return ", ".join(f"{count} {action}" for action, count in sorted(acts.items())) or "silent"


def _overview(stored: Mapping[str, Any]) -> list[str]:
    """A row for each scenario that has a sweep: the chosen static share, and `priced` next to it."""
    rows = ["", "**Overview**: `priced` against the best static share.", ""]
    rows += ["| scenario | shares swept | spread, in SD of a seed | best static | its test loss | real epochs |"]
    rows[-1] += " priced: test loss | real epochs | paired seeds | regret, nats per token | in % | guard |"
    rows.append("|" + " --- |" * 12)
    for name, scenario in SCENARIOS.items():
        statics, ours = _statics(stored, name), _by_seed(stored, f"{name}/priced", SEEDS)
        best, regrets = _best(statics), _regrets(stored, name, "priced")
        if best is None or not regrets:
            continue
        spreads = _spread(statics)
        cells = [
            name,
            str(len(scenario.sweep)),
            "" if spreads is None else f"{spreads[0] / spreads[1]:.1f}",
            best.removeprefix("static-"),
            spread(_losses(statics[best])),
            _epochs(statics[best]),
            spread(_losses(ours)),
            _epochs(ours),
            str(len(regrets)),
            interval(regrets),
            _percent(stored, name, "priced"),
            _guarded(ours),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _rules(stored: Mapping[str, Any]) -> list[str]:
    """The regrets of every arm where more rules than `priced` were arguments."""
    wide = [name for name, scenario in SCENARIOS.items() if scenario.sweep and len(scenario.arms) > 1]
    rows = ["", "**Rules**: regrets, nats per token (seeds).", ""]
    rows += [f"| arm | {' | '.join(wide)} |", "|" + " --- |" * (1 + len(wide))]
    for arm in dict.fromkeys(arm for name in wide for arm in SCENARIOS[name].seeds()):
        cells = []
        for name in wide:
            regrets = _regrets(stored, name, arm) if arm in SCENARIOS[name].seeds() else []
            is_best = arm == _best(_statics(stored, name))
            cells.append("chosen" if is_best else f"{interval(regrets)} ({len(regrets)})" if regrets else "")
        rows.append(f"| {arm} | {' | '.join(cells)} |")
    return rows


def _sums(stored: Mapping[str, Any]) -> list[str]:
    """The sum of mean regrets of priced and of every other arm, over the scenarios and seeds that have both."""
    rows = ["", "**Together**: sums of mean regrets over scenarios and seeds that have both arms, nats per token.", ""]
    rows += ["| arm | scenarios | its sum | priced |", "| --- | --- | --- | --- |"]
    arms = dict.fromkeys(arm for scenario in SCENARIOS.values() for arm in scenario.seeds())
    for arm in arms:
        shared = [
            (mean(mine), mean(ours))
            for name, scenario in SCENARIOS.items()
            if arm != "priced"
            and (seeds := set(scenario.seeds().get(arm, ())) & set(scenario.seeds()["priced"]))
            and (mine := _regrets(stored, name, arm, seeds))
            and (ours := _regrets(stored, name, "priced", seeds))
        ]
        if shared:
            rows.append(
                f"| {arm} | {len(shared)} | {sum(a for a, _ in shared):+.3f} | {sum(b for _, b in shared):+.3f} |"
            )
    return rows


def _repeated(stored: Mapping[str, Any]) -> list[str]:
    """The four-epoch rule: real text alone, repeated ever more often over equally many tokens."""
    rows = ["", "**Repeats**: the same number of tokens from fewer and fewer real ones.", ""]
    rows += ["| scenario | epochs of real text alone | its loss | loss of priced | epochs under it |"]
    rows += ["| --- | --- | --- | --- | --- |"]
    for name in ("quarter", "tenth", "scarce"):
        alone, steered = (_by_seed(stored, f"{name}/{arm}", SEEDS) for arm in ("static-1", "priced"))
        if alone and steered:
            cells = [_epochs(alone), spread(_losses(alone)), spread(_losses(steered)), _epochs(steered)]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _poisoned(stored: Mapping[str, Any]) -> list[str]:
    """How soon a source that turned bad was gone, and what it had cost by the end."""
    seeds = SCENARIOS["poisoned"].arms["priced"]
    poisoned, spared = (_by_seed(stored, f"poisoned/{arm}", SEEDS[:seeds]) for arm in ("priced", "spared"))
    shared = sorted(poisoned.keys() & spared.keys())
    if not shared:
        return []
    late = [evaluations_until_gone(poisoned[seed]) for seed in shared]
    evaluations = [count for count in late if count is not None]
    rows = [
        "",
        f"**Poisoned**: {len(evaluations)} of {len(late)} sources that turned bad were at a share of 0 by the end",
    ]
    if evaluations:
        rows[-1] += (
            f", after {median(evaluations):g} evaluations (median), {quantile(evaluations, 0.9):g} (90th percentile)"
        )
    losses = ([cells[seed]["test_nats_per_token"] for seed in shared] for cells in (poisoned, spared))
    percent = [100 * (with_it / without - 1) for with_it, without in zip(*losses, strict=True)]
    return [*rows, f"Final loss against the runs that never saw it: {interval(percent)} %."]


def evaluations_until_gone(cell: Mapping[str, Any]) -> int | None:
    """Evaluations from the turn on until the share of the source is 0, that of the decision included; None: never."""
    steps = [move["step"] for move in cell["moves"] if move["shares"].get(TURNING) == 0]
    return sum(TURNS_BAD_AT <= step <= steps[0] for step in cell["evaluation_steps"]) if steps else None


def _losses(by_seed: Mapping[int, Any]) -> list[float]:
    return [cell["test_nats_per_token"] for cell in by_seed.values()]


def _statics(stored: Mapping[str, Any], name: str) -> dict[str, dict[int, Any]]:
    """The cells of the static sweep by arm and seed."""
    arms = {arm: seeds for arm, seeds in SCENARIOS[name].seeds().items() if arm.startswith("static-")}
    return {arm: by_seed for arm, seeds in arms.items() if (by_seed := _by_seed(stored, f"{name}/{arm}", seeds))}


def _by_seed(stored: Mapping[str, Any], arm: str, seeds: Sequence[int]) -> dict[int, Any]:
    return {seed: stored[f"{arm}/{seed}"] for seed in seeds if f"{arm}/{seed}" in stored}


def _best(statics: Mapping[str, Mapping[int, Any]]) -> str | None:
    """The static share of least mean loss on the documents that one may choose by."""
    validation = {
        arm: mean(cell["validation_nats_per_token"] for cell in by_seed.values()) for arm, by_seed in statics.items()
    }
    return min(validation, key=lambda arm: validation[arm], default=None)


def _choice(statics: Mapping[str, Mapping[int, Any]]) -> str:
    """Whether the choice of the share matters beyond the seeds."""
    spread_and_noise = _spread(statics)
    if spread_and_noise is None:
        return "There is no sweep to say whether the share matters."
    width, noise = spread_and_noise
    says = "the real share matters" if width >= MATTERS * noise else "the real share by itself does not matter here"
    return f"The sweep spreads over {width:.3f} nats, {width / noise:.1f} seed-to-seed standard deviations: {says}."


def _spread(statics: Mapping[str, Mapping[int, Any]]) -> tuple[float, float] | None:
    """How far the mean losses of the sweep spread, and a seed's standard deviation; None where that is not known."""
    losses = [_losses(by_seed) for by_seed in statics.values()]
    if len(losses) < 2 or any(len(values) < 2 for values in losses):
        return None
    means = [mean(values) for values in losses]
    return max(means) - min(means), mean(stdev(values) ** 2 for values in losses) ** 0.5


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of paired differences."""
    if len(values) < 2:
        return f"{values[0]:+.3f}" if values else ""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} [{mean(values) - half:+.3f}, {mean(values) + half:+.3f}]"
