"""Entering a sandbox, and sealing it. Both say what could not be had; neither can be taken back."""

import os
from pathlib import Path

from inferd.errors import words_of
from inferd.sandbox import landlock, nested, seccomp, walls
from inferd.sandbox.paths import DEVICES, libraries, told
from inferd.sandbox.state import Order, SandboxLevel, State
from inferd.sandbox.system import column


class Sandbox:
    """The sandbox of this process. One user: its main thread, which is the only one when this is made.

    Made, it is entered: what is started, and imported, from now on has its walls.

    Attributes:
        reasons: What is lacking, as far as that is known.

    Args:
        order: What the process is to reach.
        package: Whose modules it will import.
    """

    def __init__(self, order: Order, *, package: str = "") -> None:
        self._order = order
        self._column = column()
        self.reasons: list[str] = []
        self._walls = 0  # of those that forbid: Landlock, and the filter
        walls.go_first()
        isolated = order.network or walls.empty_network()
        looped = not order.loopback or not isolated or order.network or walls.raise_loopback()
        threads, memory = walls.bound_threads(order.threads), walls.memory_is_bounded()
        self._drop(self._restrict_files(package))
        filtered = self._filter()
        nested.confined = self._walls > 0
        if order.network:
            self._lack("its backend asks for the network")
        elif not isolated and (order.loopback or not filtered):
            self._lack("no empty network: this system lets no process make one")
        if not looped:
            self._lack("its network does not lead to itself, so that its ranks do not reach each other")
        if order.programs:
            self._lack("its backend asks to start programs")
        if order.memory_bytes and not memory:
            self._lack(
                "files in memory are not bounded: the kernel may make no control group of `memory`, and what a process"
                " holds by descriptors counts for nothing else"
            )
        if not threads:
            self._lack(
                "threads are not bounded: the kernel may make no control group of `pids`, and the system bounds"
                " those of root, and of users outside of a name space, by nothing else"
            )

    def seal(self) -> State:
        """Close what the import of a framework needed; what has become of the sandbox."""
        if self._column is not None and self._walls:
            try:
                seccomp.install(
                    seccomp.inner(self._column, os.getpid(), forks=self._order.programs, kills=True), self._column
                )
            except OSError as error:
                self._lack(f"processes are not forbidden: {words_of(error)}")
        if self._order.file_bytes:
            walls.bound_files(self._order.file_bytes)
        if self._order.memory_bytes:
            try:
                walls.bound_memory(self._order.memory_bytes)
            except (OSError, ValueError) as error:
                self._lack(f"memory is not bounded: {words_of(error)}")
        if not self.reasons:
            return State(SandboxLevel.FULL)
        return State(SandboxLevel.PARTIAL if self._walls else SandboxLevel.OFF, tuple(self.reasons))

    def _lack(self, reason: str) -> None:
        self.reasons.append(reason)

    def _restrict_files(self, package: str) -> int:
        """Which version of Landlock holds; 0 for none."""
        abi = landlock.version()
        if not abi:
            self._lack("no Landlock: this system has none, or forbids it, so that files are not kept from the worker")
            return 0
        order = self._order
        try:
            rules = landlock.Ruleset(abi, network=order.network or order.loopback)
            rules.allow(libraries(package), landlock.RUN if order.programs else landlock.READ)
            rules.allow(told(network=order.network), landlock.READ)
            rules.allow(map(Path, order.reads), landlock.READ)
            rules.allow(map(Path, order.writes), landlock.WRITE)
            rules.allow(map(Path, order.shares), landlock.SHARE)
            rules.allow(map(Path, (*DEVICES, *order.devices)), landlock.USE | landlock.READ)
            rules.enforce()
        except OSError as error:
            self._lack(f"no Landlock: {words_of(error)}")
            return 0
        self._walls += 1
        if abi < landlock.TRUNCATES:
            self._lack(f"Landlock has version {abi} here, which lets files be cut; {landlock.TRUNCATES} does not")
        if abi < landlock.SIGNALS:
            self._lack(
                f"Landlock has version {abi} here, which lets signals out to all processes of the user: while the"
                " backend is imported, and by descriptors of processes, by which cells are ended, also later;"
                f" {landlock.SIGNALS} does not"
            )
        return abi

    def _drop(self, abi: int) -> None:
        try:
            walls.drop_capabilities(self._column, reads_all=bool(abi))
            walls.hide()
        except OSError as error:
            self._lack(f"capabilities are not dropped: {words_of(error)}")

    def _filter(self) -> bool:
        if self._column is None:
            self._lack(f"no filter of system calls: their numbers on {os.uname().machine} are not known here")
            return False
        order = self._order
        try:
            program = seccomp.outer(
                self._column,
                network=order.network,
                programs=order.programs,
                loopback=order.loopback,
                listens=order.listens,
            )
            seccomp.install(program, self._column)
        except OSError as error:
            self._lack(f"no filter of system calls: {words_of(error)}")
            return False
        self._walls += 1
        return True
