"""Backends whose ranks do as they are told, and nothing else: for tests of what becomes of ranks."""

import os
import signal
import sys

from inferd.plugin.ranks import Seat


class Obedient:
    """Each rank answers, takes part, writes to its log, or ends."""

    def join(self, seat: Seat) -> None:
        while True:
            message, data = seat.channel.receive()
            match message["do"]:
                case "answer":
                    seat.channel.send({"number": seat.number}, data)
                case "beat":
                    seat.beat()
                    seat.channel.send({})
                case "say":
                    sys.stderr.write(message["text"])
                    sys.stderr.flush()
                case "exit":
                    os._exit(message["status"])
                case "die":
                    os.kill(os.getpid(), signal.SIGSEGV)
                case "fail":
                    raise ValueError("what a task said")
                case "sleep":
                    signal.pause()
