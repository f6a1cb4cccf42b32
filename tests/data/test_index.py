"""The local index of streams and URLs: it follows what it was made of, keeps places, and waits for nobody for ever."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.data.corpus import documents, prepared, recipe, small_files, write_jsonl
from tests.data.test_readers import data
from trainer.base.errors import DataError
from trainer.data.index import index_account, index_file, read_index, write_index
from trainer.data.readers import OpenableFile, ReadOptions, read_rows
from trainer.data.remote import remote_files


def streaming(folder: Path) -> int:
    """Rows read of a streamed source, prepared now."""
    tree = recipe()
    tree["sources"]["web"]["streaming"] = True
    return prepared(folder, tree).rows["web"].read


def test_the_index_of_a_local_file_follows_its_content(tmp_path: Path) -> None:
    small_files(tmp_path)
    assert streaming(tmp_path) == 200
    with (tmp_path / "web.jsonl").open("ab") as stream:
        stream.write(b"".join(json.dumps(row).encode() + b"\n" for row in documents(40, "more")))
    assert streaming(tmp_path) == 240
    write_jsonl(tmp_path / "web.jsonl", documents(120, "other"))
    assert streaming(tmp_path) == 120


def test_a_file_of_the_same_size_and_time_is_still_another_file(tmp_path: Path) -> None:
    config = data(path="a.jsonl", streaming=True)
    indexes = []
    for text in ("one", "two"):
        write_jsonl(tmp_path / "new.jsonl", [{"text": text}])
        os.utime(tmp_path / "new.jsonl", ns=(1, 1))
        (tmp_path / "new.jsonl").rename(tmp_path / "a.jsonl")
        indexes.append(index_file(config, "web", tmp_path, tmp_path))
    assert indexes[0] != indexes[1]


def test_an_index_keeps_places_reasons_and_the_account_of_files(tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    text = "\u6f22" * 130 + "\u2028\ud800"
    (tmp_path / "repo/b.jsonl").write_bytes(json.dumps({"text": text}).encode() + b"\n{bad\n")
    write_jsonl(tmp_path / "repo/a.jsonl", [{"text": "x"}])
    write_jsonl(tmp_path / "repo/.git/c.jsonl", [{"text": "x"}])
    config = data(path="repo", streaming=True)
    file = index_file(config, "web", tmp_path, tmp_path)
    write_index(config, "web", tmp_path, file, lambda rows: None)
    assert [tuple(row) for row in read_index(file)] == [
        ({"text": "x"}, "a.jsonl", 1),
        ({"text": text}, "b.jsonl", 1),
        ("b.jsonl", 2, "bad JSON"),
    ]
    assert file.stat().st_size < 500  # not three times the text, as escapes would be
    account = index_account(file)
    assert (account.read, [skipped.reason for skipped in account.skipped]) == (2, ["hidden"])


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("path", ["x.jsonl", "folder/", "part-*.jsonl"])
def test_a_url_that_accepts_and_never_answers_is_named_in_time(silent: str, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.5 s \(got 'http://127\.0\.0\.1"):
        remote_files(data(path=f"{silent}/{path}").sources["web"], 0.5)
    assert time.monotonic() - started < 20
    assert data().remote_timeout_s == 30


class _StopsHalfWay(BaseHTTPRequestHandler):
    """Sends the head of a file and then nothing more."""

    released = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b'{"text": "one"}\n' * 10)
            self.wfile.flush()
            self.released.wait(20)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_a_url_that_stops_half_way_is_named_in_time() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StopsHalfWay)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.jsonl"
    try:
        with pytest.raises(DataError, match=r"no answer within 0\.5 s"):
            list(read_rows([OpenableFile(url, timeout_s=0.5)], ReadOptions(text_column="text", columns=("text",))))
    finally:
        _StopsHalfWay.released.set()
        server.shutdown()
        server.server_close()
