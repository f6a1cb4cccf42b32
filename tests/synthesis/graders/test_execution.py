"""Code that a model wrote runs only where it can do no harm."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis.graders.rivers import row
from trainer.base.errors import UserError
from trainer.synthesis.graders import sandbox
from trainer.synthesis.graders.config import ExecutionConfig
from trainer.synthesis.graders.execution import code_in, execution

needs_sandbox = pytest.mark.skipif(sandbox.why_not() is not None, reason=f"no sandbox here: {sandbox.why_not()}")


def ran(code: str, *, time_limit_s: float = 20.0) -> sandbox.Outcome:
    return sandbox.run(code, time_limit_s=time_limit_s, memory_mib=256)


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 22), 5)", "Permission denied"),
        ("import socket; socket.socketpair(type=socket.SOCK_DGRAM)", "Permission denied"),
        ("print(open('{outside}').read())", "PermissionError"),
        ("open('{outside}', 'w')", "PermissionError"),
        ("import os; os.remove('{outside}')", "PermissionError"),
        ("import os; print(os.listdir('{folder}'))", "PermissionError"),
        ("import os; print(os.listdir('/'))", "PermissionError"),
        ("import os; os.kill({pid}, 9)", "ProcessLookupError"),
        ("x = bytearray(10**9)", "MemoryError"),
        ("open('big', 'wb').write(b'x' * 10**8)", "File too large"),
    ],
)
def test_code_reaches_nothing_outside(tmp_path: Path, code: str, error: str) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    outcome = ran(code.format(outside=outside, folder=tmp_path, pid=os.getpid()))
    assert outcome.exit_code != 0
    assert error in outcome.output
    assert outside.read_text() == "secret"


@needs_sandbox
def test_code_reaches_no_server_that_listens_at_a_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "docker.sock"))
        server.listen()
        server.settimeout(0.0)
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'docker.sock')!r})"
        assert "PermissionError" in ran(code).output
        with pytest.raises(BlockingIOError):
            server.accept()


@needs_sandbox
def test_code_may_wake_itself_as_asyncio_does() -> None:
    assert ran("import asyncio; asyncio.run(asyncio.sleep(0)); print('slept')").output == "slept\n"


@needs_sandbox
def test_code_sees_no_variable_of_this_process_and_may_write_beside_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "do not tell")
    outcome = ran("import os; open('here', 'w').write('x'); print(open('here').read(), dict(os.environ))")
    assert outcome.exit_code == 0
    assert "SECRET_KEY" not in outcome.output


@needs_sandbox
def test_code_that_does_not_end_is_ended_with_all_that_it_started() -> None:
    outcome = ran("import os\nos.fork()\nos.setsid() if os.getpid() > 2 else 0\nwhile True: pass", time_limit_s=2.0)
    assert outcome.exit_code is None
    for _ in range(600):  # a killed process takes a moment to be gone
        if not running():
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {running()}")


def running() -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"sandbox-" in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@needs_sandbox
@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("def double(x):\n    return 2 * x", "keep"),
        ("So:\n```python\ndef double(x):\n    return 2 * x\n```\nThat is all.", "keep"),
        ("def double(x):\n    return x", "drop"),
        ("import sys\nsys.exit(0)", "drop"),
        ("import os\nos._exit(0)", "drop"),
        ("no code at all", "drop"),
    ],
)
def test_code_is_kept_where_the_tests_of_the_real_row_pass(make: Callable[..., Any], text: str, verdict: str) -> None:
    assert make().grade([_row(text)])[0].verdict == verdict


@pytest.fixture
def make() -> Callable[..., Any]:
    return lambda: execution(ExecutionConfig(tests_column="tests"), None)  # type: ignore[arg-type]


def _row(text: str) -> dict[str, Any]:
    made = row(1, text=text)
    return {**made, "prompt_row": {**made["prompt_row"], "tests": "assert double(4) == 8"}}


def test_where_code_cannot_be_kept_in_it_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no unshare
    sandbox.why_not.cache_clear()
    with pytest.raises(UserError, match="here it cannot"):
        execution(ExecutionConfig(), None)  # type: ignore[arg-type]
    sandbox.why_not.cache_clear()


def test_the_code_of_a_text_is_its_fenced_blocks() -> None:
    assert code_in("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```\n") == "x = 1\n\ny = 2\n"
