"""The door to the terminal: no control character passes it; no terminal, and no lost reader, ends a command."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

OPENED = "import sys\nfrom trainer.base.terminal import open_door\nopen_door()\n"
CONSOLE = OPENED + "from trainer.base.console import console\nfrom rich.table import Table\n"
TITLE, CLEAR, C1, TURNED = "\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\u202eabc"


def run(code: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "", **variables}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)


def controls(text: str) -> list[str]:
    return [sign for sign in text if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160]


@pytest.mark.parametrize(
    "printed",
    [
        "print({0!r})",
        "sys.stderr.write({0!r})",
        "sys.stdout.writelines([{0!r}])",
        "import typer; typer.echo('x' + {0!r})",
        "raise ValueError('x' + {0!r})",
        "import warnings; warnings.warn('x' + {0!r})",
        "import logging; logging.warning('x' + {0!r})",
    ],
)
def test_no_control_character_reaches_the_terminal_whoever_prints_it(printed: str) -> None:
    evil = " ".join([TITLE, CLEAR, C1, TURNED, "\x7f\x08", "over\rwritten", "\x00"])
    ended = run(OPENED + printed.format(f"name {evil} end"))
    shown = (ended.stdout + ended.stderr).decode()
    assert "end" in shown
    assert controls(shown) == []
    assert "\u202e" not in shown


def test_a_console_escapes_its_texts_and_keeps_its_own_codes() -> None:
    evil = TITLE + CLEAR + C1
    code = (
        f"c = console(); c._force_terminal = True\nt = Table(title={evil!r}); t.add_column('x' + {evil!r})\n"
        f"t.add_row({evil!r}); c.print(t); c.print({evil!r}, style='bold'); c.show_cursor(False)"
    )
    shown = run(CONSOLE + code, TERM="xterm").stdout.decode()
    assert not any(code in shown for code in (TITLE, CLEAR, C1))
    assert "\\x1b" in shown
    assert "\x1b[?25l" in shown


def test_the_progress_bar_of_a_library_still_overwrites_its_own_line() -> None:
    ended = run(OPENED + "from tqdm import tqdm\nlist(tqdm(range(3), desc='loading'))")
    assert b"\rloading" in ended.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_that_cannot_show_a_sign_gets_a_plain_one(variables: dict[str, str]) -> None:
    code = CONSOLE + "print('1 \\xb1 2 \\u4e2d'); sys.stderr.write('\\u221e'); console().print('\\u2192')"
    ended = run(code, **variables)
    assert (ended.returncode, ended.stderr) == (0, b"inf")
    first, second = ended.stdout.split(b"\n")[:2]
    assert first in (b"1 +/- 2 \\u4e2d", b"1 \xb1 2 \\u4e2d")
    assert second == b"->"


@pytest.mark.parametrize("descriptor", [1, 2])
def test_a_closed_pipe_ends_nothing(descriptor: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    stream = "stdout" if descriptor == 1 else "stderr"
    code = OPENED + f"for _ in range(9999): print('x' * 99, file=sys.{stream}, flush=True)\nopen({str(mark)!r}, 'w')"
    reading, writing = os.pipe()
    os.close(reading)
    other = subprocess.PIPE
    ended = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=writing if descriptor == 1 else other,
        stderr=writing if descriptor == 2 else other,
    )
    output, errors = ended.communicate(timeout=60)
    assert (ended.returncode, output or b"", errors or b"", mark.exists()) == (0, b"", b"", True)


@pytest.mark.parametrize("closed", ["1", "2", "0", "1 2", "0 1 2"])
def test_what_was_closed_before_the_start_is_no_file_that_is_opened_later(closed: str, tmp_path: Path) -> None:
    file, words = tmp_path / "file", "print('to stdout', flush=True); sys.stderr.write('to stderr'); sys.stderr.flush()"
    code = OPENED + f"file = open({str(file)!r}, 'w')\n{words}\nfile.write('own')"
    closing = " ".join(f"{number}>&-" for number in closed.split())
    ended = subprocess.run(["bash", "-c", f'exec "$0" -c "$1" {closing}', sys.executable, code], timeout=60)
    assert ended.returncode == 0
    assert file.read_text() == "own"


def test_a_terminal_window_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = OPENED + (
        "import signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN); print('begun', flush=True)\n"
        "time.sleep(0.5)\n"
        f"for _ in range(100): print('x' * 99, flush=True)\nopen({str(mark)!r}, 'w')"
    )
    main, side = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=side, stderr=side, start_new_session=True)
    os.close(side)
    assert b"begun" in os.read(main, 99)
    os.close(main)
    assert (process.wait(timeout=60), mark.exists()) == (0, True)
