"""Rows lost without being asked for are told wherever a user looks: terminal, plan, journal, explain, report."""

import json
import random

import pytest

from benchmarks.templates import word
from tests.cases.commands import Case

FORM = (
    "Notice to all readers of the daily list: the item {}. is now kept in the store at No. {} and may be "
    "asked for at the desk between nine and five on every working day of the week, free of charge, with a card"
)


def rewrite(case: Case, name: str, texts: list[str]) -> None:
    rows = [json.dumps({"id": f"{name[0]}{number}", "text": text}) for number, text in enumerate(texts)]
    (case.folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def own_texts(num: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(word(rng) for _ in range(40)) for _ in range(num)]


@pytest.mark.kind("rows lost")
def test_documents_lost_to_held_out_ones_are_told_at_the_start_the_end_in_plan_journal_explain_and_report(
    case: Case,
) -> None:
    case.take("26-one-template")
    real = own_texts(80)
    rewrite(case, "real", real)
    rewrite(case, "syn", [*(f"\x1b[2Jagain {text}" for text in real), *own_texts(40, seed=1)])
    before = case.plan()
    before.told("data: real: 1 file; rows are counted at preparation", "(counted)")
    ended = case.fit()
    account = case.rows("syn")
    lost, documents = account["contaminated"], account["used"] + account["contaminated"]
    assert lost == account["copies"]["near"] == case.rows()["held_out"] > 0
    warning = f"{lost} of {documents} documents of 'syn' ({lost / documents:.1%}) are copies of held-out documents"
    example = account["copies"]["examples"][0]
    ended.told(f"warning: {warning}", f"data: syn: 120 rows of 1 file: {account['used']} used")
    assert ended.text.count(warning) == 2, "at the start and in the table at the end"
    assert "\x1b[2J" not in ended.stdout + ended.stderr
    assert case.journal()[0].rows["syn"]["contaminated"] == lost
    pair = f"{example['id']} is nearly {example['held_out']}"
    for words in (case.plan().text, case.run("explain", case.home / "run").text, ended.text):
        assert warning in words
        assert pair in words
    assert pair in (case.home / "run" / "report.html").read_text()


@pytest.mark.kind("templated text")
@pytest.mark.parametrize("real_letters", [40, 100])
def test_letters_of_one_form_are_not_lost_in_real_nor_in_synthetic_data(case: Case, real_letters: int) -> None:
    case.take("26-one-template")
    rng = random.Random(2)
    letters = [FORM.format(word(rng), word(rng)) for _ in range(real_letters + 80)]
    rewrite(case, "real", [*letters[:real_letters], *own_texts(60)])
    rewrite(case, "syn", letters[real_letters:])
    case.fit().told("of the used share only a form with held-out documents")
    assert case.rows()["contaminated"] == case.rows("syn")["contaminated"] == 0
    assert case.rows("syn")["used"] == 80
