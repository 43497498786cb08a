"""What a caller may know of the inside of a kernel: paths, addresses, and the words of libraries and backends.

There is one place for it. Errors whose words come from inside (`InferdError.outside`) are told as they are to those who
may change the model, since they name files of the kernel themselves; where it is not known which model an error is
about, to those who may change all. To others they say what has failed, and a number by
which the log leads to it: another principal's task may have made those words.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog

from inferd.core.policy import Policy, ResourceKind, Verb

if TYPE_CHECKING:
    from inferd.errors import InferdError
    from inferd.runtime.front.access import Access
    from inferd.runtime.front.caller import Caller

READ_MODEL = Policy(Verb.READ, ResourceKind.MODEL)
INSIDER = Policy(Verb.UPDATE, ResourceKind.MODEL)
"""Who may do this is told all."""
KEPT_FACTS = frozenset({"bound", "value", "limit", "digest", "first_sequence", "unsupported", "deaths", "model"})
REMEMBERED = 1000  # errors that were told and are in the log; for one more the oldest would be logged again
NUMBER_BYTES = 6

log = structlog.get_logger()


class Insight:
    """What one caller may know. One writer: its call.

    Args:
        access: What rules allow.
        caller: Who calls.
        incidents: Numbers errors.
    """

    __slots__ = ("_access", "_incidents", "_principal", "_tenant")

    def __init__(self, access: Access, caller: Caller, incidents: Incidents) -> None:
        self._access = access
        self._principal, self._tenant = caller.principal, caller.tenant
        self._incidents = incidents

    def knows(self, model: str | None) -> bool:
        """Whether it is told all of a model, or, where none is named, of all that there are.

        Asked each time, as rules change under calls that go on.
        """
        grant = self._access.rules.grant(self._principal, self._tenant, INSIDER)
        return grant.whole if model is None else grant.permits(model)

    def reads(self, model: str) -> bool:
        """Whether it may be told of a model that it did not name."""
        return self._access.rules.grant(self._principal, self._tenant, READ_MODEL).permits(model)

    def number(self, error: InferdError) -> str:
        """By which the log leads to an error."""
        return self._incidents.number(error)


class Incidents:
    """Numbers errors, and writes them into the log by their numbers, each once. One writer: the loop of the kernel."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)  # else a number would tell whether words are those that one guesses
        self._known: OrderedDict[str, None] = OrderedDict()

    def number(self, error: InferdError) -> str:
        """The same for the same words and facts, as long as this kernel runs."""
        said = "\0".join((error.reason, error.message, *(f"{k}={v}" for k, v in sorted(error.metadata.items()))))
        number = hashlib.blake2b(said.encode(errors="replace"), key=self._key, digest_size=NUMBER_BYTES).hexdigest()
        if number not in self._known:
            self._known[number] = None
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            # The words of what has a log of its own may be those of a task: they stand there by their places.
            where = {"log": error.metadata["log"]} if "log" in error.metadata else {"cause": error.message}
            log.warning("an error was told by its number alone", incident=number, reason=error.reason, **where)
        return number


CALLER: ContextVar[Insight | None] = ContextVar("CALLER", default=None)
"""Of the call that this task of the loop answers; None before it is known who makes it."""


def told(error: InferdError, model: str | None = None) -> InferdError:
    """An error, of a model where that is known, as the caller may know it."""
    insight = CALLER.get()
    if error.names and not (insight is not None and insight.reads(error.names)):
        return type(error)(error.unnamed, field=error.field)
    if not error.outside or (insight is not None and insight.knows(model)):
        return error
    facts = {name: value for name, value in error.metadata.items() if name in KEPT_FACTS}
    message = error.outside
    if insight is not None:
        facts["incident"] = insight.number(error)
        message = f"{message}; whoever runs this kernel finds why in its log, by the number {facts['incident']}"
    kind = type(error)
    return kind(message, metadata=facts, field=error.field, retry_after_s=error.retry_after_s)


def inside(text: str, model: str | None = None) -> str:
    """A path, or words of the inside, of a model where that is known, if the caller may know them; else ""."""
    insight = CALLER.get()
    return text if insight is not None and insight.knows(model) else ""
