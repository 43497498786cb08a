"""Process entry: `python -m inferd.worker --fd N --parent PID`. The kernel starts it; nobody else has a reason to."""

import argparse
import ctypes
import faulthandler
import os
import signal
import socket
from typing import Final

from inferd import descriptors
from inferd.starts import begin_start
from inferd.worker.beginning import THREAD_VARIABLES, begin
from inferd.worker.link import Link

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    """Serve the kernel at the other end of an inherited socket until it ends."""
    parser = argparse.ArgumentParser(prog="inferd.worker", description="A worker of inferd; started by its kernel.")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket, connected to the kernel")
    parser.add_argument("--parent", type=int, required=True, help="process id of the kernel")
    parser.add_argument("--frame-bytes", type=int, default=16 << 20, help="largest frame that the kernel may send")
    options = parser.parse_args()
    _die_with(options.parent)
    begin_start()
    descriptors.raise_limit()
    faulthandler.enable()  # into the log: where each thread is when a signal ends this process
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(len(os.sched_getaffinity(0))))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: its threads would be of no use
    link = Link(socket.socket(fileno=options.fd), frame_limit_bytes=options.frame_bytes)
    if (start := begin(link, descriptor=options.fd)) is not None:
        from inferd.worker.process import Worker  # noqa: PLC0415 - numpy reads the variables, and starts threads

        Worker(link, start).run()


def _die_with(parent: int) -> None:
    """Have this process killed when the kernel ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


if __name__ == "__main__":
    main()
