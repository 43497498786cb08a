"""Leases over kills of their kernel while the wall clock that kernels see is stepped by libfaketime.

What is measured is measured by the monotonic clock of this process, which is that of the kernels and is not stepped.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from inferd.testing.kernel import KernelProcess, kernel_process
from inferd_api.v1.lease_pb2 import LeaseState
from inferd_client import Client, claims

STEPS = {"an hour on": 3600, "an hour back": -3600, "ten years on": 3650 * 86_400}
DEBIAN = "/usr/lib/*/faketime/libfaketime.so.1"  # of the package libfaketime
EXACT_S = 0.01  # of what is left, as it is told
SEEN_S = 60.0  # by how much a clock that a kernel sees may differ from what it was stepped to, as time goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What became of a lease.

    Attributes:
        left_s: What was left of its time with the kernel after the kill; 0 where it was not held any more.
        bounds_s: What must have been left, from and to; nothing where its time was over.
        early_s: How long before its time what it held was another's; negative when it was after that.
        late_s: How long after its time, or after the kernel served again where that was later.
        unserved_s: How long after its time no kernel served, so that nobody could have been given what it held.
        tokens: Of it and of the one that follows.
    """

    left_s: float
    bounds_s: tuple[float, float]
    early_s: float = 0.0
    late_s: float = 0.0
    unserved_s: float = 0.0
    tokens: tuple[int, int] = (0, 1)

    @property
    def held(self) -> bool:
        """Whether its time was not over when the kernel after the kill served."""
        return self.bounds_s[0] > 0

    def wrong(self) -> list[str]:
        """What is not as it has to be, however slow the machine is."""
        wrong = [f"what it held was another's {self.early_s:.3f} s early"] if self.early_s > 0 else []
        if self.held and not self.bounds_s[0] - EXACT_S <= self.left_s <= self.bounds_s[1] + EXACT_S:
            wrong.append(f"{self.left_s:.3f} s of its time were left, and have to be {self.bounds_s}")
        return wrong + ([f"fencing tokens {self.tokens} do not rise"] if self.tokens[0] >= self.tokens[1] else [])


def library() -> Path | None:
    """The library that steps clocks, as a package has brought it or the system has it; None where there is none."""
    found = find_spec("libfaketime")
    places = [Path(each) for each in (found.submodule_search_locations or ())] if found is not None else []
    brought = [path for place in places for path in place.glob("vendor/libfaketime/src/libfaketime.so.1")]
    return next(iter([*brought, *Path("/").glob(DEBIAN[1:])]), None)


class SteppedClock:
    """The wall clock of kernels. One writer: the test.

    Args:
        stepper: The library.
        folder: Where the file is that says how far the clock is off.
    """

    def __init__(self, stepper: Path, folder: Path) -> None:
        self._file = folder / "clock"
        self.offset_s = 0
        self.environment = {
            "LD_PRELOAD": str(stepper),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.step(0)

    def step(self, offset_s: int) -> None:
        """From now on the clock is off by so much, for kernels that run, too."""
        self.offset_s = offset_s
        growing = self._file.with_suffix(".new")
        growing.write_text(f"{offset_s:+d}\n")
        growing.replace(self._file)


@contextmanager
def _kernel(folder: Path, clock: SteppedClock) -> Iterator[tuple[KernelProcess, Client]]:
    listen = f"unix:{folder}/kernel.sock"
    environment = {
        "INFERD_STORE__URL": f"sqlite:{folder}/store",
        "INFERD_DEVICES__MEMORY_BYTES": '{"cpu:0": 1000}',
        "INFERD_LEASES__MIN_TTL_S": "0.1",
        "INFERD_BACKENDS": "[]",
        **clock.environment,
    }
    with kernel_process(folder, environment=environment, listen=listen) as kernel, Client(listen) as client:
        seen = client.get_host().start_time.seconds - time.time()
        if abs(seen - clock.offset_s) > SEEN_S:
            raise RuntimeError(f"the clock of the kernel is {seen:.0f} s off and was to be {clock.offset_s}")
        yield kernel, client


def live(folder: Path, stepper: Path, step_s: int, ttl_s: float, *, waits: bool) -> Round:
    """A lease is granted, the clock is stepped, its kernel is killed, and another one starts.

    With `waits` another one waits for what it holds, and is granted that when its time is over.
    """
    clock = SteppedClock(stepper, folder)
    with _kernel(folder, clock) as (kernel, client):
        asked = time.monotonic()
        lease = client.create_lease(claims.memory(900), ttl_s=ttl_s)
        granted = time.monotonic()
        clock.step(step_s)
        kernel.process.kill()
        kernel.process.wait()
    with _kernel(folder, clock) as (_, client):
        serves = time.monotonic()
        found = client.get_lease(lease.lease_id)
        active = found.state == LeaseState.LEASE_STATE_ACTIVE
        bounds_s = ttl_s - (time.monotonic() - asked), ttl_s - (serves - granted)
        left_s = found.remaining.ToNanoseconds() / 1e9 if active else 0.0
        if not waits:
            return Round(left_s=left_s, bounds_s=bounds_s)
        following = client.create_lease(claims.memory(900), ttl_s=ttl_s, wait=True)
        for each in client.watch_lease(following.lease_id):
            following = each
            if each.state == LeaseState.LEASE_STATE_ACTIVE:
                break
        at = time.monotonic()
    return Round(
        left_s=left_s,
        bounds_s=bounds_s,
        early_s=asked + ttl_s - at,
        late_s=at - max(granted + ttl_s, serves),
        unserved_s=max(0.0, serves - granted - ttl_s),
        tokens=(lease.fencing_token, following.fencing_token),
    )
