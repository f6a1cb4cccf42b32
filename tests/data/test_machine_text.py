"""Machine-written text in sources called real: the count, its interval, and what a recipe does about it."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.data.corpus import prepared, recipe, write_jsonl
from trainer.base.errors import UserError
from trainer.data.config import DataConfig
from trainer.data.machine_text.account import MachineTextAccount
from trainer.data.machine_text.count import Labeled, estimate
from trainer.data.machine_text.relatives import relatives
from trainer.data.machine_text.texts import score_texts

WORDS = [a + b for a in ("ka", "lo", "mi", "nu", "pe", "ro", "su", "ti") for b in ("ran", "sel", "tor", "vin", "wex")]


def written(num: int, seed: int, *, machine: bool) -> list[str]:
    """Texts of 60 words; after a word the machine and people go on differently, three times in ten."""
    rng = random.Random(f"{seed} {machine}")
    texts = []
    for _ in range(num):
        words = [rng.randrange(len(WORDS))]
        for _ in range(59):
            habit = (words[-1] * (7 if machine else 11) + 3) % len(WORDS)
            words.append(habit if rng.random() < 0.3 else rng.randrange(len(WORDS)))
        texts.append(" ".join(WORDS[word] for word in words))
    return texts


def test_the_share_follows_from_the_rates_of_hits() -> None:
    labeled = Labeled(real_hits=np.repeat([0.0, 1.0], [80, 20]), machine_hits=np.repeat([0.0, 1.0], [30, 70]))
    found = estimate(labeled, np.repeat([0.0, 1.0], [700, 300]), seed=0)
    assert found.share == pytest.approx((0.3 - 0.2) / (0.7 - 0.2))
    assert found.low < found.share < found.high
    assert (found.rate, found.true_positive_rate, found.false_positive_rate) == pytest.approx((0.3, 0.7, 0.2))
    assert estimate(labeled, np.zeros(100), seed=0).share == 0
    assert estimate(labeled, np.ones(100), seed=0).share == 1


def test_intervals_hold_the_true_share_at_least_nine_times_in_ten() -> None:
    rng, held, cells = np.random.default_rng(0), 0, 0
    for share in (0.0, 0.02, 0.05, 0.2, 0.5):
        for number in range(60):
            labeled = Labeled(
                real_hits=(rng.random(600) < 0.2).astype(float), machine_hits=(rng.random(400) < 0.7).astype(float)
            )
            rates = np.where(rng.random(800) < share, 0.7, 0.2)
            truth = share  # of the population that the documents are drawn from
            found = estimate(labeled, (rng.random(800) < rates).astype(float), seed=number)
            held += found.low <= truth <= found.high
            cells += 1
    assert held >= 0.92 * cells


def test_text_of_known_share_is_counted_by_the_models_of_two_references() -> None:
    texts = {
        "clean": written(400, 3, machine=False),
        "half": [*written(200, 4, machine=False), *written(200, 5, machine=True)],
    }
    labeled, scored = score_texts(written(300, 1, machine=False), written(200, 2, machine=True), texts, seed=0)
    assert labeled.separation > 0.6
    clean, half = (estimate(labeled, scored[name].hits, seed=0) for name in ("clean", "half"))
    assert clean.low == 0
    assert clean.high < 0.1
    assert half.low < 0.5 < half.high
    assert half.high - half.low < 0.2
    worst = np.argsort(-scored["half"].scores)[:20]
    assert (worst >= 200).all()


def test_a_documents_relative_stands_out_and_strangers_have_none() -> None:
    rng = np.random.default_rng(0)
    real = [rng.integers(0, 400, 150) for _ in range(60)]
    about = [np.concatenate([rng.integers(0, 400, 60), real[place][20:90]]) for place in range(20)]
    strangers = [rng.integers(0, 400, 130) for _ in range(40)]
    found = relatives([*about, *strangers], real)
    assert found[:20].tolist() == list(range(20))
    assert (found[20:] == -1).mean() > 0.8


def files(folder: Path, planted: float) -> dict[str, Any]:
    """A recipe whose source `scraped` is called real and holds a planted share of machine-written text."""
    num = round(240 * planted)
    scraped = [*written(240 - num, 6, machine=False), *written(num, 7, machine=True)]
    random.Random(0).shuffle(scraped)
    sources = {
        "web": written(240, 1, machine=False),
        "made": written(160, 2, machine=True),
        "scraped": scraped,
    }
    for name, texts in sources.items():
        rows = [
            {"id": f"{name}{i}", "topic": "t", "text": text, "date": f"20{10 + i % 2}-05-01"}
            for i, text in enumerate(texts)
        ]
        write_jsonl(folder / f"{name}.jsonl", rows)
    tree = recipe(machine_text={"real": "web", "machine": ["made"], "max_share": 0.2})
    tree["sources"]["scraped"] = {"kind": "real", "path": "scraped.jsonl", "id_column": "id", "provenance": ["date"]}
    return tree


def test_a_source_that_is_machine_written_above_the_limit_is_refused_with_its_rows(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"'scraped' is called real, but .* are machine-written .*kind: synthetic"
    ) as caught:
        prepared(folder, files(folder, 0.6))
    assert str(caught.value).count("scraped") >= 4  # three suspicious rows by their ids


def test_what_is_found_is_stored_with_the_prepared_data_and_told(folder: Path) -> None:
    tree = files(folder, 0.5)
    tree["machine_text"] |= {"action": "warn", "dates": {"scraped": "date"}}
    data = prepared(folder, tree)
    account = data.machine_text
    assert account is not None
    (finding,) = account.sources.values()
    assert finding.verdict == "warned"
    assert finding.estimate.low <= 0.5 <= finding.estimate.high
    assert list(finding.by_date) == ["2010", "2011"]
    assert MachineTextAccount.from_json(account.to_json()) == account
    lines = list(account.lines())
    assert "a lower bound" in lines[0]
    assert "2010" in lines[1]
    assert len(lines) == 5
    assert "above data.machine_text.max_share" in next(account.warnings())
    assert data.sources["scraped"].kind == "real"


def test_a_source_can_be_taken_for_synthetic_instead(folder: Path) -> None:
    tree = files(folder, 0.6)
    tree["machine_text"]["action"] = "reclassify"
    tree["filters"] = [{"kind": "regex", "pattern": "^karan", "only": "synthetic"}]
    data = prepared(folder, tree)
    assert data.sources["scraped"].kind == "synthetic"
    assert {rows.filter for rows in data.rows["scraped"].filters} == {"regex"}  # it is filtered as what it is


def test_a_clean_source_passes(folder: Path) -> None:
    data = prepared(folder, files(folder, 0.0))
    assert data.machine_text is not None
    assert data.machine_text.sources["scraped"].verdict == "kept"
    assert not list(data.machine_text.warnings())


def test_references_may_be_files_of_their_own_and_another_file_is_another_store(folder: Path) -> None:
    tree = files(folder, 0.0)
    write_jsonl(folder / "people.jsonl", [{"text": text} for text in written(200, 8, machine=False)])
    write_jsonl(folder / "machine.jsonl", [{"text": text} for text in written(150, 9, machine=True)])
    tree["machine_text"] |= {"real": {"path": "people.jsonl"}, "machine": ["made", {"path": "machine.jsonl"}]}
    data = prepared(folder, tree)
    assert data.machine_text is not None
    assert set(data.machine_text.sources) == {"web", "scraped"}
    assert set(data.machine_text.separation) == {"made", "machine_text.machine.1"}
    write_jsonl(folder / "machine.jsonl", [{"text": text} for text in written(150, 10, machine=True)])
    assert prepared(folder, tree).folder != data.folder


def test_references_that_read_alike_are_refused(folder: Path) -> None:
    tree = files(folder, 0.0)
    write_jsonl(folder / "people.jsonl", [{"text": text} for text in written(160, 11, machine=False)])
    tree["machine_text"]["machine"] = [{"path": "people.jsonl"}]
    with pytest.raises(UserError, match="cannot be told apart"):
        prepared(folder, tree)
    write_jsonl(folder / "people.jsonl", [{"text": text} for text in written(20, 2, machine=True)])
    with pytest.raises(UserError, match="are too small"):
        prepared(folder, tree)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"real": "made"}, "machine_text.real names no real source"),
        ({"machine": ["web"]}, "machine_text.machine names no synthetic source"),
        ({"dates": {"scraped": "when"}}, "add 'when' to the `provenance`"),
        ({"dates": {"web": "date"}}, "names no source that is checked"),
    ],
)
def test_a_section_that_does_not_fit_the_sources_is_refused(
    folder: Path, keys: Mapping[str, Any], message: str
) -> None:
    tree = files(folder, 0.0)
    tree["machine_text"] |= keys
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(tree)
