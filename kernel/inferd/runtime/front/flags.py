"""What persons are to look at: held, shown to who may see it, and resolved."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from inferd.core.moderation import FlagState
from inferd.errors import FlagNotFoundError, InferdError, InvalidFieldError
from inferd.runtime.kept_moderation import Flag, kept_flags, write_flag
from inferd.store.store import Drop, Kind, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from inferd.core.task import Task
    from inferd.runtime.driver import Driver

MOST_NOTE: Final = 1000  # characters
log = structlog.get_logger()


class Flags:
    """Flags, newest last. One writer: the kernel's loop.

    Args:
        driver: Of the kernel.
        most: How many are held; for one more one goes: a resolved one first, else the oldest of the tenant that has the
            most, so that nobody drives out what is said of others.
        held_s: How long each is held.
    """

    def __init__(self, driver: Driver, *, most: int, held_s: float) -> None:
        self._driver = driver
        self._most = most
        self._held_s = held_s
        self._flags: dict[str, Flag] = {}  # by id, as they came
        self._open: dict[str, dict[str, None]] = {}  # ids of those that nobody has decided about, by tenant
        self._resolved: dict[str, None] = {}  # ids of the others
        self._about: set[tuple[str, str, bool]] = set()  # what the flags are about, each once
        self._writing: set[asyncio.Task[None]] = set()
        if driver.keeper is not None:
            driver.keeper.forgets.append(self._forget_tenant)

    async def adopt(self) -> None:
        """Those that are kept are here again."""
        if self._driver.keeper is not None:
            found = await self._driver.keeper.read(kept_flags)
            for flag in sorted(found, key=lambda flag: flag.created):
                self._hold(flag)
            self._drop_old()

    def _hold(self, flag: Flag) -> None:
        self._flags[flag.flag_id] = flag
        self._about.add(_about(flag))
        undecided = flag.state is FlagState.OPEN
        (self._open.setdefault(flag.tenant, {}) if undecided else self._resolved)[flag.flag_id] = None

    def add(self, task: Task, rule: str, excerpt: str, *, is_input: bool) -> None:
        """One more, unless the rule has flagged it already: at an earlier attempt, or in another sample."""
        flag = Flag(
            flag_id=secrets.token_hex(8),
            task_id=task.spec.task_id,
            tenant=task.spec.tenant,
            model=task.spec.model,
            rule=rule,
            is_input=is_input,
            excerpt=excerpt,
            created=time.time(),
        )
        if _about(flag) in self._about:
            return
        self._hold(flag)
        self._write(Put(flag.tenant, Kind.FLAG, flag.flag_id, write_flag(flag)))
        self._drop_old()

    def _drop_old(self) -> None:
        oldest = time.time() - self._held_s
        while self._flags and (first := next(iter(self._flags.values()))).created < oldest:
            self._drop(first)
        while len(self._flags) > self._most:
            most = self._resolved or max(self._open.values(), key=lambda ids: (len(ids), -self._age_of(ids)))
            self._drop(self._flags[next(iter(most))])

    def _age_of(self, ids: dict[str, None]) -> float:
        """When the oldest of some flags was made."""
        return self._flags[next(iter(ids))].created

    def _drop(self, flag: Flag) -> None:
        del self._flags[flag.flag_id]
        self._about.discard(_about(flag))
        self._forget_state(flag)
        self._write(Drop(flag.tenant, Kind.FLAG, flag.flag_id))

    def _forget_tenant(self, tenant: str) -> None:
        for flag in [each for each in self._flags.values() if each.tenant == tenant]:
            self._drop(flag)

    def _forget_state(self, flag: Flag) -> None:
        self._resolved.pop(flag.flag_id, None)
        if ids := self._open.get(flag.tenant):
            ids.pop(flag.flag_id, None)
            if not ids:
                del self._open[flag.tenant]

    def _write(self, record: Put | Drop) -> None:
        """Keep it, behind what is being written; what cannot be kept is held as long as the kernel lives."""
        keeper = self._driver.keeper
        if keeper is None:
            return

        async def keep() -> None:
            try:
                await keeper.keep_records([record])
            except InferdError as error:
                log.warning("a flag is not kept", reason=error.reason)

        task = asyncio.create_task(keep(), name="flag")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def all(self, states: Collection[FlagState], *, has: Callable[[str], bool]) -> list[Flag]:
        """Those of tenants that the caller `has`, in one of these states, none for all; newest first."""
        self._drop_old()
        return [
            flag for flag in reversed(self._flags.values()) if (not states or flag.state in states) and has(flag.tenant)
        ]

    def get(self, flag_id: str, *, has: Callable[[str], bool]) -> Flag:
        """The flag of this id.

        Raises:
            FlagNotFoundError: There is none, or it is of a tenant that the caller has not.
        """
        self._drop_old()
        flag = self._flags.get(flag_id)
        if flag is None or not has(flag.tenant):
            raise FlagNotFoundError(f"no flag {flag_id[:80]!r}", metadata={"flag_id": flag_id[:80]})
        return flag

    async def resolve(self, flag_id: str, state: FlagState, *, by: str, note: str, has: Callable[[str], bool]) -> Flag:
        """Decide about a flag; one that was decided about is decided anew.

        Raises:
            FlagNotFoundError: As `get`.
            InvalidFieldError: It is to be open, or the note is too long.
            StoreUnavailableError: It cannot be kept; the flag stays as it was.
        """
        flag = self.get(flag_id, has=has)
        if state is FlagState.OPEN:
            raise InvalidFieldError("state is OPEN; it must be UPHELD or DISMISSED", field="state")
        if len(note) > MOST_NOTE:
            raise InvalidFieldError(f"note has {len(note)} characters; it may have {MOST_NOTE}", field="note")
        flag = replace(flag, state=state, resolved=time.time(), resolved_by=by, note=note)
        if self._driver.keeper is not None:
            await self._driver.keeper.keep_records([Put(flag.tenant, Kind.FLAG, flag.flag_id, write_flag(flag))])
        if flag_id in self._flags:
            self._forget_state(flag)
            self._hold(flag)
        return flag


def _about(flag: Flag) -> tuple[str, str, bool]:
    return flag.task_id, flag.rule, flag.is_input
