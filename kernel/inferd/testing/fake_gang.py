"""What the workers of a training of the fake backend tell each other: that they are there, before each step."""

from __future__ import annotations

import socket
from typing import Final

from inferd.plugin.ranks import RankLostError
from inferd.plugin.training import TrainError

WORD: Final = b"!"


class FakeLead:
    """Awaits others, and hears of each of them whenever it asks."""

    def __init__(self, ranks: int, address: str, join_s: float) -> None:
        try:
            self._door = socket.create_server((address, 0))
        except OSError as error:
            raise TrainError(f"others cannot be awaited at {address!r}: {error.strerror}") from error
        self._door.settimeout(join_s)
        self._others = ranks - 1
        self._links: list[socket.socket] = []
        self.where = f"{address} {self._door.getsockname()[1]}"

    def gather(self) -> None:
        """Wait until all have come.

        Raises:
            RankLostError: One did not.
        """
        try:
            self._links = [self._door.accept()[0] for _ in range(self._others)]
        except OSError as error:
            raise RankLostError(f"one did not come: {error}") from error

    def ask(self) -> None:
        """Have all do their part.

        Raises:
            RankLostError: One is lost.
        """
        for each in self._links:
            try:
                each.sendall(WORD)
                heard = each.recv(1)
            except OSError as error:
                raise RankLostError(f"one is lost: {error}") from error
            if heard != WORD:
                raise RankLostError("one is lost: it has ended")


class FakeFollower:
    """Says that it is there."""

    def follow(self, rank: int, ranks: int, meeting: str, join_s: float) -> None:
        """Until the one that leads ends.

        Raises:
            RankLostError: It has.
        """
        address, _, port = meeting.rpartition(" ")
        try:
            with socket.create_connection((address, int(port)), timeout=join_s) as link:
                link.settimeout(None)
                while link.recv(1) == WORD:
                    link.sendall(WORD)
        except OSError as error:
            raise RankLostError(f"rank {rank} of {ranks} lost the one that leads: {error}") from error
        raise RankLostError(f"rank {rank} of {ranks} lost the one that leads: it has ended")

    def close(self) -> None:
        """Nothing is held."""
