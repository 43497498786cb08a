"""The other ranks of an instance: forked in the worker's sandbox, while it has one thread and nothing foreign in it."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from inferd import logs
from inferd.core.resources import HOST_DEVICE
from inferd.engine.cells.starter import Starter
from inferd.engine.cells.stem import die_with
from inferd.plugin.channel import Channel
from inferd.plugin.rank_process import sit
from inferd.plugin.ranks import Beats, Rank, Ranks, Seat
from inferd.worker.beginning import THREAD_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd_api.worker.v1 import load_pb2

_log = logging.getLogger(__name__)


def prepare_ranks(load: load_pb2.Load, imported: Callable[[], object], *, keep_out: int) -> None:
    """Fork them, for the backend that asks for them when it loads.

    Args:
        load: What is to be loaded.
        imported: Is called in each once its backend is imported: the sandbox is sealed.
        keep_out: The descriptor of the link, which none of them may have.
    """
    size = len(load.ranks)
    if load.device == HOST_DEVICE:  # its cores are shared out
        for name in THREAD_VARIABLES:
            os.environ[name] = str(max(1, len(os.sched_getaffinity(0)) // size))
    beats = Beats()
    worker, others = os.getpid(), list[Rank]()
    for number in range(1, size):
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                die_with(worker)
                for descriptor in (keep_out, read_end, *(d for r in others for d in (r.process, r.log))):
                    os.close(descriptor)
                for sock in (ours, *(rank.channel.sock for rank in others)):
                    sock.close()
                os.dup2(write_end, 1)
                os.dup2(write_end, 2)
                Starter.drop()
                _be(Seat(number, Channel(theirs), beats), load.loader, imported)
            finally:
                os._exit(1)
        theirs.close()
        os.close(write_end)
        others.append(Rank(number, pid, Channel(ours), os.pidfd_open(pid), read_end))
    Ranks.prepared = Ranks(others, beats, on_lost=_end)


def _be(seat: Seat, loader: str, imported: Callable[[], object]) -> NoReturn:
    """The life of a rank."""
    try:
        sit(seat, loader, imported)
    except BaseException as error:  # noqa: BLE001 - the end of a process
        sys.stderr.write(f"{logs.describe(error)}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _end(why: str) -> None:
    """The instance is of no use: its tasks go on in another."""
    _log.critical("%s", why)
    os._exit(1)
