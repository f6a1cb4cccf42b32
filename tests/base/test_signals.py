"""Signals to a launch: the first is noted, a second ends it at once, also where Python is in native code."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

INT, HUP, TERM, USR1 = signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1
BUSY = {
    "python": "while True: pass",
    "asleep": "while True: time.sleep(1)",
    "native": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)",
}
CODE = """
import hashlib, os, signal, sys, threading, time
from trainer.base.signals import Signals
told = threading.Event()
def first(number):
    say(f"first {number}")
    told.set()
def say(text):
    os.write(1, f"{text}\\n".encode())
def end(number, is_second):
    say(f"end {number} {is_second}")
    os._exit(9)
with Signals(on_first=first, end=end) as signals:
    print("begun", flush=True)
"""


@contextmanager
def running(body: str, *, before: str = "", ignored: int | None = None) -> Iterator[subprocess.Popen[str]]:
    code = before + CODE + "".join(f"    {line}\n" for line in body.splitlines())

    def prepare() -> None:
        signal.signal(INT, signal.SIG_DFL)  # a suite in the background ignores it
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=prepare)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(("first", "second"), [(INT, INT), (TERM, INT), (HUP, TERM), (USR1, INT)])
def test_the_first_signal_is_noted_and_the_second_ends_the_process(first: int, second: int, busy: str) -> None:
    with running(BUSY[busy]) as process:
        process.send_signal(first)
        assert line(process) == f"first {int(first)}"
        process.send_signal(second)
        assert line(process) == f"end {int(second)} True"
        assert process.wait(timeout=60) == 9


def test_the_warning_of_a_batch_system_is_never_a_second() -> None:
    with running("while True: time.sleep(1)") as process:
        for number in (TERM, USR1, USR1, INT):
            process.send_signal(number)
            if number in (TERM, INT):
                assert line(process) == ("first 15" if number == TERM else "end 2 True")


@pytest.mark.parametrize("number", [HUP, INT])
def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    with running("while True: time.sleep(1)", ignored=number) as process:
        process.send_signal(number)
        process.send_signal(TERM)
        assert line(process) == "first 15"


def test_what_a_launcher_hands_on_is_the_signal_that_came_already() -> None:
    before = "import os; os.environ['TORCHELASTIC_RUN_ID'] = 'x'\n"
    with running("while True: time.sleep(1)", before=before) as process:
        process.send_signal(INT)
        assert line(process) == "first 2"
        process.send_signal(INT)
        process.send_signal(TERM)
        assert line(process) == "end 15 True"


def test_the_signals_of_a_forked_worker_are_not_those_of_the_run() -> None:
    body = (
        "reading, writing = os.pipe()\npid = os.fork()\nif not pid: os.write(writing, b'x'); time.sleep(60)\n"
        "os.read(reading, 1)\nos.kill(pid, 2)\nos.waitpid(pid, 0)\nsay(signals.received())"
    )
    with running(body) as process:
        assert line(process) == "False"
        assert process.wait(timeout=60) == 0


def test_a_signal_raises_where_nothing_is_to_be_saved_and_the_handlers_before_come_back() -> None:
    # What the first signal is answered with is said in another thread: the process waits for it.
    body = "try:\n    with signals.ending_at_once(): time.sleep(60)\nexcept BaseException as error: say(repr(error))"
    body += "\ntold.wait(60)"
    after = "print(signal.getsignal(15) == signal.SIG_DFL)"
    with running(body) as process:
        process.send_signal(TERM)
        assert {line(process), line(process)} == {"first 15", "StoppedEarly()"}
        assert process.wait(timeout=60) == 0
    code = CODE + f"{after}\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.endswith("True\n")


def test_another_thread_than_the_main_one_runs_without_handlers() -> None:
    indented = "".join(f"    {text}\n" for text in CODE.splitlines())
    code = f"import threading\ndef f():\n{indented}\nt = threading.Thread(target=f); t.start(); t.join()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "begun\n")
