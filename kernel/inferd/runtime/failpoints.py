"""Failpoints: places where a kernel is made to fail, to see what becomes of what it had acknowledged.

A failpoint is set by `name=count*action(arg)`, as in `store.after_commit=1*kill`: the first `count` times that the
kernel comes there it does that, then nothing; without a count, each time. Terms joined by `->` come one after the
other: `task.dispatch=40*off->1*kill` kills at the forty-first. Nothing of this is in the way of a kernel that has none
set: see `runtime.failing`, which stands around its parts where it has.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import structlog

from inferd.core.changes import Change
from inferd.core.host import HostChange
from inferd.core.lease import LeaseChange
from inferd.core.model import InstanceChange
from inferd.core.task import TaskChange
from inferd.errors import InvalidFieldError, StoreUnavailableError, suggestion
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterable

TERM = re.compile(r"(?:(?P<count>\d{1,9})\*)?(?P<action>[a-z]+)(?:\((?P<arg>[^()]*)\))?")
WORDS = re.compile(r"[A-Z][a-z]+")
MOST_DELAY_S = 3600.0

log = structlog.get_logger()


class Action(Enum):
    """What happens at a failpoint."""

    OFF = "off"
    KILL = "kill"  # the process ends at once, as by SIGKILL
    DELAY = "delay"  # nothing goes on there for so many seconds
    ERROR = "error"  # the store, or that of blobs, says that it cannot, with this text
    CUT = "cut"  # the link to the worker breaks


ALWAYS = frozenset({Action.OFF, Action.KILL, Action.DELAY})
ACTIONS = {"store": ALWAYS | {Action.ERROR}, "frame": ALWAYS | {Action.CUT}, "blob": ALWAYS | {Action.ERROR}}
"""What can be done at a point, by the beginning of its name; `ALWAYS` at others, which have no way to fail."""


def _frames() -> list[str]:
    """The points of frames, by their kinds."""
    ways = {"sent": wire.KernelFrame.DESCRIPTOR, "got": wire.WorkerFrame.DESCRIPTOR}
    return [f"frame.{way}.{f.name}" for way, frame in ways.items() for f in frame.oneofs_by_name["kind"].fields]


def _transitions() -> list[str]:
    """The points of what the core has changed, before anything of it is kept, done or told."""
    nouns = {"task": TaskChange, "lease": LeaseChange, "instance": InstanceChange, "host": HostChange}
    changes = [f"{noun}.{change.name.lower()}" for noun, kinds in nouns.items() for change in kinds]
    return [*changes, *(_plain_name(kind) for kind in Change.__subclasses__())]


def _plain_name(kind: type[Change]) -> str:
    return ".".join(WORDS.findall(kind.__name__)).lower()


STORE_POINTS = ("store.begin", "store.before_commit", "store.after_commit", "store.read")
BLOB_POINTS = tuple(f"blob.{at}" for at in ("announced", "written", "synced", "renamed", "kept", "dropped", "removed"))
POINTS = (*STORE_POINTS, *BLOB_POINTS, *_frames(), *dict.fromkeys(_transitions()))
"""The names of all failpoints."""


def transition(change: Change) -> str:
    """The point of a change of the core."""
    what = getattr(change, "change", None)
    noun = WORDS.findall(type(change).__name__)[0].lower()
    return _plain_name(type(change)) if what is None else f"{noun}.{what.name.lower()}"


class CutError(Exception):
    """The link to a worker is to break here."""


@dataclass(slots=True)
class Term:
    """What happens at a point, and how often yet; None for ever."""

    left: int | None
    action: Action
    arg: str


class Failpoints:
    """The failpoints that are set. Each is used by one thread.

    Args:
        given: As they are written.

    Raises:
        InvalidFieldError: One is not written so, or of a name or an action that there is not.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._terms: dict[str, list[Term]] = dict(_read(each) for each in given)
        if self._terms:
            log.warning("failpoints are set: this kernel is made to fail", failpoints=list(self._terms))

    def __bool__(self) -> bool:
        return bool(self._terms)

    def hit(self, name: str) -> None:
        """The kernel has come to a point.

        Raises:
            StoreUnavailableError, CutError: It is to fail so.
        """
        terms = self._terms.get(name)
        if not terms:
            return
        term = terms[0]
        if term.left is not None:
            term.left -= 1
            if term.left <= 0:
                del terms[0]
        match term.action:
            case Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            case Action.DELAY:
                time.sleep(float(term.arg))
            case Action.ERROR:
                text = term.arg or "made to fail"
                raise StoreUnavailableError(f"failpoint {name}: {text}", metadata={"cause": text})
            case Action.CUT:
                raise CutError(f"failpoint {name}")

    def at_store(self, point: str) -> None:
        """A store says where it is with a write."""
        self.hit(f"store.{point.replace(' ', '_')}")

    def at_blob(self, point: str) -> None:
        """A blob has come so far."""
        self.hit(f"blob.{point}")


def _read(given: str) -> tuple[str, list[Term]]:
    name, equals, text = (part.strip() for part in given.partition("="))
    if not equals:
        raise _refusal(f"{given!r} is no failpoint; write name=count*action(arg), as in store.after_commit=1*kill")
    if name not in POINTS:
        near = suggestion(name, list(POINTS))
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(POINTS)}"
        raise _refusal(f"there is no failpoint {name!r}; {hint}")
    return name, [_read_term(name, each.strip()) for each in text.split("->")]


def _read_term(name: str, text: str) -> Term:
    allowed = ACTIONS.get(name.partition(".")[0], ALWAYS)
    words = [action.value for action in Action if action in allowed]
    found = TERM.fullmatch(text)
    if found is None:
        raise _refusal(f"{text!r} at {name} is no action; write count*action(arg) with one of {', '.join(words)}")
    count, word, arg = found["count"], found["action"], found["arg"] or ""
    if word not in words:
        near = suggestion(word, words)
        hint = f"did you mean {near!r}?" if near else f"known are {', '.join(words)}"
        raise _refusal(f"there is no action {word!r} at {name}; {hint}")
    if count is not None and not int(count):
        raise _refusal(f"the count of {text!r} at {name} is 0; it must be at least 1, or left out for each time")
    _check_arg(name, Action(word), arg)
    return Term(None if count is None else int(count), Action(word), arg)


def _check_arg(name: str, action: Action, arg: str) -> None:
    if action is Action.DELAY:
        if not re.fullmatch(r"\d{1,4}(\.\d{1,9})?", arg) or float(arg) > MOST_DELAY_S:
            raise _refusal(f"delay({arg}) at {name} must have seconds, from 0 to {MOST_DELAY_S:g}, as in delay(0.5)")
    elif arg and action is not Action.ERROR:
        raise _refusal(f"{action.value}({arg}) at {name} takes nothing in brackets")


def _refusal(message: str) -> InvalidFieldError:
    return InvalidFieldError(message, field="failpoints")
