"""`make attack`: attacks on a kernel, one after the other, each by a process that has a quarter of a core.

Beside each, other clients call the kernel: their p99 is told beside that which they have while the same quarter of a
core is spent in a loop. Memory is that of the kernel's process. It fails where the kernel dies, serves others no more,
or takes memory without a bound: more than MOST_GROWN_BYTES, or, where an attack is long enough for that to be seen, in
its second half as much as in the first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
import psutil
from quota import held_to

from inferd.testing.kernel import KernelProcess, kernel_process, write_fake_model
from inferd_api.v1.auth_pb2 import Key
from inferd_api.v1.auth_service_pb2 import CreateKeyRequest
from inferd_api.v1.auth_service_pb2_grpc import AuthServiceStub
from inferd_api.v1.sampling_pb2 import SamplingParams
from inferd_api.v1.task_pb2 import TaskSpec
from inferd_api.v1.task_service_pb2 import ListTasksRequest, RunTaskRequest
from inferd_api.v1.task_service_pb2_grpc import TaskServiceStub
from inferd_client import Client

KINDS = (
    *("rapid-reset", "continuation", "header-bomb", "metadata", "settings", "pings", "empty-data", "compression"),
    *("idle", "mute", "slow-readers", "slow-writers"),
)
QUARTER = 0.25
PORT = "127.0.0.1:0"
PAUSE_S = 0.01  # between two calls of the others
SAMPLE_S = 0.05
MOST_GROWN_BYTES = 768 << 20
LEAST_GROWN_BYTES = 48 << 20  # in the second half; below it is what an allocator keeps
MOST_TIMES = 1.5  # of the others' p99, beside the loop
SETTLE_S = 2.0
LONG_S = 5.0  # an allocator keeps what it had once; before it has that, memory grows in each half
ENDLESS = RunTaskRequest(
    spec=TaskSpec(model="fake", prompt="la", sampling=SamplingParams(max_tokens=4000, temperature=0))
).SerializeToString()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attack came to; times in milliseconds, memory in MiB."""

    kind: str
    done: int
    connections: int
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float
    before_mib: float
    peak_mib: float
    after_mib: float
    late_mib: float
    seconds: float

    @property
    def wrong(self) -> str:
        """Why this is no bounded attack; "" where it is."""
        grown, late = (each * (1 << 20) for each in (self.peak_mib - self.before_mib, self.late_mib))
        if grown > MOST_GROWN_BYTES or (self.seconds >= LONG_S and late > max(LEAST_GROWN_BYTES, grown - late)):
            return f"memory grows: {grown / (1 << 20):.0f} MiB, {self.late_mib:.0f} of them in the second half"
        return "" if self.calls > self.failed else "other clients are not served"


class Others:
    """Other clients, in a thread: calls at an even pace, and how long each took."""

    def __init__(self, address: str, credential: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._login = (("authorization", f"Bearer {credential}"),)
        self._tasks: Any = TaskServiceStub(self._channel)
        self._over = threading.Event()
        self.times: list[float] = []
        self.failed = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._call()
        self.times.clear()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        while not self._over.wait(PAUSE_S):
            self._call()

    def _call(self) -> None:
        began = time.perf_counter()
        try:
            self._tasks.ListTasks(ListTasksRequest(page_size=1), timeout=10, metadata=self._login)
        except grpc.RpcError:
            self.failed += 1
        self.times.append(time.perf_counter() - began)

    def quantile_ms(self, part: float) -> float:
        """The time below which a part of the calls lies."""
        return sorted(self.times)[min(int(part * len(self.times)), len(self.times) - 1)] * 1e3


def attack(kernel: KernelProcess, kind: str, seconds: float, credential: str) -> Outcome:
    """One attack.

    Raises:
        psutil.NoSuchProcess: The kernel died of it.
    """
    process = psutil.Process(kernel.pid)
    words = [sys.executable, str(Path(__file__).with_name("attacker.py")), kind, kernel.address, str(seconds)]
    before = process.memory_info().rss
    samples: list[int] = []
    with (
        Others(kernel.address, credential) as others,
        subprocess.Popen([*words, ENDLESS.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker,
    ):
        if attacker.stdin is None or attacker.stdout is None:
            raise RuntimeError("no pipes")
        pid = int(attacker.stdout.readline())
        with held_to(pid, QUARTER):
            attacker.stdin.write(f"{credential}\n")
            attacker.stdin.flush()
            while attacker.poll() is None:
                samples.append(process.memory_info().rss)
                with suppress(subprocess.TimeoutExpired):
                    attacker.wait(SAMPLE_S)
        told = json.loads(attacker.stdout.read() or '{"done": 0, "connections": 0}')
    settled = threading.Event()
    settled.wait(min(SETTLE_S, seconds))
    return Outcome(
        kind=kind,
        seconds=seconds,
        **told,
        calls=len(others.times),
        failed=others.failed,
        p50_ms=others.quantile_ms(0.5),
        p99_ms=others.quantile_ms(0.99),
        before_mib=before / (1 << 20),
        peak_mib=max(samples) / (1 << 20),
        after_mib=process.memory_info().rss / (1 << 20),
        late_mib=(max(samples) - max(samples[: len(samples) // 2 + 1])) / (1 << 20),
    )


@contextmanager
def attacked(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[tuple[KernelProcess, str]]:
    """A kernel on a port, with a model of which slow readers ask output, and the key of one who may."""
    unix = f"unix:{folder / 's'}"
    settings = {"INFERD_BACKENDS": "[]", **(environment or {})}
    with kernel_process(folder, environment=settings, listen=PORT, besides=(unix,)) as kernel:
        with Client(unix) as client, grpc.insecure_channel(unix) as channel:
            client.create_model("fake", source=str(write_fake_model(folder, context_tokens=4096)))
            list(client.run("fake", "la", max_tokens=1))
            auth: Any = AuthServiceStub(channel)
            made = auth.CreateKey(CreateKeyRequest(key=Key(principal="anna", roles=["user"], tenants=["one"])))
        yield kernel, made.credential


def table(outcomes: list[Outcome], loop_p99_ms: float) -> str:
    """All attacks, for people."""
    head = f"{'attack':14}{'done':>9}{'conns':>7}{'calls':>7}{'failed':>7}{'p50 ms':>8}{'p99 ms':>8}{'times':>7}"
    lines = [f"{head}{'before':>8}{'peak':>7}{'after':>7} MiB"]
    lines += [
        f"{each.kind:14}{each.done:9}{each.connections:7}{each.calls:7}{each.failed:7}{each.p50_ms:8.2f}{each.p99_ms:8.2f}"
        f"{each.p99_ms / loop_p99_ms:7.2f}{each.before_mib:8.0f}{each.peak_mib:7.0f}{each.after_mib:7.0f} {each.wrong}"
        for each in outcomes
    ]
    return "\n".join(lines)


def main() -> int:
    """Attack by all kinds; 1 where one is not withstood, 2 where others only wait too long."""
    parser = argparse.ArgumentParser(description="Attacks on a kernel, each by a process that has a quarter of a core.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--only", action="append", choices=KINDS, help="one kind; may be given more often")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    for kind in ("loop", *(options.only or KINDS)):  # each on a kernel that no other has wearied
        with tempfile.TemporaryDirectory() as folder, attacked(Path(folder)) as (kernel, credential):
            try:
                outcomes.append(attack(kernel, kind, options.seconds, credential))
            except psutil.NoSuchProcess:
                print(f"{kind}: the kernel died")
                return 1
    loop = outcomes[0]
    print(table(outcomes, loop.p99_ms))
    late = [each.kind for each in outcomes if each.p99_ms > MOST_TIMES * loop.p99_ms]
    print(f"p99 over {MOST_TIMES} times that beside a loop: {', '.join(late) or 'none'}")
    return 1 if any(each.wrong for each in outcomes) else 2 * bool(late)


if __name__ == "__main__":
    sys.exit(main())
