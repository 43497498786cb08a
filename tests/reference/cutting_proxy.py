"""A way to a PostgreSQL server on which a connection can be cut in its commit, before or behind the server."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

COMMIT = b"COMMIT"
CHUNK_BYTES = 1 << 16


class CuttingProxy:
    """Stands between a store and its server's socket. One writer: the test.

    Args:
        target: The folder of the server's socket.
        folder: Where its own is made.

    Attributes:
        cuts: What becomes of the next commits, each once: "before": the server does not get it; "after": it is done,
            and nobody is told; "half": the server gets half of it.
    """

    def __init__(self, target: Path, folder: Path) -> None:
        self._target = str(target / ".s.PGSQL.5432")
        self.folder = folder
        self.cuts: list[str] = []
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._start(self._accept)

    def close(self) -> None:
        """Cut all, and take no more."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(20)

    def _start(self, target: object, *words: object) -> None:
        thread = threading.Thread(target=target, args=words, daemon=True)  # type: ignore[arg-type] # callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._open += [client, server]
            answered = threading.Event()
            silent = threading.Event()
            self._start(self._forward, client, server, silent, answered)
            self._start(self._back, server, client, silent, answered)

    def _forward(
        self, client: socket.socket, server: socket.socket, silent: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                cut = self.cuts.pop(0) if COMMIT in data and self.cuts else ""
                if cut == "after":
                    silent.set()
                    server.sendall(data)
                    answered.wait(20)
                elif cut == "half":
                    server.sendall(data[: data.index(COMMIT) + 3])
                elif not cut:
                    server.sendall(data)
                    continue
                break
        _end(client, server)

    def _back(
        self, server: socket.socket, client: socket.socket, silent: threading.Event, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                if silent.is_set():
                    answered.set()
                else:
                    client.sendall(data)
        answered.set()
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
