"""How the process beside the kernel stands that keeps agents on Ray: a small file, for `inferd doctor`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

FILE = "ray.json"
MOST_BYTES = 1 << 20
MOST_TROUBLES, MOST_TEXT = 100, 2000


class State(NamedTuple):
    """How it stands.

    Attributes:
        cluster: As it was named.
        pid: Of the process; 0 where none runs.
        troubles: What is not as wanted.
        standing: For people.
    """

    cluster: str
    pid: int
    troubles: tuple[str, ...] = ()
    standing: str = ""


def write_state(folder: Path, state: State) -> None:
    """Write it, whole or not at all; a disk that is full hinders nothing."""
    troubles = tuple(each[:MOST_TEXT] for each in state.troubles[:MOST_TROUBLES])
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{FILE}.{os.getpid()}"
        fresh.write_text(json.dumps(state._replace(troubles=troubles)._asdict()))
        fresh.replace(folder / FILE)


def read_state(folder: Path) -> State | None:
    """What was written last; None where there is nothing, or nothing that can be read."""
    try:
        with (folder / FILE).open("rb") as opened:
            found = json.loads(opened.read(MOST_BYTES))
        return State(
            str(found["cluster"]), int(found["pid"]), tuple(map(str, found["troubles"])), str(found["standing"])
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def forget_state(folder: Path) -> None:
    """Nothing is kept any more."""
    with suppress(OSError):
        (folder / FILE).unlink()
