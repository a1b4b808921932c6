"""A folder with a database and what hostile statements are after, and whether they got it."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path

from tests.databases.test_engine import make, numbers
from tests.trust.hostile import Bait

ROWS = 200
"""Of the table t of the database."""


class Listener:
    """Counts who connects to a port of this machine."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.num_connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.num_connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


class Scene:
    """A folder with a database and what statements are after, and what became of it."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self.listener = Listener()
        self.folder = folder
        self.bait = Bait(folder, self.listener.port)
        self.bait.secret.write_text("column0\nsecret\n", encoding="utf-8")
        self.database = make(folder, dialect, numbers(dialect, ROWS))
        self.take_stock()

    def _files(self) -> list[tuple[str, int, int]]:
        return sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in self.folder.iterdir())

    def _content(self) -> dict[str, str]:
        files = [each for each in self.folder.iterdir() if each.is_file()]
        return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    def take_stock(self) -> None:
        """Take what is there now for what has to stay."""
        self._before, self._content_before = self._files(), self._content()

    def check(self, statement: str) -> None:
        """Fail where a statement left a trace in the folder, or reached the network."""
        assert self._files() == self._before, statement
        assert self.listener.num_connections == 0, statement

    def check_content(self) -> None:
        """Fail where a file holds something else than before."""
        assert self._content() == self._content_before
