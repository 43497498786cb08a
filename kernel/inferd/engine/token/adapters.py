"""Adapters that a session holds: which there are, which sequences have one, and tasks that wait for theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inferd.adapter_errors import AdapterNotFoundError
from inferd.plugin.session import AdaptingSession, ReadAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from inferd.engine.token.sequence import Sequence
    from inferd.errors import InferdError
    from inferd.plugin import TokenSession
    from inferd.plugin.session import Int32Array

NONE = -1


@dataclass(slots=True, eq=False)
class _Held:
    """What is known of an adapter.

    Attributes:
        name: Its name, for people.
        slot: Where the session has it; None: not yet, or not at all.
        error: Why the session does not have it.
        users: Handles of the tasks that have it.
        waiting: What begins tasks that wait for it, by handle.
        wanted: Whether the model has it: else it goes with its last user.
    """

    name: str
    slot: int | None = None
    error: InferdError | None = None
    users: set[int] = field(default_factory=set)
    waiting: dict[int, Callable[[], None]] = field(default_factory=dict)
    wanted: bool = True


class Adapters:
    """The adapters of a model, by the digest of what they hold. One writer: the thread of the steps.

    Args:
        session: Of the model.
        fail: Ends a task with an error.
    """

    def __init__(self, session: TokenSession, fail: Callable[[int, InferdError], None]) -> None:
        self._session = session if isinstance(session, AdaptingSession) else None
        self._fail = fail
        self._held: dict[str, _Held] = {}
        self._of: dict[int, _Held] = {}  # by handle, of tasks that have one or wait for it
        self._free: list[int] = []  # slots that were used
        self._slots = 0

    @property
    def going(self) -> bool:
        """Whether one goes with the last task that has it."""
        return any(not held.wanted for held in self._held.values())

    def expect(self, names: Mapping[str, str]) -> None:
        """The model has these adapters from now on, by digest, and no others."""
        for digest, name in names.items():
            held = self._held.setdefault(digest, _Held(name))
            held.wanted = True
        for digest, held in list(self._held.items()):
            if digest not in names:
                held.wanted = False
                for handle in list(held.waiting):
                    self._fail(handle, _gone(held.name))
                if self._held.get(digest) is held:  # else it went with the last that waited
                    self._drop_unused(digest, held)

    def add(self, digest: str, found: ReadAdapter | InferdError) -> None:
        """An adapter has been read, or cannot be; nothing to do for one that the model has no longer, or holds."""
        held = self._held.get(digest)
        if held is None or held.slot is not None or self._session is None:
            return
        if not isinstance(found, ReadAdapter):
            held.error = found
            for handle in list(held.waiting):
                self._fail(handle, found)
            return
        slot = self._free.pop() if self._free else self._slots
        self._session.add_adapter(slot, found)
        self._slots, held.slot, held.error = max(self._slots, slot + 1), slot, None
        waiting, held.waiting = held.waiting, {}
        for handle, begin in waiting.items():
            held.users.add(handle)
            begin()

    def check(self, digest: str, name: str) -> None:
        """Refuse a task whose adapter the model has not, or cannot have; "" for one without.

        Raises:
            InferdError: It cannot be run.
        """
        if not digest:
            return
        held = self._held.get(digest)
        if held is None or not held.wanted:
            raise _gone(name)
        if held.error is not None:
            raise held.error

    def when_there(self, handle: int, digest: str, begin: Callable[[], None]) -> None:
        """Begin a task that was checked, at once or when its adapter is there."""
        held = self._held.get(digest)
        if held is None:
            begin()
            return
        self._of[handle] = held
        if held.slot is None:
            held.waiting[handle] = begin
            return
        held.users.add(handle)
        begin()

    def drop(self, handle: int) -> None:
        """A task has ended; nothing to do for one without an adapter."""
        if (held := self._of.pop(handle, None)) is None:
            return
        held.waiting.pop(handle, None)
        held.users.discard(handle)
        if not held.wanted:
            self._drop_unused(next(digest for digest, each in self._held.items() if each is held), held)

    def numbers(self, sequences: Iterable[Sequence]) -> Int32Array | None:
        """The slots of sequences, for `TokenBatch.adapters`; None where none has an adapter."""
        if not self._of:
            return None
        slots = [
            NONE if (held := self._of.get(s.handle)) is None or held.slot is None else held.slot for s in sequences
        ]
        return np.array(slots, np.int32) if max(slots, default=NONE) > NONE else None

    def _drop_unused(self, digest: str, held: _Held) -> None:
        if held.users or held.waiting:
            return
        del self._held[digest]
        if held.slot is not None and self._session is not None:
            self._session.remove_adapter(held.slot)
            self._free.append(held.slot)


def _gone(name: str) -> AdapterNotFoundError:
    return AdapterNotFoundError(
        f"adapter {name!r} was unloaded, or replaced by another of its name, before the task began; send it again",
        metadata={"adapter": name},
        field="spec.adapter",
    )
