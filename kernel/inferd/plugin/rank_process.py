"""Process entry: `python -m inferd.plugin.rank_process … LOADER`, a rank outside of a worker; and what any does."""

import argparse
import ctypes
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from inferd import logs
from inferd.plugin.channel import Channel, ClosedError
from inferd.plugin.checks import import_loader
from inferd.plugin.ranks import Beats, Seat, SpanningBackend

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def sit(seat: Seat, loader: str, imported: Callable[[], object] = bool) -> None:
    """Be a rank until rank 0 is gone, or wants nothing more.

    Args:
        seat: What it has of the others.
        loader: Of the backend.
        imported: Is called once that is imported, before anything of the model is read.
    """
    logs.install(logging.INFO)  # what fails may have to do with what tasks say
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the kernel
    with suppress(ClosedError):
        backend: SpanningBackend = import_loader(loader)()
        imported()
        backend.join(seat)


def main() -> None:
    """Be a rank of the process that started this one."""
    parser = argparse.ArgumentParser(prog="inferd.plugin.rank_process", description="Started by a backend of inferd.")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket, connected to rank 0")
    parser.add_argument("--beats", type=int, required=True, help="inherited memory that all ranks share")
    parser.add_argument("--number", type=int, required=True, help="number of the rank")
    parser.add_argument("--parent", type=int, required=True, help="process id of rank 0")
    parser.add_argument("loader", help="dotted path of the backend")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:  # it ended before the line above
        os._exit(1)
    faulthandler.enable()
    sit(Seat(options.number, Channel(socket.socket(fileno=options.fd)), Beats(options.beats)), options.loader)


if __name__ == "__main__":
    main()
