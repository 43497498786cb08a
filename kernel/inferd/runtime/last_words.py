"""The end of a worker's log, in a few words: what it said last, or where it was when a signal ended it."""

import os
import re
from pathlib import Path

TAIL_BYTES = 64 << 10
FATAL = "Fatal Python error: "  # how faulthandler begins; see docs.python.org/3/library/faulthandler.html
FRAME = re.compile(r"^Current thread [^\n]*\n +(File \"[^\n]*)", re.MULTILINE)


def last_words(log_path: Path) -> str:
    """A clause that goes behind why the worker ended; "" when it has said nothing."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode(errors="replace").strip()
    except OSError:
        return ""
    _, fatal, trace = text.rpartition(FATAL)
    if fatal and (frame := FRAME.search(trace)):
        return f"; it was at {frame[1].strip()}"
    line = fatal + trace if fatal else text
    lines = line.splitlines()
    return f"; the last line of its log: {lines[0 if fatal else -1].strip()}" if lines else ""
