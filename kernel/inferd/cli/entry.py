"""Where the program begins: what gRPC reads of the environment once, and Ctrl-C, which ends it quietly at any time."""

import os
import signal
from typing import Any

from inferd.starts import begin_start

INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended
NO_CIPHERS = "ECDHE-PSK-CHACHA20-POLY1305"
"""The ciphers before TLS 1.3: one that needs a secret known beforehand, of which there is none. So no connection comes
to be by an older version; those of 1.3 are no matter of this setting. gRPC for Python has no other way to say so."""


def run() -> None:
    """Entry of the program."""
    begun = signal.getsignal(signal.SIGINT)
    waits = begun is signal.default_int_handler  # else whoever started it wants Ctrl-C to be ignored
    if waits:
        signal.signal(signal.SIGINT, _end)  # an exception inside of an import would be told with its traceback
    begin_start()
    os.environ["GRPC_SSL_CIPHER_SUITES"] = NO_CIPHERS
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else each handshake that fails is a line on stderr
    from inferd.cli.main import run as run_command  # noqa: PLC0415 - this takes the time

    if waits:
        signal.signal(signal.SIGINT, begun)
    try:
        run_command()
    except KeyboardInterrupt:  # before the command has begun, which answers it by itself
        raise SystemExit(INTERRUPTED) from None


def _end(*_: Any) -> None:
    os._exit(INTERRUPTED)  # nothing is open yet, and nothing is to be flushed
