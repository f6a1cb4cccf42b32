"""The journal survives what happens to processes and disks."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journals import step_line
from trainer.base.errors import UserError
from trainer.base.json_values import jsonable, number
from trainer.tracking.journal import AppendOnlyFile, Journal, SilentJournal, cut, lost_path, read
from trainer.tracking.record import JournalLine
from trainer.tracking.schema import RetireLine, read_journal

FOREVER = """
import sys
from pathlib import Path
from trainer.tracking.journal import Journal
from trainer.tracking.schema import SampleLine
journal = Journal(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    journal.write(SampleLine(step=step, prompt="", text="x" * (step % 3000)))
"""

CUT_KILLED_BEFORE_TRUNCATE = """
import os, signal, sys
from pathlib import Path
from trainer.tracking import journal
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
moment, path, offset = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if moment == "after keeping":
    keep = journal._add_lost
    journal._add_lost = lambda *given: (keep(*given), die())
else:
    Path.replace = die
journal.cut(path, offset)
"""

NO_ROOM = """
import resource, signal, sys
from pathlib import Path
from trainer.tracking.journal import AppendOnlyFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
file = AppendOnlyFile(Path(sys.argv[1]))
for _ in range(8):
    file.append({"step": 1})
try:
    file.append({"step": 2, "text": "x" * 37})
except OSError as error:
    print(error.strerror)
"""


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    text = 'quote " newline \n \u2028 \ud800 end'
    file = AppendOnlyFile(tmp_path / "run" / "journal.jsonl")
    file.append({"loss": np.float32(2.5), "counts": {"real": np.int64(3)}, "updated": np.bool_(True)})
    file.append({"text": text, "prompt": Path("a/b"), "parts": np.arange(2)})
    file.close()
    assert list(read(tmp_path / "run" / "journal.jsonl")) == [
        {"loss": 2.5, "counts": {"real": 3}, "updated": True},
        {"text": text, "prompt": "a/b", "parts": [0, 1]},
    ]


@given(value=st.floats(), wrap=st.sampled_from([float, np.float64, lambda x: np.array([x])[0]]))
def test_every_float_is_valid_json_and_comes_back(value: float, wrap: object) -> None:
    text = json.dumps(jsonable({"loss": wrap(value)}), allow_nan=False)  # type: ignore[operator]
    back = number(json.loads(text)["loss"])
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = AppendOnlyFile(tmp_path / "journal.jsonl")
    with pytest.raises(TypeError, match="cannot hold a object"):
        file.append({"thing": object()})
    assert file.offset == 0
    assert file.path.read_bytes() == b""


def test_the_offset_is_the_size_of_the_file(tmp_path: Path) -> None:
    file = AppendOnlyFile(tmp_path / "ledger.jsonl")
    for step in range(5):
        file.append({"fact": "snapshot", "step": step, "text": "é" * step})
        assert file.sync() == file.offset == file.path.stat().st_size
    file.close()
    assert AppendOnlyFile(file.path).offset == file.offset


def test_a_torn_last_line_is_ignored_and_moved_aside_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":3,"tex')
    assert [line["step"] for line in read(path)] == [1, 2]
    file = AppendOnlyFile(path)
    file.append({"step": 3})
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    assert list(read(lost_path(path))) == [{"torn": '{"step":3,"tex'}]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"{" * 3_000_000)
    assert list(read(path)) == []
    assert AppendOnlyFile(path).offset == 0


@pytest.mark.parametrize("broken", [b'{"step":2', b"\0\0\0", b"[1]", b'"\xff"', b""])
def test_a_broken_line_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step":1}\n' + broken + b'\n{"step":3}\n')
    with pytest.raises(UserError, match=r"journal\.jsonl:2: broken line"):
        list(read(path))


def journal_with(path: Path, damage: dict[int, bytes], *, num_lines: int = 6) -> list[int]:
    """A journal of steps with other bytes in some lines (from 1); the steps whose lines are as they were."""
    file = Journal(path)
    for step in range(1, num_lines + 1):
        file.write(step_line(step, shares={}))
    file.close()
    raw = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage.get(number, line) for number, line in enumerate(raw, start=1)))
    return [number for number in range(1, num_lines + 1) if number not in damage]


@pytest.mark.parametrize(
    "broken",
    [
        b'{"kind":"step","step":2\n',
        b"\0\0\n",
        b"[1]\n",
        b"\xff\n",
        b"\n",
        b'{"kimd":"step","step":2}\n',
        b"[" * 9999 + b"\n",
    ],
)
def test_who_looks_back_passes_over_a_broken_line_and_says_how_many_and_which(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    expected, warnings = journal_with(path, {2: broken, 5: broken}), list[str]()
    assert [line.step for line in read_journal(path, warn=warnings.append)] == expected
    (warning,) = warnings
    assert warning.startswith(f"2 of 6 lines of {path} cannot be read and are left out; the first: {path}:2: ")


def test_a_flipped_bit_anywhere_costs_at_most_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal_with(path, {})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert len(list(read_journal(path, warn=lambda _: None))) >= 4, "a newline can join two, or split one"


def test_a_journal_of_which_most_lines_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal_with(path, dict.fromkeys((1, 2, 4, 6), b'{"kind":"step","step":2}\n'))
    with pytest.raises(UserError, match=r"journal\.jsonl:1: .*written by another version"):
        list(read_journal(path))


def test_cut_moves_the_rest_to_the_lost_file_and_a_second_cut_adds_to_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    file = AppendOnlyFile(path)
    file.append({"step": 1})
    saved = file.offset
    file.append({"step": 2})
    file.close()
    path.write_bytes(path.read_bytes() + b'{"torn')
    assert cut(path, saved) == len(b'{"step":2}\n{"torn')
    again = AppendOnlyFile(path)
    again.append({"step": 3})
    assert cut(path, saved) > 0
    assert [line["step"] for line in read(path)] == [1]
    assert list(read(lost_path(path))) == [{"step": 2}, {"torn": '{"torn'}, {"step": 3}]
    assert cut(path, saved) == 0


@pytest.mark.parametrize("offset", [-1, 3, 10**6])
def test_cut_refuses_an_offset_that_the_file_never_had(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n')
    with pytest.raises(UserError):
        cut(path, offset)
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n'
    assert not lost_path(path).exists()


@pytest.mark.parametrize("moment", ["before keeping", "after keeping"])
def test_a_cut_killed_half_way_loses_nothing_and_is_finished_by_the_next(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"step":3}\n')
    command = [sys.executable, "-c", CUT_KILLED_BEFORE_TRUNCATE, moment, str(path), "11"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [line["step"] for line in read(path)] == [1, 2, 3]
    cut(path, 11)
    assert [line["step"] for line in read(path)] == [1]
    assert [line["step"] for line in read(lost_path(path))] == [2, 3]


def test_kill_9_leaves_complete_lines_and_the_next_process_resumes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    sizes = [0]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", FOREVER, str(path)])
        deadline = time.monotonic() + 60
        while not path.exists() or path.stat().st_size < sizes[-1] + 200_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sizes.append(path.stat().st_size)
    runs = [index for index, line in enumerate(read(path)) if line["step"] == 1]
    lines = list(read(path))
    assert len(runs) == 3
    for start, end in zip(runs, [*runs[1:], len(lines)], strict=True):
        assert [line["step"] for line in lines[start:end]] == list(range(1, end - start + 1))


def test_views_see_the_line_that_stands_in_the_file(tmp_path: Path) -> None:
    shown: list[JournalLine] = []
    journal = Journal(tmp_path / "journal.jsonl", views=[shown.append])
    line = step_line(1, shares={"real": 1_000_000}, loss=math.inf)
    journal.write(line)
    assert shown == [line] == list(read_journal(tmp_path / "journal.jsonl"))
    assert next(read(tmp_path / "journal.jsonl"))["loss"] == "Infinity"


def test_a_view_that_raises_is_one_warning_and_the_others_continue(tmp_path: Path) -> None:
    shown: list[JournalLine] = []
    warnings: list[str] = []

    def broken(line: JournalLine) -> None:
        raise RuntimeError("no room on the screen")

    journal = Journal(tmp_path / "journal.jsonl", views=[broken, shown.append], warn=warnings.append)
    lines = [RetireLine(step=step, source="real", segment=0) for step in (1, 2, 3)]
    for line in lines:
        journal.write(line)
    assert shown == lines == list(read_journal(tmp_path / "journal.jsonl"))
    assert len(warnings) == 1
    assert "RuntimeError: no room on the screen" in warnings[0]


def test_the_silent_journal_touches_nothing() -> None:
    journal = SilentJournal()
    journal.write(RetireLine(step=1, source="real", segment=0))
    journal.close()
    assert journal.sync() == 0


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    result = subprocess.run([sys.executable, "-c", NO_ROOM, str(path)], check=False, capture_output=True, text=True)
    assert result.stdout == "No space left on device: only 12 of 58 bytes of a line were written\n"
    assert path.read_bytes() == b'{"step":1}\n' * 8
