"""Process entry: `python -m inferd.engine.cells --fd N --parent PID`. A worker starts it; nobody else does."""

import argparse
import os
import socket

from inferd.engine.cells.stem import Stem, die_with
from inferd.plugin.channel import Channel

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="inferd.engine.cells", description="Started by a worker of inferd.")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket, connected to the worker")
    parser.add_argument("--parent", type=int, required=True, help="process id of the worker")
    options = parser.parse_args()
    die_with(options.parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads: they would not survive the forks
    Stem(Channel(socket.socket(fileno=options.fd))).serve()
