"""Answers of servers by what they were asked, kept between rounds and recipes: nothing is paid for twice.

A SQLite file in a folder, safe for several processes on one machine and at any kill. Failures are not kept.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.synthesis.generators.protocol import Completion

_PATIENCE_S = 60.0  # for another process that writes


class RequestCache:
    """The cache in ``folder``, made where there is none. Raises ``UserError`` where it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "requests.sqlite"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(self.file, timeout=_PATIENCE_S, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.Error as error:
            remedy = "Remove it: its answers will be asked for again"
            raise UserError(f"the cache of requests cannot be used: {error}", file=self.file, remedy=remedy) from error
        self._is_writable = True

    def get(self, key: str, request_id: str) -> Completion | None:
        """The answer under ``key`` as that of a request; it took no time and is marked as cached."""
        try:
            found = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            answer = Completion.from_json(json.loads(found[0])) if found else None
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            remedy = "Remove it: its answers will be asked for again"
            raise UserError(f"the cache of requests is damaged: {error}", file=self.file, remedy=remedy) from error
        return replace(answer, request_id=request_id, seconds=0.0, cached=True) if answer else None

    def put(self, key: str, completion: Completion) -> None:
        """Keeps an answer. Where there is no room a warning is given once: the round itself keeps its answers."""
        if not self._is_writable or completion.finish_reason not in ("stop", "length"):
            return
        try:
            answer = json.dumps(asdict(completion))
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
        except sqlite3.Error as error:
            self._is_writable = False
            warn(f"the cache of requests takes no more answers: {error} ({self.file})")

    def close(self) -> None:
        """Ends its use."""
        self._connection.close()


def cache_key(url: str, payload: Mapping[str, Any]) -> str:
    """Names an answer by where and what is asked."""
    text = json.dumps([url.rstrip("/"), payload], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
