"""Ranks of the torch backend that are forked from one process, which has imported once what each takes seconds for.

What they run is what ranks run that are programs of their own; that those are started is proven by the tests of ranks.
"""

import os
import socket
import subprocess
import sys

from inferd.plugin.channel import Channel, ClosedError
from inferd.plugin.rank_process import sit
from inferd.plugin.ranks import Beats, Rank, Ranks, Seat


class Stem:
    """The process that they are forked from, started for the first one. It ends with this one."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    def start(self, loader: str, size: int) -> Ranks:
        """As `inferd.plugin.ranks` starts them."""
        beats, others = Beats(), list[Rank]()
        for number in range(1, size):
            ours, theirs = socket.socketpair()
            read_end, write_end = os.pipe()
            pid = self._fork(loader, number, [theirs.fileno(), beats.descriptor, write_end])
            theirs.close()
            os.close(write_end)
            others.append(Rank(number, pid, Channel(ours), os.pidfd_open(pid), read_end))
        return Ranks(others, beats)

    def _fork(self, loader: str, number: int, descriptors: list[int]) -> int:
        if self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                subprocess.Popen(
                    [sys.executable, "-P", __file__, str(theirs.fileno())],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                    pass_fds=(theirs.fileno(),),
                ).returncode = 0  # nobody waits for it
            self._channel = Channel(ours)
        self._channel.send({"loader": loader, "number": number})
        socket.send_fds(self._channel.sock, [b"d"], descriptors)
        pid: int = self._channel.receive()[0]["pid"]
        return pid

    def close(self) -> None:
        """End it, and what was forked from it."""
        if self._channel is not None:
            self._channel.sock.close()


def main() -> None:
    """Fork a rank for each order."""
    import inferd_torch.spanning.member  # noqa: F401, PLC0415 - here, and in no test

    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    while True:
        try:
            order, _ = channel.receive()
        except ClosedError:
            return
        _, (sock, beats, log), _, _ = socket.recv_fds(channel.sock, 1, 3)
        pid = os.fork()
        if pid == 0:
            try:
                channel.sock.close()
                for standard in (1, 2):
                    os.dup2(log, standard)
                os.close(log)
                sit(Seat(order["number"], Channel(socket.socket(fileno=sock)), Beats(beats)), order["loader"])
            finally:
                os._exit(0)
        for descriptor in (sock, beats, log):
            os.close(descriptor)
        channel.send({"pid": pid})


if __name__ == "__main__":
    main()
