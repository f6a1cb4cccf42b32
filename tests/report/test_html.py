"""The report is one file that loads nothing, escapes everything, and can be made of any run folder."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.journals import evaluation_line, step_line, written
from trainer.base.errors import UserError
from trainer.base.records import Decision
from trainer.report.charts import figures
from trainer.report.history import StepColumns, read_history, thin
from trainer.report.html import _for_script, write_report
from trainer.tracking.journal import Journal

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
LOADING = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href"}


class Page(HTMLParser):
    """Tags, attributes and text outside the library."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        (self.scripts if self.tags and self.tags[-1] == "script" and self.lasttag == "script" else self.texts).append(
            data
        )

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def made(folders: list[Path], output: Path) -> Page:
    write_report(folders, output)
    assert output.stat().st_size < 6_000_000
    return Page(output.read_text(encoding="utf-8"))


def charts_of(page: Page) -> dict[str, dict[str, object]]:
    return json.loads(next(script for script in page.scripts if script.startswith('{"run0')))


def test_the_report_says_what_happened(tell: Callable[..., Path], tmp_path: Path) -> None:
    page = made([tell(steps=250)], tmp_path / "out" / "report.html")
    assert page.text.count("listed, with file and line, in store/5f2e/quarantine.jsonl") == 1
    for words in (
        "story finished", "all steps done", "bits per byte", "95 %:", "people", "75 % → 75 %",
        "spam is worth -0.61 ± 0.12, 5.1 standard errors below 0: halved", "written 25 % → 37.5 %, spam 25 % → 12.5 %",
        "1 cut, 9 ok", "evidence of harm 4,100 (warns at 10, alarms at 2,000)", "worth -0.61 ± 0.12", "CC-BY-SA-4.0",
        "4 malformed (missing text 3, bad JSON 1); 41 by the filter length (fewer than 5 words)",
        "7 copies of held-out documents (2 exact, 5 near, such as letter 7 is nearly letter 3 (91%): Dear Sir)",
        "3 files (2 more skipped: hidden, such as .cache/a.jsonl)", "The river rises", "0f3c2a1", "global_batch: 32",
        "40.0%", "13.7%", "Real data As good as: that many different tokens would do as much", "wikipedia 115,200 2.22",
    ):  # fmt: skip
        assert words in page.text
    names = {key.removeprefix("run0-") for key in charts_of(page)}
    assert names == {
        "held-out", "shares", "epochs", "source_value", "value", "significance", "harm", "slices",
        "source-loss", "train", "metric-learning_rate", "metric-grad_norm", "metric-seconds",
        "metric-tokens/step",
        "metric-bits_per_byte/held_out", "metric-seconds/evaluation",
    }  # fmt: skip
    assert {value for name, value in page.attributes if name == "id"} >= set(charts_of(page))


def test_a_crashed_run_has_a_report(tell: Callable[..., Path], tmp_path: Path) -> None:
    folder = tell(crash_at=130)
    page = made([folder], tmp_path / "report.html")
    assert "unfinished" in page.text
    assert "the last step in its journal is 130" in page.text
    assert "no test figures yet" in page.text
    assert "run0-held-out" in charts_of(page)


def test_a_run_that_died_at_its_start_has_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "early"
    Journal(folder / "journal.jsonl").close()
    (folder / "outcome.json").write_text(
        json.dumps({"state": "failed", "step": 0, "reason": "boom", "traceback": "T<b>"})
    )
    page = Page((write_report([folder], tmp_path / "r.html"), (tmp_path / "r.html").read_text(encoding="utf-8"))[1])
    assert "early failed boom traceback T<b>" in page.text


def test_losses_that_are_not_numbers_leave_gaps(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for step, loss in enumerate([2.0, float("nan"), float("inf"), 1.0], start=1):
        epochs = {"a": 0.1 * step}
        journal.write(step_line(step, loss=loss, counts={"a": 1}, shares={"a": 1_000_000}, epochs=epochs))
    journal.write(evaluation_line(4, float("nan")))
    write_report([tmp_path], tmp_path / "report.html")
    assert figures(read_history(tmp_path))["train"]["data"][0]["y"] == [2.0, None, None, 1.0]


def test_what_comes_from_data_is_escaped_everywhere(tell: Callable[..., Path], tmp_path: Path) -> None:
    folder = tell(steps=250, sample_text=ATTACK + "__FIGURES__ __PLOTLY__", rename={"spam": ATTACK})
    clean = tell(name="clean", steps=250)
    (folder / "recipe.yaml").write_text(f"name: {ATTACK}")
    (folder / "outcome.json").write_text(json.dumps({"state": ATTACK, "reason": ATTACK, "traceback": ATTACK}))
    page, other = made([folder], tmp_path / "bad.html"), made([clean], tmp_path / "good.html")
    assert page.tags.count("script") == other.tags.count("script") == 3
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert ATTACK in page.text  # shown as it is, not dropped
    assert ATTACK + "__FIGURES__ __PLOTLY__" in page.text
    traces = json.dumps(charts_of(page))
    assert "<img" not in traces


def test_no_text_in_the_figures_can_end_their_script() -> None:
    assert "<" not in _for_script({"name": ATTACK})
    assert json.loads(_for_script({"name": ATTACK})) == {"name": ATTACK}


def test_the_report_loads_nothing_from_anywhere(tell: Callable[..., Path], tmp_path: Path) -> None:
    page = made([tell(steps=60), tell(name="b", steps=60)], tmp_path / "report.html")
    loads = [(name, value) for name, value in page.attributes if name in LOADING and not value.startswith("#")]
    assert loads == []
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert not re.search(r"@import|url\(", (Path("trainer/report/report.html.j2")).read_text(encoding="utf-8"))


def test_several_runs_are_compared_under_names_of_their_own(tell: Callable[..., Path], tmp_path: Path) -> None:
    one, two = tell(name="one", steps=60), tell(name="two", steps=60, steered=False, crash_at=50)
    twin = tmp_path / "elsewhere" / "one"
    shutil.copytree(one, twin)
    page = made([one, two, twin], tmp_path / "report.html")
    assert "3 runs compared" in page.text
    drawn = json.loads(next(script for script in page.scripts if script.startswith('{"run0')))
    named = [trace["name"] for trace in drawn["compared-held-out"]["data"] if trace["name"]]
    assert named == ["runs/one", "two", "elsewhere/one"]


def test_a_folder_without_a_journal_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(UserError, match="at least one"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", ['{"state": "fini', "[]", "{}"])
def test_an_outcome_that_is_torn_is_a_users_mistake(tell: Callable[..., Path], tmp_path: Path, text: str) -> None:
    folder = tell(steps=3)
    (folder / "outcome.json").write_text(text)
    with pytest.raises(UserError, match=r"outcome\.json: this does not say"):
        write_report([folder], tmp_path / "report.html")


def test_thinning_keeps_totals_means_and_the_last_state() -> None:
    rng = np.random.default_rng(0)
    steps = StepColumns(
        step=np.arange(1.0, 2501), loss=rng.normal(size=2500), tokens=np.full(2500, 7.0),
        counts=rng.integers(0, 9, size=(2500, 3)).astype(float), shares=rng.random((2500, 3)),
        epochs=np.cumsum(rng.random((2500, 3)), axis=0),
    )  # fmt: skip
    steps.loss[10] = np.nan
    few = thin(steps, 100)
    assert len(few.step) == 100
    assert few.counts.sum() == steps.counts.sum()
    assert few.tokens.sum() == steps.tokens.sum()
    assert (few.step[-1], few.epochs[-1].tolist()) == (2500, steps.epochs[-1].tolist())
    assert few.loss[0] == pytest.approx(np.nanmean(steps.loss[:25]))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_draws_the_charts_without_an_error(
    tell: Callable[..., Path], decisions: list[Decision], tmp_path: Path
) -> None:
    priced = written(tmp_path / "priced", decisions, {"real": "real", "synthetic": "synthetic"})
    write_report([tell(steps=60), priced], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    switches += ["--virtual-time-budget=8000", "--enable-logging=stderr"]
    command = ["chromium", *switches, (tmp_path / "report.html").as_uri()]
    process = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "run1-budget" in charts_of(page)
    assert process.stdout.count('class="main-svg"') >= len(charts_of(page))
    assert "CONSOLE" not in process.stderr
