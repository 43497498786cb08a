"""The process that cells are forked from, where the system gives it no more."""

import errno
import os
import socket
from typing import Any

import pytest

from inferd.engine.cells.stem import Stem
from inferd.plugin.channel import Channel

DEADLINE_S = 60.0


def refused(*_: Any) -> int:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.mark.parametrize("name", ["fork", "pidfd_open"])
def test_a_stem_outlives_a_cell_that_the_system_refuses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of processes and of descriptors are told to who wanted a cell, and end nothing else."""
    ours, theirs = socket.socketpair()
    one, other = socket.socketpair()
    monkeypatch.setattr(os, name, refused)
    stem, channel = Stem(Channel(theirs)), Channel(ours)
    monkeypatch.setattr(stem, "_prepare", lambda _: _serve)
    with ours, theirs, one, other:
        stem._try_to_fork({"role": "any", "memory_bytes": 1 << 28}, [other.fileno()])
        answer, _ = channel.receive(timeout_s=DEADLINE_S)
    assert "temporarily unavailable" in answer["error"]


def _serve(channel: Channel, _: list[int]) -> None:
    channel.receive()
